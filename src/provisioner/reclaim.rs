//! A released volume is deleted, archived or kept: [`plan`] decides, [`reconcile`] does it.
//!
//! Everything is taken from the PV; the class is asked only for volumes of older provisioners, which wrote nothing on
//! theirs. Before anything is touched the PV is read anew and the plan made again: an administrator may have rescued it
//! a moment ago. A refusal (an unreadable record, another volume in the way) is told once and waits for a change.
//!
//! It does not look at the storage: whether a volume is ours there, the backend proves.

use std::time::Instant;

use serde_json::json;

use super::{
    Shared,
    class::{self, Class},
    events::Type,
    names,
    objects::{VolumeObject, annotation, class_name},
    persistent_volume::{self, Recorded},
    queue::Outcome,
    records::{Key, Occupant, Relation, Spot},
    rights::Right,
};
use crate::{
    backend::{Backends, Error, Kind, Removed},
    volume::{ClaimKey, Disposal, Invalid, Origin, Permit, Removal, VolumeName},
};

/// What decides whether there is anything to do about a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// One of our provisioners made it, or took it over.
    pub(super) ours: bool,
    pub(super) phase: Phase,
    pub(super) policy: Policy,
    /// Somebody asked the API server to delete it.
    pub(super) deleting: bool,
    pub(super) held: Held,
    /// It was made by a plugin that was a part of Kubernetes, whose controller looks after finalizers itself.
    pub(super) in_tree: bool,
}

/// What keeps it in the API that we take off once it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    No,
    ByUs,
    /// By the finalizer of Kubernetes for an in-tree plugin, which nobody takes off any more.
    ByInTree,
}

/// `status.phase`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Bound,
    Released,
    Other,
}

/// `spec.persistentVolumeReclaimPolicy`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Delete,
    Other,
}

/// What is to be done about a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    None,
    /// It should carry our finalizer.
    Guard,
    /// It should not carry it any more.
    Unguard,
    Remove,
}

/// How the volume stands.
pub(super) fn standing(volume: &VolumeObject, backends: &Backends) -> Standing {
    let in_tree = provisioner(volume, backends).is_some_and(|name| name.starts_with(names::IN_TREE));
    let has = |finalizer: &str| volume.metadata.finalizers.iter().flatten().any(|name| name == finalizer);
    Standing {
        ours: provisioner(volume, backends).is_some(),
        phase: match volume.status.phase.as_deref() {
            Some("Bound") => Phase::Bound,
            Some("Released") => Phase::Released,
            // Kubernetes tries to remove what an in-tree provisioner made. Without its plugin it fails and says so.
            Some("Failed") if in_tree => Phase::Released,
            Some(_) | None => Phase::Other,
        },
        policy: match volume.spec.persistent_volume_reclaim_policy.as_deref() {
            Some("Delete") => Policy::Delete,
            Some(_) | None => Policy::Other,
        },
        deleting: volume.metadata.deletion_timestamp.is_some(),
        held: if has(names::FINALIZER) {
            Held::ByUs
        } else if in_tree && has(names::IN_TREE_FINALIZER) {
            Held::ByInTree
        } else {
            Held::No
        },
        in_tree,
    }
}

/// The provisioner name under which a volume is ours, if it is.
pub(super) fn provisioner<'a>(volume: &'a VolumeObject, backends: &Backends) -> Option<&'a str> {
    let metadata = &volume.metadata;
    // What berth made carries an id; the marks of older provisioners decide about theirs.
    let identity = backends.identity().filter(|_| annotation(metadata, names::VOLUME_ID).is_none());
    let another = |key| annotation(metadata, key).is_some_and(|found| Some(found) != identity);
    if identity.is_some() && names::IDENTITIES.into_iter().any(another) {
        return None;
    }
    // A volume that somebody made by hand may name an in-tree plugin as well.
    let dynamic = |name: &&str| {
        !name.starts_with(names::IN_TREE)
            || annotation(metadata, names::CREATED_BY) == Some(names::CREATED_BY_RBD)
            || annotation(metadata, names::VOLUME_ID).is_some()
    };
    let served = |key| annotation(metadata, key).filter(|name| backends.get(name).is_some()).filter(dynamic);
    served(names::PROVISIONED_BY).or_else(|| served(names::MIGRATED_TO))
}

/// What is to be done about a volume that stands so. `guarding`: volumes get our finalizer.
pub(super) fn duty(standing: Standing, guarding: bool) -> Duty {
    let Standing { ours, phase, policy, deleting, held, in_tree } = standing;
    let guarded = held == Held::ByUs;
    if !ours {
        return Duty::None;
    }
    match policy {
        // Without the right to patch the finalizer can be neither set nor removed.
        Policy::Other if guarded && guarding => Duty::Unguard,
        Policy::Other => Duty::None,
        Policy::Delete => match phase {
            Phase::Released if deleting && !(guarding && held != Held::No) => Duty::None,
            Phase::Released => Duty::Remove,
            Phase::Bound if guarding && !guarded && !deleting && !in_tree => Duty::Guard,
            Phase::Bound | Phase::Other => Duty::None,
        },
    }
}

/// What to do about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Ignore,
    /// Not before somebody changes something; the text says what.
    Refuse(String),
    Remove(Box<Order>),
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// The provisioner name whose backend does it.
    pub(super) provisioner: String,
    pub(super) removal: Removal,
    /// Which object: another one of the same name is another volume.
    pub(super) uid: String,
    /// What an administrator must know about the disposal.
    pub(super) remark: Option<String>,
}

/// Decides about a volume as the API server has it. `class`: the class that it names, where nothing is recorded on it.
pub(super) fn plan(
    volume: &VolumeObject,
    class: Option<&Class>,
    backends: &Backends,
    guarding: bool,
) -> Plan {
    match duty(standing(volume, backends), guarding) {
        Duty::Remove => {
            order(volume, class, backends).unwrap_or_else(|error| Plan::Refuse(error.to_string()))
        }
        Duty::None | Duty::Guard | Duty::Unguard => Plan::Ignore,
    }
}

fn order(volume: &VolumeObject, class: Option<&Class>, backends: &Backends) -> Result<Plan, Invalid> {
    let Some((provisioner, backend)) =
        provisioner(volume, backends).and_then(|name| Some((name, backends.get(name)?)))
    else {
        return Ok(Plan::Ignore);
    };
    let capabilities = backend.capabilities();
    let name: VolumeName = volume.metadata.name.as_deref().unwrap_or_default().parse()?;
    let recorded = Recorded::read(volume)?;
    if let Some(id) = &recorded.id
        && *id.name() != name
    {
        let why = format!("names the volume {}, not {name}; nothing was touched", id.name());
        return Err(Invalid::new(names::VOLUME_ID, id.to_string(), why));
    }
    let Some(source) = persistent_volume::source(volume) else {
        return Ok(Plan::Refuse(format!(
            "the volume names {provisioner:?} as its provisioner but has no source that berth knows: nfs with a \
             server and a path, csi, rbd or cephfs; nothing was removed. If it holds nothing of value, set its reclaim policy to Retain and delete it"
        )));
    };
    let Some(claim) = &volume.spec.claim_ref else {
        return Ok(Plan::Refuse("the volume is Released but names no claim; nothing was removed".to_owned()));
    };
    if let Some(why) = persistent_volume::contradiction(&source, &recorded) {
        return Ok(Plan::Refuse(format!("{why}; nothing was removed")));
    }
    let (disposal, remark) = match (recorded.disposal, class) {
        (Some(disposal), _) => (disposal, None),
        (None, Some(class)) => {
            class::disposal_as_before(&class.parameters_as_before(capabilities), capabilities.before)
        }
        (None, None) => (Disposal::Archive, Some(class_gone(volume))),
    };
    Ok(Plan::Remove(Box::new(Order {
        provisioner: provisioner.to_owned(),
        removal: Removal {
            name,
            id: recorded.id.clone(),
            source,
            claim: ClaimKey {
                namespace: claim.namespace.clone(),
                name: claim.name.clone(),
                uid: claim.uid.clone(),
            },
            origin: recorded.origin.unwrap_or(Origin::Created),
            disposal,
            provenance: recorded.provenance(volume, class, capabilities),
        },
        uid: volume.metadata.uid.clone().unwrap_or_default(),
        remark,
    })))
}

fn class_gone(volume: &VolumeObject) -> String {
    let name = class_of(volume);
    if name.is_empty() {
        "archived, since nothing on the volume says what shall become of it, and it names no storage class"
            .into()
    } else {
        format!(
            "archived, since nothing on the volume says what shall become of it, and storage class {name:?} does \
             not exist"
        )
    }
}

fn class_of(volume: &VolumeObject) -> &str {
    class_name(&volume.metadata, volume.spec.storage_class_name.as_deref())
}

/// What another volume in the same place means for a removal.
fn in_the_way(mut order: Box<Order>, other: &Occupant) -> Result<Box<Order>, String> {
    match other.relation {
        // The last user of a shared directory decides about it.
        Relation::Same => {
            order.removal.disposal = Disposal::Keep;
            order.remark = Some(format!("the data was kept, since {} uses the same directory", other.who));
            Ok(order)
        }
        Relation::Above => Err(format!(
            "nothing was removed: the directory lies within that of {}; remove that one first, or set the reclaim \
             policy of this volume to Retain",
            other.who
        )),
        Relation::Below => Err(format!(
            "nothing was removed: the directory contains that of {}; remove that one first, or set the reclaim \
             policy of this volume to Retain",
            other.who
        )),
    }
}

/// Removes the volume `name`, if that is still to be done.
pub(super) async fn reconcile(shared: &Shared, name: &str, permit: &Permit) -> Outcome {
    let began = Instant::now();
    let live = match shared.cluster.volume(name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Outcome::Done,
        Err(failure) => {
            tracing::warn!(volume = name, error = %failure, "cannot read the volume to be removed");
            return failure.outcome();
        }
    };
    let class = match class_if_needed(shared, &live).await {
        Ok(class) => class,
        Err(outcome) => return outcome,
    };
    let guarding = shared.records().guarding();
    let order = match plan(&live, class.as_ref(), &shared.backends, guarding) {
        Plan::Ignore => return Outcome::Done,
        Plan::Refuse(why) => return refuse(shared, &live, &why),
        Plan::Remove(order) => order,
    };
    let Some(backend) = shared.backends.get(&order.provisioner) else { return Outcome::Done };
    let order = {
        let mut records = shared.records();
        let spot =
            backend.locate(&order.removal.source).map(|place| Spot::new(backend.capabilities().name, &place));
        let other = spot.and_then(|spot| records.occupant(&spot, name, "", false));
        match other.map(|other| (in_the_way(order.clone(), &other), other)) {
            None => order,
            Some((Ok(order), _)) => order,
            Some((Err(why), other)) => {
                records.wake_after(&other.id, Key::Volume(name.into()));
                drop(records);
                return refuse(shared, &live, &why);
            }
        }
    };
    let class_label = live.spec.storage_class_name.as_deref().unwrap_or_default();
    let removed = match backend.remove(&order.removal, permit).await {
        Ok(removed) => removed,
        Err(error) => {
            return not_removed(shared, &live, &error);
        }
    };
    tracing::info!(volume = name, disposal = %order.removal.disposal, outcome = ?removed, "removed the volume");
    remark(shared, &live, &order, &removed);
    shared.records().leaving(name, true);
    match forget(shared, &live, &order.uid, guarding).await {
        Ok(()) => {
            shared.metrics.deleted(class_label, began.elapsed());
            Outcome::Done
        }
        Err(failure) => {
            let note =
                format!("the volume was removed, but its PersistentVolume cannot be deleted: {failure}");
            tracing::warn!(volume = name, error = %failure, "cannot delete the object of a volume that was removed");
            shared.tell_volume(&live, Type::Warning, "VolumeFailedDelete", note);
            shared.metrics.delete_failed(class_label);
            failure.outcome()
        }
    }
}

/// Tells why the volume is still there, and says when to try again.
fn not_removed(shared: &Shared, live: &VolumeObject, error: &Error) -> Outcome {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    match error.kind() {
        // Somebody is at it already: that is no failure, and nothing that anybody has to know.
        Kind::Busy => {
            tracing::debug!(volume = name, error = error.chain(), "the volume is being worked on");
            return outcome_of(Kind::Busy);
        }
        Kind::Refused => return refuse(shared, live, &error.chain()),
        Kind::Invalid
        | Kind::Unsupported
        | Kind::Conflict
        | Kind::NotFound
        | Kind::Exhausted
        | Kind::InUse
        | Kind::Unavailable
        | Kind::Internal => {}
    }
    tracing::warn!(volume = name, kind = %error.kind(), error = error.chain(), "cannot remove the volume");
    shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", error.chain());
    shared.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
    outcome_of(error.kind())
}

/// The class that the volume names, where it matters: for what becomes of the bytes and, with volumes of older
/// provisioners, for how they are reached. That a class is gone is not believed without asking.
async fn class_if_needed(shared: &Shared, live: &VolumeObject) -> Result<Option<Class>, Outcome> {
    let name = class_of(live);
    let recorded = |key| annotation(&live.metadata, key).is_some();
    if recorded(names::ON_DELETE) && recorded(names::VOLUME_ID) || name.is_empty() {
        return Ok(None);
    }
    let known = shared.records().class(name).map(|class| Class::clone(class));
    if known.is_some() {
        return Ok(known);
    }
    shared.cluster.class(name).await.map_err(|failure| {
        tracing::warn!(class = name, error = %failure, "cannot read the class of a volume to be removed");
        failure.outcome()
    })
}

/// Tells why nothing was touched. The volume is looked at again when it changes.
fn refuse(shared: &Shared, live: &VolumeObject, why: &str) -> Outcome {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    tracing::warn!(volume = name, why, "refused to remove the volume");
    shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", why.to_owned());
    shared.metrics.refused("delete");
    shared.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
    Outcome::Done
}

/// Tells what became of the bytes where that is not what the class or the PV said.
fn remark(shared: &Shared, live: &VolumeObject, order: &Order, removed: &Removed) {
    let note = match (removed, order.removal.disposal) {
        (Removed::Archived(to), Disposal::Delete) => Some(format!(
            "the data was archived to {to:?} rather than deleted, since it was there before the volume"
        )),
        (Removed::Kept, Disposal::Delete | Disposal::Archive) => {
            Some("the data was kept, since it was there before the volume".to_owned())
        }
        (Removed::Archived(to), Disposal::Archive | Disposal::Keep) => {
            order.remark.as_ref().map(|remark| format!("{remark}; the archive is {to:?}"))
        }
        (Removed::Trashed | Removed::Absent | Removed::Kept, _) => order.remark.clone(),
    };
    if let Some(note) = note {
        let name = live.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(volume = name, note, "removed the volume in another way than was asked for");
        shared.tell_volume(live, Type::Normal, "VolumeRemoved", note);
    }
}

/// Deletes the object of a volume that was removed.
async fn forget(
    shared: &Shared,
    live: &VolumeObject,
    uid: &str,
    guarding: bool,
) -> Result<(), super::cluster::Failure> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let standing = standing(live, &shared.backends);
    let ours = |finalizer: &str| {
        finalizer == names::FINALIZER || standing.in_tree && finalizer == names::IN_TREE_FINALIZER
    };
    let held: Vec<String> = if live.metadata.deletion_timestamp.is_none() {
        // Finalizers may have been put on it after it was read; nothing adds one to what is being deleted.
        shared.cluster.delete_volume(name, uid).await?
    } else {
        live.metadata.finalizers.clone().unwrap_or_default()
    };
    let held: Vec<&str> = held.iter().map(String::as_str).filter(|finalizer| ours(finalizer)).collect();
    if guarding && !held.is_empty() {
        shared.cluster.patch_volume(name, &unguarding(uid, &held)).await?;
    }
    Ok(())
}

/// Takes these finalizers off, and no others, from the object with this UID.
fn unguarding(uid: &str, finalizers: &[&str]) -> serde_json::Value {
    json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": finalizers}})
}

/// Puts our finalizer on the object with this UID, beside the others.
fn guarding(uid: &str) -> serde_json::Value {
    json!({"metadata": {"uid": uid, "finalizers": [names::FINALIZER]}})
}

/// Puts our finalizer on the volume `name`, or takes it off, if that is still to be done.
pub(super) async fn reconcile_finalizer(shared: &Shared, name: &str) -> Outcome {
    let live = match shared.cluster.volume(name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Outcome::Done,
        Err(failure) => return failure.outcome(),
    };
    let uid = live.metadata.uid.as_deref().unwrap_or_default();
    let patch = match duty(standing(&live, &shared.backends), shared.records().guarding()) {
        Duty::Guard => guarding(uid),
        Duty::Unguard => unguarding(uid, &[names::FINALIZER]),
        Duty::None | Duty::Remove => return Outcome::Done,
    };
    match shared.cluster.patch_volume(name, &patch).await {
        Ok(()) => Outcome::Done,
        Err(failure) => {
            if failure.is_forbidden() {
                shared.rights.refused(Right::PatchVolumes);
            }
            tracing::warn!(volume = name, error = %failure, "cannot change the finalizer of the volume");
            failure.outcome()
        }
    }
}

/// When to try again after the backend failed.
fn outcome_of(kind: Kind) -> Outcome {
    match kind {
        Kind::Invalid | Kind::Unsupported => Outcome::Slow,
        Kind::Refused => Outcome::Done,
        Kind::Conflict
        | Kind::NotFound
        | Kind::Exhausted
        | Kind::InUse
        | Kind::Busy
        | Kind::Unavailable
        | Kind::Internal => Outcome::Retry,
    }
}

#[cfg(test)]
mod tests;

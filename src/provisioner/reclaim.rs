//! A released volume is deleted, archived or kept: [`plan`] decides, [`reconcile`] does it.
//!
//! Everything is taken from the PV; the class is asked only for volumes of older provisioners, which wrote nothing on
//! theirs. Before anything is touched the PV is read anew and the plan made again: an administrator may have rescued it
//! a moment ago. A refusal for what the PV says, or for another volume in the way, waits for a change; what the storage
//! refuses is asked again slowly, since what it refuses for is mended where nobody here sees it.
//!
//! It does not look at the storage: whether a volume is ours there, the backend proves.

mod sharing;

use std::{sync::Arc, time::Instant};

use serde_json::json;
use sharing::{Other, Turn};

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
    backend::{Backend, Backends, Error, Kind, Removed},
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
        phase: phase(volume, in_tree),
        policy: policy(volume),
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

/// Whether a volume, of whatever provisioner, is released and to be removed.
pub(super) fn is_to_be_removed(volume: &VolumeObject) -> bool {
    let in_tree = [names::PROVISIONED_BY, names::MIGRATED_TO]
        .into_iter()
        .any(|key| annotation(&volume.metadata, key).is_some_and(|name| name.starts_with(names::IN_TREE)));
    phase(volume, in_tree) == Phase::Released && policy(volume) == Policy::Delete
}

fn phase(volume: &VolumeObject, in_tree: bool) -> Phase {
    match volume.status.phase.as_deref() {
        Some("Bound") => Phase::Bound,
        Some("Released") => Phase::Released,
        // Kubernetes tries to remove what an in-tree provisioner made. Without its plugin it fails and says so.
        Some("Failed") if in_tree => Phase::Released,
        Some(_) | None => Phase::Other,
    }
}

fn policy(volume: &VolumeObject) -> Policy {
    match volume.spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") => Policy::Delete,
        Some(_) | None => Policy::Other,
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

/// The same removal, which leaves the bytes to `who`.
fn yielding(mut order: Box<Order>, who: &str) -> Box<Order> {
    order.removal.disposal = Disposal::Keep;
    order.remark = Some(format!("the data was kept, since {who} lies at the same place"));
    order
}

/// Why another volume above or below is in the way of a removal; one at the same place is not.
fn in_the_way(other: &Occupant) -> Option<String> {
    let how = match other.relation {
        Relation::Same => return None,
        Relation::Above => "lies within",
        Relation::Below => "contains",
    };
    Some(format!(
        "nothing was removed: the place {how} that of {}; remove that one first, or set the reclaim policy of this volume \
         to Retain",
        other.who
    ))
}

/// Why a volume on another store, which may be the same one, is in the way of a removal.
fn in_the_way_on(spot: &Spot, other: &Occupant, store: &str) -> String {
    let how = match other.relation {
        Relation::Same => "has the same path",
        Relation::Above => "has a path above it",
        Relation::Below => "has a path below it",
    };
    format!(
        "nothing was removed: {} {how} on {store}, which may be {} by other addresses. If it is the same cluster, configure it \
         with the monitors of both; if not, configure both",
        other.who,
        spot.store()
    )
}

/// The order as it may be carried out where the volume lies: looks at who else lies there.
async fn cleared(
    shared: &Shared,
    live: &VolumeObject,
    backend: &Arc<dyn Backend>,
    order: Box<Order>,
    tries: u32,
) -> Result<Box<Order>, Outcome> {
    let name = order.removal.name.as_str();
    let Some(place) = backend.locate(&order.removal.source) else { return Ok(order) };
    let spot = Spot::new(backend.capabilities().name, &place);
    match sharing::take(shared, name, &order.removal, &spot).await? {
        Turn::Last => {}
        // The last one at a place decides about it.
        Turn::Yield(who) => return Ok(yielding(order, &who)),
        Turn::Wait(other, state) => {
            tracing::debug!(volume = name, other = other.who, "waits for another volume at the same place");
            if state == Other::Stuck || tries > PATIENCE {
                let note = format!(
                    "not removed yet: {} lies at the same place and has to be removed first",
                    other.who
                );
                shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", note);
            }
            return Err(Outcome::Slow);
        }
    }
    let refused = {
        let mut records = shared.records();
        let other = records.occupant(&spot, name, "", false);
        let refused = match other {
            Some(other) => match in_the_way(&other) {
                Some(why) => Some((why, other)),
                // It came a moment ago.
                None => return Err(Outcome::Retry),
            },
            // What an older provisioner made is known by its path alone.
            None if order.removal.id.is_none() => records
                .double(&spot, name, |store| backend.is_provisional(store))
                .map(|(other, store)| (in_the_way_on(&spot, &other, &store), other)),
            None => None,
        };
        refused.map(|(why, other)| {
            records.wake_after(&other.id, Key::Volume(name.into()));
            why
        })
    };
    match refused {
        Some(why) => {
            refuse(shared, live, &why);
            Err(Outcome::Done)
        }
        None => Ok(order),
    }
}

/// So many looks at those who go first are not worth an Event.
const PATIENCE: u32 = 2;

/// Removes the volume `name`, if that is still to be done; `tries` counts from 1.
pub(super) async fn reconcile(shared: &Shared, name: &str, tries: u32, permit: &Permit) -> Outcome {
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
        Plan::Refuse(why) => {
            refuse(shared, &live, &why);
            // Somebody has to change the volume, which is news.
            return Outcome::Done;
        }
        Plan::Remove(order) => order,
    };
    let Some(backend) = shared.backends.get(&order.provisioner) else { return Outcome::Done };
    let order = match cleared(shared, &live, backend, order, tries).await {
        Ok(order) => order,
        Err(outcome) => return outcome,
    };
    let class_label = live.spec.storage_class_name.as_deref().unwrap_or_default();
    let removed = match backend.remove(&order.removal, permit).await {
        Ok(removed) => removed,
        Err(error) => {
            shared.records().leaving(name, false);
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
        Kind::Refused => {
            refuse(shared, live, &error.chain());
            return outcome_of(Kind::Refused);
        }
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

/// Tells why nothing was touched.
fn refuse(shared: &Shared, live: &VolumeObject, why: &str) {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    tracing::warn!(volume = name, why, "refused to remove the volume");
    shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", why.to_owned());
    shared.metrics.refused("delete");
    shared.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
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
        Kind::Invalid | Kind::Unsupported | Kind::Refused => Outcome::Slow,
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

//! A released volume is deleted, archived or kept: [`plan`] decides, [`reconcile`] does it.
//!
//! Everything is taken from the PV; the class is asked only for volumes of older provisioners, which wrote nothing on
//! theirs. Before anything is touched the PV is read from the API server and the plan made again: an administrator may have
//! rescued it a moment ago. One who rescues it later, before the API server has deleted its object, gets the data back.
//! A refusal for what the PV says, or for another volume in the way, waits for a change; what the storage refuses is asked
//! again slowly, since what it refuses for is corrected where berth does not see it.
//!
//! It does not look at the storage: whether a volume is ours there, the backend proves.

mod class;
mod object;
mod sharing;
mod work;

pub(super) use work::{reconcile, reconcile_finalizer};

use super::{
    cache::{LocationKey, Occupant, Relation},
    class::{Class, legacy_disposal},
    names,
    objects::VolumeObject,
    persistent_volume::{self, Recorded},
    volume_state::{Action, action, provisioner, state_of},
};
use crate::{
    backend::{Backends, Capabilities},
    volume::{Disposal, Invalid, Origin, Removal, Source, VolumeName},
};

/// What to do about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Ignore,
    /// Not before an administrator changes something; the text says what.
    Refuse(String),
    Remove(Box<Order>),
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// The provisioner name whose backend does it.
    pub(super) provisioner: String,
    pub(super) removal: Removal,
    /// What an administrator must know about the disposal.
    pub(super) remark: Option<String>,
}

/// Decides about a volume as the API server has it. `class`: the class that it names, where nothing is recorded on it.
pub(super) fn plan(
    volume: &VolumeObject,
    class: Option<&Class>,
    backends: &Backends,
    uses_finalizers: bool,
) -> Plan {
    match action(state_of(volume, backends), uses_finalizers) {
        Action::Remove => {
            order(volume, class, backends).unwrap_or_else(|error| Plan::Refuse(error.to_string()))
        }
        Action::None | Action::AddFinalizer | Action::RemoveFinalizer => Plan::Ignore,
    }
}

fn order(volume: &VolumeObject, class: Option<&Class>, backends: &Backends) -> Result<Plan, Invalid> {
    let Some((provisioner, backend)) =
        provisioner(volume, backends).and_then(|name| Some((name, backends.get(name)?)))
    else {
        return Ok(Plan::Ignore);
    };
    let capabilities = backend.capabilities();
    let name: VolumeName = volume.name().parse()?;
    let recorded = Recorded::read(volume)?;
    if let Some(id) = &recorded.id
        && *id.name() != name
    {
        let why = format!("names the volume {}, not {name}; nothing was changed", id.name());
        return Err(Invalid::new(names::VOLUME_ID, id.to_string(), why));
    }
    let Some(source) = persistent_volume::source(volume) else {
        return Ok(Plan::Refuse(format!(
            "the PersistentVolume names {provisioner:?} as its provisioner but has no source that berth supports \
             (nfs with a server and a path, csi, rbd or cephfs); nothing was removed. To get rid of the \
             PersistentVolume only, set its reclaim policy to Retain and delete it"
        )));
    };
    if volume.spec.claim_ref.is_none() {
        return Ok(Plan::Refuse(
            "the PersistentVolume is Released but names no claim; nothing was removed".to_owned(),
        ));
    }
    if let Some(why) = persistent_volume::contradiction(&source, &recorded) {
        return Ok(Plan::Refuse(format!("{why}; nothing was removed")));
    }
    let (disposal, remark) = match (recorded.disposal, class) {
        (Some(disposal), _) => (disposal, None),
        (None, Some(class)) => {
            legacy_disposal(&class.legacy_parameters(capabilities), capabilities.legacy_default)
        }
        (None, None) => (Disposal::Archive, Some(class_gone(volume))),
    };
    Ok(Plan::Remove(Box::new(Order {
        provisioner: provisioner.to_owned(),
        removal: removal(volume, (name, source), recorded, disposal, class, capabilities),
        remark,
    })))
}

/// What a backend is told of a volume whose removal is asked for, or given up.
fn removal(
    volume: &VolumeObject,
    (name, source): (VolumeName, Source),
    recorded: Recorded,
    disposal: Disposal,
    class: Option<&Class>,
    capabilities: &Capabilities,
) -> Removal {
    Removal {
        name,
        id: recorded.id.clone(),
        source,
        claim: volume.spec.claim_ref.clone().unwrap_or_default().key(),
        origin: recorded.origin.unwrap_or(Origin::Created),
        disposal,
        pv_metadata: recorded.pv_metadata(volume, class, capabilities),
    }
}

/// The removal to be given up of a volume that is to stay, with the provisioner whose backend does it; `None` where no backend
/// can have begun one. What is written on the volume and cannot be read is left out: nothing is removed by it.
fn cancelled_removal(
    volume: &VolumeObject,
    class: Option<&Class>,
    backends: &Backends,
) -> Option<(String, Removal)> {
    let provisioner = provisioner(volume, backends)?;
    let capabilities = backends.get(provisioner)?.capabilities();
    let name: VolumeName = volume.metadata.name.as_deref()?.parse().ok()?;
    let source = persistent_volume::source(volume)?;
    let recorded = Recorded::lenient(volume);
    let disposal = recorded.disposal.unwrap_or(Disposal::Retain);
    Some((provisioner.to_owned(), removal(volume, (name, source), recorded, disposal, class, capabilities)))
}

fn class_gone(volume: &VolumeObject) -> String {
    let name = class::name_of(volume);
    if name.is_empty() {
        "the data was archived, because neither the PersistentVolume nor a storage class says what to do with it"
            .into()
    } else {
        format!(
            "the data was archived, because the PersistentVolume does not say what to do with it and storage class \
             {name:?} does not exist"
        )
    }
}

/// The same removal, which leaves the data to `who`.
fn retain_for(mut order: Box<Order>, who: &str) -> Box<Order> {
    order.removal.disposal = Disposal::Retain;
    order.remark = Some(format!("the data was kept, because {who} uses the same location"));
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
        "nothing was removed: the location {how} that of {}; remove that one first, or set the reclaim policy of \
         this volume to Retain",
        other.who
    ))
}

/// Why a volume on another store, which may be the same one, is in the way of a removal.
fn in_the_way_on(location: &LocationKey, other: &Occupant, store: &str) -> String {
    let how = match other.relation {
        Relation::Same => "has the same path on",
        Relation::Above => "has a path above it on",
        Relation::Below => "has a path below it on",
    };
    format!(
        "nothing was removed: {} {how} {store}, which may be {} under other addresses. If it is the same Ceph \
         cluster, configure it with the monitors of both; if not, configure both",
        other.who,
        location.store()
    )
}

#[cfg(test)]
mod tests;

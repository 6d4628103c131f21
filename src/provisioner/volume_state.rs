//! The state of a volume, and what follows from it: [`state_of`], [`action`]. Pure.
//!
//! It does not say how a volume is removed.

use super::{
    names,
    objects::{VolumeObject, annotation},
};
use crate::backend::Backends;

/// What decides whether there is anything to do about a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VolumeState {
    /// One of our provisioners made it, or took it over.
    pub(super) ours: bool,
    pub(super) phase: Phase,
    pub(super) policy: Policy,
    /// The API server was asked to delete it.
    pub(super) deleting: bool,
    pub(super) held: Held,
    /// It was made by a plugin that was a part of Kubernetes, whose controller looks after finalizers itself.
    pub(super) in_tree: bool,
}

impl VolumeState {
    /// Whether its data is to go. An administrator who wants to keep it changes this.
    pub(super) fn is_released_for_delete(self) -> bool {
        self.policy == Policy::Delete && self.phase == Phase::Released
    }

    /// Whether a claim uses it, and berth looks after it.
    pub(super) fn in_use(self) -> bool {
        self.ours && self.phase == Phase::Bound
    }
}

/// What keeps it in the API that we take off once it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    No,
    ByUs,
    /// By the finalizer of Kubernetes for an in-tree plugin, which nothing removes any more.
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
pub(super) enum Action {
    None,
    /// It should carry our finalizer.
    AddFinalizer,
    /// It should not carry it any more.
    RemoveFinalizer,
    Remove,
}

/// The state of the volume.
pub(super) fn state_of(volume: &VolumeObject, backends: &Backends) -> VolumeState {
    let in_tree = provisioner(volume, backends).is_some_and(|name| name.starts_with(names::IN_TREE));
    let has = |finalizer: &str| volume.metadata.finalizers.iter().flatten().any(|name| name == finalizer);
    VolumeState {
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
    // A volume that an administrator made by hand may name an in-tree plugin as well.
    let dynamic = |name: &&str| {
        !name.starts_with(names::IN_TREE)
            || annotation(metadata, names::CREATED_BY) == Some(names::CREATED_BY_RBD)
            || annotation(metadata, names::VOLUME_ID).is_some()
    };
    let served = |key| annotation(metadata, key).filter(|name| backends.get(name).is_some()).filter(dynamic);
    served(names::PROVISIONED_BY).or_else(|| served(names::MIGRATED_TO))
}

/// What is to be done about a volume in this state. `uses_finalizers`: volumes get our finalizer.
pub(super) fn action(state: VolumeState, uses_finalizers: bool) -> Action {
    let VolumeState { ours, phase, policy, deleting, held, in_tree } = state;
    let has_finalizer = held == Held::ByUs;
    if !ours {
        return Action::None;
    }
    match policy {
        // Without the right to patch the finalizer can be neither set nor removed.
        Policy::Other if has_finalizer && uses_finalizers => Action::RemoveFinalizer,
        Policy::Other => Action::None,
        Policy::Delete => match phase {
            Phase::Released if deleting && !(uses_finalizers && held != Held::No) => Action::None,
            Phase::Released => Action::Remove,
            Phase::Bound if uses_finalizers && !has_finalizer && !deleting && !in_tree => {
                Action::AddFinalizer
            }
            Phase::Bound | Phase::Other => Action::None,
        },
    }
}

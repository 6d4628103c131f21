//! What is kept of a `PersistentVolume`: [`CachedVolume`], and which work follows from its news. Pure.

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use super::{locations::LocationKey, occupancy::Sharing};
use crate::{
    backend::{Backends, KnownVolume},
    provisioner::{
        key::Key,
        names,
        objects::{VolumeObject, annotation},
        persistent_volume,
        volume_state::{self, Action, Phase, VolumeState},
    },
    volume::{Disposal, SecretName},
};

/// What is kept of a `PersistentVolume`.
#[derive(Debug)]
pub(in crate::provisioner) struct CachedVolume {
    /// The claim that it is for, or was.
    pub(in crate::provisioner) claim_uid: Box<str>,
    pub(in crate::provisioner) state: VolumeState,
    /// Where it lies, where that is in one of our stores.
    pub(in crate::provisioner) location: Option<LocationKey>,
    /// Its data is out of the way, or left to another volume: the object is about to be deleted, and its last changes are ours.
    pub(super) gives_up_data: bool,
    /// What the backend was asked to do with the data while this process leads, or may have been asked to do before the
    /// object was made again: the data may not be in its place.
    pub(super) removing: Option<Begun>,
    /// An older provisioner made it.
    legacy: bool,
    /// We made it just now. What we did not make may be marked on the storage as removed.
    made: bool,
    /// The Secret that the backend keeps for it, where it does.
    kept_secret: Option<Box<SecretName>>,
    /// A hash of the object's UID: another object of the same name is another volume.
    object: u64,
    /// A hash of what the work on it is decided by beside the state.
    decisive: u64,
    pub(super) round: u32,
}

/// What the backend was asked to do with the data of a volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) asked: Disposal,
    /// The backend has said that it moved them.
    pub(super) moved: bool,
}

impl CachedVolume {
    /// What is kept of an object that is seen for the first time; `None` where it concerns no backend.
    pub(super) fn new(
        object: &VolumeObject,
        backends: &Backends,
        uses_finalizers: bool,
        round: u32,
    ) -> Option<Self> {
        let state = volume_state::state_of(object, backends);
        let location = persistent_volume::source(object).and_then(|source| {
            backends
                .distinct()
                .into_iter()
                .find_map(|ports| Some(LocationKey::new(ports.name(), &ports.backend.locate(&source)?)))
        });
        if !state.ours && location.is_none() {
            return None;
        }
        let by = volume_state::provisioner(object, backends).and_then(|name| backends.ports(name));
        let kept_secret =
            by.and_then(|ports| ports.janitor.kept_secret(&persistent_volume::lenient_record(object)));
        let decisive = match volume_state::action(state, uses_finalizers) {
            // What an administrator may correct after a removal was refused.
            Action::Remove => {
                let claim = object.spec.claim_ref.as_ref();
                let claim = claim.map(|claim| (&claim.namespace, &claim.name, &claim.uid));
                hash(&(&object.metadata.annotations, claim))
            }
            Action::None | Action::AddFinalizer | Action::RemoveFinalizer => {
                hash(&annotation(&object.metadata, names::TAKE_OVER))
            }
        };
        Some(Self {
            claim_uid: object.spec.claim_ref.as_ref().map_or("", |claim| claim.uid.as_str()).into(),
            state,
            location,
            gives_up_data: false,
            removing: None,
            legacy: annotation(&object.metadata, names::VOLUME_ID).is_none(),
            made: false,
            kept_secret: kept_secret.map(Box::new),
            object: hash(&object.metadata.uid),
            decisive,
            round,
        })
    }

    /// Takes over what is known of the same object from `before`. Of a new one: whether a location was `reserved` for its
    /// claim, and whether this process is `leading`.
    pub(super) fn continued(self, before: Option<&Self>, reserved: bool, leading: bool) -> Self {
        if let Some(before) = before.filter(|before| before.object == self.object) {
            return Self {
                made: before.made,
                gives_up_data: before.gives_up_data,
                removing: before.removing,
                ..self
            };
        }
        // One that we made and that nothing here is making came back, perhaps from a backup: the trash may hold its data.
        let came_back = leading && self.state.ours && !self.legacy && !reserved;
        let removing = came_back.then_some(Begun { asked: Disposal::Delete, moved: false });
        Self { made: reserved, removing, ..self }
    }

    /// The work that it needs, if any.
    pub(super) fn work(&self, name: &Arc<str>, uses_finalizers: bool) -> Option<Key> {
        match volume_state::action(self.state, uses_finalizers) {
            Action::None => None,
            Action::Remove | Action::RemoveFinalizer => Some(Key::Volume(Arc::clone(name))),
            Action::AddFinalizer => Some(Key::AddFinalizer(Arc::clone(name))),
        }
    }

    /// The work that follows from its not being as it was `before`.
    pub(super) fn news(&self, name: &Arc<str>, before: Option<&Self>, uses_finalizers: bool) -> Vec<Key> {
        let mut keys = Vec::new();
        let before = before.filter(|before| before.object == self.object);
        // It is to stay, and its data may have been moved.
        let rescued = self.removing.is_some() && !self.state.is_released_for_delete();
        if rescued {
            keys.push(Key::Volume(Arc::clone(name)));
        }
        let corrected = before.is_some_and(|before| before.decisive != self.decisive);
        // A removal that was refused may be possible by now. While we delete it, its last changes are our own.
        let ours = self.gives_up_data && !rescued;
        if !(corrected || before.is_none_or(|before| before.state != self.state && !ours)) {
            return keys;
        }
        keys.extend(self.work(name, uses_finalizers));
        // An older provisioner may have made it just now. What was released may have lost its record with its claim, and what
        // was made again from a backup may be marked as an archive.
        let came = match before {
            Some(before) => {
                before.state.phase != Phase::Bound && (!self.made || before.state.phase == Phase::Released)
            }
            None => self.legacy,
        };
        if self.state.in_use() && (corrected || came) {
            keys.push(Key::Register(Arc::clone(name)));
        }
        keys
    }

    /// How it shares the location that it lies at.
    pub(super) fn sharing(&self, uses_finalizers: bool) -> Sharing {
        if self.gives_up_data && self.state.is_released_for_delete() {
            Sharing::Leaves
        } else if volume_state::action(self.state, uses_finalizers) == Action::Remove {
            Sharing::Released
        } else {
            Sharing::Uses
        }
    }

    /// The Secret that a backend keeps for it, if it is bound.
    pub(super) fn kept_secret(&self) -> Option<&SecretName> {
        self.kept_secret.as_deref().filter(|_| self.state.in_use())
    }

    /// What its backend is told of it by this name, with where it lies, if it is bound.
    pub(super) fn in_use(&self, name: &str) -> Option<(&LocationKey, KnownVolume)> {
        let location = self.location.as_ref().filter(|_| self.state.in_use())?;
        // The name of an object is one.
        Some((location, KnownVolume { name: name.parse().ok()?, legacy: self.legacy }))
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

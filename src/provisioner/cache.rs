//! What is kept of the watched objects: [`Cache`], and the claims, volumes and locations in it.
//!
//! The watches write it, the plans read it. A claim is kept only while something is to be done for it, a volume only as
//! the few fields that decide what is to be done with it and where it lies; what does not concern berth is dropped at once.
//! The leader hands in a queue, and every change that means work pushes a key into it.
//!
//! It decides nothing about volumes (`volume_state::action` does) and never asks the API server.

mod attachments;
pub(super) mod claim;
mod classes;
mod expectations;
mod locations;
mod occupancy;
mod volume;
mod wakeups;
mod wanted;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub(super) use attachments::{Attachment, Attachments, Held, waited};
pub(super) use claim::{Claim, ClaimKeys, PendingExpansion};
use classes::Classes;
use expectations::Expectations;
pub(super) use locations::{LocationKey, Relation};
pub(super) use occupancy::{Occupancy, Occupant, Sharer, Sharing};
use volume::Begun;
pub(super) use volume::CachedVolume;
use wakeups::Wakeups;
use wanted::Wanted;

use super::{
    class::Class,
    key::Key,
    objects::{ClaimObject, VolumeObject},
    queue::Queue,
};
use crate::{
    backend::{Backends, Finding, KnownVolume, Ports, StoreExpectation, Stores},
    volume::{Disposal, SecretName},
};

/// The volumes in use, by backend and store.
pub(super) type InUseByStore = BTreeMap<(&'static str, String), Vec<KnownVolume>>;

/// A kind of watched objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ResourceKind {
    Claims,
    Volumes,
    Classes,
    /// Only where a driver of ours has volumes that must be attached. Nothing but what concerns them waits for this list.
    Attachments,
}

/// What must have been listed before anything is decided.
const DECISIVE: [ResourceKind; 3] = [ResourceKind::Claims, ResourceKind::Volumes, ResourceKind::Classes];

/// What is kept of a claim, and in which list it was seen last.
#[derive(Debug)]
struct CachedClaim {
    wanted: Wanted,
    round: u32,
}

/// What is kept of the watched objects.
#[derive(Debug)]
pub(super) struct Cache {
    backends: Backends,
    claims: HashMap<Arc<str>, CachedClaim>,
    volumes: HashMap<Arc<str>, CachedVolume>,
    classes: Classes,
    pub(super) occupancy: Occupancy,
    pub(super) wakeups: Wakeups,
    pub(super) attachments: Attachments,
    /// Counts the complete lists of each kind: what a new list does not have is gone.
    rounds: BTreeMap<ResourceKind, u32>,
    /// The kinds that were listed completely at least once.
    listed: HashSet<ResourceKind>,
    expectations: Expectations,
    /// Whether volumes get our finalizer.
    uses_finalizers: bool,
    /// Whether a class has come, gone or changed since it was asked which stores are named.
    classes_changed: bool,
}

impl Cache {
    /// Empty, for these backends; `uses_finalizers`: volumes get our finalizer.
    pub(super) fn new(backends: Backends, uses_finalizers: bool) -> Self {
        Self {
            backends,
            claims: HashMap::new(),
            volumes: HashMap::new(),
            classes: Classes::default(),
            occupancy: Occupancy::default(),
            wakeups: Wakeups::default(),
            attachments: Attachments::default(),
            rounds: BTreeMap::new(),
            listed: HashSet::new(),
            expectations: Expectations::default(),
            uses_finalizers,
            classes_changed: false,
        }
    }

    // Reading

    /// The claim of this UID, if it wants a volume.
    pub(super) fn claim(&self, uid: &str) -> Option<&Arc<Claim>> {
        match &self.claims.get(uid)?.wanted {
            Wanted::Volume(claim) => Some(claim),
            Wanted::Binding(_) | Wanted::Expansion(_) => None,
        }
    }

    /// Namespace and name of the claim of this UID, if it waited for its volume to be bound and the volume is gone.
    pub(super) fn claim_without_volume(&self, uid: &str) -> Option<(String, String)> {
        match &self.claims.get(uid)?.wanted {
            Wanted::Binding(binding) if !self.served(uid) => {
                Some((binding.0.to_string(), binding.1.to_string()))
            }
            Wanted::Binding(_) | Wanted::Volume(_) | Wanted::Expansion(_) => None,
        }
    }

    /// Whether the volume of this claim is stored.
    fn served(&self, uid: &str) -> bool {
        self.volumes.get(format!("pvc-{uid}").as_str()).is_some_and(|volume| *volume.claim_uid == *uid)
    }

    /// The claim of this UID, if it asks for more than it has.
    pub(super) fn pending_expansion(&self, uid: &str) -> Option<&Arc<PendingExpansion>> {
        match &self.claims.get(uid)?.wanted {
            Wanted::Expansion(pending_expansion) => Some(pending_expansion),
            Wanted::Volume(_) | Wanted::Binding(_) => None,
        }
    }

    /// The volume of this name, if it is ours or lies in one of our stores.
    pub(super) fn volume(&self, name: &str) -> Option<&CachedVolume> {
        self.volumes.get(name)
    }

    /// The class of this name.
    pub(super) fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// The labels and annotations of a claim that its class needs.
    pub(super) fn class_keys(&self, name: &str) -> Arc<ClaimKeys> {
        self.classes.keys(name)
    }

    /// What an administrator should know about the class of this name.
    pub(super) fn findings(&self, name: &str) -> Arc<[Finding]> {
        self.classes.findings(name)
    }

    /// All classes.
    pub(super) fn classes(&self) -> Vec<Arc<Class>> {
        self.classes.all().map(Arc::clone).collect()
    }

    /// Whether a class, a volume or a claim's location has gone, or says something else, since the last time.
    pub(super) fn take_stores_changed(&mut self) -> bool {
        // Both are taken.
        std::mem::take(&mut self.classes_changed) | self.occupancy.take_freed()
    }

    /// Whether volumes get our finalizer.
    pub(super) fn uses_finalizers(&self) -> bool {
        self.uses_finalizers
    }

    /// How many claims want a volume or growth, and how many volumes are known.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.claims.len(), self.volumes.len())
    }

    /// Everything else at exactly this location.
    pub(super) fn sharers(&self, location: &LocationKey, volume: &str) -> Vec<Sharer> {
        let sharing = |name: &str| {
            self.volumes.get(name).map_or(Sharing::Uses, |volume| volume.sharing(self.uses_finalizers))
        };
        self.occupancy.sharers(location, volume, sharing)
    }

    /// What the volumes say of each store of the backend of this name.
    pub(super) fn expectations(&self, backend: &str, stores: &dyn Stores) -> Vec<StoreExpectation> {
        let ours = self.volumes.values().filter(|volume| volume.state.ours);
        self.expectations.of(backend, stores, ours.filter_map(|volume| volume.location.as_ref()))
    }

    // Working

    /// This process leads from now on: everything that needs work goes into `queue`, now and as it comes up.
    pub(super) fn work(&mut self, queue: Queue<Key>) {
        self.wakeups.start(queue);
        self.wake_all();
    }

    /// This process leads no more.
    pub(super) fn rest(&mut self) {
        self.wakeups.stop();
        self.attachments.rest();
        self.occupancy.release_all();
        // What was on its way was dropped. What was moved, the storage knows.
        for volume in self.volumes.values_mut() {
            volume.gives_up_data = false;
            volume.removing = None;
        }
    }

    /// Volumes get our finalizer from now on, or do so no more.
    pub(super) fn guard(&mut self, uses_finalizers: bool) {
        if self.uses_finalizers != uses_finalizers {
            self.uses_finalizers = uses_finalizers;
            self.wake_all();
        }
    }

    /// Works on all claims that ask for more than they have.
    pub(super) fn wake_pending_expansions(&self) {
        for (uid, record) in &self.claims {
            if matches!(record.wanted, Wanted::Expansion(_)) {
                self.wakeups.wake(Key::Expand(Arc::clone(uid)));
            }
        }
    }

    /// Works on everything that needs it.
    fn wake_all(&self) {
        let claims = self.claims.iter().filter_map(|(uid, claim)| claim.wanted.work(uid, self.served(uid)));
        let volumes =
            self.volumes.iter().filter_map(|(name, volume)| volume.work(name, self.uses_finalizers));
        for key in claims.chain(volumes).chain(self.attachments.work()) {
            self.wakeups.wake(key);
        }
    }

    /// The object of this volume is being deleted by us, or will be without its data; or, after a failure, it is not.
    pub(super) fn gives_up_data(&mut self, name: &str, gives_up_data: bool) {
        if let Some(record) = self.volumes.get_mut(name) {
            record.gives_up_data = gives_up_data;
        }
    }

    /// What the backend was asked to do with the data of this volume in this term.
    pub(super) fn removing(&self, name: &str) -> Option<Disposal> {
        self.volumes.get(name)?.removing.map(|begun| begun.asked)
    }

    /// The backend has moved the data of this volume away, as it was asked to.
    pub(super) fn moved_away(&mut self, name: &str) {
        if let Some(begun) = self.volumes.get_mut(name).and_then(|record| record.removing.as_mut()) {
            begun.moved = true;
        }
    }

    /// Whether the data of this volume were moved away in this term, and have not been seen at their place since.
    pub(super) fn is_moved_away(&self, name: &str) -> bool {
        self.volumes.get(name).and_then(|record| record.removing).is_some_and(|begun| begun.moved)
    }

    /// The backend is asked to remove this volume. Returns whether it was asked before.
    pub(super) fn begin_removal(&mut self, name: &str, disposal: Disposal) -> bool {
        let Some(record) = self.volumes.get_mut(name) else { return false };
        let moved = record.removing.is_some_and(|begun| begun.moved);
        record.removing.replace(Begun { asked: disposal, moved }).is_some()
    }

    /// Nothing of a removal of this volume is begun any more.
    pub(super) fn end_removal(&mut self, name: &str) {
        if let Some(record) = self.volumes.get_mut(name) {
            record.removing = None;
            record.gives_up_data = false;
        }
    }

    /// The volumes that are bound, by backend and store.
    pub(super) fn in_use(&self) -> InUseByStore {
        let mut found = InUseByStore::new();
        let backends: Vec<&'static str> = self.backends.distinct().into_iter().map(Ports::name).collect();
        for (name, volume) in &self.volumes {
            let Some((location, known)) = volume.in_use(name) else { continue };
            let Some(backend) = backends.iter().find(|backend| **backend == location.backend()) else {
                continue;
            };
            found.entry((*backend, location.store().to_owned())).or_default().push(known);
        }
        for volumes in found.values_mut() {
            volumes.sort_by(|a, b| a.name.cmp(&b.name));
        }
        found
    }

    /// The bound volumes for which a backend keeps a Secret.
    pub(super) fn with_kept_secrets(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> =
            self.volumes.keys().filter(|name| self.kept_secret(name).is_some()).map(Arc::clone).collect();
        names.sort();
        names
    }

    /// The Secret that a backend keeps for the volume of this name, if it is bound.
    pub(super) fn kept_secret(&self, name: &str) -> Option<&SecretName> {
        self.volumes.get(name)?.kept_secret()
    }

    /// Keeps `location` for this claim until its volume is known or [`release`](Self::release) is called.
    pub(super) fn reserve(&mut self, claim: &Arc<Claim>, location: LocationKey) {
        self.release(&claim.uid);
        self.occupancy.reserve(claim, location);
    }

    /// Nothing is kept for this claim any more.
    pub(super) fn release(&mut self, uid: &str) {
        if self.occupancy.release(uid) {
            self.wakeups.gone(uid);
        }
    }

    // Watching

    /// A complete list of this kind begins.
    pub(super) fn begin(&mut self, kind: ResourceKind) {
        *self.rounds.entry(kind).or_default() += 1;
        if kind == ResourceKind::Attachments {
            self.attachments.begin();
        }
    }

    /// The list is complete: what it did not have is gone. Returns whether all kinds have been listed by now.
    pub(super) fn complete(&mut self, kind: ResourceKind) -> bool {
        let round = self.round(kind);
        match kind {
            ResourceKind::Claims => {
                let gone: Vec<_> = self
                    .claims
                    .iter()
                    .filter(|(_, record)| record.round != round)
                    .map(|(uid, _)| Arc::clone(uid))
                    .collect();
                for uid in gone {
                    self.remove_claim(&uid);
                }
            }
            ResourceKind::Volumes => {
                let gone: Vec<_> = self
                    .volumes
                    .iter()
                    .filter(|(_, record)| record.round != round)
                    .map(|(name, _)| Arc::clone(name))
                    .collect();
                for name in gone {
                    self.remove_volume(&name);
                }
            }
            ResourceKind::Classes => {
                self.classes.keep(round);
                self.classes_changed = true;
            }
            ResourceKind::Attachments => self.attachments.complete(&mut self.wakeups),
        }
        self.listed.insert(kind);
        DECISIVE.iter().all(|kind| self.listed.contains(kind))
    }

    fn round(&self, kind: ResourceKind) -> u32 {
        self.rounds.get(&kind).copied().unwrap_or_default()
    }

    /// A claim is there, or has changed.
    pub(super) fn upsert_claim(&mut self, object: &ClaimObject) {
        let Some(uid) = object.metadata.uid.as_deref() else { return };
        let round = self.round(ResourceKind::Claims);
        let wanted = Wanted::new(object, uid, &self.backends, &self.classes, self.served(uid));
        let Some(wanted) = wanted else { return self.remove_claim(uid) };
        if let Some(known) = self.claims.get_mut(uid) {
            known.round = round;
            if wanted.is_same(&known.wanted) {
                return;
            }
        }
        let uid: Arc<str> = match &wanted {
            Wanted::Volume(claim) => Arc::clone(&claim.uid),
            Wanted::Expansion(pending_expansion) => Arc::clone(&pending_expansion.uid),
            Wanted::Binding(_) => uid.into(),
        };
        if let Some(key) = wanted.work(&uid, true) {
            self.wakeups.wake(key);
        }
        self.claims.insert(uid, CachedClaim { wanted, round });
    }

    /// The claim of this UID is gone, or needs nothing any more.
    pub(super) fn remove_claim(&mut self, uid: &str) {
        if let Some((uid, record)) = self.claims.remove_entry(uid) {
            self.wakeups.forget(&Key::Claim(Arc::clone(&uid)));
            if self.claims.capacity() / 8 > self.claims.len() {
                self.claims.shrink_to(self.claims.len() * 2);
            }
            // Something may have been made for it that now must be committed or rolled back.
            if matches!(record.wanted, Wanted::Volume(_)) {
                self.wakeups.wake(Key::Claim(uid));
            }
        }
    }

    /// A volume is there, or has changed; also called for one that we just stored.
    pub(super) fn upsert_volume(&mut self, object: &VolumeObject) {
        let Some(name) = object.metadata.name.as_deref() else { return };
        let round = self.round(ResourceKind::Volumes);
        let Some(volume) = CachedVolume::new(object, &self.backends, self.uses_finalizers, round) else {
            return self.remove_volume(name);
        };
        let (name, known): (Arc<str>, _) = match self.volumes.get_key_value(name) {
            Some((name, known)) => (Arc::clone(name), Some(known)),
            None => (name.into(), None),
        };
        let uid = volume.claim_uid.clone();
        let reserved = self.occupancy.is_reserved_for(&uid);
        let volume = volume.continued(known, reserved, self.wakeups.started());
        let location = volume.location.clone();
        if let Some(location) = &location {
            self.occupancy.insert(location, &name);
            if volume.state.ours {
                self.expectations.see(location, object);
            }
        }
        self.release(&uid);
        let before = self.volumes.insert(Arc::clone(&name), volume);
        if self.served(&uid)
            && let Some(CachedClaim { wanted, .. }) = self.claims.get_mut(&*uid)
            && let Wanted::Volume(claim) = wanted
        {
            self.wakeups.forget(&Key::Claim(Arc::clone(&claim.uid)));
            // All that a pattern could ask for is not needed any more.
            *wanted = Wanted::Binding(Box::new((claim.namespace.clone(), claim.name.clone())));
        }
        let left = before.as_ref().and_then(|before| before.location.as_ref());
        if let Some(left) = left.filter(|left| Some(*left) != location.as_ref()) {
            self.occupancy.remove(left, &name);
        }
        let news =
            self.volumes.get(&name).map(|volume| volume.news(&name, before.as_ref(), self.uses_finalizers));
        for key in news.into_iter().flatten() {
            self.wakeups.wake(key);
        }
    }

    /// The volume of this name is gone.
    pub(super) fn remove_volume(&mut self, name: &str) {
        if let Some((name, record)) = self.volumes.remove_entry(name) {
            if let Some(location) = &record.location {
                self.occupancy.remove(location, &name);
            }
            self.wakeups.forget(&Key::Volume(Arc::clone(&name)));
            self.wakeups.gone(&name);
            // Its claim may never have been bound; then it needs another one.
            if let Some((uid, _)) = self.claims.get_key_value(&*record.claim_uid) {
                self.wakeups.wake(Key::Claim(Arc::clone(uid)));
            }
        }
    }

    /// A class is there, or has changed.
    pub(super) fn upsert_class(&mut self, class: Class) {
        let round = self.round(ResourceKind::Classes);
        let name = class.name.clone();
        if self.classes.see(class, &self.backends, round) {
            self.classes_changed = true;
            let waiting = self.claims.iter().filter_map(|(uid, record)| match &record.wanted {
                Wanted::Volume(claim) if *claim.class == *name => Some(Key::Claim(Arc::clone(uid))),
                Wanted::Volume(_) | Wanted::Binding(_) | Wanted::Expansion(_) => None,
            });
            for key in waiting {
                self.wakeups.wake(key);
            }
        }
    }

    /// The class of this name is gone.
    pub(super) fn remove_class(&mut self, name: &str) {
        self.classes.forget(name);
        self.classes_changed = true;
    }
}

#[cfg(test)]
mod tests;

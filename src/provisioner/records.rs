//! What is kept of the watched objects: [`Records`], and the claims, volumes and places in it.
//!
//! The watches write it, the plans read it. A claim is kept only while something is to be done for it, a volume only as
//! the few facts that decide what is to be done with it and where it lies; what concerns nobody here is dropped at once.
//! Whoever leads hands in a queue, and every change that means work pushes a key into it.
//!
//! It decides nothing about volumes (`volume_state::action` does) and never asks the API server.

mod blocked;
pub(super) mod claim;
mod classes;
mod past;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use blocked::Blocked;
pub(super) use claim::{Claim, ClaimKeys, PendingExpansion};
use classes::Classes;
use past::Memories;
pub(super) use places::{LocationIndex, LocationKey, Relation};

use super::{
    class::Class,
    key::Key,
    names,
    objects::{ClaimObject, VolumeObject, annotation},
    persistent_volume,
    queue::Queue,
    volume_state::{self, Action, Phase, VolumeState},
};
use crate::{
    backend::{Backends, Finding, KnownVolume, Ports},
    volume::{Disposal, SecretName},
};

/// The volumes in use, by backend and store.
pub(super) type InUseByStore = BTreeMap<(&'static str, String), Vec<KnownVolume>>;

/// A kind of watched objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Watched {
    Claims,
    Volumes,
    Classes,
}

/// What is kept of a claim.
#[derive(Debug)]
enum Wanted {
    Volume(Arc<Claim>),
    /// Nothing: it has a volume and only waits to be bound. Namespace and name, to find it again should the volume go.
    Binding(Box<(Box<str>, Box<str>)>),
    Expansion(Arc<PendingExpansion>),
}

#[derive(Debug)]
struct ClaimRecord {
    wanted: Wanted,
    round: u32,
}

/// What is kept of a `PersistentVolume`.
#[derive(Debug)]
pub(super) struct VolumeRecord {
    /// The claim that it is for, or was.
    pub(super) claim_uid: Box<str>,
    pub(super) state: VolumeState,
    /// Where it lies, where that is in one of our stores.
    pub(super) spot: Option<LocationKey>,
    /// We are deleting the object: its last changes are our own. Or it leaves its bytes to another volume, and will be deleted.
    leaving: bool,
    /// What the backend was asked to do with the bytes in this term, if it was, or may have been asked to do before the object was
    /// made again: they may not be in their place.
    removing: Option<Begun>,
    /// An older provisioner made it.
    legacy: bool,
    /// We made it just now. What we did not make may be marked on the storage as removed.
    made: bool,
    /// The Secret that the backend keeps for it, where it does.
    kept_secret: Option<Box<SecretName>>,
    /// A hash of the object's UID: another object of the same name is another volume.
    object: u64,
    /// A hash of what the work on it is decided by beside the standing.
    said: u64,
    round: u32,
}

/// What the backend was asked to do with the bytes of a volume.
#[derive(Debug, Clone, Copy)]
struct Begun {
    asked: Disposal,
    /// The backend has said that it moved them.
    moved: bool,
}

/// Another volume, or a claim that is being provisioned, at exactly the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sharer {
    /// `PersistentVolume pvc-…` or `claim default/a`.
    pub(super) who: String,
    /// The name of the volume, or the UID of the claim.
    pub(super) id: Arc<str>,
    pub(super) sharing: Sharing,
}

/// How somebody shares a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It uses the bytes, or somebody may want to.
    Uses,
    /// It is to be removed.
    Released,
    /// It leaves the bytes to others and goes.
    Leaves,
}

/// Who is in the way of a volume, in words and as what to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Occupant {
    pub(super) relation: Relation,
    /// `PersistentVolume pvc-…` or `claim default/a`.
    pub(super) who: String,
    /// The name of the volume, or the UID of the claim.
    pub(super) id: Arc<str>,
}

/// What is kept of the watched objects.
#[derive(Debug)]
pub(super) struct Records {
    backends: Backends,
    claims: HashMap<Arc<str>, ClaimRecord>,
    volumes: HashMap<Arc<str>, VolumeRecord>,
    classes: Classes,
    places: LocationIndex,
    reserved: LocationIndex,
    reservations: HashMap<Arc<str>, (LocationKey, Arc<Claim>)>,
    /// Who waits for a volume or a reservation to go.
    blocked: Blocked,
    /// Counts the complete lists of each kind: what a new list does not have is gone.
    rounds: BTreeMap<Watched, u32>,
    /// The kinds that were listed completely at least once.
    listed: HashSet<Watched>,
    /// By backend and store.
    memories: Memories,
    /// Whether volumes get our finalizer.
    guarding: bool,
    /// Whether a class, a volume or a claim's place has gone since it was asked which stores they name.
    stores_changed: bool,
    queue: Option<Queue<Key>>,
}

impl Records {
    /// Empty, for these backends; `guarding`: volumes get our finalizer.
    pub(super) fn new(backends: Backends, guarding: bool) -> Self {
        Self {
            backends,
            claims: HashMap::new(),
            volumes: HashMap::new(),
            classes: Classes::default(),
            places: LocationIndex::default(),
            reserved: LocationIndex::default(),
            reservations: HashMap::new(),
            blocked: Blocked::default(),
            rounds: BTreeMap::new(),
            listed: HashSet::new(),
            memories: Memories::default(),
            guarding,
            stores_changed: false,
            queue: None,
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
    pub(super) fn growing(&self, uid: &str) -> Option<&Arc<PendingExpansion>> {
        match &self.claims.get(uid)?.wanted {
            Wanted::Expansion(growing) => Some(growing),
            Wanted::Volume(_) | Wanted::Binding(_) => None,
        }
    }

    /// The volume of this name, if it is ours or lies in one of our stores.
    pub(super) fn volume(&self, name: &str) -> Option<&VolumeRecord> {
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

    /// The stores of this backend in which volumes lie, or claims have a place.
    pub(super) fn stores_in_use(&self, backend: &str) -> BTreeSet<String> {
        let stores = self.places.stores(backend).into_iter().chain(self.reserved.stores(backend));
        stores.map(str::to_owned).collect()
    }

    /// Whether a class, a volume or a claim's place has gone, or says something else, since the last time.
    pub(super) fn take_stores_changed(&mut self) -> bool {
        std::mem::take(&mut self.stores_changed)
    }

    /// Whether volumes get our finalizer.
    pub(super) fn guarding(&self) -> bool {
        self.guarding
    }

    /// The first other volume, or claim that is being provisioned, that lies at, above or below `spot`. With `share`,
    /// exactly the same place does not count.
    pub(super) fn occupant(
        &self,
        spot: &LocationKey,
        volume: &str,
        claim: &str,
        share: bool,
    ) -> Option<Occupant> {
        let counts = |relation: Relation| !(share && relation == Relation::Same);
        let volumes = self
            .places
            .overlapping(spot)
            .filter(|(relation, who)| ***who != *volume && counts(*relation))
            .map(|(relation, who)| Occupant {
                relation,
                who: format!("PersistentVolume {who}"),
                id: Arc::clone(who),
            });
        let claims = self
            .reserved
            .overlapping(spot)
            .filter(|(relation, who)| ***who != *claim && counts(*relation))
            .filter_map(|(relation, who)| {
                let (_, claim) = self.reservations.get(who)?;
                Some(Occupant { relation, who: format!("claim {claim}"), id: Arc::clone(who) })
            });
        volumes.chain(claims).next()
    }

    /// Everybody else at exactly this place.
    pub(super) fn sharers(&self, spot: &LocationKey, volume: &str) -> Vec<Sharer> {
        let volumes =
            self.places.overlapping(spot).filter(|(how, who)| *how == Relation::Same && ***who != *volume);
        let volumes = volumes.map(|(_, who)| Sharer {
            who: format!("PersistentVolume {who}"),
            id: Arc::clone(who),
            sharing: self.volumes.get(who).map_or(Sharing::Uses, |record| self.sharing(record)),
        });
        let claims = self.reserved.overlapping(spot).filter(|(how, _)| *how == Relation::Same).filter_map(
            |(_, who)| {
                let (_, claim) = self.reservations.get(who)?;
                Some(Sharer { who: format!("claim {claim}"), id: Arc::clone(who), sharing: Sharing::Uses })
            },
        );
        volumes.chain(claims).collect()
    }

    fn sharing(&self, record: &VolumeRecord) -> Sharing {
        if record.leaving && record.state.goes() {
            Sharing::Leaves
        } else if volume_state::action(record.state, self.guarding) == Action::Remove {
            Sharing::Released
        } else {
            Sharing::Uses
        }
    }

    /// A volume at, above or below the same path of another store of the same backend, with the name of that store, where the two
    /// stores may be one: either of them is `provisional`.
    pub(super) fn double(
        &self,
        spot: &LocationKey,
        volume: &str,
        provisional: impl Fn(&str) -> bool,
    ) -> Option<(Occupant, String)> {
        let stores = self.places.stores(spot.backend()).into_iter().filter(|store| **store != *spot.store());
        for store in stores.filter(|store| provisional(store) || provisional(spot.store())) {
            let there = spot.on(store);
            let mut found = self.places.overlapping(&there).filter(|(_, who)| ***who != *volume);
            if let Some((relation, who)) = found.next() {
                let id = Arc::clone(who);
                return Some((
                    Occupant { relation, who: format!("PersistentVolume {who}"), id },
                    store.to_owned(),
                ));
            }
        }
        None
    }

    /// How many claims want a volume or growth, and how many volumes are known.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.claims.len(), self.volumes.len())
    }

    // Working

    /// From now on there is somebody who works: everything that needs work goes into `queue`, now and as it comes up.
    pub(super) fn work(&mut self, queue: Queue<Key>) {
        for key in self.due() {
            queue.push(key);
        }
        self.queue = Some(queue);
    }

    /// Nobody works any more.
    pub(super) fn rest(&mut self) {
        self.queue = None;
        self.blocked.clear();
        self.reservations.clear();
        self.reserved = LocationIndex::default();
        // What was on its way was dropped. What was moved, the storage knows.
        for record in self.volumes.values_mut() {
            record.leaving = false;
            record.removing = None;
        }
    }

    /// Volumes get our finalizer from now on, or do so no more.
    pub(super) fn guard(&mut self, guarding: bool) {
        if self.guarding != guarding {
            self.guarding = guarding;
            for key in self.due() {
                self.wake(key);
            }
        }
    }

    /// Works on all claims that ask for more than they have.
    pub(super) fn wake_growing(&self) {
        for (uid, record) in &self.claims {
            if matches!(record.wanted, Wanted::Expansion(_)) {
                self.wake(Key::Expand(Arc::clone(uid)));
            }
        }
    }

    /// Everything that needs work.
    fn due(&self) -> Vec<Key> {
        let claims = self.claims.iter().filter_map(|(uid, record)| match record.wanted {
            Wanted::Volume(_) => Some(Key::Claim(Arc::clone(uid))),
            Wanted::Binding(_) => (!self.served(uid)).then(|| Key::Claim(Arc::clone(uid))),
            Wanted::Expansion(_) => Some(Key::Expand(Arc::clone(uid))),
        });
        let volumes = self.volumes.iter().filter_map(|(name, record)| self.duty_of(name, record.state));
        claims.chain(volumes).collect()
    }

    fn duty_of(&self, name: &Arc<str>, state: VolumeState) -> Option<Key> {
        match volume_state::action(state, self.guarding) {
            Action::None => None,
            Action::Remove | Action::RemoveFinalizer => Some(Key::Volume(Arc::clone(name))),
            Action::AddFinalizer => Some(Key::AddFinalizer(Arc::clone(name))),
        }
    }

    /// Works on `key`, if anybody works at all.
    pub(super) fn wake(&self, key: Key) {
        if let Some(queue) = &self.queue {
            queue.push(key);
        }
    }

    /// Works on `key` again once the volume, or the claim that is being provisioned, with this id is gone.
    pub(super) fn wake_after(&mut self, id: &Arc<str>, key: Key) {
        self.blocked.wait(id, key);
    }

    /// `key` waits for nothing any more; for what is decided about again.
    pub(super) fn unblock(&mut self, key: &Key) {
        self.blocked.forget(key);
    }

    /// Whether any work waits for what has this id.
    pub(super) fn awaits(&self, id: &str) -> bool {
        self.blocked.awaits(id)
    }

    /// What has this id is gone, or is there at last: works on all that waited for it.
    pub(super) fn wake_blocked(&mut self, id: &str) {
        for key in self.blocked.gone(id) {
            self.wake(key);
        }
    }

    /// The object of this volume is being deleted by us, or will be without its bytes; or, after a failure, it is not.
    pub(super) fn leaving(&mut self, name: &str, leaving: bool) {
        if let Some(record) = self.volumes.get_mut(name) {
            record.leaving = leaving;
        }
    }

    /// What the backend was asked to do with the bytes of this volume in this term.
    pub(super) fn removing(&self, name: &str) -> Option<Disposal> {
        self.volumes.get(name)?.removing.map(|begun| begun.asked)
    }

    /// The backend has moved the bytes of this volume away, as it was asked to.
    pub(super) fn moved_away(&mut self, name: &str) {
        if let Some(begun) = self.volumes.get_mut(name).and_then(|record| record.removing.as_mut()) {
            begun.moved = true;
        }
    }

    /// Whether the bytes of this volume were moved away in this term, and have not been seen at their place since.
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
            record.leaving = false;
        }
    }

    /// The volumes that are bound, by backend and store.
    pub(super) fn in_use(&self) -> InUseByStore {
        let mut found = InUseByStore::new();
        let backends: Vec<&'static str> = self.backends.distinct().into_iter().map(Ports::name).collect();
        for (name, record) in &self.volumes {
            let used = record.state.in_use();
            let Some(spot) = record.spot.as_ref().filter(|_| used) else { continue };
            let Some(backend) = backends.iter().find(|backend| **backend == spot.backend()) else { continue };
            // The name of an object is one.
            let Ok(name) = name.parse() else { continue };
            let known = KnownVolume { name, legacy: record.legacy };
            found.entry((*backend, spot.store().to_owned())).or_default().push(known);
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
        let record = self.volumes.get(name)?;
        let used = record.state.in_use();
        record.kept_secret.as_deref().filter(|_| used)
    }

    /// Keeps `spot` for this claim until its volume is known or [`release`](Self::release) is called.
    pub(super) fn reserve(&mut self, claim: &Arc<Claim>, spot: LocationKey) {
        self.release(&claim.uid);
        self.reserved.insert(&spot, &claim.uid);
        self.reservations.insert(Arc::clone(&claim.uid), (spot, Arc::clone(claim)));
    }

    /// Nothing is kept for this claim any more.
    pub(super) fn release(&mut self, uid: &str) {
        if let Some((spot, _)) = self.reservations.remove(uid) {
            self.reserved.remove(&spot, uid);
            self.stores_changed = true;
            self.wake_blocked(uid);
        }
    }

    // Watching

    /// A complete list of this kind begins.
    pub(super) fn begin(&mut self, kind: Watched) {
        *self.rounds.entry(kind).or_default() += 1;
    }

    /// The list is complete: what it did not have is gone. Returns whether all kinds have been listed by now.
    pub(super) fn complete(&mut self, kind: Watched) -> bool {
        let round = self.round(kind);
        match kind {
            Watched::Claims => {
                let gone: Vec<_> = self
                    .claims
                    .iter()
                    .filter(|(_, record)| record.round != round)
                    .map(|(uid, _)| Arc::clone(uid))
                    .collect();
                for uid in gone {
                    self.forget_claim(&uid);
                }
            }
            Watched::Volumes => {
                let gone: Vec<_> = self
                    .volumes
                    .iter()
                    .filter(|(_, record)| record.round != round)
                    .map(|(name, _)| Arc::clone(name))
                    .collect();
                for name in gone {
                    self.forget_volume(&name);
                }
            }
            Watched::Classes => {
                self.classes.keep(round);
                self.stores_changed = true;
            }
        }
        self.listed.insert(kind);
        self.listed.len() == 3
    }

    fn round(&self, kind: Watched) -> u32 {
        self.rounds.get(&kind).copied().unwrap_or_default()
    }

    /// A claim is there, or has changed.
    pub(super) fn see_claim(&mut self, object: &ClaimObject) {
        let Some(uid) = object.metadata.uid.as_deref() else { return };
        let round = self.round(Watched::Claims);
        let wanted = if object.spec.volume_name.as_deref().unwrap_or_default().is_empty() {
            let ours = claim::provisioner(&object.metadata).filter(|name| self.backends.get(name).is_some());
            match ours {
                Some(_) if self.served(uid) => {
                    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
                    let metadata = &object.metadata;
                    Some(Wanted::Binding(Box::new((text(&metadata.namespace), text(&metadata.name)))))
                }
                Some(name) => {
                    let class = claim::class_of(object);
                    let keys = self.classes.keys(class);
                    Some(Wanted::Volume(Arc::new(Claim::new(object, uid, name, &keys))))
                }
                None => None,
            }
        } else {
            PendingExpansion::new(object, uid).map(|growing| Wanted::Expansion(Arc::new(growing)))
        };
        let Some(wanted) = wanted else { return self.forget_claim(uid) };
        if let Some(known) = self.claims.get_mut(uid) {
            let same = match (&known.wanted, &wanted) {
                (Wanted::Volume(old), Wanted::Volume(new)) => {
                    old.resource_version == new.resource_version && old.has(&new.keys)
                }
                (Wanted::Expansion(old), Wanted::Expansion(new)) => old == new,
                (Wanted::Binding(_), Wanted::Binding(_)) => true,
                (Wanted::Volume(_) | Wanted::Expansion(_) | Wanted::Binding(_), _) => false,
            };
            known.round = round;
            if same {
                return;
            }
        }
        let (uid, key): (Arc<str>, _) = match &wanted {
            Wanted::Volume(claim) => (Arc::clone(&claim.uid), Some(Key::Claim(Arc::clone(&claim.uid)))),
            Wanted::Expansion(growing) => {
                (Arc::clone(&growing.uid), Some(Key::Expand(Arc::clone(&growing.uid))))
            }
            Wanted::Binding(_) => (uid.into(), None),
        };
        self.claims.insert(uid, ClaimRecord { wanted, round });
        if let Some(key) = key {
            self.wake(key);
        }
    }

    /// The claim of this UID is gone, or needs nothing any more.
    pub(super) fn forget_claim(&mut self, uid: &str) {
        if let Some((uid, record)) = self.claims.remove_entry(uid) {
            self.blocked.forget(&Key::Claim(Arc::clone(&uid)));
            if self.claims.capacity() / 8 > self.claims.len() {
                self.claims.shrink_to(self.claims.len() * 2);
            }
            // Something may have been made for it that now must be committed or taken back.
            if matches!(record.wanted, Wanted::Volume(_)) {
                self.wake(Key::Claim(uid));
            }
        }
    }

    /// A volume is there, or has changed; also called for one that we just stored.
    pub(super) fn see_volume(&mut self, object: &VolumeObject) {
        let Some(name) = object.metadata.name.as_deref() else { return };
        let state = volume_state::state_of(object, &self.backends);
        let located = persistent_volume::source(object).and_then(|source| {
            self.backends
                .distinct()
                .into_iter()
                .find_map(|ports| Some((ports.name(), ports.backend.locate(&source)?)))
        });
        if !state.ours && located.is_none() {
            return self.forget_volume(name);
        }
        if state.ours
            && let Some((backend, place)) = &located
        {
            self.remember(backend, &place.store, object);
        }
        let by = volume_state::provisioner(object, &self.backends).and_then(|name| self.backends.ports(name));
        let kept_secret =
            by.and_then(|ports| ports.janitor.kept_secret(&persistent_volume::legible_record(object)));
        let spot = located.map(|(backend, place)| LocationKey::new(backend, &place));
        let claim_uid = object.spec.claim_ref.as_ref().map_or("", |claim| claim.uid.as_str());
        let round = self.round(Watched::Volumes);
        let name: Arc<str> = match self.volumes.get_key_value(name) {
            Some((known, _)) => Arc::clone(known),
            None => name.into(),
        };
        let uid = hash(&object.metadata.uid);
        let same = self.volumes.get(&name).filter(|known| known.object == uid);
        let legacy = annotation(&object.metadata, names::VOLUME_ID).is_none();
        // One that we made and that nobody here is making came back, perhaps from a backup: the trash may hold its bytes.
        let came_back = self.queue.is_some()
            && state.ours
            && !legacy
            && same.is_none()
            && !self.reservations.contains_key(claim_uid);
        let made = same.map_or_else(|| self.reservations.contains_key(claim_uid), |known| known.made);
        let (leaving, removing) = same
            .map_or((false, came_back.then_some(Begun { asked: Disposal::Delete, moved: false })), |known| {
                (known.leaving, known.removing)
            });
        let said = match volume_state::action(state, self.guarding) {
            Action::Remove => said(object),
            Action::None | Action::AddFinalizer | Action::RemoveFinalizer => {
                hash(&annotation(&object.metadata, names::TAKE_OVER))
            }
        };
        let record = VolumeRecord {
            claim_uid: claim_uid.into(),
            state,
            spot,
            leaving,
            removing,
            legacy,
            made,
            kept_secret: kept_secret.map(Box::new),
            object: uid,
            said,
            round,
        };
        if let Some(spot) = &record.spot {
            self.places.insert(spot, &name);
        }
        self.release(claim_uid);
        let spot = record.spot.clone();
        let before = self.volumes.insert(Arc::clone(&name), record);
        if self.served(claim_uid)
            && let Some(ClaimRecord { wanted, .. }) = self.claims.get_mut(claim_uid)
            && let Wanted::Volume(claim) = wanted
        {
            self.blocked.forget(&Key::Claim(Arc::clone(&claim.uid)));
            // All that a pattern could ask for is not needed any more.
            *wanted = Wanted::Binding(Box::new((claim.namespace.clone(), claim.name.clone())));
        }
        let moved =
            before.as_ref().and_then(|before| before.spot.as_ref()).filter(|old| Some(*old) != spot.as_ref());
        if let Some(old) = moved {
            self.places.remove(old, &name);
            self.stores_changed = true;
        }
        self.wake_volume(&name, before.as_ref());
    }

    /// Works on a volume that is not as it was `legacy_default`.
    fn wake_volume(&self, name: &Arc<str>, before: Option<&VolumeRecord>) {
        let Some(now) = self.volumes.get(name) else { return };
        let before = before.filter(|before| before.object == now.object);
        // It is to stay, and its bytes may have been moved.
        let rescued = now.removing.is_some() && !now.state.goes();
        if rescued {
            self.wake(Key::Volume(Arc::clone(name)));
        }
        // A removal that was refused may be possible by now. While we delete it, its last changes are our own.
        let ours = now.leaving && !rescued;
        let news = before.is_none_or(|before| before.said != now.said || before.state != now.state && !ours);
        if !news {
            return;
        }
        if let Some(key) = self.duty_of(name, now.state) {
            self.wake(key);
        }
        let bound = now.state.in_use();
        let taken_over = before.is_some_and(|before| before.said != now.said);
        // An older provisioner may have made it just now. What was released may have lost its record with its claim, and what was made
        // again from a backup may be marked as an archive.
        let came = match before {
            Some(before) => {
                before.state.phase != Phase::Bound && (!now.made || before.state.phase == Phase::Released)
            }
            None => now.legacy,
        };
        if bound && (taken_over || came) {
            self.wake(Key::Register(Arc::clone(name)));
        }
    }

    /// The volume of this name is gone.
    pub(super) fn forget_volume(&mut self, name: &str) {
        if let Some((name, record)) = self.volumes.remove_entry(name) {
            if let Some(spot) = &record.spot {
                self.places.remove(spot, &name);
                self.stores_changed = true;
            }
            self.blocked.forget(&Key::Volume(Arc::clone(&name)));
            self.wake_blocked(&name);
            // Its claim may never have been bound; then it needs another one.
            if let Some((uid, _)) = self.claims.get_key_value(&*record.claim_uid) {
                self.wake(Key::Claim(Arc::clone(uid)));
            }
        }
    }

    /// A class is there, or has changed.
    pub(super) fn see_class(&mut self, class: Class) {
        let round = self.round(Watched::Classes);
        let name = class.name.clone();
        if self.classes.see(class, &self.backends, round) {
            self.stores_changed = true;
            let waiting = self.claims.iter().filter_map(|(uid, record)| match &record.wanted {
                Wanted::Volume(claim) if *claim.class == *name => Some(Key::Claim(Arc::clone(uid))),
                Wanted::Volume(_) | Wanted::Binding(_) | Wanted::Expansion(_) => None,
            });
            for key in waiting {
                self.wake(key);
            }
        }
    }

    /// The class of this name is gone.
    pub(super) fn forget_class(&mut self, name: &str) {
        self.classes.forget(name);
        self.stores_changed = true;
    }
}

/// What a volume says that a removal is decided by: what somebody may correct after one was refused.
fn said(object: &VolumeObject) -> u64 {
    let claim = object.spec.claim_ref.as_ref().map(|claim| (&claim.namespace, &claim.name, &claim.uid));
    hash(&(&object.metadata.annotations, claim))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;

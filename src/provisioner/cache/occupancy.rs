//! Who lies where, or is about to: [`Occupancy`], the locations of volumes and those reserved for claims.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    claim::Claim,
    locations::{LocationIndex, LocationKey, Relation},
};

/// Another volume, or a claim that is being provisioned, at exactly the same location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provisioner) struct Sharer {
    /// `PersistentVolume pvc-…` or `claim default/a`.
    pub(in crate::provisioner) who: String,
    /// The name of the volume, or the UID of the claim.
    pub(in crate::provisioner) id: Arc<str>,
    pub(in crate::provisioner) sharing: Sharing,
}

/// How a volume or claim shares a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::provisioner) enum Sharing {
    /// It uses the data, or may be used again.
    Uses,
    /// It is to be removed.
    Released,
    /// It leaves the data to others and goes.
    Leaves,
}

/// What is in the way of a volume, in words and as what to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provisioner) struct Occupant {
    pub(in crate::provisioner) relation: Relation,
    /// `PersistentVolume pvc-…` or `claim default/a`.
    pub(in crate::provisioner) who: String,
    /// The name of the volume, or the UID of the claim.
    pub(in crate::provisioner) id: Arc<str>,
}

impl Occupant {
    fn volume((relation, name): (Relation, &Arc<str>)) -> Self {
        Self { relation, who: format!("PersistentVolume {name}"), id: Arc::clone(name) }
    }
}

/// The locations of volumes, and of claims that are being provisioned.
#[derive(Debug, Default)]
pub(in crate::provisioner) struct Occupancy {
    volumes: LocationIndex,
    reserved: LocationIndex,
    reservations: HashMap<Arc<str>, (LocationKey, Arc<Claim>)>,
    /// Whether a location has become free since it was asked.
    freed: bool,
}

impl Occupancy {
    /// The volume of this name lies there.
    pub(super) fn insert(&mut self, location: &LocationKey, name: &Arc<str>) {
        self.volumes.insert(location, name);
    }

    /// The volume of this name lies there no more.
    pub(super) fn remove(&mut self, location: &LocationKey, name: &str) {
        self.volumes.remove(location, name);
        self.freed = true;
    }

    /// Keeps `location` for a claim that has no other one.
    pub(super) fn reserve(&mut self, claim: &Arc<Claim>, location: LocationKey) {
        self.reserved.insert(&location, &claim.uid);
        self.reservations.insert(Arc::clone(&claim.uid), (location, Arc::clone(claim)));
    }

    /// Keeps nothing for this claim any more; whether anything was kept.
    pub(super) fn release(&mut self, uid: &str) -> bool {
        let Some((location, _)) = self.reservations.remove(uid) else { return false };
        self.reserved.remove(&location, uid);
        self.freed = true;
        true
    }

    /// Keeps nothing for any claim.
    pub(super) fn release_all(&mut self) {
        self.reservations.clear();
        self.reserved = LocationIndex::default();
    }

    /// Whether a location is kept for this claim.
    pub(super) fn is_reserved_for(&self, uid: &str) -> bool {
        self.reservations.contains_key(uid)
    }

    /// Whether a location has become free since the last time.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// The stores of this backend in which volumes lie, or claims have a location.
    pub(in crate::provisioner) fn stores(&self, backend: &str) -> BTreeSet<String> {
        let stores = self.volumes.stores(backend).into_iter().chain(self.reserved.stores(backend));
        stores.map(str::to_owned).collect()
    }

    /// The first other volume, or claim that is being provisioned, that lies at, above or below `location`. With `share`,
    /// exactly the same location does not count.
    pub(in crate::provisioner) fn occupant(
        &self,
        location: &LocationKey,
        volume: &str,
        claim: &str,
        share: bool,
    ) -> Option<Occupant> {
        let counts = |relation: Relation| !(share && relation == Relation::Same);
        let volumes = self
            .volumes
            .overlapping(location)
            .filter(|(relation, name)| ***name != *volume && counts(*relation))
            .map(Occupant::volume);
        let claims = self
            .claims(location)
            .filter(|(relation, uid, _)| ***uid != *claim && counts(*relation))
            .map(|(relation, uid, claim)| Occupant {
                relation,
                who: format!("claim {claim}"),
                id: Arc::clone(uid),
            });
        volumes.chain(claims).next()
    }

    /// Everything else at exactly this location; `sharing` says it of the volume of a name.
    pub(super) fn sharers(
        &self,
        location: &LocationKey,
        volume: &str,
        sharing: impl Fn(&str) -> Sharing,
    ) -> Vec<Sharer> {
        let volumes = self.volumes.overlapping(location);
        let volumes = volumes.filter(|(relation, name)| *relation == Relation::Same && ***name != *volume);
        let volumes = volumes.map(|(_, name)| Sharer {
            who: format!("PersistentVolume {name}"),
            id: Arc::clone(name),
            sharing: sharing(name),
        });
        let claims = self.claims(location).filter(|(relation, ..)| *relation == Relation::Same);
        let claims = claims.map(|(_, uid, claim)| Sharer {
            who: format!("claim {claim}"),
            id: Arc::clone(uid),
            sharing: Sharing::Uses,
        });
        volumes.chain(claims).collect()
    }

    fn claims<'a>(
        &'a self,
        location: &'a LocationKey,
    ) -> impl Iterator<Item = (Relation, &'a Arc<str>, &'a Arc<Claim>)> {
        let reserved = self.reserved.overlapping(location);
        reserved.filter_map(|(relation, uid)| Some((relation, uid, &self.reservations.get(uid)?.1)))
    }

    /// A volume at, above or below the same path of another store of the same backend, with the name of that store, where the two
    /// stores may be one: either of them is `provisional`.
    pub(in crate::provisioner) fn double(
        &self,
        location: &LocationKey,
        volume: &str,
        provisional: impl Fn(&str) -> bool,
    ) -> Option<(Occupant, String)> {
        let others = self.volumes.stores(location.backend()).into_iter();
        let others = others.filter(|store| **store != *location.store());
        others.filter(|store| provisional(store) || provisional(location.store())).find_map(|store| {
            let there = location.on(store);
            let mut found = self.volumes.overlapping(&there).filter(|(_, name)| ***name != *volume);
            found.next().map(|found| (Occupant::volume(found), store.to_owned()))
        })
    }
}

//! What the volumes say of the stores that they lie in: [`Expectations`].
//!
//! The backends are told when everything was listed, and again whenever this process begins to lead: what it learned on standby
//! counts as well.

use std::collections::BTreeMap;

use super::locations::LocationKey;
use crate::{
    backend::{StoreExpectation, Stores},
    provisioner::{
        names,
        objects::{VolumeObject, annotation},
    },
};

/// How many locations of existing volumes a store is told.
pub(super) const MOST_LOCATIONS: usize = 16;

/// By backend and store: when the newest volume was made, and the identity that the store had then. It stays when the volumes
/// are gone.
#[derive(Debug, Default)]
pub(super) struct Expectations(BTreeMap<String, BTreeMap<String, Option<(i64, String)>>>);

impl Expectations {
    /// A volume of ours lies there.
    pub(super) fn see(&mut self, location: &LocationKey, object: &VolumeObject) {
        let (backend, store) = (location.backend(), location.store());
        if self.0.get(backend).is_none_or(|stores| !stores.contains_key(store)) {
            self.0.entry(backend.to_owned()).or_default().insert(store.to_owned(), None);
        }
        let Some(newest) = self.0.get_mut(backend).and_then(|stores| stores.get_mut(store)) else { return };
        let Some(identity) = annotation(&object.metadata, names::STORE_ID) else { return };
        let made = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        match newest {
            Some((when, known)) if *when <= made => {
                *when = made;
                if known != identity {
                    identity.clone_into(known);
                }
            }
            Some(_) => {}
            None => *newest = Some((made, identity.to_owned())),
        }
    }

    /// What is expected of each store of the backend of this name, of which `locations` are occupied. Among them are stores that
    /// only volumes name; of stores without volumes nothing is expected.
    pub(super) fn of<'a>(
        &self,
        backend: &str,
        stores: &dyn Stores,
        locations: impl Iterator<Item = &'a LocationKey>,
    ) -> Vec<StoreExpectation> {
        let empty = BTreeMap::new();
        let seen = self.0.get(backend).unwrap_or(&empty);
        let mut names: Vec<String> = stores.stores().into_iter().map(|store| store.name).collect();
        let unnamed: Vec<String> = seen.keys().filter(|store| !names.contains(store)).cloned().collect();
        names.extend(unnamed);
        let mut found: Vec<StoreExpectation> = names
            .into_iter()
            .map(|store| {
                let identity =
                    seen.get(&store).and_then(Option::as_ref).map(|(_, identity)| identity.clone());
                StoreExpectation { store, identity, places: Vec::new() }
            })
            .collect();
        for location in locations.filter(|location| location.backend() == backend) {
            let store = found.iter_mut().find(|found| found.store == location.store());
            if let Some(store) = store.filter(|store| store.places.len() < MOST_LOCATIONS) {
                store.places.push(location.place());
            }
        }
        found
    }
}

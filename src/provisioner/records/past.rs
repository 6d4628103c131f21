//! What the volumes tell of their stores: [`Memories`].
//!
//! It is told to the backends when everything was listed, and again whenever a term begins: what a process learned while it
//! stood by counts as well.

use std::collections::BTreeMap;

use super::Records;
use crate::{
    backend::{StoreExpectation, Stores},
    provisioner::{
        names,
        objects::{VolumeObject, annotation},
    },
};

/// By backend and store.
pub(super) type Memories = BTreeMap<&'static str, BTreeMap<String, Memory>>;

/// What the volumes tell of one store. It stays when they are gone.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When the newest volume was made, and the identity that the store had then.
    newest: Option<(i64, String)>,
}

/// How many places of existing volumes a store is reminded of.
pub(super) const REMEMBERED: usize = 16;

impl Records {
    pub(super) fn remember(&mut self, backend: &'static str, store: &str, object: &VolumeObject) {
        let stores = self.memories.entry(backend).or_default();
        if !stores.contains_key(store) {
            stores.insert(store.to_owned(), Memory::default());
        }
        let Some(memory) = stores.get_mut(store) else { return };
        if let Some(identity) = annotation(&object.metadata, names::STORE_ID) {
            let made = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
            match &mut memory.newest {
                Some((newest, known)) if *newest <= made => {
                    *newest = made;
                    if known != identity {
                        identity.clone_into(known);
                    }
                }
                Some(_) => {}
                None => memory.newest = Some((made, identity.to_owned())),
            }
        }
    }

    /// What the volumes tell of each store of the backend of this name; stores without volumes have an empty past. Among them are stores that
    /// only volumes name.
    pub(in crate::provisioner) fn past(&self, name: &str, stores: &dyn Stores) -> Vec<StoreExpectation> {
        let empty = BTreeMap::new();
        let memories = self.memories.get(name).unwrap_or(&empty);
        let mut stores: Vec<String> = stores.stores().into_iter().map(|store| store.name).collect();
        let named = |store: &&String| !stores.iter().any(|known| known == *store);
        let unnamed: Vec<String> = memories.keys().filter(named).cloned().collect();
        stores.extend(unnamed);
        let mut pasts: BTreeMap<String, StoreExpectation> = stores
            .iter()
            .map(|store| {
                let newest = memories.get(store).and_then(|memory| memory.newest.as_ref());
                let identity = newest.map(|(_, identity)| identity.clone());
                (store.clone(), StoreExpectation { store: store.clone(), identity, places: Vec::new() })
            })
            .collect();
        for record in self.volumes.values() {
            let Some(spot) = record.spot.as_ref().filter(|_| record.state.ours) else { continue };
            if spot.backend() != name {
                continue;
            }
            if let Some(past) = pasts.get_mut(spot.store()).filter(|past| past.places.len() < REMEMBERED) {
                past.places.push(spot.place());
            }
        }
        stores.into_iter().filter_map(|store| pasts.remove(&store)).collect()
    }
}

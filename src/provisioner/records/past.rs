//! What the volumes tell of their stores, collected while the first lists come in: [`Memories`].

use std::collections::BTreeMap;

use super::Records;
use crate::{
    backend::{Backend, Past},
    provisioner::{
        names,
        objects::{VolumeObject, annotation},
    },
    volume::Place,
};

/// By backend and store.
pub(super) type Memories = BTreeMap<(&'static str, String), Memory>;

/// What the volumes tell of one store.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When the newest volume was made, and the identity that the store had then.
    newest: Option<(i64, String)>,
    places: Vec<Place>,
}

/// How many places of existing volumes a store is reminded of.
pub(super) const REMEMBERED: usize = 16;

impl Records {
    pub(super) fn remember(&mut self, backend: &'static str, place: &Place, object: &VolumeObject) {
        let Some(memories) = &mut self.memories else { return };
        let memory = memories.entry((backend, place.store.clone())).or_default();
        if memory.places.len() < REMEMBERED {
            memory.places.push(place.clone());
        }
        if let Some(identity) = annotation(&object.metadata, names::STORE_ID) {
            let made = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
            if memory.newest.as_ref().is_none_or(|(newest, _)| *newest <= made) {
                memory.newest = Some((made, identity.to_owned()));
            }
        }
    }

    /// What the volumes listed so far tell of each store of `backend`; stores without volumes have an empty past. Among them
    /// are stores that only volumes name.
    pub(in crate::provisioner) fn past(&self, backend: &dyn Backend) -> Vec<Past> {
        let name = backend.capabilities().name;
        let memories = self.memories.iter().flatten().filter(|((backend, _), _)| *backend == name);
        let memories: BTreeMap<&str, &Memory> =
            memories.map(|((_, store), memory)| (store.as_str(), memory)).collect();
        let mut stores: Vec<String> = backend.stores().into_iter().map(|store| store.name).collect();
        let named = |store: &&str| !stores.iter().any(|known| known == *store);
        let unnamed: Vec<String> = memories.keys().copied().filter(named).map(str::to_owned).collect();
        stores.extend(unnamed);
        let past = |store: String| {
            let memory = memories.get(store.as_str());
            let newest = memory.and_then(|memory| memory.newest.as_ref());
            Past {
                identity: newest.map(|(_, identity)| identity.clone()),
                places: memory.map(|memory| memory.places.clone()).unwrap_or_default(),
                store,
            }
        };
        stores.into_iter().map(past).collect()
    }

    /// The past was told; nothing more is collected.
    pub(in crate::provisioner) fn past_told(&mut self) {
        self.memories = None;
    }
}

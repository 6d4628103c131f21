//! Who waits for whom to go: [`Blocked`].
//!
//! Each key waits for one thing at most, and nothing stays behind of a key that is gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::Key;

/// Keys that are worked on again once a volume, or a claim that is being provisioned, is gone.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    by_id: HashMap<Arc<str>, HashSet<Key>>,
    waits_for: HashMap<Key, Arc<str>>,
}

impl Blocked {
    /// `key` waits for `id`, and for nothing else any more.
    pub(super) fn wait(&mut self, id: &Arc<str>, key: Key) {
        self.forget(&key);
        self.by_id.entry(Arc::clone(id)).or_default().insert(key.clone());
        self.waits_for.insert(key, Arc::clone(id));
    }

    /// `id` is gone: those who waited for it wait no more.
    pub(super) fn gone(&mut self, id: &str) -> HashSet<Key> {
        let keys = self.by_id.remove(id).unwrap_or_default();
        for key in &keys {
            self.waits_for.remove(key);
        }
        keys
    }

    /// `key` waits for nothing any more.
    pub(super) fn forget(&mut self, key: &Key) {
        let Some(id) = self.waits_for.remove(key) else { return };
        if let Some(keys) = self.by_id.get_mut(&id) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }

    /// Whether anything waits for `id`.
    pub(super) fn awaits(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many wait, and for how many.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.waits_for.len(), self.by_id.len())
    }
}

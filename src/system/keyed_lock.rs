//! One holder at a time for each key: [`KeyedLocks`].
//!
//! Nothing waits here: the second caller gets nothing, and tries again when it likes.

use std::{collections::HashSet, fmt, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// The keys that are held now. Copies share them.
#[derive(Debug)]
pub struct KeyedLocks<K> {
    held: Arc<Mutex<HashSet<K>>>,
}

impl<K> Clone for KeyedLocks<K> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held) }
    }
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self { held: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    /// Takes `key`, unless it is held.
    pub fn try_lock(&self, key: &K) -> Option<KeyedLock<K>> {
        let mut held = self.held.lock();
        held.insert(key.clone()).then(|| KeyedLock { held: Arc::clone(&self.held), key: key.clone() })
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }
}

/// Holds a key until dropped.
pub struct KeyedLock<K: Eq + Hash> {
    held: Arc<Mutex<HashSet<K>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for KeyedLock<K> {
    fn drop(&mut self) {
        self.held.lock().remove(&self.key);
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for KeyedLock<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_holder_until_it_is_dropped_and_other_keys_are_free() {
        let locks = KeyedLocks::default();
        let first = locks.try_lock(&"a").unwrap();
        assert!(locks.try_lock(&"a").is_none());
        assert!(locks.clone().try_lock(&"a").is_none());
        assert!(locks.try_lock(&"b").is_some());
        drop(first);
        assert!(locks.try_lock(&"a").is_some());
    }
}

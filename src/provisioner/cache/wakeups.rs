//! What is worked on again, and when: [`Wakeups`], the queue of the leader and the keys that wait for others to go.
//!
//! Each key waits for one thing at most, and nothing stays behind of a key that is gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::provisioner::{key::Key, queue::Queue};

/// The queue, while this process leads, and keys that are worked on again once a volume, or a claim that is being
/// provisioned, is gone.
#[derive(Debug, Default)]
pub(in crate::provisioner) struct Wakeups {
    queue: Option<Queue<Key>>,
    by_id: HashMap<Arc<str>, HashSet<Key>>,
    waits_for: HashMap<Key, Arc<str>>,
}

impl Wakeups {
    /// From now on what needs work goes into `queue`.
    pub(super) fn start(&mut self, queue: Queue<Key>) {
        self.queue = Some(queue);
    }

    /// Nothing is worked on any more, and nothing waits.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    /// Whether anything is worked on.
    pub(super) fn started(&self) -> bool {
        self.queue.is_some()
    }

    /// Works on `key`, if this process leads.
    pub(in crate::provisioner) fn wake(&self, key: Key) {
        if let Some(queue) = &self.queue {
            queue.push(key);
        }
    }

    /// Works on `key` again once what has this id is gone; it waits for nothing else any more.
    pub(in crate::provisioner) fn wait(&mut self, id: &Arc<str>, key: Key) {
        self.forget(&key);
        self.by_id.entry(Arc::clone(id)).or_default().insert(key.clone());
        self.waits_for.insert(key, Arc::clone(id));
    }

    /// What has this id is gone, or is there at last: works on all that waited for it.
    pub(in crate::provisioner) fn gone(&mut self, id: &str) {
        for key in self.by_id.remove(id).unwrap_or_default() {
            self.waits_for.remove(&key);
            self.wake(key);
        }
    }

    /// `key` waits for nothing any more.
    pub(in crate::provisioner) fn forget(&mut self, key: &Key) {
        let Some(id) = self.waits_for.remove(key) else { return };
        if let Some(keys) = self.by_id.get_mut(&id) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }

    /// Whether anything waits for what has this id.
    pub(in crate::provisioner) fn awaits(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// How many wait, and for how many.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.waits_for.len(), self.by_id.len())
    }
}

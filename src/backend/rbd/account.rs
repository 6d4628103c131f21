//! The account of what is in the trash of one cluster: [`Trash`]. Removals add to it, the loop of `trash` corrects it by what it
//! lists, and readiness and metrics read it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{large::Large, names::PoolNamespace};

/// What is in the trash of one cluster.
#[derive(Debug, Default)]
pub(super) struct Trash {
    /// How many wait to be purged in what was listed.
    listed: AtomicUsize,
    /// How many were moved there since.
    added: Mutex<BTreeMap<PoolNamespace, usize>>,
    purged: AtomicU64,
    pub(super) stuck: Mutex<Vec<(String, String)>>,
    /// When something is due that was moved there since the trash was listed.
    pub(super) due: Mutex<BTreeMap<PoolNamespace, SystemTime>>,
    /// What this process moved there while its PV was to be removed: it need not be looked at before it is due.
    pub(super) ours: Mutex<HashSet<String>>,
    pub(super) wake: Notify,
    pub(super) large: Large,
}

impl Trash {
    /// Notes that something was moved to the trash to be purged.
    pub(super) fn added(&self, pool_namespace: &PoolNamespace) {
        *self.added.lock().entry(pool_namespace.clone()).or_default() += 1;
    }

    /// How many were moved to this trash since it was listed.
    pub(super) fn unlisted(&self, pool_namespace: &PoolNamespace) -> usize {
        self.added.lock().get(pool_namespace).copied().unwrap_or_default()
    }

    /// Notes that so many wait in what was listed.
    pub(super) fn listed(&self, waiting: usize) {
        self.listed.store(waiting, Ordering::SeqCst);
    }

    /// The same, where the list now has so many in this trash that were counted as added until now.
    pub(super) fn listed_with(&self, waiting: usize, pool_namespace: &PoolNamespace, unlisted: usize) {
        let mut added = self.added.lock();
        self.listed(waiting);
        if let Some(count) = added.get_mut(pool_namespace) {
            *count = count.saturating_sub(unlisted);
        }
    }

    /// Notes that the image with this id was moved to the trash, and will be due then.
    pub(super) fn expects(&self, pool_namespace: &PoolNamespace, id: &str, until: SystemTime) {
        self.ours.lock().insert(pool_namespace.spec(id));
        let mut due = self.due.lock();
        let known = due.entry(pool_namespace.clone()).or_insert(until);
        *known = (*known).min(until);
        drop(due);
        self.wake();
    }

    /// Lets the loop see what has changed.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn waiting(&self) -> usize {
        let added = self.added.lock();
        let unlisted: usize = added.values().sum();
        self.listed.load(Ordering::SeqCst) + unlisted + self.large.waiting()
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    /// Notes that an image was purged.
    pub(super) fn count_purged(&self) {
        self.purged.fetch_add(1, Ordering::Relaxed);
    }

    /// What waits for longer than it should, and why.
    /// `patience`: how long a large image may take without a word.
    pub(super) fn stuck(&self, patience: Duration) -> Vec<(String, String)> {
        let mut stuck = self.stuck.lock().clone();
        stuck.extend(self.large.overdue(patience));
        stuck
    }
}

//! What a process learns of its cluster in passing and never forgets: [`ClusterIdentity`].
//!
//! The parts of the process that learn something and the [`ClusterInfo`](crate::backend::ClusterInfo) that tells the storage of it are made
//! at different times; each gets a copy.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use super::clock::ServerClock;

/// By what this cluster differs from others, as far as it was read, and its clock; copies share it.
///
/// What was read stays for the life of the process, whatever becomes of the objects.
#[derive(Debug, Clone, Default)]
pub struct ClusterIdentity {
    /// The API server's clock.
    pub clock: ServerClock,
    ids: Arc<Ids>,
}

#[derive(Debug, Default)]
struct Ids {
    /// Told of everything that is learned.
    learned: watch::Sender<()>,
    kube_system: OnceLock<String>,
    /// The UID of `kube-system` may not be read.
    hidden: AtomicBool,
    lock: OnceLock<String>,
}

impl ClusterIdentity {
    /// The UID of `kube-system` was read.
    pub(super) fn kube_system(&self, uid: String) {
        // The first one stays.
        if self.ids.kube_system.set(uid).is_ok() {
            self.ids.learned.send_replace(());
        }
    }

    /// The UID of `kube-system` may not be read.
    pub(super) fn kube_system_is_hidden(&self) {
        if !self.ids.hidden.swap(true, Ordering::SeqCst) {
            self.ids.learned.send_replace(());
        }
    }

    /// The UID of the object that is the leader lock was read.
    pub(super) fn lock(&self, uid: String) {
        // The first one stays.
        if self.ids.lock.set(uid).is_ok() {
            self.ids.learned.send_replace(());
        }
    }

    /// The identity of the cluster, as far as it was read: the UID of `kube-system`; where that may not be read, the one of the
    /// leader lock. Not while the first is only late: a lock may be deleted, a namespace that Kubernetes needs may not.
    pub(super) fn id(&self) -> Option<&String> {
        let lock = || self.ids.lock.get().filter(|_| self.ids.hidden.load(Ordering::SeqCst));
        self.ids.kube_system.get().or_else(lock)
    }

    /// Changes whenever something is learned by which the cluster is called.
    pub(super) fn learned(&self) -> watch::Receiver<()> {
        self.ids.learned.subscribe()
    }

    /// Everything by which what is on the storage may name this cluster.
    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.ids.kube_system.get().into_iter().chain(self.ids.lock.get())
    }
}

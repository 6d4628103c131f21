//! The Secrets that work waits for: [`SecretWaits`].

use std::collections::BTreeSet;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::volume::SecretName;

/// The Secrets that work began to wait for and that are not followed yet.
#[derive(Debug, Default)]
pub(in crate::provisioner) struct SecretWaits {
    wanted: Mutex<BTreeSet<SecretName>>,
    pub(super) news: Notify,
}

impl SecretWaits {
    pub(super) fn wanted(&self) -> MutexGuard<'_, BTreeSet<SecretName>> {
        self.wanted.lock()
    }

    pub(super) fn want(&self, name: SecretName) {
        self.wanted().insert(name);
        self.news.notify_one();
    }
}

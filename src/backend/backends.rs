//! The storage systems of this process by provisioner name, each through the port that its caller needs: [`Backends`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Backend, Janitor, StorageSystem, Stores};

/// The backends of this process, each with the provisioner name under which it serves claims.
#[derive(Clone, Default)]
pub struct Backends {
    by_name: BTreeMap<String, Ports>,
    identity: Option<String>,
}

/// One storage system, by each of its ports.
#[derive(Clone)]
pub struct Ports {
    /// For the work on a claim or a PV.
    pub backend: Arc<dyn Backend>,
    /// For the housekeeping of the leader.
    pub janitor: Arc<dyn Janitor>,
    /// For start-up, probes and metrics.
    pub stores: Arc<dyn Stores>,
}

impl Ports {
    /// The backend's name in volume ids and metrics.
    pub fn name(&self) -> &'static str {
        self.backend.capabilities().name
    }
}

impl Backends {
    /// Adds `system` as the one that serves `provisioner`; the last one with a name stays.
    #[must_use]
    pub fn with(mut self, provisioner: impl Into<String>, system: Arc<dyn StorageSystem>) -> Self {
        let ports = Ports { backend: system.clone(), janitor: system.clone(), stores: system };
        self.by_name.insert(provisioner.into(), ports);
        self
    }

    /// The same under the identity that an older provisioner had, which marked its volumes with it: those of another
    /// identity are not ours. `None`: those of all identities are.
    #[must_use]
    pub fn identified_as(mut self, identity: Option<String>) -> Self {
        self.identity = identity;
        self
    }

    /// The identity that volumes of older provisioners must have.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The backend that serves this provisioner name.
    pub fn get(&self, provisioner: &str) -> Option<&Arc<dyn Backend>> {
        self.ports(provisioner).map(|ports| &ports.backend)
    }

    /// Every port of the storage system that serves this provisioner name.
    pub fn ports(&self, provisioner: &str) -> Option<&Ports> {
        self.by_name.get(provisioner)
    }

    /// All provisioner names.
    pub fn provisioners(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Every storage system once, though it may serve several names.
    pub fn distinct(&self) -> Vec<&Ports> {
        let mut distinct: Vec<&Ports> = Vec::new();
        for ports in self.by_name.values() {
            if !distinct.iter().any(|known| Arc::ptr_eq(&known.backend, &ports.backend)) {
                distinct.push(ports);
            }
        }
        distinct
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

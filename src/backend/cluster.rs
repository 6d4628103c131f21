//! What a backend may ask of the Kubernetes cluster that it works for: [`ClusterInfo`], [`SecretStore`], or both ([`Kubernetes`]).

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::Error;
use crate::volume::{ClusterIds, SecretName, Secrets, VolumeName};

/// The Secrets with which backends reach storage, and those that they make for volumes' own users.
#[async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// The values in the Secret of this name. They may be some seconds old, unless `fresh` is asked for, as it should be when
    /// the storage did not accept them. [`Kind::NotFound`](super::Kind::NotFound) where there is none.
    async fn get(&self, name: &SecretName, fresh: bool) -> Result<Secrets, Error>;

    /// Stores `secrets` under that name for `owner`, in place of what was stored for the same owner. What was not stored for
    /// it is left alone: [`Kind::Conflict`](super::Kind::Conflict).
    async fn put(&self, name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Result<(), Error>;

    /// Whether what was stored for `owner` under that name is still there, as of now. Where something else has the name:
    /// [`Kind::Conflict`](super::Kind::Conflict).
    async fn exists(&self, name: &SecretName, owner: &VolumeName) -> Result<bool, Error>;

    /// Deletes what was stored for `owner` under that name; nothing there is a success, and what was not stored for it
    /// is [`Kind::Refused`](super::Kind::Refused).
    async fn delete(&self, name: &SecretName, owner: &VolumeName) -> Result<(), Error>;
}

/// Which cluster it is, what its API server says of PVs and of the time, and what its administrator set for all volumes.
#[async_trait]
pub trait ClusterInfo: Send + Sync + 'static {
    /// By what this cluster differs from all others that may use the same storage; `None` while it cannot be known. What is
    /// unknown never counts as equal.
    fn cluster_id(&self) -> Option<String>;

    /// The same with the identities that this cluster had before, which stand in older records.
    fn cluster_ids(&self) -> Option<ClusterIds> {
        self.cluster_id().map(ClusterIds::only)
    }

    /// Asks the API server, live, for the PV of this name. What was moved to the trash is purged only once it is gone.
    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error>;

    /// The time by the API server's clock; `None` while it is unknown, or differs from ours by so much that one of both
    /// is wrong. Nothing expires then.
    fn now(&self) -> Option<SystemTime> {
        Some(SystemTime::now())
    }

    /// How long what is deleted stays in the trash where neither its class nor its PV says so.
    fn trash_retention(&self) -> Duration {
        Duration::ZERO
    }

    /// The name of the node that has this address, where it is known; answers at once, from memory.
    fn node_at(&self, _address: IpAddr) -> Option<String> {
        None
    }
}

/// The whole cluster, for backends that need its Secrets as well.
pub trait Kubernetes: SecretStore + ClusterInfo {}

impl<T: SecretStore + ClusterInfo> Kubernetes for T {}

/// What the API server says of the PV of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PvState {
    /// There is none of this name.
    Absent,
    /// There is one.
    Present {
        /// Which object it is: one that was made again under the same name has another UID.
        uid: String,
        /// Whether it is still released and to be removed. Else it uses the volume, or is to be kept.
        removing: bool,
    },
}

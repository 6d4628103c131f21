//! Everything the loop is told: [`Settings`]. It is checked where it is built.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{cluster_identity::ClusterIdentity, lease, queue, rights::Right};
use crate::volume::Clock;

/// Made by `roles/controller.rs`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the API server is and who we are to it.
    pub cluster: kube::Config,
    /// The name of this machine or pod, for the source of our events.
    pub hostname: String,
    /// The namespace this process lives in, where it needs the rights for the leader lock.
    pub namespace: String,
    /// The lock to hold while working; `None`: without leader election.
    pub lease: Option<lease::Settings>,
    /// What leadership and the permits that come of it are measured by.
    pub clock: Clock,
    /// What is learned of the cluster, for the [`ClusterInfo`](crate::backend::ClusterInfo) of the backends.
    pub cluster_identity: ClusterIdentity,
    /// The CSI drivers whose volumes are attached before a node uses them (`attachRequired`), which we do for them.
    pub attachers: Vec<String>,
    /// What the backends need of the API server besides, through their [`Kubernetes`](crate::backend::Kubernetes).
    pub host_rights: &'static [Right],
    /// How many PVs, of all stores together, are on their way to the API server at a time. Of each store half as many again are
    /// worked on, so that the next volumes are made in that time.
    pub workers: usize,
    /// How long to wait for an answer of the API server (watches are not meant).
    pub api_timeout: Duration,
    /// How long to wait at the start for what the API server lets us do, before it is taken to let us do everything.
    pub rights_timeout: Duration,
    /// How long what failed waits.
    pub backoff: queue::Backoff,
    /// How often to look for volumes that were begun and never used.
    pub sweep_interval: Duration,
    /// How long such a volume must stay without a claim before it is rolled back.
    pub sweep_grace: Duration,
    /// How long running work may take to end once `stop` is cancelled.
    pub shutdown_grace: Duration,
    /// Cancelled when the process shall end: nothing new is begun, what runs may end, the lock is handed over.
    pub stop: CancellationToken,
}

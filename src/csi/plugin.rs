//! The node plugin: a socket for each driver, and kubelet told of it. [`run`] serves until it is told to stop.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, future::join_all, stream};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{
    identity::Identity,
    node::{Node, Times},
    registration::Registration,
    wire::v1::{identity_server::IdentityServer, node_server::NodeServer},
};
use crate::{
    backend::Connector,
    system::{
        mount::{MountError, Tree},
        socket::{self, BindError, Bound},
    },
};

/// A client that does not answer a ping for so long is gone.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// A pause after a connection could not be accepted: most often, there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// How the plugin is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of kubelet, the same here as for kubelet.
    pub kubelet: PathBuf,
    /// The name of this node.
    pub node: String,
    /// Whether to tell kubelet of the drivers; a sidecar may do it instead.
    pub register: bool,
    /// How long calls take.
    pub times: Times,
    /// How long running calls may take to end on a stop.
    pub shutdown_grace: Duration,
}

/// A driver: its name, and what connects its volumes.
pub type Driver = (String, Arc<dyn Connector>);

/// Why the plugin cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The directory of kubelet cannot be used.
    #[error("use the directory of kubelet")]
    Kubelet(#[source] MountError),
    /// A socket cannot be made.
    #[error("serve driver {0}")]
    Bind(String, #[source] BindError),
    /// A socket's directory cannot be made, or its server ended.
    #[error("{0}")]
    Io(String, #[source] io::Error),
}

/// The CSI socket of a driver.
pub fn endpoint(kubelet: &Path, driver: &str) -> PathBuf {
    kubelet.join("plugins").join(driver).join("csi.sock")
}

/// Serves the drivers until `stop`, then lets running calls end.
pub async fn run(
    settings: Settings,
    drivers: Vec<Driver>,
    stop: CancellationToken,
) -> Result<(), PluginError> {
    let tree = Arc::new(Tree::open(&settings.kubelet).map_err(PluginError::Kubelet)?);
    let mut served = Vec::new();
    for (driver, connector) in drivers {
        let endpoint = endpoint(&settings.kubelet, &driver);
        let directory = endpoint.parent().unwrap_or(&settings.kubelet);
        socket::make_directory(directory)
            .map_err(|error| PluginError::Io(format!("make {}", directory.display()), error))?;
        let (listener, bound) =
            Bound::bind(&endpoint).map_err(|error| PluginError::Bind(driver.clone(), error))?;
        let listener = UnixListener::from_std(listener)
            .map_err(|error| PluginError::Io(format!("serve driver {driver}"), error))?;
        let (name, times) = (settings.node.clone(), settings.times.clone());
        let node = Node::start(driver, name, connector, Arc::clone(&tree), times).await;
        tracing::info!(driver = node.driver(), endpoint = %endpoint.display(), "serving");
        served.push((listener, bound, node));
    }
    // Kubelet calls a driver as soon as it knows of it.
    let registered = served.iter().filter(|_| settings.register).map(|(_, bound, node)| {
        let driver = node.driver().to_owned();
        let kubelet = settings.kubelet.clone();
        tokio::spawn(Registration { driver, endpoint: bound.path().to_owned(), kubelet }.keep(stop.clone()))
    });
    let registered: Vec<_> = registered.collect();
    let servers = served
        .into_iter()
        .map(|(listener, bound, node)| serve(listener, bound, node, stop.clone(), settings.shutdown_grace));
    let ended = join_all(servers).await;
    join_all(registered).await;
    ended.into_iter().collect()
}

/// Serves one driver until `stop`. Its socket is removed last.
async fn serve(
    listener: UnixListener,
    bound: Bound,
    node: Node,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), PluginError> {
    let driver = node.driver().to_owned();
    let identity = Identity { driver: driver.clone() };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(IdentityServer::new(identity))
        .add_service(NodeServer::new(node.clone()))
        .serve_with_incoming_shutdown(connections(listener), stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        // A client that holds its connection and says nothing must not keep the process.
        tokio::time::sleep(grace).await;
    };
    let ended = tokio::select! {
        ended = async { let ended = server.await; node.ended().await; ended } => {
            ended.map_err(|error| PluginError::Io(format!("serve driver {driver}"), io::Error::other(error)))
        }
        () = drained => {
            tracing::warn!(driver, ?grace, "calls or clients did not end in time: ending without them");
            Ok(())
        }
    };
    drop(bound);
    ended
}

/// What comes in on the socket. One that fails is not the last one.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => return Some((Ok(client), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

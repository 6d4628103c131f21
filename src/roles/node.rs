//! `berth node`: connectors, sockets, registration. It has no client of Kubernetes and no backend that could remove anything.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use berth::{
    backend::{Connector, nfs::NfsConnector},
    config::Node,
    csi::{
        kubelet,
        node::Times,
        plugin::{self, Settings},
    },
};
use tokio_util::sync::CancellationToken;

/// Refuses what no restart mends.
pub(crate) fn check(settings: &Node) -> anyhow::Result<()> {
    kubelet::check(&settings.kubelet, Path::is_dir).map_err(anyhow::Error::msg)
}

/// Serves kubelet until `stop`.
pub(crate) async fn serve(settings: Node, hostname: String, stop: CancellationToken) -> anyhow::Result<()> {
    if let Some(root) = &settings.bind_root {
        tracing::warn!(root = %root.display(), "NFS volumes are directories of this machine: for tests only");
    }
    let nfs: Arc<dyn Connector> = Arc::new(NfsConnector::new(settings.bind_root, settings.call_timeout));
    let drivers = vec![(settings.nfs_driver, nfs)];
    let node = settings.node.unwrap_or(hostname);
    let names: Vec<&str> = drivers.iter().map(|(name, _)| name.as_str()).collect();
    tracing::info!(version = berth::VERSION, node, drivers = names.join(","), kubelet = %settings.kubelet.display(), "started");
    let settings = Settings {
        kubelet: settings.kubelet,
        node,
        register: settings.register,
        times: Times {
            call: settings.call_timeout,
            unmount_grace: settings.unmount_grace,
            stats: settings.stats_timeout,
        },
        shutdown_grace: settings.shutdown_grace,
    };
    plugin::run(settings, drivers, stop).await.context("run the node plugin")
}

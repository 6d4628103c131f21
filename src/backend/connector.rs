//! What a node must be able to do with a volume: [`Connector`]. The node process has connectors and no other door of a backend:
//! it cannot create or remove anything.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::Error;
use crate::{
    system::mount::Filesystem,
    volume::{Mode, Secrets},
};

/// A volume as a node is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVolume {
    /// The handle in its PV.
    pub id: String,
    /// The attributes in its PV.
    pub context: BTreeMap<String, String>,
    /// As a file system or as a device.
    pub mode: Mode,
    /// The file system to make and mount, where it is a device; empty for the usual one.
    pub fs_type: String,
    /// The mount options of its PV.
    pub mount_options: Vec<String>,
    /// Nothing on this node may write to it.
    pub read_only: bool,
}

/// A connected volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The ways to mount it: the next one where this machine does not know the one before.
    pub ways: Vec<Filesystem>,
    /// What [`Connector::disconnect`] needs. It is written to the disk of the node: no secrets.
    pub handle: BTreeMap<String, String>,
}

/// Connects the volumes of one storage system to this node.
///
/// Every method is idempotent and may be dropped at any await; a later call finishes or undoes the work.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Whether a volume is connected with secrets, which come when it is staged and not when it is published.
    fn needs_secrets(&self) -> bool;

    /// Where the volume lies, for messages: the server, the cluster. Pure; refuses attributes that cannot be used.
    fn server(&self, volume: &NodeVolume) -> Result<String, Error>;

    /// Makes the volume usable on this node, or finds that it is.
    async fn connect(&self, volume: &NodeVolume, secrets: &Secrets) -> Result<Connection, Error>;

    /// Undoes [`connect`](Connector::connect), after everything was unmounted. What is not connected is a success.
    async fn disconnect(&self, volume: &str, handle: &BTreeMap<String, String>) -> Result<(), Error>;
}

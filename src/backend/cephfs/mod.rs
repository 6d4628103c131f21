//! Subvolumes of `CephFS`: [`Cephfs`], made from the clusters and [`Settings`].
//!
//! A volume is a subvolume of Ceph's own volumes module, made and removed by `ceph fs subvolume`. Nothing is mounted here, and
//! no directory is touched: what the module cannot do is refused.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use crate::{
    backend::{
        Backend, Capabilities, Error, Host, Kind, Known, Past, Removed, StoreStatus, Unfinished,
        ceph::Clusters,
    },
    volume::{
        Disposal, Grown, Growth, Permit, Place, Removal, SecretName, Source, Volume, VolumeId, VolumeRequest,
    },
};

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "cephfs";

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `cephfs.berth.storage`.
    pub driver: String,
    /// With which user subvolumes of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
    /// Where the Secrets of the volumes' own users are kept where the class does not say
    /// (`PROVISIONER_SECRET_NAMESPACE`, `-secret-namespace`); `None` for the claim's namespace.
    pub secret_namespace: Option<String>,
}

/// A user of a configured cluster, and where its key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its name, without `client.`.
    pub user: String,
    /// The Secret with its key.
    pub secret: SecretName,
}

/// The backend.
pub struct Cephfs {
    capabilities: Capabilities,
    clusters: Clusters,
    host: Arc<dyn Host>,
    settings: Settings,
}

impl Cephfs {
    /// A backend over these clusters. Asks nothing of them yet.
    pub fn new(clusters: Clusters, host: Arc<dyn Host>, settings: Settings) -> Result<Self, Error> {
        let capabilities = Capabilities {
            name: NAME,
            block: false,
            expand: true,
            parameters: &[],
            any_case: true,
            before: Disposal::Delete,
            concurrency: 8,
        };
        Ok(Self { capabilities, clusters, host, settings })
    }
}

fn later<T>() -> Result<T, Error> {
    Err(Error::new(Kind::Unsupported, "not yet"))
}

#[async_trait]
impl Backend for Cephfs {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn place(&self, _: &VolumeRequest) -> Result<Place, Error> {
        later()
    }
    fn shares(&self, _: &VolumeRequest) -> bool {
        false
    }
    fn locate(&self, _: &Source) -> Option<Place> {
        None
    }
    async fn create(&self, _: &VolumeRequest, _: &Permit) -> Result<Volume, Error> {
        later()
    }
    async fn confirm(&self, _: &VolumeId, _: &Permit) -> Result<(), Error> {
        Ok(())
    }
    async fn remove(&self, _: &Removal, _: &Permit) -> Result<Removed, Error> {
        later()
    }
    async fn expand(&self, _: &Growth, _: &Permit) -> Result<Grown, Error> {
        later()
    }
    async fn unfinished(&self, _: &str, _: Known<'_>) -> Result<Vec<Unfinished>, Error> {
        later()
    }
    async fn discard(&self, _: &Unfinished, _: &Permit) -> Result<(), Error> {
        later()
    }
    async fn tend(&self, _: &Permit) {}
    fn remember(&self, _: Past) {}
    fn stores(&self) -> Vec<StoreStatus> {
        Vec::new()
    }
}

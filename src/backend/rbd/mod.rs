//! RBD images: [`Rbd`], made from the clusters and [`Settings`].
//!
//! A volume is an image of its own, made and removed by the `rbd` program. Nothing is mapped, formatted or mounted here.

use std::{collections::BTreeMap, fmt, sync::Arc};

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
pub const NAME: &str = "rbd";

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `rbd.berth.storage`.
    pub driver: String,
    /// With which user images of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
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
pub struct Rbd {
    capabilities: Capabilities,
    clusters: Clusters,
    host: Arc<dyn Host>,
    settings: Settings,
}

impl fmt::Debug for Rbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rbd").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Rbd {
    /// A backend over these clusters. Asks nothing of them yet.
    pub fn new(clusters: Clusters, host: Arc<dyn Host>, settings: Settings) -> Result<Self, Error> {
        let capabilities = Capabilities {
            name: NAME,
            block: true,
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
impl Backend for Rbd {
    fn capabilities(&self) -> &Capabilities {
        let _ = (&self.clusters, &self.host);
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

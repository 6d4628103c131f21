//! The Node service: volumes on this machine, as kubelet asks for them. Each RPC is checked, then done by a task of its own
//! ([`Calls`]), which decides (`plan`) and does (`stage`, `publish`, `work`).
//!
//! Volume health, which CSI 1.13 has as alpha, is not served: kubelet asks for it only where a feature gate is on that is off, and
//! what is wrong with a volume is told by the calls that fail.

mod plan;
mod publish;
mod record;
mod stage;
mod start;
mod usage;
mod work;

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};
pub use work::Times;

use super::{
    calls::Calls,
    request::{At, Publish, Stage, Unpublish, Unstage},
    wire::v1::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetStorageHealthRequest,
        NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse,
        NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
        NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
        NodeUnstageVolumeResponse, node_server, node_service_capability as capability,
    },
};
use crate::{backend::Connector, system::mount::Tree};

/// The Node service of one driver. Copies share everything.
#[derive(Clone)]
pub struct Node {
    work: Arc<work::Work>,
    name: String,
    calls: Calls,
}

impl Node {
    /// Serves the volumes of `driver` on the node `name`, beneath the directory of kubelet, and takes up what an earlier process left there.
    pub async fn start(
        driver: String,
        name: String,
        connector: Arc<dyn Connector>,
        kubelet: Arc<Tree>,
        times: Times,
    ) -> Self {
        let calls = Calls::new(times.call);
        let work = Arc::new(work::Work::new(driver, connector, kubelet, times));
        start::compare(&work).await;
        Self { work, name, calls }
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.work.driver
    }

    /// Ends when no call works any more.
    pub async fn ended(&self) {
        self.calls.ended().await;
    }

    /// What a call is about, for the message at its deadline.
    fn about(&self, what: &str, volume: &str) -> String {
        match self.work.known(volume) {
            Some(record) => format!("{what} of volume {volume} on {}", record.server),
            None => format!("{what} of volume {volume}"),
        }
    }
}

#[async_trait]
impl node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        const NAME: &str = "NodeStageVolume";
        let request = Stage::try_from(request.into_inner())?;
        let asked = request.capability.volume(&request.volume, &request.context);
        let server = self.work.connector.server(&asked).map_err(|error| super::status::of(NAME, &error))?;
        let about = format!("{NAME} of volume {} on {server}", request.volume);
        let (work, volume) = (Arc::clone(&self.work), request.volume.clone());
        self.calls.run(NAME, &volume, about, async move { work.stage(&request).await }).await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        const NAME: &str = "NodeUnstageVolume";
        let request = Unstage::try_from(request.into_inner())?;
        let (work, volume) = (Arc::clone(&self.work), request.volume.clone());
        let about = self.about(NAME, &volume);
        self.calls.run(NAME, &volume, about, async move { work.unstage(&request).await }).await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        const NAME: &str = "NodePublishVolume";
        let request = Publish::try_from(request.into_inner())?;
        let (work, volume) = (Arc::clone(&self.work), request.volume.clone());
        let about = self.about(NAME, &volume);
        self.calls.run(NAME, &volume, about, async move { work.publish(&request).await }).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        const NAME: &str = "NodeUnpublishVolume";
        let request = Unpublish::try_from(request.into_inner())?;
        let (work, volume) = (Arc::clone(&self.work), request.volume.clone());
        let about = self.about(NAME, &volume);
        self.calls.run(NAME, &volume, about, async move { work.unpublish(&request).await }).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    /// Takes no lock: kubelet asks all the time, also while something else runs.
    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = At::try_from(request.into_inner())?;
        let usage = self.work.usage(&request).await?.message();
        Ok(Response::new(NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_get_volume_health(
        &self,
        _request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        Err(Status::unimplemented("this driver does not have GET_VOLUME_HEALTH"))
    }

    async fn node_get_storage_health(
        &self,
        _request: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        Err(Status::unimplemented("this driver does not have GET_STORAGE_HEALTH"))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        At::try_from(request.into_inner())?;
        Err(Status::unimplemented("the volumes of this driver grow without a step on the node"))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        use capability::rpc::Type;
        let served = [Type::StageUnstageVolume, Type::GetVolumeStats, Type::SingleNodeMultiWriter];
        let capabilities = served.into_iter().map(|one| NodeServiceCapability {
            r#type: Some(capability::Type::Rpc(capability::Rpc { r#type: one.into() })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: capabilities.collect() }))
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.name.clone(),
            ..NodeGetInfoResponse::default()
        }))
    }
}

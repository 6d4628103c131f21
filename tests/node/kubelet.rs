//! Calls as kubelet makes them: a new connection for each.

use std::{collections::BTreeMap, path::Path};

use berth::csi::wire::v1::{
    GetPluginInfoRequest, GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse, ProbeRequest, ProbeResponse, VolumeCapability, VolumeUsage,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use http::uri::PathAndQuery;
use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::host::Host;

async fn call<A, B>(socket: &Path, method: &'static str, message: A) -> Result<B, Status>
where
    A: prost::Message + Send + Sync + 'static,
    B: prost::Message + Default + Send + Sync + 'static,
{
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(format!("{error:?}")))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(format!("{error:?}")))?;
    let path = PathAndQuery::from_static(method);
    Ok(client.unary(Request::new(message), path, ProstCodec::default()).await?.into_inner())
}

/// One volume as its PV describes it.
#[derive(Clone)]
pub(crate) struct Pv {
    pub(crate) id: String,
    pub(crate) mode: Mode,
    pub(crate) read_only: bool,
    pub(crate) options: Vec<String>,
    pub(crate) context: BTreeMap<String, String>,
    pub(crate) secrets: BTreeMap<String, String>,
}

impl Pv {
    pub(crate) fn new(id: &str, share: &str) -> Self {
        Self {
            id: id.to_owned(),
            mode: Mode::MultiNodeMultiWriter,
            read_only: false,
            options: Vec::new(),
            context: BTreeMap::from([("server".into(), "nas".into()), ("share".into(), share.into())]),
            secrets: BTreeMap::new(),
        }
    }

    pub(crate) fn capability(&self) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                mount_flags: self.options.clone(),
                ..MountVolume::default()
            })),
            access_mode: Some(AccessMode { mode: self.mode.into() }),
        }
    }
}

pub(crate) async fn stage(host: &Host, pv: &Pv) -> Result<(), Status> {
    let request = NodeStageVolumeRequest {
        volume_id: pv.id.clone(),
        staging_target_path: host.staging(&pv.id).to_str().unwrap().into(),
        volume_capability: Some(pv.capability()),
        secrets: pv.secrets.clone(),
        volume_context: pv.context.clone(),
        ..NodeStageVolumeRequest::default()
    };
    call::<_, NodeStageVolumeResponse>(&host.socket(), "/csi.v1.Node/NodeStageVolume", request)
        .await
        .map(|_| ())
}

pub(crate) async fn unstage(host: &Host, pv: &Pv) -> Result<(), Status> {
    let request = NodeUnstageVolumeRequest {
        volume_id: pv.id.clone(),
        staging_target_path: host.staging(&pv.id).to_str().unwrap().into(),
    };
    let path = "/csi.v1.Node/NodeUnstageVolume";
    call::<_, NodeUnstageVolumeResponse>(&host.socket(), path, request).await.map(|_| ())
}

pub(crate) async fn publish(host: &Host, pv: &Pv, target: &Path) -> Result<(), Status> {
    let request = NodePublishVolumeRequest {
        volume_id: pv.id.clone(),
        staging_target_path: host.staging(&pv.id).to_str().unwrap().into(),
        target_path: target.to_str().unwrap().into(),
        volume_capability: Some(pv.capability()),
        readonly: pv.read_only,
        volume_context: pv.context.clone(),
        ..NodePublishVolumeRequest::default()
    };
    let path = "/csi.v1.Node/NodePublishVolume";
    call::<_, NodePublishVolumeResponse>(&host.socket(), path, request).await.map(|_| ())
}

pub(crate) async fn unpublish(host: &Host, pv: &Pv, target: &Path) -> Result<(), Status> {
    let request =
        NodeUnpublishVolumeRequest { volume_id: pv.id.clone(), target_path: target.to_str().unwrap().into() };
    let path = "/csi.v1.Node/NodeUnpublishVolume";
    call::<_, NodeUnpublishVolumeResponse>(&host.socket(), path, request).await.map(|_| ())
}

pub(crate) async fn stats(host: &Host, pv: &Pv, at: &Path) -> Result<Vec<VolumeUsage>, Status> {
    let request = NodeGetVolumeStatsRequest {
        volume_id: pv.id.clone(),
        volume_path: at.to_str().unwrap().into(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let path = "/csi.v1.Node/NodeGetVolumeStats";
    call::<_, NodeGetVolumeStatsResponse>(&host.socket(), path, request).await.map(|told| told.usage)
}

pub(crate) async fn info(
    host: &Host,
) -> (GetPluginInfoResponse, NodeGetInfoResponse, Vec<i32>, Option<bool>) {
    use berth::csi::wire::v1::node_service_capability::Type;
    let socket = host.socket();
    let plugin = call(&socket, "/csi.v1.Identity/GetPluginInfo", GetPluginInfoRequest {}).await.unwrap();
    let node = call(&socket, "/csi.v1.Node/NodeGetInfo", NodeGetInfoRequest {}).await.unwrap();
    let path = "/csi.v1.Node/NodeGetCapabilities";
    let told: NodeGetCapabilitiesResponse = call(&socket, path, NodeGetCapabilitiesRequest {}).await.unwrap();
    let of = |one: &Option<Type>| one.as_ref().map(|Type::Rpc(rpc)| rpc.r#type).unwrap();
    let capabilities = told.capabilities.iter().map(|one| of(&one.r#type)).collect();
    let probe: ProbeResponse = call(&socket, "/csi.v1.Identity/Probe", ProbeRequest {}).await.unwrap();
    (plugin, node, capabilities, probe.ready)
}

pub(crate) fn code(result: Result<(), Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

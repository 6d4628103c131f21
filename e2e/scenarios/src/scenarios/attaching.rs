//! Images are attached without a sidecar: berth answers the VolumeAttachments of `rbd.berth.storage`. No image is touched, so no Ceph
//! is needed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{core::v1::PersistentVolume, storage::v1::VolumeAttachment};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    case::Case,
    control_plane::manifests,
    suite::{Scenario, scenario},
};

const DRIVER: &str = "rbd.berth.storage";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "an image is attached to one node at a time, told to the next one why not, and let go, also after a crash",
        attaches,
    )]
}

/// As kube-controller-manager does for a pod on this node.
async fn attach(case: &Case, volume: &str, node: &str) -> Result<String> {
    let name = format!("csi-{}-{node}", case.id());
    case.create_global::<VolumeAttachment>(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": { "name": name },
        "spec": { "attacher": DRIVER, "nodeName": node, "source": { "persistentVolumeName": volume } },
    }))
    .await?;
    Ok(name)
}

async fn attached(case: &Case, name: &str) -> Result<VolumeAttachment> {
    case.until(&format!("VolumeAttachment {name} to be attached"), async || {
        let attachment = case.global::<VolumeAttachment>().get(name).await?;
        let status = attachment.status.clone().context("no status")?;
        ensure!(status.attached, "it is not: {status:?}");
        ensure!(status.attach_error.is_none(), "it still tells an error: {status:?}");
        Ok(attachment)
    })
    .await
}

async fn gone(case: &Case, name: &str) -> Result<()> {
    case.until(&format!("VolumeAttachment {name} to be gone"), async || {
        let left = case.global::<VolumeAttachment>().get_opt(name).await?;
        ensure!(left.is_none(), "it has the finalizers {:?}", left.and_then(|left| left.metadata.finalizers));
        Ok(())
    })
    .await
}

async fn attaches(case: Arc<Case>) -> Result<()> {
    for manifest in manifests::deployed_for_ceph()?.iter().filter(|one| one.is_access_control()) {
        manifest.apply(&case.admin).await?;
    }
    let setup = case.setup()?.flags([format!("--rbd-provisioner-name={DRIVER}")]);
    let berth = case.start(&setup)?;
    let volume = format!("image-{}", case.id());
    case.create_global::<PersistentVolume>(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": volume },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": case.id(),
            "csi": { "driver": DRIVER, "volumeHandle": volume },
        },
    }))
    .await?;
    let first = attach(&case, &volume, "node-a").await?;
    let finalizers = attached(&case, &first).await?.metadata.finalizers.unwrap_or_default();
    ensure!(finalizers == ["external-attacher/rbd-berth-storage"], "its finalizers are {finalizers:?}");
    let second = attach(&case, &volume, "node-b").await?;
    case.until("the second node to be refused", async || {
        let status = case.global::<VolumeAttachment>().get(&second).await?.status.context("no status")?;
        let message = status.attach_error.and_then(|error| error.message).context("no error is told")?;
        ensure!(message.contains(&first) && message.contains("node-a"), "it tells {message:?}");
        ensure!(!status.attached, "two nodes have it");
        Ok(())
    })
    .await?;
    case.global::<VolumeAttachment>().delete(&first, &DeleteParams::default()).await?;
    gone(&case, &first).await?;
    attached(&case, &second).await?;
    berth.kill().await?;
    case.global::<VolumeAttachment>().delete(&second, &DeleteParams::default()).await?;
    let held = case.global::<VolumeAttachment>().get_opt(&second).await?;
    ensure!(held.is_some(), "it is gone while no attacher runs");
    let _berth = case.start(&setup)?;
    gone(&case, &second).await?;
    case.global::<PersistentVolume>().delete(&volume, &DeleteParams::default()).await?;
    Ok(())
}

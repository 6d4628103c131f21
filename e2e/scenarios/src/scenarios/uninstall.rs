//! The way out: what `docs/uninstall.md` says, done to the letter with kubectl.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use super::documented;
use crate::{
    case::Case,
    control_plane::Kind,
    suite::{Scenario, scenario, skip},
};

const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![scenario("the documented uninstall lets our volumes go and touches no others", uninstall)]
}

/// Runs the command of the documents as the administrator, with our provisioner's name in it.
async fn take_finalizers_off(case: &Case) -> Result<()> {
    let blocks = documented::blocks("docs/uninstall.md", "## Steps")?;
    let [finalizers, objects] = blocks.as_slice() else {
        bail!("the chapter has {} blocks of commands, and this scenario knows two", blocks.len());
    };
    let command = finalizers.replace("nfs.berth.storage", &case.provisioner);
    ensure!(command != *finalizers, "the command names no provisioner: {finalizers}");
    documented::run(case, &command).await?;
    if case.plane.kind() == Kind::Embedded {
        return Ok(());
    }
    // Other scenarios need these objects, so they stay.
    let rehearsed = objects.replace("kubectl delete", "kubectl delete --dry-run=server");
    ensure!(rehearsed != *objects, "the command deletes nothing: {objects}");
    documented::run(case, &rehearsed).await
}

async fn uninstall(case: Arc<Case>) -> Result<()> {
    if !documented::kubectl_is_there() {
        return Err(skip("there is no kubectl in PATH"));
    }
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.berth().await?;
    for claim in ["kept", "forgotten"] {
        case.claim(claim).class(&class).create().await?;
    }
    let (kept, forgotten) = (case.bound("kept").await?, case.bound("forgotten").await?);
    for volume in [&kept, &forgotten] {
        volume.write("data", "precious")?;
        ensure!(volume.volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER));
    }
    let others = others(&case).await?;
    berth.terminate().await?;

    // One is deleted before the step, and hangs.
    case.delete_claim("forgotten").await?;
    let volumes = case.global::<PersistentVolume>();
    volumes.delete(&forgotten.name, &DeleteParams::default()).await?;
    let hangs = case.volume_phase(&forgotten.name, "Released").await?;
    ensure!(hangs.metadata.deletion_timestamp.is_some(), "it is not being deleted");

    take_finalizers_off(&case).await?;
    case.volume_gone(&forgotten.name).await?;
    let live = case.get_volume(&kept.name).await?.context("the volume in use is gone")?;
    ensure!(
        !live.finalizers().iter().any(|finalizer| finalizer == FINALIZER),
        "the finalizer is still there: {:?}",
        live.finalizers()
    );
    case.delete_claim("kept").await?;
    volumes.delete(&kept.name, &DeleteParams::default()).await?;
    case.volume_gone(&kept.name).await?;
    for volume in [&kept, &forgotten] {
        ensure!(volume.directory.join("data").exists(), "{} lost its data", volume.relative);
    }
    for name in others {
        let live = case.get_volume(&name).await?.with_context(|| format!("{name} is gone"))?;
        ensure!(
            live.finalizers().iter().any(|finalizer| finalizer == FINALIZER),
            "{name} is not ours and lost its finalizer"
        );
        volumes
            .patch(
                &name,
                &kube::api::PatchParams::default(),
                &kube::api::Patch::Merge(json!({ "metadata": { "finalizers": [] } })),
            )
            .await?;
        volumes.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Volumes of a CSI driver, of a provisioner whose name begins like ours, and of nobody; all with the same finalizer.
async fn others(case: &Case) -> Result<Vec<String>> {
    let made_by = [
        ("csi", json!({ "pv.kubernetes.io/provisioned-by": "csi.example.com" })),
        ("similar", json!({ "pv.kubernetes.io/provisioned-by": format!("{}-2", case.provisioner) })),
        ("annotated", json!({ "note": "x" })),
        ("bare", json!(null)),
    ];
    let mut names = Vec::new();
    for (kind, annotations) in made_by {
        let name = format!("{}-{kind}", case.id());
        let mut volume = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": name, "finalizers": [FINALIZER] },
            "spec": {
                "capacity": { "storage": "1Mi" },
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "csi": { "driver": "csi.example.com", "volumeHandle": name },
            },
        });
        if let Some(metadata) = volume.pointer_mut("/metadata").and_then(|metadata| metadata.as_object_mut())
        {
            metadata.insert("annotations".to_owned(), annotations);
        }
        case.create_global::<PersistentVolume>(&volume).await?;
        names.push(name);
    }
    Ok(names)
}

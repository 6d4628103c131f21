//! The way out: what `docs/operations.md` says about an uninstall, done to the letter with kubectl.

use std::{path::Path, process::Stdio, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{
    case::Case,
    control_plane::User,
    suite::{Scenario, scenario, skip},
};

const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![scenario("the documented uninstall lets our volumes go and touches no others", uninstall)]
}

/// The shell block of a chapter.
fn block(file: &str, chapter: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let chapter = text.split_once(chapter).with_context(|| format!("{file} has no chapter {chapter}"))?.1;
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let block = chapter.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```"));
    Ok(block.with_context(|| format!("{chapter} of {file} has no command"))?.0.to_owned())
}

/// Runs the command of the documents as the administrator, with our provisioner's name in it.
async fn take_finalizers_off(case: &Case) -> Result<()> {
    let documented = block("docs/operations.md", "## Uninstall")?;
    let command = documented.replace("nfs.berth.storage", &case.provisioner);
    ensure!(command != documented, "the command names no provisioner: {documented}");
    let kubeconfig = case.scratch().join("admin.kubeconfig");
    let mut access = case.plane.access(User::Admin)?;
    if access.authority.is_none() {
        // kubectl sends no token over plain HTTP; the embedded API server takes it from the path.
        access.url = format!("{}/as/{}", access.url, access.token);
    }
    std::fs::write(&kubeconfig, access.kubeconfig())?;
    let run = tokio::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", &command])
        .env("KUBECONFIG", &kubeconfig)
        .env("HOME", case.scratch())
        .stdin(Stdio::null())
        .output()
        .await
        .context("run the documented command")?;
    if !run.status.success() {
        bail!("{command}: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    Ok(())
}

fn kubectl_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file())
}

async fn uninstall(case: Arc<Case>) -> Result<()> {
    if !kubectl_is_there() {
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

//! `docs/statefulset.md`, done to the letter with kubectl.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

use super::documented;
use crate::{
    case::Case,
    control_plane::Kind,
    suite::{Scenario, scenario, skip},
};

const PAGE: &str = "docs/statefulset.md";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![scenario("the walk from a StatefulSet and Redis to deleted volumes works as it is written", walk)]
}

/// Runs every command of a chapter in the namespace of the scenario.
async fn chapter(case: &Case, title: &str) -> Result<()> {
    for block in documented::blocks(PAGE, title)? {
        let command = block.replace("kubectl ", &format!("kubectl --namespace {} ", case.namespace));
        documented::run(case, &command).await?;
    }
    Ok(())
}

async fn walk(case: Arc<Case>) -> Result<()> {
    if !documented::kubectl_is_there() {
        return Err(skip("there is no kubectl in PATH"));
    }
    if case.plane.kind() == Kind::Embedded {
        return Err(skip("the embedded API server has no schema for kubectl apply"));
    }
    let mut setup = case.setup()?;
    "nfs.berth.storage".clone_into(&mut setup.provisioner);
    case.start(&setup)?.answers("/livez").await?;

    chapter(&case, "## Create").await?;
    chapter(&case, "## Look").await?;
    let mut volumes = Vec::new();
    for claim in ["www-web-0", "www-web-1", "redis"] {
        let volume = case.bound(claim).await?;
        ensure!(
            volume.relative.starts_with(&format!("{}-{claim}-pvc-", case.namespace)),
            "claim {claim} has the directory {}",
            volume.relative
        );
        volume.write("data", claim)?;
        volumes.push(volume);
    }
    chapter(&case, "## Scale").await?;
    for volume in &volumes {
        ensure!(volume.directory.join("data").exists(), "{} lost its data", volume.relative);
    }
    volumes.push(case.bound("www-web-2").await?);

    chapter(&case, "## Delete").await?;
    // No kubelet confirms the end of a pod, and a claim in use is not released.
    let pods: Api<Pod> = case.api();
    for volume in &volumes {
        case.until(&format!("{} to be gone", volume.name), async || {
            for pod in pods.list(&ListParams::default()).await? {
                case.delete_pod(&pod.name_any()).await.ok();
            }
            if case.get_volume(&volume.name).await?.is_some() {
                bail!("it is still there");
            }
            Ok(())
        })
        .await?;
        ensure!(!volume.directory.exists(), "{} is still there", volume.relative);
    }
    let archives: Vec<_> = case.root()?.into_iter().filter(|name| name.starts_with("archived-")).collect();
    ensure!(archives.is_empty(), "archiveOnDelete is \"false\", and there is {archives:?}");
    Ok(())
}

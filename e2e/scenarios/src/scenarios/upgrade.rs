//! What `docs/upgrade.md` says about an upgrade and the way back, done to the letter with kubectl against the shipped
//! manifests. No kubelet runs here: the scenario reports the pods as ready, and the program runs beside them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::documented;
use crate::{
    case::Case,
    control_plane::{Kind, User, manifests},
    suite::{Scenario, scenario, skip},
};

const DEPLOYMENTS: [&str; 2] = ["berth", "berth-ceph"];

pub(super) fn scenarios() -> Vec<Scenario> {
    // Alone, because it applies the rights that other scenarios take away.
    vec![scenario("the documented upgrade changes the image, and volumes go on", upgrade).alone()]
}

async fn upgrade(case: Arc<Case>) -> Result<()> {
    if case.plane.kind() == Kind::Embedded {
        return Err(skip("the embedded API server has no Deployment controller"));
    }
    if !documented::kubectl_is_there() {
        return Err(skip("there is no kubectl in PATH"));
    }
    for manifest in manifests::deployed()?.into_iter().chain(manifests::deployed_for_ceph()?) {
        if manifest.is_access_control() || ["Deployment", "ConfigMap"].contains(&manifest.kind()) {
            manifest.apply(&case.admin).await?;
        }
    }
    let class = case.class("nfs").create().await?;
    let old = case.berth().await?;
    for claim in ["archived", "kept"] {
        case.claim(claim).class(&class).create().await?;
        case.bound(claim).await?.write("data", "precious")?;
    }

    let blocks = documented::blocks("docs/upgrade.md", "## Plain manifests")?;
    let [rights, image, back] = blocks.as_slice() else {
        anyhow::bail!("the chapter has {} blocks of commands, and this scenario knows three", blocks.len());
    };
    documented::run(&case, rights).await?;
    let before = images(&case).await?;
    let upgraded = image.replace("VERSION", "9.9.9");
    ensure!(upgraded != *image, "the command names no version: {image}");
    tokio::select! {
        outcome = documented::run(&case, &upgraded) => outcome?,
        failed = be_the_kubelet(&case) => failed?,
    }
    let now = images(&case).await?;
    ensure!(now.iter().all(|image| image == "registry.example.com/berth:9.9.9"), "the images are {now:?}");

    old.terminate().await?;
    let _new = case.berth().await?;
    let (archived, kept) = (case.bound("archived").await?, case.bound("kept").await?);
    case.delete_claim("archived").await?;
    case.volume_gone(&archived.name).await?;
    ensure!(!archived.directory.exists(), "{} was not archived", archived.relative);
    ensure!(kept.directory.join("data").exists(), "{} lost its data", kept.relative);
    case.claim("new").class(&class).create().await?;
    case.bound("new").await?;

    tokio::select! {
        outcome = documented::run(&case, back) => outcome?,
        failed = be_the_kubelet(&case) => failed?,
    }
    ensure!(images(&case).await? == before, "the way back gives {:?}, not {before:?}", images(&case).await?);
    for name in DEPLOYMENTS {
        deployments(&case).delete(name, &DeleteParams::foreground()).await?;
    }
    tokio::select! {
        outcome = case.until("the pods are gone", async || {
            let left = pods(&case).list(&ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        }) => outcome,
        failed = be_the_kubelet(&case) => failed,
    }
}

fn deployments(case: &Case) -> Api<Deployment> {
    Api::namespaced(case.admin.clone(), User::Berth.namespace())
}

fn pods(case: &Case) -> Api<Pod> {
    Api::namespaced(case.admin.clone(), User::Berth.namespace())
}

/// The image of every container of both Deployments.
async fn images(case: &Case) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for name in DEPLOYMENTS {
        let deployment = deployments(case).get(name).await?;
        let pod = deployment.spec.template.spec.context("a Deployment without pods")?;
        images.extend(pod.containers.into_iter().filter_map(|container| container.image));
    }
    Ok(images)
}

/// Reports every pod as ready, and one that shall go as gone. Returns only when it fails.
async fn be_the_kubelet(case: &Case) -> Result<()> {
    let ready =
        json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    loop {
        for pod in pods(case).list(&ListParams::default()).await? {
            let name = pod.name_any();
            let outcome = if pod.metadata.deletion_timestamp.is_some() {
                pods(case).delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop)
            } else {
                let merge = PatchParams::default();
                pods(case).patch_status(&name, &merge, &Patch::Merge(&ready)).await.map(drop)
            };
            match outcome {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                outcome => outcome.with_context(|| format!("be the kubelet of {name}"))?,
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

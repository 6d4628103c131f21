//! `WaitForFirstConsumer`: nothing is made before a pod wants it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::{
    case::{Case, pod},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a late-binding claim is served when a pod wants it, and not before", waits),
        scenario("a selected node that is empty is no node", empty_node),
    ]
}

/// Proves: case 11
async fn waits(case: Arc<Case>) -> Result<()> {
    let late = case.class("late").late().deletes().create().await?;
    let eager = case.class("eager").deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&late).create().await?;
    case.event_of_kubernetes("PersistentVolumeClaim", "data", "WaitForFirstConsumer").await?;
    case.barrier(&eager).await?;
    ensure!(case.root()?.is_empty(), "made without a pod: {:?}", case.root()?);

    case.create::<Pod>(&pod("user", "data")).await?;
    let volume = case.bound("data").await?;
    ensure!(volume.directory.is_dir(), "bound without a directory");

    let pods: Api<Pod> = case.api();
    case.until("the pod to be placed", async || {
        let pod = pods.get("user").await?;
        ensure!(pod.spec.and_then(|spec| spec.node_name).is_some(), "it has no node");
        Ok(())
    })
    .await?;

    // A claim in use outlives its deletion until the pod is gone.
    case.delete_claim("data").await?;
    case.barrier(&eager).await?;
    case.volume_phase(&volume.name, "Bound").await?;
    ensure!(volume.directory.is_dir(), "removed under a pod");
    case.delete_pod("user").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// Proves: case 11
async fn empty_node(case: Arc<Case>) -> Result<()> {
    let late = case.class("late").late().deletes().create().await?;
    let eager = case.class("eager").deletes().create().await?;
    case.berth().await?;
    case.claim("data")
        .class(&late)
        .annotation("volume.kubernetes.io/selected-node", "")
        .annotation("volume.kubernetes.io/storage-provisioner", &case.provisioner)
        .create()
        .await?;
    case.barrier(&eager).await?;
    ensure!(case.root()?.is_empty(), "made without a node: {:?}", case.root()?);
    Ok(())
}

//! Volumes whose owner is another cluster or is not recorded: what berth refuses, and the commands by which an administrator goes on,
//! taken from the Events. Berth is the second cluster under another `--cluster-id`; the PV is made again, as a backup tool does.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use super::rescue::{backup, policy};
use crate::{
    berth::{Berth, Setup},
    case::{Case, Volume},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a PV restored from a backup into the same cluster is removed like any other", same_cluster),
        scenario("a volume of a cluster that was rebuilt is removed under its former id", rebuilt),
        scenario("a volume handed over to another cluster is removed once it is taken over", handed_over),
        scenario("a directory whose owner is unknown is removed once it is taken over", unknown),
    ]
}

/// Berth as it runs in the cluster `id`.
fn in_cluster(case: &Case, id: &str) -> Result<Setup> {
    Ok(case.setup()?.alone().flags([format!("--cluster-id={id}")]))
}

/// A volume that berth made in the cluster `blue`, and whose claim is deleted. Berth has ended.
async fn left_behind(case: &Case) -> Result<Volume> {
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.start(&in_cluster(case, "blue")?)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "precious")?;
    // Until it is confirmed, it is not in use.
    case.until("the record", async || {
        let records = case.own("volumes")?;
        ensure!(records.iter().any(|name| name.contains(&volume.name)), "there is none: {records:?}");
        Ok(())
    })
    .await?;
    end(&berth).await?;
    case.delete_claim("data").await?;
    case.volume_phase(&volume.name, "Released").await?;
    Ok(volume)
}

async fn end(berth: &Berth) -> Result<()> {
    let status = berth.terminate().await?;
    ensure!(status.success(), "berth ended with {status}");
    Ok(())
}

/// The same PV as another object, bound to another claim, and to be removed with it.
async fn made_again(case: &Case, volume: &Volume) -> Result<()> {
    let live = case.get_volume(&volume.name).await?.context("the PV is gone")?;
    let class = live.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    case.patch_volume(&volume.name, &json!({ "metadata": { "finalizers": null } })).await?;
    let volumes: Api<PersistentVolume> = case.global();
    volumes.delete(&volume.name, &DeleteParams::default()).await?;
    case.volume_gone(&volume.name).await?;
    case.create_global::<PersistentVolume>(&backup(live)?).await?;
    case.claim("again").class(&class).set(&["spec", "volumeName"], json!(volume.name)).create().await?;
    case.bound("again").await?;
    case.patch_volume(&volume.name, &policy("Delete")).await
}

/// Lets the claim go, and waits until berth refuses to remove the volume with this command at the end.
async fn refused(case: &Case, volume: &Volume, owner: &str) -> Result<()> {
    let told = case.event("PersistentVolume", &volume.name, "VolumeFailedDelete").await?;
    let command = format!("kubectl annotate --overwrite pv {} berth.storage/take-over={owner}", volume.name);
    ensure!(told.ends_with(&command), "the Event does not end with {command:?}: {told}");
    ensure!(volume.directory.join("kept").exists(), "the data was touched: {:?}", case.tree()?);
    case.volume_phase(&volume.name, "Released").await.map(drop)
}

async fn take_over(case: &Case, volume: &Volume, owner: &str) -> Result<()> {
    let annotation = json!({ "metadata": { "annotations": { "berth.storage/take-over": owner } } });
    case.patch_volume(&volume.name, &annotation).await
}

async fn gone(case: &Case, volume: &Volume) -> Result<()> {
    case.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "the directory is still there");
    Ok(())
}

async fn same_cluster(case: Arc<Case>) -> Result<()> {
    let volume = left_behind(&case).await?;
    made_again(&case, &volume).await?;
    case.start(&in_cluster(&case, "blue")?)?;
    case.delete_claim("again").await?;
    gone(&case, &volume).await
}

async fn rebuilt(case: Arc<Case>) -> Result<()> {
    let volume = left_behind(&case).await?;
    made_again(&case, &volume).await?;
    let berth = case.start(&in_cluster(&case, "green")?)?;
    case.delete_claim("again").await?;
    refused(&case, &volume, "blue").await?;
    end(&berth).await?;
    case.start(&in_cluster(&case, "green")?.flags(["--former-cluster-ids=blue"]))?;
    gone(&case, &volume).await
}

async fn handed_over(case: Arc<Case>) -> Result<()> {
    let volume = left_behind(&case).await?;
    made_again(&case, &volume).await?;
    case.start(&in_cluster(&case, "green")?)?;
    case.delete_claim("again").await?;
    refused(&case, &volume, "blue").await?;
    // The name of a third cluster does not help.
    take_over(&case, &volume, "red").await?;
    let class = case.class("barrier").deletes().create().await?;
    case.barrier(&class).await?;
    refused(&case, &volume, "blue").await?;
    take_over(&case, &volume, "blue").await?;
    gone(&case, &volume).await
}

async fn unknown(case: Arc<Case>) -> Result<()> {
    let volume = left_behind(&case).await?;
    let record = case.export().join(".berth/volumes").join(format!("{}.json", volume.name));
    std::fs::remove_file(&record).with_context(|| format!("remove {}", record.display()))?;
    case.start(&in_cluster(&case, "blue")?)?;
    refused(&case, &volume, "unrecorded").await?;
    take_over(&case, &volume, "unrecorded").await?;
    gone(&case, &volume).await
}

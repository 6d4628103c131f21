//! Berth under the rights of an old installation: what they cannot carry is told, the rest works.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::reclaim::{Left, check_left};
use crate::{
    case::Case,
    control_plane::User,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("under the rights of the manifests none is missing", none_missing),
        scenario("under the old rights the old provisioner's volumes are removed and archived", old_volumes),
        scenario("under the old rights claims are served, removed and archived", main_job),
        scenario("under the old rights an expansion is explained once and not tried for ever", expansion),
    ]
}

async fn none_missing(case: Arc<Case>) -> Result<()> {
    let berth = case.berth().await?;
    berth.answers("/readyz").await?;
    let (_, ready) = berth.get("/readyz").await?;
    ensure!(!ready.contains("rights"), "a right is missing:\n{ready}");
    let (_, metrics) = berth.get("/metrics").await?;
    let told: Vec<&str> = metrics.lines().filter(|line| line.starts_with("berth_rights_missing")).collect();
    ensure!(told.iter().all(|line| line.ends_with(" 0")), "{told:?}");
    let log = berth.log();
    ensure!(!log.contains("missing right"), "the log tells of a missing right:\n{}", berth.log_tail(20));
    Ok(())
}

async fn old_volumes(case: Arc<Case>) -> Result<()> {
    let deletes = case.class("deletes").deletes().create().await?;
    let archives = case.class("archives").create().await?;
    let removed = case.old_volume("removed").by_default().class(&deletes).bound_to("removed").await?;
    let archived = case.old_volume("archived").by_default().class(&archives).bound_to("archived").await?;
    case.start(&case.setup_as(User::OldProvisioner)?)?;
    for claim in ["removed", "archived"] {
        case.delete_claim(claim).await?;
    }
    super::old_volumes::check(&case, &removed, Left::Nothing).await?;
    super::old_volumes::check(&case, &archived, Left::Archive).await
}

/// Proves: row 8.1, row 8.3, row 8.5
async fn main_job(case: Arc<Case>) -> Result<()> {
    let deletes = case.class("deletes").deletes().create().await?;
    let archives = case.class("archives").create().await?;
    let berth = case.start(&case.setup_as(User::OldProvisioner)?)?;
    for (name, class) in [("removed", &deletes), ("archived", &archives)] {
        case.claim(name).class(class).create().await?;
    }
    for (name, left) in [("removed", Left::Nothing), ("archived", Left::Archive)] {
        let volume = case.bound(name).await?;
        volume.write("kept", "")?;
        case.event("PersistentVolumeClaim", name, "ProvisioningSucceeded").await?;
        ensure!(
            volume.volume.finalizers().iter().all(|finalizer| finalizer == "kubernetes.io/pv-protection"),
            "a finalizer that nobody here may remove: {:?}",
            volume.volume.finalizers()
        );
        case.delete_claim(name).await?;
        check_left(&case, &volume, left).await?;
    }
    berth.answers("/readyz").await?;
    let log = berth.log();
    ensure!(log.contains("patch"), "the missing right is not told of in the log");
    Ok(())
}

/// Proves: case 55, row 8.4
async fn expansion(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").expandable().deletes().create().await?;
    let berth = case.start(&case.setup_as(User::OldProvisioner)?)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    case.patch_claim("data", &json!({ "spec": { "resources": { "requests": { "storage": "2Mi" } } } }))
        .await?;
    let message = case.event("PersistentVolumeClaim", "data", "VolumeResizeFailed").await?;
    ensure!(
        message.contains("patch") && message.contains("persistentvolume"),
        "the Event does not name the missing right: {message}"
    );
    case.barrier(&class).await?;
    let events = case.events("PersistentVolumeClaim", "data").await?;
    let told: i32 = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("VolumeResizeFailed"))
        .map(|event| event.count.unwrap_or(1))
        .sum();
    ensure!(told <= 2, "told {told} times");
    let size = case
        .get_volume(&volume.name)
        .await?
        .and_then(|volume| volume.spec?.capacity?.get("storage").cloned())
        .context("the PV has no capacity")?;
    ensure!(size.0 == "1Mi", "the PV has {}", size.0);
    berth.check_alive()
}

//! A bigger request on a bound claim is completed, which nobody did for in-tree NFS volumes.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    case::{Case, Volume},
    control_plane::User,
    proxy::{Effect, Gate},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a bigger request grows the PV and then the claim's capacity", grows),
        scenario("an old provisioner's PV grows as well", old_volume),
        scenario("a crash between PV and claim is completed", crash),
        scenario("a class that does not allow it changes nothing", forbidden),
    ]
}

fn request(size: &str) -> Value {
    json!({ "spec": { "resources": { "requests": { "storage": size } } } })
}

async fn has_grown(case: &Case, volume: &Volume, size: &str) -> Result<()> {
    let claim = volume.claim.name_any();
    case.until(&format!("claim {claim} to have {size}"), async || {
        let claim = case.get_claim(&claim).await?;
        let status = claim.status.context("no status")?;
        let has =
            status.capacity.and_then(|capacity| capacity.get("storage").cloned()).context("no capacity")?;
        ensure!(has.0 == size, "it has {}", has.0);
        ensure!(
            status.conditions.unwrap_or_default().iter().all(|condition| condition.type_ != "Resizing"),
            "it still is resizing"
        );
        Ok(())
    })
    .await?;
    ensure!(volume_size(case, volume).await? == size, "the claim has grown and the PV has not");
    Ok(())
}

async fn volume_size(case: &Case, volume: &Volume) -> Result<String> {
    let volume = case.get_volume(&volume.name).await?.context("the PV is gone")?;
    volume
        .spec
        .and_then(|spec| spec.capacity)
        .and_then(|capacity| Some(capacity.get("storage")?.0.clone()))
        .context("the PV has no capacity")
}

/// Proves: statement 20, case 53, case 54
async fn grows(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").expandable().deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&class).size("1Mi").create().await?;
    let volume = case.bound("data").await?;
    for size in ["3Mi", "1Gi"] {
        case.patch_claim("data", &request(size)).await?;
        has_grown(&case, &volume, size).await?;
    }
    for reason in ["Resizing", "VolumeResizeSuccessful"] {
        case.event("PersistentVolumeClaim", "data", reason).await?;
    }
    Ok(())
}

/// Proves: statement 20
async fn old_volume(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").expandable().create().await?;
    let volume = case.old_volume("data").class(&class).bound_to("data").await?;
    case.patch_claim("data", &request("5Mi")).await?;
    case.berth().await?;
    has_grown(&case, &volume, "5Mi").await
}

/// Proves: case 53
async fn crash(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").expandable().deletes().create().await?;
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?)).alone();
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).size("1Mi").create().await?;
    let volume = case.bound("data").await?;
    let gate = Gate::default();
    proxy.on(|call| call.resource == "persistentvolumeclaims/status", 1, Effect::HoldRequest(gate.clone()));
    case.patch_claim("data", &request("2Mi")).await?;
    gate.reached(1).await?;
    ensure!(volume_size(&case, &volume).await? == "2Mi", "the claim was to be written before the PV");
    berth.kill().await?;
    // The request that stands at the gate dies with its sender.
    proxy.heal();
    case.start(&setup)?;
    has_grown(&case, &volume, "2Mi").await
}

/// Proves: case 53
async fn forbidden(case: Arc<Case>) -> Result<()> {
    let class = case.class("fixed").deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&class).size("1Mi").create().await?;
    let volume = case.bound("data").await?;
    match case.patch_claim("data", &request("2Mi")).await {
        Err(error)
            if matches!(
                error.downcast_ref::<kube::Error>(),
                Some(kube::Error::Api(status)) if status.code == 403
            ) => {}
        other => bail!("expected the API server to refuse, got {other:?}"),
    }
    case.barrier(&class).await?;
    ensure!(volume_size(&case, &volume).await? == "1Mi", "the PV has grown");
    Ok(())
}

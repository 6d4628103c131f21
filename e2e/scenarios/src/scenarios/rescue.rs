//! Volumes that are to stay after all, at each moment of their removal; volumes that are used again; and the undoing of a
//! deletion. The proxy holds single requests, so that each moment is hit exactly.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    case::{Case, Volume},
    control_plane::User,
    proxy::{Effect, Gate, Proxy},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a PV rescued between the move and its deletion gets its directory back", moved),
        scenario("a PV rescued when its object is about to go keeps its directory", about_to_go),
        scenario("Retain and Delete again after an API failure need no restart", flip_flop),
        scenario("a PV bound again by another claim grows and is removed", bound_again),
        scenario("a deletion by mistake is undone while the trash holds the data", undone),
    ]
}

pub(super) fn policy(policy: &str) -> Value {
    json!({ "spec": { "persistentVolumeReclaimPolicy": policy } })
}

/// A volume with a file `kept`, whose berth talks through a proxy.
async fn proxied(case: &Case) -> Result<(Proxy, Volume)> {
    // The trash does not put it back by itself in between, so that what the provisioner does is seen.
    let class = case.class("nfs").deletes().parameter("trashRetention", "1h").create().await?;
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?));
    case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "precious")?;
    Ok((proxy, volume))
}

/// Lets the claim go and stops berth at its first request to this verb on the PV.
async fn stopped_at(case: &Case, proxy: &Proxy, volume: &Volume, verb: &'static str) -> Result<Gate> {
    let gate = Gate::default();
    let name = volume.name.clone();
    proxy.on(
        move |call| call.verb == verb && call.resource == "persistentvolumes" && call.name == name,
        1,
        Effect::HoldRequest(gate.clone()),
    );
    case.delete_claim("data").await?;
    gate.reached(1).await?;
    ensure!(!volume.directory.exists(), "the directory is still at its place");
    Ok(gate)
}

fn is_back(volume: &Volume) -> bool {
    std::fs::read_to_string(volume.directory.join("kept")).is_ok_and(|text| text == "precious")
}

pub(super) async fn unguarded(case: &Case, volume: &Volume) -> Result<()> {
    case.until("our finalizer to be taken off", async || {
        let live = case.get_volume(&volume.name).await?.context("the PV is gone")?;
        let ours = |finalizer: &String| finalizer.starts_with("external-provisioner");
        ensure!(!live.finalizers().iter().any(ours), "it is still there: {:?}", live.finalizers());
        Ok(())
    })
    .await
}

async fn moved(case: Arc<Case>) -> Result<()> {
    let (proxy, volume) = proxied(&case).await?;
    let gate = stopped_at(&case, &proxy, &volume, "delete").await?;
    case.patch_volume(&volume.name, &policy("Retain")).await?;
    gate.open();
    case.until_so("the data to be back", || is_back(&volume)).await?;
    unguarded(&case, &volume).await?;
    case.volume_phase(&volume.name, "Released").await?;
    let told = case.event("PersistentVolume", &volume.name, "VolumeRestored").await?;
    ensure!(told.contains("moved back"), "{told}");

    // It is a volume like any other.
    case.patch_volume(&volume.name, &policy("Delete")).await?;
    case.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "the directory is still there");
    Ok(())
}

/// The object is marked as deleted, and only our finalizer holds it.
async fn about_to_go(case: Arc<Case>) -> Result<()> {
    let (proxy, volume) = proxied(&case).await?;
    let gate = stopped_at(&case, &proxy, &volume, "patch").await?;
    case.patch_volume(&volume.name, &policy("Retain")).await?;
    gate.open();
    case.volume_gone(&volume.name).await?;
    ensure!(is_back(&volume), "the directory of a retained volume went with its object: {:?}", case.tree()?);
    Ok(())
}

async fn flip_flop(case: Arc<Case>) -> Result<()> {
    let (proxy, volume) = proxied(&case).await?;
    let failing = proxy.on(
        |call| call.verb == "delete" && call.resource == "persistentvolumes",
        usize::MAX,
        Effect::Answer { code: 500, reason: "InternalError", retry_after: None },
    );
    case.delete_claim("data").await?;
    case.event("PersistentVolume", &volume.name, "VolumeFailedDelete").await?;
    for round in 1..=2 {
        case.patch_volume(&volume.name, &policy("Retain")).await?;
        case.until_so("the data to be back", || is_back(&volume)).await?;
        unguarded(&case, &volume).await?;
        let before = failing.count();
        case.patch_volume(&volume.name, &policy("Delete")).await?;
        failing.reached(before + 1).await.with_context(|| format!("round {round}: it is not tried again"))?;
    }
    proxy.heal();
    case.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "the directory is still there");
    Ok(())
}

/// What pv-migrate, Velero and administrators do.
async fn bound_again(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").expandable().deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "precious")?;
    let old = case.old_volume("old").class(&class).bound_to("old").await?;
    let record = case.export().join(format!(".berth/volumes/{}.json", old.name));
    case.until_so("the old volume to be recorded", || record.exists()).await?;
    for (claim, volume) in [("data", &volume), ("old", &old)] {
        case.patch_volume(&volume.name, &policy("Retain")).await?;
        case.delete_claim(claim).await?;
        case.volume_phase(&volume.name, "Released").await?;
        case.patch_volume(&volume.name, &json!({ "spec": { "claimRef": null } })).await?;
        let again = format!("{claim}-again");
        case.claim(&again).class(&class).set(&["spec", "volumeName"], json!(volume.name)).create().await?;
        case.bound(&again).await?;
        ensure!(volume.directory.exists(), "{claim}: the directory is gone");
        case.patch_volume(&volume.name, &policy("Delete")).await?;
        let bigger = json!({ "spec": { "resources": { "requests": { "storage": "5Mi" } } } });
        case.patch_claim(&again, &bigger).await?;
        case.event("PersistentVolumeClaim", &again, "VolumeResizeSuccessful").await?;
        case.delete_claim(&again).await?;
        case.volume_gone(&volume.name)
            .await
            .with_context(|| format!("{claim}: bound again, it stays for ever"))?;
        ensure!(!volume.directory.exists(), "{claim}: the directory is still there");
    }
    Ok(())
}

/// The claim was deleted by mistake, and its PV is made again as it was: from a backup, with another UID.
async fn undone(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().parameter("trashRetention", "1h").create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "precious")?;
    let backup = backup(case.get_volume(&volume.name).await?.context("the PV is gone")?)?;
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "the directory is still at its place");

    case.create_global::<PersistentVolume>(&backup).await?;
    case.until_so("the data to be back", || is_back(&volume)).await?;
    case.claim("again").class(&class).set(&["spec", "volumeName"], json!(volume.name)).create().await?;
    case.bound("again").await?;

    // It is a volume like any other.
    case.patch_volume(&volume.name, &policy("Delete")).await?;
    case.delete_claim("again").await?;
    case.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "the directory is still there");
    Ok(())
}

/// A PV as it is put back: to be retained, for whichever claim names it.
pub(super) fn backup(volume: PersistentVolume) -> Result<Value> {
    let mut object = serde_json::to_value(volume)?;
    for field in ["uid", "resourceVersion", "creationTimestamp", "finalizers", "managedFields"] {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove(field);
        }
    }
    let spec = object.get_mut("spec").and_then(Value::as_object_mut).context("a PV without a spec")?;
    spec.remove("claimRef");
    spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!("Retain"));
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    Ok(object)
}

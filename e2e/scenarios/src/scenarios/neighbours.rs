//! Two Kubernetes clusters on one export, each with a berth of its own: neither loses anything by the other.
//!
//! The second one is an embedded control plane whatever the first one is; namespaces, claims and classes of both have the same
//! names, which is the worst case.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use crate::{
    berth::Setup,
    case::{Case, Volume},
    control_plane::User,
    proxy::{Call, Effect, Gate},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "a volume within, above or at that of another cluster is refused, and neither is lost",
            overlapping,
        ),
        scenario("a live volume of another cluster is neither adopted nor shared", adopted),
        scenario("an archive is handed to no claim of any cluster", archived),
        scenario("a copy of another cluster's PV destroys nothing until it is taken over", copied),
        scenario("the sweep of another cluster leaves alone what was begun", swept),
        scenario("a rebuilt cluster removes its volumes by its former id", rebuilt),
        scenario("one directory that is configured as two exports is used by neither", doubled),
    ]
}

/// A bound claim of that class, with a file in its volume.
async fn filled(case: &Case, claim: &str, class: &str) -> Result<Volume> {
    case.claim(claim).class(class).create().await?;
    let volume = case.bound(claim).await?;
    volume.write("precious", &case.cluster_id().await?)?;
    Ok(volume)
}

/// That the file is there.
fn intact(volume: &Volume) -> Result<()> {
    let file = volume.directory.join("precious");
    ensure!(file.exists(), "{} is lost", file.display());
    Ok(())
}

/// Deletes the claim, and waits until its volume is gone.
async fn removed(case: &Case, claim: &str, volume: &Volume) -> Result<()> {
    case.delete_claim(claim).await?;
    case.volume_gone(&volume.name).await
}

async fn overlapping(case: Arc<Case>) -> Result<()> {
    let other = case.neighbour().await?;
    case.berth().await?;
    other.berth().await?;
    let outer = "${.PVC.namespace}";
    let inner = "${.PVC.namespace}/${.PVC.name}";
    for (number, (first, second)) in [(outer, inner), (inner, outer), (inner, inner)].into_iter().enumerate()
    {
        let (name, claim) = (format!("class-{number}"), format!("data-{number}"));
        let class = case.class(&name).deletes().parameter("pathPattern", first).create().await?;
        let volume = filled(&case, &claim, &class).await?;
        let class = other.class(&name).deletes().parameter("pathPattern", second).create().await?;
        other.claim(&claim).class(&class).create().await?;
        let why = other.event("PersistentVolumeClaim", &claim, "ProvisioningFailed").await?;
        ensure!(why.contains(&volume.name), "it does not name the volume that is there: {why}");
        intact(&volume)?;
        removed(&case, &claim, &volume).await?;
        // The place is free now, and nothing of the first cluster reaches what is there.
        let later = other.bound(&claim).await?;
        later.write("precious", "later")?;
        case.barrier(&case.class(&format!("plain-{number}")).deletes().create().await?).await?;
        intact(&later)?;
        removed(&other, &claim, &later).await?;
    }
    Ok(())
}

async fn adopted(case: Arc<Case>) -> Result<()> {
    let other = case.neighbour().await?;
    case.berth().await?;
    other.berth().await?;
    for (how, disposal) in [("adopt", "archive"), ("share", "delete")] {
        let (pattern, claim) = (format!("{how}/${{.PVC.name}}"), format!("data-{how}"));
        let first = case
            .class(how)
            .parameter("onDelete", "delete")
            .parameter("pathPattern", &pattern)
            .create()
            .await?;
        let volume = filled(&case, &claim, &first).await?;
        let second = other
            .class(how)
            .parameter("onDelete", disposal)
            .parameter("pathPattern", &pattern)
            .parameter("existingDirectory", how)
            .create()
            .await?;
        other.claim(&claim).class(&second).create().await?;
        let why = other.event("PersistentVolumeClaim", &claim, "ProvisioningFailed").await?;
        ensure!(why.contains(&volume.name), "it does not name the volume that is there: {why}");
        other.delete_claim(&claim).await?;
        other.claim_gone(&claim).await?;
        intact(&volume)?;
        removed(&case, &claim, &volume).await?;
    }
    Ok(())
}

/// A namespace may be called as archives are.
async fn archived(case: Arc<Case>) -> Result<()> {
    let other = case.neighbour().await?;
    case.berth().await?;
    other.berth().await?;
    let class = case
        .class("archives")
        .parameter("archiveOnDelete", "true")
        .parameter("pathPattern", "team/${.PVC.name}");
    let volume = filled(&case, "data", &class.create().await?).await?;
    removed(&case, "data", &volume).await?;
    let archive = case.export().join("archived-team/data/precious");
    ensure!(archive.exists(), "it is not archived: {:?}", case.tree()?);
    for how in ["adopt", "share"] {
        // The path comes from the claim, which its author chooses.
        let class = other
            .class(how)
            .deletes()
            .parameter("pathPattern", "${.PVC.annotations.path}/${.PVC.name}")
            .parameter("existingDirectory", how)
            .create()
            .await?;
        other.claim("data").class(&class).annotation("path", "archived-team").create().await?;
        other.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
        other.delete_claim("data").await?;
        other.claim_gone("data").await?;
        ensure!(archive.exists(), "the archive is gone: {:?}", case.tree()?);
    }
    Ok(())
}

/// The object as a backup tool restores it elsewhere.
fn copy_of(volume: &Volume) -> Result<Value> {
    let mut object = serde_json::to_value(&volume.volume)?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("no metadata")?;
    metadata.retain(|key, _| ["name", "annotations", "labels"].contains(&key.as_str()));
    object.as_object_mut().context("no object")?.remove("status");
    Ok(object)
}

async fn copied(case: Arc<Case>) -> Result<()> {
    let other = case.neighbour().await?;
    case.berth().await?;
    other.berth().await?;
    let class = case.class("nfs").deletes().create().await?;
    let volume = filled(&case, "data", &class).await?;
    other.create_global::<PersistentVolume>(&copy_of(&volume)?).await?;
    other.volume_phase(&volume.name, "Released").await?;
    let why = other.event("PersistentVolume", &volume.name, "VolumeFailedDelete").await?;
    let id = case.cluster_id().await?;
    let command = format!("kubectl annotate --overwrite pv {} berth.storage/take-over={id}", volume.name);
    ensure!(why.contains(&command), "the way out is not in it: {why}");
    intact(&volume)?;
    // Handed over on purpose: the first cluster lets go of it, the second one takes it.
    case.patch_volume(&volume.name, &json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).await?;
    case.delete_claim("data").await?;
    case.volume_phase(&volume.name, "Released").await?;
    case.global::<PersistentVolume>().delete(&volume.name, &kube::api::DeleteParams::default()).await?;
    case.volume_gone(&volume.name).await?;
    intact(&volume)?;
    let taken = json!({"metadata": {"annotations": {"berth.storage/take-over": id}}});
    other.patch_volume(&volume.name, &taken).await?;
    other.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "it is still there");
    Ok(())
}

fn stores_volume(call: &Call) -> bool {
    call.verb == "create" && call.resource == "persistentvolumes"
}

async fn swept(case: Arc<Case>) -> Result<()> {
    let other = case.neighbour().await?;
    let class = case.class("nfs").deletes().create().await?;
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?)).alone();
    let gate = Gate::default();
    proxy.on(stores_volume, 1, Effect::HoldAnswer(gate.clone()));
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    gate.reached(1).await?;
    // The PV is stored, and the storage does not know it yet.
    berth.kill().await?;
    proxy.heal();
    let volume = case.bound("data").await?;
    volume.write("precious", "x")?;
    let sweeping = other.start(&other.setup()?.sweeps_soon())?;
    sweeping.answers("/livez").await?;
    let plain = other.class("plain").deletes().create().await?;
    for _ in 0..2 {
        other.barrier(&plain).await?;
        intact(&volume)?;
    }
    case.start(&setup)?;
    removed(&case, "data", &volume).await?;
    Ok(())
}

async fn rebuilt(case: Arc<Case>) -> Result<()> {
    let new = case.neighbour().await?;
    let old = case.berth().await?;
    let class = case.class("nfs").deletes().create().await?;
    let volume = filled(&case, "data", &class).await?;
    old.kill().await?;
    new.create_global::<PersistentVolume>(&copy_of(&volume)?).await?;
    new.volume_phase(&volume.name, "Released").await?;
    let berth = new.berth().await?;
    new.event("PersistentVolume", &volume.name, "VolumeFailedDelete").await?;
    intact(&volume)?;
    berth.kill().await?;
    let former = format!("--former-cluster-ids={}", case.cluster_id().await?);
    new.start(&new.setup()?.flags([former]))?;
    new.volume_gone(&volume.name).await?;
    ensure!(!volume.directory.exists(), "it is still there");
    Ok(())
}

async fn doubled(case: Arc<Case>) -> Result<()> {
    let (root, again) = (case.scratch().join("doubled"), case.scratch().join("again"));
    std::fs::create_dir(&root)?;
    std::os::unix::fs::symlink(&root, &again)?;
    let config = case.scratch().join("berth.yaml");
    let exports = json!({ "exports": [
        { "name": "one", "server": "nfs1.test", "path": "/srv", "root": root },
        { "name": "two", "server": "nfs2.test", "path": "/srv", "root": again },
    ] });
    std::fs::write(&config, exports.to_string())?;
    let setup = Setup { export: None, ..case.setup()? };
    let berth = case.start(&setup.flags([&format!("--config={}", config.display())]))?;
    let class = case.class("one").deletes().parameter("export", "one").create().await?;
    case.claim("data").class(&class).create().await?;
    let why = case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(why.contains("one") && why.contains("two"), "it does not name both: {why}");
    let (code, body) = berth.get("/readyz").await?;
    ensure!(code == 503, "it is ready: {body}");
    Ok(())
}

//! The main job: claims get directories and PVs, files survive, deleted claims are archived or
//! removed; and what that costs in requests.

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use kube::{Api, ResourceExt, api::DeleteParams};

use crate::{
    case::{Case, Volume, stateful_set},
    control_plane::{User, audit},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "a StatefulSet's claims and a plain one get directories, keep their files, and are archived",
            main_job,
        ),
        scenario("a claim with only the beta class annotation is served", beta_class),
        scenario("the PV says what the old provisioner's PV said", fields),
        scenario("claims made and deleted while berth was away are worked off at its start", away),
        scenario("another provisioner's claims and PVs are left alone", foreign),
        scenario("a class that appears after its claim serves it", late_class),
        scenario("probes answer, and the metrics have the names of the Go library", probes),
        scenario("a claim costs two writes and no read", cost).alone(),
        scenario("the manifests of deploy/ are valid to the last field", manifests),
    ]
}

/// What a volume's directory must look like on the storage.
fn check_directory(case: &Case, volume: &Volume) -> Result<()> {
    let claim = volume.claim.name_any();
    ensure!(
        volume.relative == format!("{}-{claim}-pvc-{}", case.namespace, volume.uid()),
        "claim {claim} has the directory {}",
        volume.relative
    );
    let metadata = std::fs::symlink_metadata(&volume.directory)
        .with_context(|| format!("look at {}", volume.directory.display()))?;
    ensure!(metadata.is_dir(), "{} is no directory", volume.relative);
    let mode = metadata.permissions().mode() & 0o7777;
    ensure!(mode == 0o777, "{} has mode {mode:o}", volume.relative);
    Ok(())
}

/// Proves: case 1, row 4.1, row 4.2, row 4.8, row 6.5, statement 14, statement 19
async fn main_job(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").create().await?;
    let berth = case.berth().await?;
    case.create::<StatefulSet>(&stateful_set("db", &class, 3)).await?;
    case.claim("plain").class(&class).create().await?;

    let names = ["data-db-0", "data-db-1", "data-db-2", "plain"];
    let mut volumes = Vec::new();
    for name in names {
        let volume = case.bound(name).await?;
        check_directory(&case, &volume)?;
        volume.write("kept", name)?;
        volumes.push(volume);
    }
    ensure!(case.root()?.len() == names.len(), "more than {names:?}: {:?}", case.root()?);

    // A restart in the middle of a volume's life changes nothing.
    let status = berth.terminate().await?;
    ensure!(status.success(), "SIGTERM ended berth with {status}");
    case.berth().await?;

    let sets: Api<StatefulSet> = case.api();
    sets.delete("db", &DeleteParams::background()).await?;
    for replica in 0..3 {
        // No kubelet confirms the end of a pod, and a claim in use is not released.
        let pod = format!("db-{replica}");
        let pods: Api<k8s_openapi::api::core::v1::Pod> = case.api();
        case.until(&format!("pod {pod} to be gone"), async || {
            if pods.get_opt(&pod).await?.is_some() {
                case.delete_pod(&pod).await?;
            }
            ensure!(pods.get_opt(&pod).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
    }
    for volume in &volumes {
        let name = volume.claim.name_any();
        let kept = std::fs::read_to_string(volume.directory.join("kept"))?;
        ensure!(kept == name, "{name} holds the file of {kept}");
        case.delete_claim(&name).await?;
    }
    for volume in &volumes {
        case.volume_gone(&volume.name).await?;
        let archive = case.export().join(format!("archived-{}", volume.relative));
        let kept = std::fs::read_to_string(archive.join("kept"))
            .with_context(|| format!("read {}", archive.display()))?;
        ensure!(kept == volume.claim.name_any(), "an archive holds another's file");
        ensure!(!volume.directory.exists(), "{} is still there", volume.relative);
    }
    ensure!(case.root()?.len() == names.len(), "left behind: {:?}", case.root()?);
    Ok(())
}

/// Proves: case 5
async fn beta_class(case: Arc<Case>) -> Result<()> {
    let class = case.class("old-style").deletes().create().await?;
    case.berth().await?;
    case.claim("data").beta_class(&class).create().await?;
    let volume = case.bound("data").await?;
    check_directory(&case, &volume)?;
    let spec = volume.volume.spec.as_ref().context("a PV without spec")?;
    ensure!(
        spec.storage_class_name.as_deref() == Some(&class),
        "the PV's class is {:?}",
        spec.storage_class_name
    );
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// Proves: case 10, row 5.1, row 5.2, row 5.5, row 5.6, row 5.7, row 5.8, row 5.9, row 5.10, row 5.11
async fn fields(case: Arc<Case>) -> Result<()> {
    let class = case.class("full").retains().mount_options(&["nfsvers=4.1", "hard"]).create().await?;
    case.berth().await?;
    case.claim("data").class(&class).size("1500Mi").create().await?;
    let volume = case.bound("data").await?;
    let object = serde_json::to_value(&volume.volume)?;
    let expected = [
        ("/metadata/name", serde_json::json!(format!("pvc-{}", volume.uid()))),
        ("/metadata/annotations/pv.kubernetes.io~1provisioned-by", serde_json::json!(case.provisioner)),
        ("/spec/accessModes", serde_json::json!(["ReadWriteMany"])),
        ("/spec/capacity/storage", serde_json::json!("1500Mi")),
        ("/spec/claimRef/apiVersion", serde_json::json!("v1")),
        ("/spec/claimRef/kind", serde_json::json!("PersistentVolumeClaim")),
        ("/spec/claimRef/name", serde_json::json!("data")),
        ("/spec/claimRef/namespace", serde_json::json!(case.namespace)),
        ("/spec/claimRef/uid", serde_json::json!(volume.uid())),
        ("/spec/mountOptions", serde_json::json!(["nfsvers=4.1", "hard"])),
        ("/spec/nfs/server", serde_json::json!(case.server)),
        ("/spec/nfs/path", serde_json::json!(format!("{}/{}", case.path, volume.relative))),
        ("/spec/persistentVolumeReclaimPolicy", serde_json::json!("Retain")),
        ("/spec/storageClassName", serde_json::json!(class)),
        ("/spec/volumeMode", serde_json::json!("Filesystem")),
    ];
    for (pointer, value) in expected {
        ensure!(
            object.pointer(pointer) == Some(&value),
            "{pointer} is {:?}, expected {value}",
            object.pointer(pointer)
        );
    }
    ensure!(
        object.pointer("/spec/nodeAffinity").is_none() && object.pointer("/metadata/labels").is_none(),
        "the PV has labels or an affinity: {object}"
    );
    case.event("PersistentVolumeClaim", "data", "ProvisioningSucceeded").await.map(drop)
}

/// Proves: case 22
async fn away(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.berth().await?;
    case.claim("old").class(&class).create().await?;
    let old = case.bound("old").await?;
    berth.kill().await?;

    case.delete_claim("old").await?;
    case.claim("new").class(&class).create().await?;
    case.volume_phase(&old.name, "Released").await?;
    ensure!(old.directory.exists(), "somebody removed {}", old.relative);

    case.berth().await?;
    let new = case.bound("new").await?;
    check_directory(&case, &new)?;
    case.volume_gone(&old.name).await?;
    case.until_so("the old directory to be gone", || !old.directory.exists()).await
}

/// Proves: case 1, case 22
async fn foreign(case: Arc<Case>) -> Result<()> {
    let ours = case.class("ours").deletes().create().await?;
    let theirs = case.class("theirs").provisioner("somebody.else/nfs").create().await?;
    let volume = case.old_volume("theirs").class(&theirs).bound_to("bound").await?;
    case.patch_volume(
        &volume.name,
        &serde_json::json!({ "metadata": { "annotations": {
            "pv.kubernetes.io/provisioned-by": "somebody.else/nfs" } } }),
    )
    .await?;
    case.berth().await?;
    case.claim("waiting").class(&theirs).create().await?;
    case.delete_claim("bound").await?;
    case.volume_phase(&volume.name, "Released").await?;
    case.barrier(&ours).await?;

    case.volume_phase(&volume.name, "Released").await?;
    ensure!(volume.directory.join("data").exists(), "a foreign volume was touched");
    let waiting = case.get_claim("waiting").await?;
    ensure!(waiting.spec.and_then(|spec| spec.volume_name).is_none(), "a foreign claim was served");
    Ok(())
}

/// Proves: case 4
async fn late_class(case: Arc<Case>) -> Result<()> {
    case.berth().await?;
    let class = format!("{}-later", case.id());
    // As if the class had been there, and was deleted at the wrong moment.
    case.claim("data")
        .class(&class)
        .annotation("volume.kubernetes.io/storage-provisioner", &case.provisioner)
        .create()
        .await?;
    case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(case.class("later").deletes().create().await? == class, "another name");
    let volume = case.bound("data").await?;
    check_directory(&case, &volume)
}

/// Proves: case 56
async fn probes(case: Arc<Case>) -> Result<()> {
    let good = case.class("good").deletes().create().await?;
    let bad = case.class("bad").parameter("pathPattern", "${.PVC.annotations.none}/x").create().await?;
    let berth = case.berth().await?;
    berth.answers("/readyz").await?;
    case.claim("good").class(&good).create().await?;
    case.claim("bad").class(&bad).create().await?;
    let volume = case.bound("good").await?;
    case.event("PersistentVolumeClaim", "bad", "ProvisioningFailed").await?;
    case.delete_claim("good").await?;
    case.volume_gone(&volume.name).await?;
    let of = |class: &str| format!("{{class=\"{class}\",source=\"\"}}");
    let rows = [
        (format!("controller_persistentvolumeclaim_provision_total{}", of(&good)), 1.0),
        (format!("controller_persistentvolumeclaim_provision_duration_seconds_count{}", of(&good)), 1.0),
        (format!("controller_persistentvolume_delete_total{{class=\"{good}\"}}"), 1.0),
        (format!("controller_persistentvolume_delete_duration_seconds_count{{class=\"{good}\"}}"), 1.0),
        (format!("controller_persistentvolumeclaim_provision_failed_total{}", of(&good)), 0.0),
    ];
    for (series, expected) in rows {
        case.until(&format!("metric {series}"), async || {
            let value = berth.metric(&series).await?;
            ensure!((value - expected).abs() < 0.5, "it is {value}, expected {expected}");
            Ok(())
        })
        .await?;
    }
    let failed = format!("controller_persistentvolumeclaim_provision_failed_total{}", of(&bad));
    case.until(&format!("metric {failed}"), async || {
        ensure!(berth.metric(&failed).await? >= 1.0, "it is 0");
        Ok(())
    })
    .await
}

/// Counted by the API server, from the moment when berth has nothing more to do.
async fn cost(case: Arc<Case>) -> Result<()> {
    const CLAIMS: usize = 25;
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    case.claim("first").class(&class).create().await?;
    case.bound("first").await?;
    case.event("PersistentVolumeClaim", "first", "ProvisioningSucceeded").await?;
    let before = case.plane.requests(User::Berth)?.len();
    for number in 0..CLAIMS {
        case.claim(&format!("data-{number}")).class(&class).create().await?;
    }
    for number in 0..CLAIMS {
        case.bound(&format!("data-{number}")).await?;
        case.event("PersistentVolumeClaim", &format!("data-{number}"), "ProvisioningSucceeded").await?;
    }
    let requests: Vec<_> = case
        .plane
        .requests(User::Berth)?
        .into_iter()
        .skip(before)
        // The lock is renewed whatever there is to do.
        .filter(|request| request.resource != "leases")
        .collect();
    let counts = audit::count(&requests);
    let writes = requests.iter().filter(|request| request.writes()).count();
    let reads = requests.iter().filter(|request| request.reads()).count();
    ensure!(writes <= 2 * CLAIMS, "{writes} writes for {CLAIMS} claims: {counts:?}");
    // A watch that ends by chance begins again.
    ensure!(reads <= 4, "{reads} reads for {CLAIMS} claims: {counts:?}");
    Ok(())
}

async fn manifests(case: Arc<Case>) -> Result<()> {
    let manifests = crate::control_plane::manifests::deployed()?;
    ensure!(!manifests.is_empty(), "deploy/manifests is empty");
    for manifest in manifests {
        manifest.validate(&case.admin).await?;
    }
    // The claims are not made: it is enough that a claim of this kind can be.
    let claims: Api<PersistentVolumeClaim> = case.api();
    claims.get_opt("none").await?;
    Ok(())
}

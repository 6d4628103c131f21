//! PVs that the old provisioners made: same provisioner name, no mark of ours.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::json;

use super::reclaim::Left;
use crate::{
    case::{Case, Volume},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("the old provisioner's PVs are removed, archived or kept as their class says", as_told),
        scenario("an old PV whose class is gone is archived", class_gone),
        scenario("an old PV elsewhere is refused with an Event, and nothing is touched", elsewhere),
        scenario("an old PV above another volume is refused while that one lives", overlap),
        scenario("an old PV whose directory is gone goes too", missing),
        scenario("a PV that names us without an NFS source is told of, and survived", no_source),
    ]
}

/// What is left of an old volume's file `data`.
pub(super) async fn check(case: &Case, volume: &Volume, expected: Left) -> Result<()> {
    case.volume_gone(&volume.name).await?;
    let file = volume.directory.join("data");
    let archive = case.export().join(format!("archived-{}/data", volume.relative));
    let found = match (file.exists(), archive.exists()) {
        (true, false) => Left::Directory,
        (false, true) => Left::Archive,
        (false, false) => Left::Nothing,
        (true, true) => anyhow::bail!("{} is there twice", volume.relative),
    };
    ensure!(found == expected, "{}: expected {expected:?}, found {found:?}", volume.relative);
    Ok(())
}

/// Proves: row 6.1, row 6.2, row 6.3, row 6.4, row 6.5, row 6.6, row 6.7, row 6.8, statement 1
async fn as_told(case: Arc<Case>) -> Result<()> {
    // (onDelete, archiveOnDelete, directory, what is left)
    let rows: [(Option<&str>, Option<&str>, &str, Left); 9] = [
        (None, None, "flat-default", Left::Archive),
        (None, Some("false"), "flat-removed", Left::Nothing),
        (Some("delete"), None, "flat-delete", Left::Nothing),
        (Some("retain"), None, "flat-retain", Left::Directory),
        (None, Some("false"), "nested/removed", Left::Nothing),
        (None, None, "tree/archived", Left::Archive),
        // What the old one made of values that it did not know.
        (Some("DELETE"), Some("false"), "flat-odd-removed", Left::Nothing),
        (Some("DELETE"), None, "flat-odd-archived", Left::Archive),
        (None, Some("maybe"), "flat-unreadable", Left::Archive),
    ];
    let mut volumes = Vec::new();
    for (number, (on_delete, archive_on_delete, directory, _)) in rows.iter().enumerate() {
        let name = format!("row-{number}");
        let mut class = case.class(&name).parameter("pathPattern", directory);
        if let Some(value) = on_delete {
            class = class.parameter("onDelete", value);
        }
        if let Some(value) = archive_on_delete {
            class = class.parameter("archiveOnDelete", value);
        }
        let class = class.create().await?;
        volumes.push(case.old_volume(directory).class(&class).bound_to(&name).await?);
    }
    case.berth().await?;
    for volume in &volumes {
        case.delete_claim(&volume.claim.name_any()).await?;
    }
    for (volume, (on_delete, archive_on_delete, _, expected)) in volumes.iter().zip(rows) {
        check(&case, volume, expected)
            .await
            .with_context(|| format!("onDelete {on_delete:?}, archiveOnDelete {archive_on_delete:?}"))?;
    }
    Ok(())
}

/// Proves: row 6.10
async fn class_gone(case: Arc<Case>) -> Result<()> {
    let class = case.class("gone").deletes().create().await?;
    let volume = case.old_volume("data").by_default().class(&class).bound_to("data").await?;
    case.delete_class(&class).await?;
    case.berth().await?;
    case.delete_claim("data").await?;
    check(&case, &volume, Left::Archive).await
}

/// Proves: statement 8, row 6.11
async fn elsewhere(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let root = case.path.clone();
    let volumes = vec![
        case.old_volume("a").class(&class).server("other.nfs.test").bound_to("server").await?,
        case.old_volume("b").class(&class).path("/former/b").bound_to("path").await?,
        case.old_volume("c").class(&class).path(&root).bound_to("root").await?,
        case.old_volume("d").class(&class).path(&format!("{root}/../d")).bound_to("parent").await?,
    ];
    let before = case.tree()?;
    case.berth().await?;
    for volume in &volumes {
        case.delete_claim(&volume.claim.name_any()).await?;
    }
    for volume in &volumes {
        case.event("PersistentVolume", &volume.name, "VolumeFailedDelete").await?;
    }
    case.barrier(&class).await?;
    for volume in &volumes {
        case.volume_phase(&volume.name, "Released").await?;
    }
    let after: Vec<String> = case.tree()?.into_iter().filter(|path| !path.starts_with(".berth/")).collect();
    ensure!(after == before, "before {before:?}, after {after:?}");
    Ok(())
}

/// Proves: row 6.11
async fn overlap(case: Arc<Case>) -> Result<()> {
    let class = case.class("outer").deletes().parameter("pathPattern", "a").create().await?;
    let above = case.old_volume("a").class(&class).bound_to("above").await?;
    let class = case.class("inner").deletes().parameter("pathPattern", "a/b").create().await?;
    let below = case.old_volume("a/b").class(&class).bound_to("below").await?;
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    case.delete_claim("above").await?;
    case.event("PersistentVolume", &above.name, "VolumeFailedDelete").await?;
    case.barrier(&class).await?;
    ensure!(below.directory.join("data").exists(), "the inner volume lost its data");
    ensure!(above.directory.join("data").exists(), "a refused removal removed something");

    // The way out that the Event names: keep the outer one, and let its PV go.
    case.patch_volume(&above.name, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } })).await?;
    let volumes: Api<PersistentVolume> = case.global();
    volumes.delete(&above.name, &DeleteParams::default()).await?;
    case.volume_gone(&above.name).await?;
    case.delete_claim("below").await?;
    case.volume_gone(&below.name).await?;
    ensure!(!below.directory.exists(), "the inner directory is still there");
    ensure!(above.directory.join("data").exists(), "the outer volume was not kept");
    Ok(())
}

/// Proves: row 6.12
async fn missing(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").create().await?;
    let volume = case.old_volume("data").class(&class).bound_to("data").await?;
    // Another volume shows that the export is the right one.
    let other = case.old_volume("other").class(&class).bound_to("other").await?;
    std::fs::remove_dir_all(&volume.directory)?;
    case.berth().await?;
    case.delete_claim("data").await?;
    check(&case, &volume, Left::Nothing).await?;
    ensure!(other.directory.join("data").exists(), "the other one was touched");
    Ok(())
}

/// Proves: statement 24
async fn no_source(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let name = format!("{}-odd", case.id());
    case.create_global::<PersistentVolume>(&json!({
        "metadata": {
            "name": name,
            "annotations": { "pv.kubernetes.io/provisioned-by": case.provisioner },
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "1Mi" },
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": class,
            "hostPath": { "path": "/nowhere/at/all" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": case.namespace, "name": "odd",
            },
        },
    }))
    .await?;
    case.claim("odd")
        .class(&class)
        .set(&["spec", "accessModes"], json!(["ReadWriteOnce"]))
        .set(&["spec", "volumeName"], json!(name))
        .create()
        .await?;
    case.volume_phase(&name, "Bound").await?;
    case.berth().await?;
    case.delete_claim("odd").await?;
    case.event("PersistentVolume", &name, "VolumeFailedDelete").await?;
    case.barrier(&class).await
}

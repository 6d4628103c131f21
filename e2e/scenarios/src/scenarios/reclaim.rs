//! What becomes of a volume when its claim is gone: the decision table of the old provisioner, and
//! what an administrator may do between the release and the removal.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{
    case::{Case, Volume},
    control_plane::User,
    proxy::{Effect, Gate},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("onDelete and archiveOnDelete decide as they always did", table),
        scenario("parameters that cannot be understood are refused before anything is made", typos),
        scenario("a class that retains keeps PV and directory", retain),
        scenario("a class deleted before its claim does not stop the removal", class_gone),
        scenario("a class made anew does not change what was promised", class_remade),
        scenario("a PV rescued while berth was away is left alone", rescued_away),
        scenario("a PV rescued at the last moment is left alone", rescued_late),
        scenario("a PV deleted before its claim still takes its directory along", volume_first),
        scenario(
            "a volume with links, deep trees and read-only directories goes, and nothing else",
            hard_to_remove,
        ),
    ]
}

/// What is left of a volume's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Archive,
    Directory,
}

/// Waits until a volume's PV is gone, and checks what is left of its file `kept`.
pub(super) async fn check_left(case: &Case, volume: &Volume, expected: Left) -> Result<()> {
    case.volume_gone(&volume.name).await?;
    let archive = case.export().join(format!("archived-{}/kept", volume.relative));
    let file = volume.directory.join("kept");
    let (left, there) = match expected {
        Left::Nothing => (!file.exists() && !archive.exists(), !volume.directory.exists()),
        Left::Archive => (archive.exists() && !file.exists(), !volume.directory.exists()),
        Left::Directory => (file.exists() && !archive.exists(), volume.directory.exists()),
    };
    ensure!(left && there, "expected {expected:?} of {}, found {:?}", volume.relative, case.tree()?);
    Ok(())
}

/// Proves: row 6.1, row 6.2, row 6.3, row 6.5, row 6.6, row 6.7
async fn table(case: Arc<Case>) -> Result<()> {
    let rows: [(Option<&str>, Option<&str>, Left); 13] = [
        (None, None, Left::Archive),
        (None, Some("true"), Left::Archive),
        (None, Some("1"), Left::Archive),
        (None, Some("T"), Left::Archive),
        (None, Some("false"), Left::Nothing),
        (None, Some("0"), Left::Nothing),
        (None, Some("FALSE"), Left::Nothing),
        (Some("delete"), None, Left::Nothing),
        (Some("delete"), Some("true"), Left::Nothing),
        (Some("retain"), None, Left::Directory),
        (Some("retain"), Some("false"), Left::Directory),
        (Some("archive"), None, Left::Archive),
        (Some("archive"), Some("false"), Left::Archive),
    ];
    case.berth().await?;
    for (number, (on_delete, archive_on_delete, _)) in rows.iter().enumerate() {
        let name = format!("row-{number}");
        let mut class = case.class(&name);
        if let Some(value) = on_delete {
            class = class.parameter("onDelete", value);
        }
        if let Some(value) = archive_on_delete {
            class = class.parameter("archiveOnDelete", value);
        }
        let class = class.create().await?;
        case.claim(&name).class(&class).create().await?;
    }
    let mut volumes = Vec::new();
    for number in 0..rows.len() {
        let name = format!("row-{number}");
        let volume = case.bound(&name).await?;
        volume.write("kept", &name)?;
        case.delete_claim(&name).await?;
        volumes.push(volume);
    }
    for (volume, (on_delete, archive_on_delete, expected)) in volumes.iter().zip(rows) {
        check_left(&case, volume, expected)
            .await
            .with_context(|| format!("onDelete {on_delete:?}, archiveOnDelete {archive_on_delete:?}"))?;
    }
    Ok(())
}

/// Proves: row 6.4, row 6.8
async fn typos(case: Arc<Case>) -> Result<()> {
    let rows = [
        ("onDelete", "Delete"),
        ("onDelete", "DELETE"),
        ("onDelete", "remove"),
        ("archiveOnDelete", "yes"),
        ("archiveOnDelete", ""),
        ("archiveOnDelete", "tRUE"),
    ];
    let good = case.class("good").deletes().create().await?;
    case.berth().await?;
    for (number, (key, value)) in rows.iter().enumerate() {
        let name = format!("typo-{number}");
        let class = case.class(&name).parameter(key, value).create().await?;
        case.claim(&name).class(&class).create().await?;
    }
    for (number, (key, value)) in rows.iter().enumerate() {
        let message =
            case.event("PersistentVolumeClaim", &format!("typo-{number}"), "ProvisioningFailed").await?;
        ensure!(
            message.contains(key) && message.contains(value),
            "the Event names neither {key} nor {value:?}: {message}"
        );
    }
    case.barrier(&good).await?;
    ensure!(case.root()?.is_empty(), "something was made: {:?}", case.root()?);
    Ok(())
}

/// Proves: row 6.9, case 10, case 24
async fn retain(case: Arc<Case>) -> Result<()> {
    let class = case.class("retain").retains().create().await?;
    let good = case.class("good").deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "")?;
    case.delete_claim("data").await?;
    case.volume_phase(&volume.name, "Released").await?;
    case.barrier(&good).await?;
    case.volume_phase(&volume.name, "Released").await?;
    ensure!(volume.directory.join("kept").exists(), "the directory was touched");

    // The administrator changes their mind.
    case.patch_volume(&volume.name, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } }))
        .await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// Proves: statement 12
async fn class_gone(case: Arc<Case>) -> Result<()> {
    let deletes = case.class("deletes").deletes().create().await?;
    let archives = case.class("archives").create().await?;
    case.berth().await?;
    let mut volumes = Vec::new();
    for (name, class) in [("removed", &deletes), ("archived", &archives)] {
        case.claim(name).class(class).create().await?;
        let volume = case.bound(name).await?;
        volume.write("kept", "")?;
        volumes.push(volume);
    }
    case.delete_class(&deletes).await?;
    case.delete_class(&archives).await?;
    for (volume, expected) in volumes.iter().zip([Left::Nothing, Left::Archive]) {
        case.delete_claim(&volume.claim.name_any()).await?;
        check_left(&case, volume, expected).await?;
    }
    Ok(())
}

/// Proves: row 6.10
async fn class_remade(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "")?;
    case.delete_class(&class).await?;
    let remade = case.class("nfs").deletes().create().await?;
    ensure!(remade == class, "another class");
    // Served by the class as it is now: berth has seen the change.
    case.barrier(&class).await?;
    case.delete_claim("data").await?;
    check_left(&case, &volume, Left::Archive).await
}

/// Proves: case 24
async fn rescued_away(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let setup = case.setup()?.alone();
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "")?;
    berth.kill().await?;
    case.delete_claim("data").await?;
    case.volume_phase(&volume.name, "Released").await?;
    case.patch_volume(&volume.name, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } }))
        .await?;
    case.start(&setup)?;
    case.barrier(&class).await?;
    case.volume_phase(&volume.name, "Released").await?;
    ensure!(volume.directory.join("kept").exists(), "a rescued directory was touched");
    Ok(())
}

/// The proxy holds the last look that berth takes at the PV; meanwhile it is rescued.
///
/// Proves: case 31
async fn rescued_late(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?));
    case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "")?;
    let gate = Gate::default();
    let name = volume.name.clone();
    proxy.on(
        move |call| call.verb == "get" && call.resource == "persistentvolumes" && call.name == name,
        1,
        Effect::HoldRequest(gate.clone()),
    );
    case.delete_claim("data").await?;
    gate.reached(1).await.context("berth did not look at the PV again before removing its directory")?;
    case.patch_volume(&volume.name, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } }))
        .await?;
    gate.open();
    case.barrier(&class).await?;
    case.volume_phase(&volume.name, "Released").await?;
    ensure!(volume.directory.join("kept").exists(), "a rescued directory was touched");
    Ok(())
}

/// Proves: case 32, case 35
async fn volume_first(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    ensure!(
        volume.volume.finalizers().iter().any(|finalizer| finalizer != "kubernetes.io/pv-protection"),
        "the PV has no finalizer of ours: {:?}",
        volume.volume.finalizers()
    );
    let volumes: Api<PersistentVolume> = case.global();
    volumes.delete(&volume.name, &DeleteParams::default()).await?;
    case.until("the PV to be marked as deleted", async || {
        let volume = case.get_volume(&volume.name).await?.context("it is gone")?;
        ensure!(volume.metadata.deletion_timestamp.is_some(), "it is not");
        Ok(())
    })
    .await?;
    case.barrier(&class).await?;
    ensure!(volume.directory.exists(), "the directory went while the claim lived");
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// Proves: statement 25
async fn hard_to_remove(case: Arc<Case>) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let class = case.class("nfs").deletes().create().await?;
    let outside = case.scratch().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("precious"), "x")?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    let inside = &volume.directory;
    symlink(&outside, inside.join("to-outside"))?;
    symlink("..", inside.join("to-root"))?;
    symlink("nowhere", inside.join("dangling"))?;
    let mut deep = inside.clone();
    for _ in 0..60 {
        deep.push("d");
        std::fs::create_dir(&deep)?;
    }
    std::fs::write(deep.join("leaf"), "x")?;
    let fixed = inside.join("read-only");
    std::fs::create_dir(&fixed)?;
    std::fs::write(fixed.join("file"), "x")?;
    std::fs::set_permissions(&fixed, PermissionsExt::from_mode(0o555))?;
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until("the trash to be empty", async || {
        let trash = case.own("trash")?;
        ensure!(trash.is_empty(), "{} entries: {:?}", trash.len(), trash.first());
        Ok(())
    })
    .await?;
    ensure!(!volume.directory.exists(), "the directory is still there");
    ensure!(outside.join("precious").exists(), "a link was followed");
    Ok(())
}

//! The exports behind the volumes: several of them, moved ones, and one that is not what it was.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use serde_json::json;
use tokio::process::Command;

use super::reclaim::Left;
use crate::{
    case::{Case, Volume},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("several exports of one berth are chosen by the class", several),
        scenario("old PVs of a former server and a former path are removed once both are named", former),
        scenario("the path of an export may be written with slashes at its end, or be the root", slashes),
        scenario("an export that is not what it was gets no directory until it is back", swapped),
        scenario("an export that was moved with all its files goes on, volumes included", moved_whole),
        scenario(
            "an export that was moved without its dot files goes on after the command of the Event",
            moved_without_dots,
        ),
        scenario("a second provisioner name is served like the first", second_name),
        scenario(
            "a provisioner name in capitals and with a low line is served, under a lock of its own",
            odd_name,
        ),
    ]
}

/// The NFS source of a claim's PV: server and path.
async fn source(case: &Case, claim: &str) -> Result<(PersistentVolume, String, String)> {
    let (_, volume) = case.bound_pair(claim).await?;
    let nfs = volume.spec.as_ref().and_then(|spec| spec.nfs.clone()).context("the PV has no NFS source")?;
    Ok((volume, nfs.server, nfs.path))
}

async fn several(case: Arc<Case>) -> Result<()> {
    let (fast, large) = (case.scratch().join("fast"), case.scratch().join("large"));
    for root in [&fast, &large] {
        std::fs::create_dir(root)?;
    }
    let config = case.scratch().join("berth.yaml");
    let exports = json!({ "exports": [
        { "name": "fast", "server": "nfs1.test", "path": "/fast", "root": fast },
        { "name": "large", "server": "nfs2.test", "path": "/srv/large", "root": large },
    ] });
    std::fs::write(&config, exports.to_string())?;
    let setup = case.setup()?.flags([&format!("--config={}", config.display())]);
    case.start(&setup)?;

    let by_name = case.class("by-name").deletes().parameter("export", "fast").create().await?;
    let by_address = case
        .class("by-address")
        .deletes()
        .parameter("server", "nfs2.test")
        .parameter("share", "/srv/large")
        .create()
        .await?;
    let neither = case.class("neither").deletes().parameter("export", "slow").create().await?;
    for (claim, class) in [("a", &by_name), ("b", &by_address), ("c", &neither)] {
        case.claim(claim).class(class).create().await?;
    }
    for (claim, server, path, root) in
        [("a", "nfs1.test", "/fast", &fast), ("b", "nfs2.test", "/srv/large", &large)]
    {
        let (volume, at, below) = source(&case, claim).await?;
        let directory = format!("{}-{claim}-{}", case.namespace, volume.name_any());
        ensure!(
            (at.as_str(), below) == (server, format!("{path}/{directory}")),
            "claim {claim} lies elsewhere"
        );
        ensure!(root.join(&directory).is_dir(), "{directory} is not in {}", root.display());
        case.delete_claim(claim).await?;
        case.volume_gone(&volume.name_any()).await?;
        ensure!(!root.join(&directory).exists(), "{directory} is still there");
    }
    let message = case.event("PersistentVolumeClaim", "c", "ProvisioningFailed").await?;
    ensure!(message.contains("slow"), "the Event does not name the export: {message}");
    ensure!(case.root()?.is_empty(), "the other export was used: {:?}", case.root()?);
    Ok(())
}

/// Proves: row 6.11
async fn former(case: Arc<Case>) -> Result<()> {
    let class = case.class("server").parameter("pathPattern", "a").create().await?;
    let server = case.old_volume("a").class(&class).server("former.test").bound_to("server").await?;
    let class = case.class("path").parameter("pathPattern", "b").create().await?;
    let path = case.old_volume("b").class(&class).path("/former/b").bound_to("path").await?;
    let config = case.scratch().join("berth.yaml");
    let exports = json!({ "exports": [
        { "name": "default", "aliases": ["former.test"], "formerPaths": ["/former"] },
    ] });
    std::fs::write(&config, exports.to_string())?;
    let setup = case.setup()?.flags([&format!("--config={}", config.display())]);
    case.start(&setup)?;
    for volume in [&server, &path] {
        case.delete_claim(&volume.claim.name_any()).await?;
        super::old_volumes::check(&case, volume, Left::Archive).await?;
    }
    Ok(())
}

/// Proves: statement 7
async fn slashes(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    for (number, (written, expected)) in
        [("/", ""), ("/export", "/export"), ("/export//", "/export")].into_iter().enumerate()
    {
        let setup = case.setup()?.alone().env("NFS_PATH", written);
        let berth = case.start(&setup)?;
        let claim = format!("data-{number}");
        case.claim(&claim).class(&class).create().await?;
        let (volume, _, path) = source(&case, &claim).await?;
        let directory = format!("{}-{claim}-{}", case.namespace, volume.name_any());
        ensure!(path == format!("{expected}/{directory}"), "{written:?} made the path {path}");
        ensure!(case.root()?.contains(&directory), "{directory} is not there");
        case.delete_claim(&claim).await?;
        case.volume_gone(&volume.name_any()).await?;
        ensure!(case.root()?.is_empty(), "left behind: {:?}", case.root()?);
        berth.terminate().await?;
    }
    Ok(())
}

/// An unmounted export is an empty directory of the container's disk.
///
/// Proves: row 6.12
async fn swapped(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.berth().await?;
    for name in ["old", "gone"] {
        case.claim(name).class(&class).create().await?;
    }
    let (old, gone) = (case.bound("old").await?, case.bound("gone").await?);
    old.write("kept", "")?;
    berth.terminate().await?;

    let aside = case.scratch().join("aside");
    std::fs::rename(case.export(), &aside)?;
    std::fs::create_dir(case.export())?;
    let berth = case.berth().await?;
    case.claim("new").class(&class).create().await?;
    case.delete_claim("gone").await?;
    case.event("PersistentVolumeClaim", "new", "ProvisioningFailed").await?;
    case.event("PersistentVolume", &gone.name, "VolumeFailedDelete").await?;
    case.volume_phase(&gone.name, "Released").await?;
    ensure!(case.tree()?.is_empty(), "written to the wrong place: {:?}", case.tree()?);
    let (code, detail) = berth.get("/readyz").await?;
    ensure!(code != 200 && detail.contains("default"), "/readyz says {code}: {detail}");

    std::fs::remove_dir(case.export())?;
    std::fs::rename(&aside, case.export())?;
    case.bound("new").await?;
    case.volume_gone(&gone.name).await?;
    ensure!(old.directory.join("kept").exists(), "the old volume has lost its file");
    berth.answers("/readyz").await
}

/// A volume with a file in it, whose record is written. Berth has ended.
async fn left(case: &Case, class: &str) -> Result<Volume> {
    let berth = case.berth().await?;
    case.claim("data").class(class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "precious")?;
    recorded(case, &volume).await?;
    berth.terminate().await?;
    Ok(volume)
}

async fn recorded(case: &Case, volume: &Volume) -> Result<()> {
    case.until("the record", async || {
        let records = case.own("volumes")?;
        ensure!(records.iter().any(|name| name.contains(&volume.name)), "there is none: {records:?}");
        Ok(())
    })
    .await
}

/// Copies these names to another directory, which then is the export.
async fn copied(case: &Case, names: &str) -> Result<()> {
    let (export, aside) = (case.export(), case.scratch().join("aside"));
    std::fs::rename(&export, &aside)?;
    std::fs::create_dir(&export)?;
    shell(&format!("cp -a {}/{names} {}/", aside.display(), export.display())).await
}

async fn shell(command: &str) -> Result<()> {
    let status = Command::new("/bin/sh").args(["-c", command]).status().await.context("start sh")?;
    ensure!(status.success(), "{command} ended with {status}");
    Ok(())
}

/// Another volume can be made, and the one from before is removed with its claim.
async fn goes_on(case: &Case, class: &str, volume: &Volume) -> Result<()> {
    case.claim("new").class(class).create().await?;
    case.bound("new").await?;
    recorded(case, volume).await?;
    ensure!(volume.directory.join("kept").exists(), "the volume has lost its file: {:?}", case.tree()?);
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

async fn moved_whole(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let volume = left(&case, &class).await?;
    copied(&case, ".").await?;
    case.berth().await?;
    goes_on(&case, &class, &volume).await
}

async fn moved_without_dots(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let volume = left(&case, &class).await?;
    copied(&case, "*").await?;
    ensure!(case.own("volumes").is_err() || case.own("volumes")?.is_empty(), "the records were copied");
    let berth = case.start(&case.setup()?)?;
    case.claim("late").class(&class).create().await?;
    let told = case.event("PersistentVolumeClaim", "late", "ProvisioningFailed").await?;
    let (_, ready) = berth.get("/readyz").await?;
    let (begin, end) = ("mkdir -m 700", "export.json");
    for said in [&told, &ready] {
        ensure!(said.contains(begin) && said.contains(end), "there is no command in {said}");
    }
    let command = told.find(begin).zip(told.rfind(end));
    let command = command.and_then(|(from, to)| told.get(from..to + end.len()));
    shell(command.context("the command is cut")?).await?;
    case.bound("late").await?;
    goes_on(&case, &class, &volume).await
}

/// Proves: case 2
async fn second_name(case: Arc<Case>) -> Result<()> {
    let second = format!("{}-second", case.provisioner);
    let class = case.class("second").provisioner(&second).deletes().create().await?;
    let setup = case.setup()?.flags([
        &format!("--provisioner-name={}", case.provisioner),
        &format!("--provisioner-name={second}"),
    ]);
    case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    ensure!(
        volume.volume.annotations().get("pv.kubernetes.io/provisioned-by") == Some(&second),
        "the PV does not name its class's provisioner: {:?}",
        volume.volume.annotations()
    );
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// The name is one that a class can have, and that no object can: the lock is called otherwise.
async fn odd_name(case: Arc<Case>) -> Result<()> {
    let odd = format!("{}_1", case.provisioner.to_uppercase());
    let class = case.class("odd").provisioner(&odd).deletes().create().await?;
    let berth = case.start(&case.setup()?.flags([&format!("--provisioner-name={odd}")]))?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    ensure!(
        volume.volume.annotations().get("pv.kubernetes.io/provisioned-by") == Some(&odd),
        "the PV does not name its class's provisioner: {:?}",
        volume.volume.annotations()
    );
    ensure!(berth.metric("berth_leader").await? > 0.0, "it does not lead");
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

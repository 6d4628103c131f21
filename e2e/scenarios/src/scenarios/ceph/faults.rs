//! What goes wrong on a cluster that runs: keys, rights, pools, users of an image, snapshots, clones, no space. Berth says
//! what is wrong, changes nothing, and goes on as soon as it is put right.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use nix::sys::signal::Signal;

use super::{
    bed::{Bed, RBD_SECRET},
    on_bed,
};
use crate::{process::Process, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a wrong key is named, and the right one is used as soon as it is there", wrong_key),
        on_bed("a key without rights is told from a wrong one", no_rights),
        on_bed("a missing Secret is named, and used as soon as it is there", no_secret),
        on_bed("a missing pool is named, and used as soon as it is there", no_pool),
        on_bed("an image that somebody has open stays, and its writer goes on", watched),
        on_bed("an image with a snapshot stays until the snapshot is gone", snapshot),
        on_bed("an image with a clone stays until the clone is gone", clone),
        on_bed("a subvolume with a snapshot stays until the snapshot is gone", subvolume_snapshot),
        on_bed("a full pool costs one claim's time, not berth's", full),
    ]
}

/// The message of an Event, which holds each of `words`.
async fn says(bed: &Bed, kind: &str, name: &str, reason: &str, words: &[&str]) -> Result<String> {
    let what = format!("an Event {reason} on {kind} {name} with {words:?}");
    bed.case
        .until(&what, async || {
            let events = bed.case.events(kind, name).await?;
            let messages: Vec<String> = events
                .into_iter()
                .filter(|event| event.reason.as_deref() == Some(reason))
                .filter_map(|event| event.message)
                .collect();
            let all = |message: &&String| {
                let message = message.to_lowercase();
                words.iter().all(|word| message.contains(&word.to_lowercase()))
            };
            messages.iter().find(all).cloned().with_context(|| format!("there are {messages:?}"))
        })
        .await
}

async fn claim_says(bed: &Bed, claim: &str, words: &[&str]) -> Result<String> {
    says(bed, "PersistentVolumeClaim", claim, "ProvisioningFailed", words).await
}

async fn volume_says(bed: &Bed, volume: &PersistentVolume, words: &[&str]) -> Result<String> {
    says(bed, "PersistentVolume", &volume.name_any(), "VolumeFailedDelete", words).await
}

async fn wrong_key(bed: Arc<Bed>) -> Result<()> {
    // A key that decodes, and is nobody's.
    let wrong = bed.cluster.user(&format!("{}-other", bed.case.id()), &[("mon", "allow r")]).await?;
    let right = bed.cluster.key(&bed.rbd_user()).await?;
    bed.secret(RBD_SECRET, &wrong).await?;
    // At an unusual port Ceph's programs try both protocols, and of the one that is not spoken there they never learn that
    // the key was refused. At the usual ports the protocol is known, and here it is told.
    let monitors = format!("v1:{}", bed.cluster.monitors().v1);
    let class = bed.rbd_class("rbd").parameter("monitors", &monitors).create().await?;
    let berth = bed.berth().await?;
    bed.claim("data", &class).await?;
    let message = claim_says(&bed, "data", &["key"]).await?;
    ensure!(!message.contains(&wrong), "the Event shows the key");
    bed.secret(RBD_SECRET, &right).await?;
    let volume = bed.case.bound_pair("data").await?.1;

    // The same when a volume is to go, by a process that never knew the right one.
    berth.kill().await?;
    bed.secret(RBD_SECRET, &wrong).await?;
    bed.case.delete_claim("data").await?;
    bed.berth().await?;
    volume_says(&bed, &volume, &["key"]).await?;
    bed.image(&volume).await?;
    bed.secret(RBD_SECRET, "this is no key").await?;
    bed.secret(RBD_SECRET, &right).await?;
    bed.case.volume_gone(&volume.name_any()).await
}

async fn no_rights(bed: Arc<Bed>) -> Result<()> {
    let user = format!("client.{}", bed.rbd_user());
    bed.cluster.ceph(&["auth", "caps", &user, "mon", "allow r"]).await?;
    let class = bed.rbd_class("rbd").create().await?;
    let cephfs_user = format!("client.{}", bed.cephfs_user());
    bed.cluster.ceph(&["auth", "caps", &cephfs_user, "mon", "allow r"]).await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    bed.berth().await?;
    bed.claim("image", &class).await?;
    bed.claim("subvolume", &cephfs).await?;
    for claim in ["image", "subvolume"] {
        let message = claim_says(&bed, claim, &["permi"]).await?;
        ensure!(!message.contains("wrong key"), "{message:?}");
    }
    let osd = format!("profile rbd pool={}", bed.pool);
    bed.cluster.ceph(&["auth", "caps", &user, "mon", "profile rbd", "osd", &osd]).await?;
    bed.cluster.ceph(&["auth", "caps", &cephfs_user, "mon", "allow r", "mgr", "allow rw"]).await?;
    let image = bed.case.bound_pair("image").await?.1;
    let subvolume = bed.case.bound_pair("subvolume").await?.1;
    bed.delete("image", &image).await?;
    bed.delete("subvolume", &subvolume).await
}

async fn no_secret(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").parameter("adminSecretName", "later").create().await?;
    bed.berth().await?;
    bed.claim("data", &class).await?;
    claim_says(&bed, "data", &["secret", "later"]).await?;
    let key = bed.cluster.key(&bed.rbd_user()).await?;
    bed.secret("later", &key).await?;
    let volume = bed.case.bound_pair("data").await?.1;
    bed.delete("data", &volume).await
}

async fn no_pool(bed: Arc<Bed>) -> Result<()> {
    let pool = format!("{}-later", bed.pool);
    let user = format!("client.{}", bed.rbd_user());
    bed.cluster.ceph(&["auth", "caps", &user, "mon", "profile rbd", "osd", "profile rbd"]).await?;
    let class = bed.rbd_class("rbd").parameter("pool", &pool).create().await?;
    bed.berth().await?;
    bed.claim("data", &class).await?;
    let message = claim_says(&bed, "data", &["pool", &pool]).await?;
    ensure!(!message.contains("image does not exist"), "{message:?}");
    bed.cluster.pool(&pool).await?;
    let volume = bed.case.bound_pair("data").await?.1;
    bed.delete("data", &volume).await?;
    // A pool that is gone is no proof that the image is.
    let volume = bed.bound("again", &class).await?;
    let hidden = format!("{pool}-hidden");
    bed.cluster.ceph(&["osd", "pool", "rename", &pool, &hidden]).await?;
    bed.case.delete_claim("again").await?;
    volume_says(&bed, &volume, &["pool", &pool]).await?;
    bed.cluster.ceph(&["osd", "pool", "rename", &hidden, &pool]).await?;
    bed.case.volume_gone(&volume.name_any()).await
}

/// Somebody who writes to an image, until it is dropped.
pub(super) fn writer(bed: &Bed, spec: &str) -> Result<Process> {
    let mut command = bed.cluster.command("rbd");
    command.args(["bench", "--io-type", "write", "--io-size", "4096", "--io-threads", "1"]);
    command.args(["--io-total", "100G", spec]);
    Process::spawn("writer", command, &bed.case.scratch().join("writer.log"))
}

/// Waits until the image has that many watchers.
async fn watchers(bed: &Bed, spec: &str, count: usize) -> Result<()> {
    bed.case
        .until(&format!("{spec} to have {count} watchers"), async || {
            let status: serde_json::Value = bed.cluster.rbd_json(&["status", spec]).await?;
            let watchers = status.get("watchers").and_then(|all| all.as_array().map(Vec::len)).unwrap_or(0);
            ensure!(watchers == count, "it has {watchers}");
            Ok(())
        })
        .await
}

/// Proves: rbd 13
async fn watched(bed: Arc<Bed>) -> Result<()> {
    for (name, disposal) in [("deleted", "delete"), ("archived", "archive")] {
        let class = bed.rbd_class(name).parameter("onDelete", disposal).create().await?;
        if name == "deleted" {
            bed.berth().await?;
        }
        let volume = bed.bound(name, &class).await?;
        let spec = bed.image_spec(&volume)?;
        let writer = writer(&bed, &spec)?;
        watchers(&bed, &spec, 1).await?;
        bed.case.delete_claim(name).await?;
        // The address of whoever has it open.
        volume_says(&bed, &volume, &["127.0.0.1"]).await?;
        writer.check_alive().context("the removal disturbed the writer")?;
        bed.image(&volume).await?;
        ensure!(bed.images().await?.trash.is_empty(), "in the trash: {:?}", bed.images().await?);
        let written = writer.log();
        bed.case
            .until("the writer to write on", async || {
                writer.check_alive()?;
                ensure!(writer.log().len() > written.len(), "it has written nothing");
                Ok(())
            })
            .await?;
        // As a node that unmaps the image: it takes its watch back.
        writer.signal(Signal::SIGINT)?;
        writer.wait(crate::case::PATIENCE).await?;
        bed.case.volume_gone(&volume.name_any()).await?;
        if disposal == "archive" {
            bed.expect_trash(spec.split('/').next_back().unwrap_or_default());
        }
        bed.agrees().await?;
    }
    Ok(())
}

async fn snapshot(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let spec = bed.image_spec(&volume)?;
    let snapshot = format!("{spec}@before");
    bed.cluster.rbd(&["snap", "create", "--no-progress", &snapshot]).await?;
    bed.case.delete_claim("data").await?;
    volume_says(&bed, &volume, &["snapshot"]).await?;
    let status: serde_json::Value = bed.cluster.rbd_json(&["snap", "ls", &spec]).await?;
    ensure!(status.as_array().is_some_and(|all| all.len() == 1), "{status}");
    bed.cluster.rbd(&["snap", "rm", "--no-progress", &snapshot]).await?;
    bed.case.volume_gone(&volume.name_any()).await
}

async fn clone(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").parameter("imageFeatures", "layering").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let spec = bed.image_spec(&volume)?;
    let (snapshot, child) = (format!("{spec}@base"), format!("{}/child", bed.pool));
    bed.cluster.rbd(&["snap", "create", "--no-progress", &snapshot]).await?;
    bed.cluster.rbd(&["snap", "protect", &snapshot]).await?;
    bed.cluster.rbd(&["clone", &snapshot, &child]).await?;
    bed.case.delete_claim("data").await?;
    volume_says(&bed, &volume, &["snapshot"]).await?;
    bed.cluster.rbd(&["info", &child]).await?;
    bed.cluster.rbd(&["rm", "--no-progress", &child]).await?;
    bed.cluster.rbd(&["snap", "unprotect", &snapshot]).await?;
    bed.cluster.rbd(&["snap", "rm", "--no-progress", &snapshot]).await?;
    bed.case.volume_gone(&volume.name_any()).await
}

async fn subvolume_snapshot(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let name = Bed::subvolume_name(&volume)?;
    let snapshot = |verb: &'static str| {
        let (bed, name) = (Arc::clone(&bed), name.clone());
        async move {
            let args = ["fs", "subvolume", "snapshot", verb, crate::ceph::FILE_SYSTEM, &name, "before"];
            bed.cluster.ceph(&[&args[..], &["--group_name", &bed.group]].concat()).await
        }
    };
    snapshot("create").await?;
    bed.case.delete_claim("data").await?;
    volume_says(&bed, &volume, &["snapshot"]).await?;
    bed.subvolume(&volume).await?;
    snapshot("rm").await?;
    bed.case.volume_gone(&volume.name_any()).await
}

async fn full(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    let volume = {
        bed.berth().await?;
        bed.bound("before", &class).await?
    };
    bed.cluster.ceph(&["osd", "pool", "set-quota", &bed.pool, "max_objects", "1"]).await?;
    bed.case
        .until("the pool to be full", async || {
            let health = bed.cluster.ceph(&["health", "detail"]).await?;
            ensure!(health.contains(&format!("'{}' is full", bed.pool)), "{health}");
            Ok(())
        })
        .await?;
    bed.claim("image", &class).await?;
    // What waits for the full pool holds up nothing else.
    let subvolume = bed.bound("subvolume", &cephfs).await?;
    claim_says(&bed, "image", &[]).await?;
    ensure!(bed.images().await?.live.len() <= 2, "{:?}", bed.images().await?);
    bed.cluster.ceph(&["osd", "pool", "set-quota", &bed.pool, "max_objects", "0"]).await?;
    let late = bed.case.bound_pair("image").await?.1;
    bed.delete("image", &late).await?;
    bed.delete("subvolume", &subvolume).await?;
    bed.delete("before", &volume).await
}

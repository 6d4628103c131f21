//! What goes wrong on a cluster that runs: keys, rights, pools, users of an image, snapshots, clones, no space. Berth says
//! what is wrong, changes nothing, and goes on as soon as it is put right.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use nix::sys::signal::Signal;

use super::{
    bed::{Bed, RBD_SECRET},
    on_bed,
};
use crate::{
    ceph::{Cluster, FILE_SYSTEM, steps::Steps},
    process::Process,
    suite::Scenario,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a wrong key is named, and the right one is used as soon as it is there", wrong_key),
        on_bed("a key without rights is told from a wrong one", no_rights),
        on_bed("a missing Secret is named, and used as soon as it is there", no_secret),
        on_bed("users with the documented rights can do what berth does, and nothing elsewhere", confined),
        on_bed(
            "classes whose monitors are dead cost nearly nothing, and are forgotten when they are gone",
            dead,
        ),
        on_bed("one class with a wrong key makes no cluster unready", one_wrong),
        on_bed("a missing pool is named, and used as soon as it is there", no_pool),
        on_bed("an image that a client has open stays, and its writer goes on", watched),
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
    // At an unusual port, with no protocol written, Ceph's programs try both, and say that no monitor answered.
    let class = bed.rbd_class("rbd").create().await?;
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
    let mgr = Cluster::documented_caps(&["cephfs", FILE_SYSTEM, &bed.group]).await?;
    bed.cluster.ceph(&["auth", "caps", &cephfs_user, "mon", "allow r", "mgr", &mgr]).await?;
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

/// What the documented users may not do, beside what every scenario shows that they may.
async fn confined(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").expandable().create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    bed.delete("data", &volume).await?;
    let (theirs, other) = (format!("{}-theirs", bed.group), format!("{}-other", bed.pool));
    bed.cluster.ceph(&["fs", "subvolumegroup", "create", FILE_SYSTEM, &theirs]).await?;
    bed.cluster.ceph(&["fs", "subvolume", "create", FILE_SYSTEM, "victim", "--group_name", &theirs]).await?;
    bed.cluster.pool(&other).await?;
    bed.cluster.rbd(&["create", "--size", "4M", &format!("{other}/victim")]).await?;
    let (fs_user, rbd_user) = (bed.cephfs_user(), bed.rbd_user());
    let as_user = |user: &str| format!("--id={user}");
    let in_theirs = ["--group_name", theirs.as_str()];
    for words in [
        &["fs", "subvolume", "authorize", FILE_SYSTEM, "victim", &fs_user][..],
        &["fs", "subvolume", "authorize", FILE_SYSTEM, "victim", "anybody"],
        &["fs", "subvolume", "info", FILE_SYSTEM, "victim"],
        &["fs", "subvolume", "getpath", FILE_SYSTEM, "victim"],
        &["fs", "subvolume", "metadata", "ls", FILE_SYSTEM, "victim"],
        &["fs", "subvolume", "ls", FILE_SYSTEM],
        &["fs", "subvolume", "rm", FILE_SYSTEM, "victim"],
        &["fs", "subvolume", "create", FILE_SYSTEM, "mine"],
    ] {
        refused(&bed, "ceph", &fs_user, &[words, &in_theirs].concat()).await?;
    }
    for words in [
        &["fs", "subvolumegroup", "create", FILE_SYSTEM, "another"][..],
        &["fs", "subvolumegroup", "rm", FILE_SYSTEM, &bed.group],
        &["fs", "volume", "ls"],
        &["auth", "get", "client.admin"],
        &["auth", "caps", &as_user(&fs_user).replace("--id=", "client."), "mgr", "allow *"],
    ] {
        refused(&bed, "ceph", &fs_user, words).await?;
    }
    for words in [&["info", "victim"][..], &["ls"], &["rm", "victim"], &["export", "victim", "-"]] {
        for user in [&rbd_user, &fs_user] {
            refused(&bed, "rbd", user, &[&["--pool", &other], words].concat()).await?;
        }
    }
    for user in [&rbd_user, &fs_user] {
        refused(&bed, "rados", user, &["--pool", "cephfs.data", "ls"]).await?;
        refused(&bed, "rados", user, &["--pool", &other, "ls"]).await?;
    }
    bed.cluster.rbd(&["rm", "--no-progress", &format!("{other}/victim")]).await?;
    bed.cluster.ceph(&["fs", "subvolume", "rm", FILE_SYSTEM, "victim", "--group_name", &theirs]).await?;
    bed.cluster.ceph(&["fs", "subvolumegroup", "rm", FILE_SYSTEM, &theirs]).await.map(drop)
}

/// That the cluster does not let `user` do this.
async fn refused(bed: &Bed, program: &str, user: &str, words: &[&str]) -> Result<()> {
    let key = bed.case.scratch().join("key-of-user");
    std::fs::write(&key, bed.cluster.key(user).await?).context("write a key")?;
    let mut command = bed.cluster.command(program);
    command.args(["--id", user, "--keyfile"]).arg(&key).args(["--keyring", "/dev/null"]).args(words);
    let answer = crate::ceph::answer(&mut command, Duration::from_mins(1)).await?;
    std::fs::remove_file(&key).context("remove a key")?;
    let said = format!("{}{}", answer.stdout, answer.stderr).to_lowercase();
    ensure!(answer.code != Some(0), "{user} may {program} {words:?}: {said}");
    ensure!(
        ["denied", "not permitted"].iter().any(|word| said.contains(word)),
        "{program} {words:?} as {user} failed otherwise: {said}"
    );
    Ok(())
}

/// Classes of clusters that are not there.
async fn dead(bed: Arc<Bed>) -> Result<()> {
    const CLASSES: usize = 8;
    let steps = Steps::new(&bed.case.scratch().join("steps"))?;
    let good = bed.rbd_class("good").create().await?;
    let mut dead = Vec::new();
    for number in 0..CLASSES {
        // Nobody listens below 20.
        let monitors = format!("127.0.0.1:{}", number + 1);
        let builder = if number % 2 == 0 {
            bed.rbd_class(&format!("dead-{number}"))
        } else {
            bed.cephfs_class(&format!("dead-{number}"))
        };
        dead.push(builder.parameter("monitors", &monitors).create().await?);
    }
    let berth = bed.case.start(&bed.setup_through(&steps)?.alone())?;
    let volume = bed.bound("data", &good).await?;
    for class in &dead {
        bed.claim(&format!("never-{class}"), class).await?;
    }
    let claims: Vec<String> = dead.iter().map(|class| format!("never-{class}")).collect();
    for claim in &claims {
        claim_says(&bed, claim, &["no monitor", "connection refused"]).await?;
    }
    let unready = || async {
        let (_, text) = berth.get("/readyz").await?;
        let stores = text.lines().filter(|line| line.contains("mon-")).count();
        ensure!(stores >= CLASSES / 2, "/readyz tells of {stores} clusters: {text}");
        Ok(())
    };
    bed.case.until("each dead cluster to be told", unready).await?;
    steps.forget()?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let started = steps.calls()?;
    let at_dead = started.iter().filter(|step| !step.line.contains(&bed.cluster.monitors().v1)).count();
    // One on its way when it was counted from, of each at most.
    ensure!(at_dead <= CLASSES, "in 20 seconds {at_dead} programs were started for nothing: {started:?}");
    bed.delete("data", &volume).await?;
    for claim in &claims {
        bed.case.delete_claim(claim).await?;
    }
    for class in &dead {
        bed.case.delete_class(class).await?;
    }
    bed.case
        .until("the dead clusters to be forgotten", async || {
            let (_, ready) = berth.get("/readyz?verbose").await?;
            let (_, metrics) = berth.get("/metrics").await?;
            let described: std::collections::BTreeSet<&str> =
                metrics.split("store=\"mon-").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            ensure!(described.len() <= 1, "metrics tell of {described:?}");
            ensure!(!ready.contains("[!]store"), "{ready}");
            Ok(())
        })
        .await
}

async fn one_wrong(bed: Arc<Bed>) -> Result<()> {
    let wrong = bed.cluster.user(&format!("{}-other", bed.case.id()), &[("mon", "allow r")]).await?;
    bed.secret("wrong", &wrong).await?;
    bed.rbd_class("wrong").parameter("adminSecretName", "wrong").create().await?;
    bed.rbd_class("absent").parameter("adminSecretName", "absent").create().await?;
    let berth = bed.berth().await?;
    let told = |words: &'static [&'static str], ready: u16| {
        let berth = &berth;
        async move || {
            let (code, text) = berth.get("/readyz").await?;
            ensure!(code == ready && words.iter().all(|word| text.contains(word)), "{code}: {text}");
            Ok(())
        }
    };
    let both = &["refused user or key", "Secret berth/absent does not exist"];
    bed.case.until("none of the users to serve", told(&["[-]store rbd/"], 503)).await?;
    ensure!(berth.log().contains("a user of the cluster cannot be used"), "the log does not tell of it");
    let good = bed.rbd_class("good").create().await?;
    bed.case.until("the good class to serve, and the others to be told", told(both, 200)).await?;
    let volume = bed.bound("data", &good).await?;
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

//! Keys are seen by nobody: not in the arguments or the environment of a program, not in the log, in Events, in PVs, in
//! claims, nor in the metrics; and nothing of them is left on the disk.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim};
use kube::{Api, api::ListParams};

use super::{bed::Bed, cephfs::tenant, on_bed};
use crate::{ceph::steps::Steps, exposure::Lookout, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![on_bed(
        "no key is in an argument, an environment, the log, an Event, a PV or a file left behind",
        hidden,
    )]
}

/// Proves: case 57
async fn hidden(bed: Arc<Bed>) -> Result<()> {
    let steps = Steps::new(&bed.case.scratch().join("steps"))?;
    let mut keys = vec![bed.cluster.key(&bed.rbd_user()).await?, bed.cluster.key(&bed.cephfs_user()).await?];
    let lookout = Lookout::start(keys.clone())?;
    let rbd = bed.rbd_class("rbd").expandable().create().await?;
    let cephfs = bed.cephfs_class("cephfs").expandable().parameter("pvSource", "in-tree").create().await?;
    let broken = bed.rbd_class("broken").parameter("pool", "nosuch").create().await?;
    // Everything that it can say.
    let setup = bed.setup_through(&steps)?.alone().logs("trace");
    let berth = bed.case.start(&setup)?;
    let image = bed.bound("image", &rbd).await?;
    let subvolume = bed.bound("subvolume", &cephfs).await?;
    keys.push(tenant(&bed, &subvolume).await?.1);
    for claim in ["image", "subvolume"] {
        bed.case.patch_claim(claim, &super::rbd::request("16Mi")).await?;
    }
    for volume in [&image, &subvolume] {
        let name = volume.metadata.name.clone().unwrap_or_default();
        super::rbd::volume_has_grown(&bed.case, &name, "16Mi").await?;
    }
    // Failures of all kinds quote what programs said.
    bed.claim("broken", &broken).await?;
    bed.case.event("PersistentVolumeClaim", "broken", "ProvisioningFailed").await?;
    bed.case.delete_claim("broken").await?;
    bed.secret("swapped-rbd", keys.get(1).context("no key of CephFS")?).await?;
    bed.secret("swapped-cephfs", keys.first().context("no key of RBD")?).await?;
    for (name, class) in [
        ("swapped-rbd", bed.rbd_class("swapped-rbd")),
        ("swapped-cephfs", bed.cephfs_class("swapped-cephfs")),
    ] {
        let class = class.parameter("adminSecretName", name).create().await?;
        bed.claim(name, &class).await?;
        bed.case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        bed.case.delete_claim(name).await?;
    }

    let shown = all_objects(&bed).await?;
    bed.delete("image", &image).await?;
    bed.delete("subvolume", &subvolume).await?;
    // What it purges, it says.
    bed.agrees().await?;
    let (_, metrics) = berth.get("/metrics").await?;
    let places = [
        ("the log", berth.log()),
        ("an Event, a PV or a claim", shown),
        ("an Event, a PV or a claim at the end", all_objects(&bed).await?),
        ("the metrics", metrics),
        ("the arguments or the environment of a program", steps.record()?),
    ];
    for (place, text) in &places {
        ensure!(!text.is_empty(), "{place}: nothing to look at");
        for (number, key) in keys.iter().enumerate() {
            ensure!(!text.contains(key.as_str()), "{place} shows key {number}");
            // Nor as a Secret holds it.
            let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key);
            ensure!(!text.contains(&encoded), "{place} shows key {number} in base64");
        }
    }
    ensure!(lookout.looks() > 10, "processes were looked at {} times", lookout.looks());
    let found = lookout.found()?;
    ensure!(found.is_empty(), "a key is in the {found:?}");
    ensure!(steps.record()?.contains("keyfile"), "the programs were not given a key file");

    berth.terminate().await?;
    let left = key_files(&["/tmp", "/dev/shm", "/run", "/var/tmp"], &keys, bed.cluster.dir());
    ensure!(left.is_empty(), "files with a key are left: {left:?}");
    Ok(())
}

/// All Events, PVs and claims, as the API server shows them.
async fn all_objects(bed: &Bed) -> Result<String> {
    let case = &bed.case;
    let all = ListParams::default();
    let events: Api<Event> = case.global();
    let volumes: Api<PersistentVolume> = case.global();
    let claims: Api<PersistentVolumeClaim> = case.global();
    let texts = [
        serde_json::to_string(&events.list(&all).await.context("list Events")?)?,
        serde_json::to_string(&volumes.list(&all).await.context("list PVs")?)?,
        serde_json::to_string(&claims.list(&all).await.context("list claims")?)?,
    ];
    Ok(texts.concat())
}

/// Small files that hold one of `keys`, but for what the cluster itself has.
fn key_files(roots: &[&str], keys: &[String], cluster: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    while let Some(dir) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && path != cluster {
                left.push(path);
            } else if kind.is_file()
                && entry.metadata().is_ok_and(|metadata| metadata.len() < 64 * 1024)
                && let Ok(bytes) = std::fs::read(&path)
            {
                let text = String::from_utf8_lossy(&bytes);
                if keys.iter().any(|key| text.contains(key.as_str())) {
                    found.insert(path);
                }
            }
        }
    }
    found
}

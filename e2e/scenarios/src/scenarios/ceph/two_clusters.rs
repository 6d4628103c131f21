//! Two Kubernetes clusters on one file system and one subvolume group, each with a berth of its own: neither loses anything by the
//! other. Namespaces, claims and classes of both have the same names, which is the worst case. For images see `rbd_removal`.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    bed::Bed,
    on_bed,
    rbd::uid,
    rbd_removal::{copy_of, refused},
};
use crate::{ceph::FILE_SYSTEM, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![on_bed(
        "of two clusters in one subvolume group neither takes nor removes the other's subvolumes",
        one_group,
    )]
}

/// A class whose subvolumes are called after their claims.
async fn class(bed: &Bed) -> Result<String> {
    bed.cephfs_class("cephfs").parameter("deterministicNames", "true").create().await
}

/// What Ceph says of these volumes and users, to be compared: path, quota, times, marks, keys and capabilities.
async fn shown(bed: &Bed, volumes: &[&PersistentVolume], users: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut shown = Vec::new();
    for volume in volumes {
        let which = [FILE_SYSTEM, &Bed::subvolume_name(volume)?, "--group_name", &bed.group];
        for question in [&["info"][..], &["metadata", "ls"]] {
            shown.push(bed.cluster.ceph(&[&["fs", "subvolume"], question, &which].concat()).await?);
        }
    }
    for user in users {
        shown.push(bed.cluster.ceph(&["auth", "get", user]).await?);
    }
    Ok(shown)
}

/// Makes and deletes a volume, and waits until it is purged: this cluster's purge and sweep have seen the group by then.
async fn come_and_gone(bed: &Bed, claim: &str, class: &str) -> Result<()> {
    let volume = bed.bound(claim, class).await?;
    bed.delete(claim, &volume).await?;
    subvolume_gone(bed, &volume).await
}

async fn subvolume_gone(bed: &Bed, volume: &PersistentVolume) -> Result<()> {
    let name = Bed::subvolume_name(volume)?;
    bed.case
        .until(&format!("the subvolume {name} to be gone"), async || {
            let there = bed.subvolumes().await?;
            ensure!(!there.contains(&name), "{there:?}");
            Ok(())
        })
        .await
}

/// A copy of another cluster's PV, bound to a claim of this cluster, as an administrator does after a restore.
async fn bound_copy(bed: &Bed, volume: &PersistentVolume, class: &str, claim: &str) -> Result<()> {
    let mut object = copy_of(volume)?;
    let spec = object.get_mut("spec").and_then(Value::as_object_mut).context("no spec")?;
    spec.remove("claimRef");
    bed.case.create_global::<PersistentVolume>(&object).await?;
    let made = bed
        .case
        .claim(claim)
        .class(class)
        .size("8Mi")
        .set(&["spec", "accessModes"], json!(["ReadWriteOnce"]));
    made.set(&["spec", "volumeName"], json!(volume.name_any())).create().await?;
    bed.case.bound_pair(claim).await.map(drop)
}

async fn one_group(bed: Arc<Bed>) -> Result<()> {
    let other = Bed::new(Arc::new(bed.case.neighbour().await?)).await?;
    bed.case.start(&bed.setup()?.alone().sweeps_soon())?.answers("/livez").await?;
    other.case.start(&other.setup()?.alone().sweeps_soon())?.answers("/livez").await?;
    let (ours, theirs) = (class(&bed).await?, class(&other).await?);
    let (data, restored) = (bed.bound("data", &ours).await?, bed.bound("restored", &ours).await?);
    let users = bed.users().await?;
    ensure!(users.len() == 2, "{users:?}");
    let volumes = [&data, &restored];
    let before = shown(&bed, &volumes, &users).await?;
    let untouched = async |when: &str| {
        let now = shown(&bed, &volumes, &users).await.with_context(|| format!("look {when}"))?;
        ensure!(now == before, "{when} there is {now:#?}, and there was {before:#?}");
        Ok(())
    };

    // The name is taken. Of another size, which Ceph's `create` would give to the subvolume that is there.
    other.claim_of("data", &theirs, "24Mi").await?;
    let why = other.case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    let id = bed.case.cluster_id().await?;
    let claim = uid(&bed.case.get_claim("data").await?);
    for named in [&format!("{}/data", bed.case.namespace), &claim, &id] {
        ensure!(why.contains(named), "the Event does not name {named}: {why}");
    }
    untouched("after a claim of the same name was refused").await?;

    // Copies of PVs: one is Released from the beginning, the other one is bound and then released.
    other.case.create_global::<PersistentVolume>(&copy_of(&data)?).await?;
    bound_copy(&other, &restored, &theirs, "restored").await?;
    other.case.delete_claim("restored").await?;
    for volume in volumes {
        let name = volume.name_any();
        let command = format!("kubectl annotate --overwrite pv {name} berth.storage/take-over={id}");
        refused(&other, volume, &command).await?;
        other.case.volume_phase(&name, "Released").await?;
    }
    // The other cluster purges and sweeps, too.
    come_and_gone(&other, "own", &theirs).await?;
    untouched("after the removal of copies was refused").await?;

    // Each goes with its own PV.
    bed.delete("restored", &restored).await?;
    bed.delete("data", &data).await?;
    for volume in volumes {
        subvolume_gone(&bed, volume).await?;
    }
    // The name is free. What the copies name is gone, or has passed to the other cluster's claim and is not removed with them.
    let later = other.case.bound_pair("data").await?.1;
    for volume in volumes {
        other.case.volume_gone(&volume.name_any()).await?;
    }
    other.subvolume(&later).await.context("it went with the copy of another PV")?;
    come_and_gone(&bed, "own", &ours).await?;
    other.subvolume(&later).await.context("the first cluster removed it")?;
    other.delete("data", &later).await?;
    subvolume_gone(&other, &later).await
}

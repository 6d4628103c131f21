//! Daemons that stop while berth works. These have the cluster to themselves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;

use super::{bed::Bed, on_bed};
use crate::{berth::Berth, ceph::Daemon, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    [
        on_bed("a monitor that is gone costs seconds, and is said", monitor_gone),
        on_bed("a monitor that hangs costs seconds, and is said", monitor_hangs),
        on_bed(
            "an OSD that hangs leaves no crowd of programs behind, and all is made when it wakes",
            osd_hangs,
        ),
        on_bed("without a manager images are made, and subvolumes as soon as it is back", manager_gone),
        on_bed("a cluster that is restarted meanwhile has everything once", restarted),
    ]
    .map(Scenario::alone)
    .into()
}

/// What runs on behalf of a berth process: everything beneath it.
fn children(berth: &Berth) -> usize {
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let Ok(all) = std::fs::read_dir("/proc") else { return 0 };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| {
        let mut at = pid;
        while let Some(above) = parent(at).filter(|&above| above > 1) {
            if above == berth.pid() {
                return true;
            }
            at = above;
        }
        false
    })
    .count()
}

/// Short limits, so that a hang shows in a test's time.
async fn impatient(bed: &Bed) -> Result<Berth> {
    let setup = bed.setup_with_limits()?.alone();
    let berth = bed.case.start(&setup)?;
    berth.answers("/livez").await?;
    Ok(berth)
}

/// Waits until the claim's Event says that the cluster does not answer.
async fn unreachable(bed: &Bed, claim: &str) -> Result<String> {
    bed.case.event("PersistentVolumeClaim", claim, "ProvisioningFailed").await
}

async fn monitor_gone(bed: Arc<Bed>) -> Result<()> {
    monitor(&bed, async |bed| bed.cluster.kill(Daemon::Mon).await).await
}

async fn monitor_hangs(bed: Arc<Bed>) -> Result<()> {
    monitor(&bed, async |bed| bed.cluster.freeze(Daemon::Mon)).await
}

async fn monitor(bed: &Bed, stop: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let rbd = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    let berth = impatient(bed).await?;
    let old = bed.bound("old", &rbd).await?;
    stop(bed).await?;
    bed.claim("image", &rbd).await?;
    bed.claim("subvolume", &cephfs).await?;
    bed.case.delete_claim("old").await?;
    for claim in ["image", "subvolume"] {
        let message = unreachable(bed, claim).await?;
        ensure!(message.contains("127.0.0.1"), "the Event names no monitor: {message:?}");
    }
    // The others wait for Ceph, not for berth.
    berth.answers("/livez").await?;
    let (_, metrics) = berth.get("/metrics").await?;
    ensure!(!metrics.is_empty(), "no metrics");
    ensure!(bed.case.get_volume(&old.name_any()).await?.is_some(), "a PV went without its image");
    bed.cluster.recover().await?;
    let image = bed.case.bound_pair("image").await?.1;
    let subvolume = bed.case.bound_pair("subvolume").await?.1;
    bed.case.volume_gone(&old.name_any()).await?;
    bed.delete("image", &image).await?;
    bed.delete("subvolume", &subvolume).await
}

async fn osd_hangs(bed: Arc<Bed>) -> Result<()> {
    const CLAIMS: usize = 12;
    let class = bed.rbd_class("rbd").create().await?;
    let berth = impatient(&bed).await?;
    let old = bed.bound("old", &class).await?;
    bed.cluster.freeze(Daemon::Osd)?;
    for number in 0..CLAIMS {
        bed.claim(&format!("data-{number}"), &class).await?;
    }
    bed.case.delete_claim("old").await?;
    for number in 0..CLAIMS {
        unreachable(&bed, &format!("data-{number}")).await?;
        let running = children(&berth);
        ensure!(running <= 20, "{running} programs run for {CLAIMS} claims");
    }
    berth.answers("/livez").await?;
    ensure!(bed.case.get_volume(&old.name_any()).await?.is_some(), "a PV went without its image");
    bed.cluster.recover().await?;
    let mut volumes = Vec::new();
    for number in 0..CLAIMS {
        volumes.push(bed.case.bound_pair(&format!("data-{number}")).await?.1);
    }
    bed.case.volume_gone(&old.name_any()).await?;
    bed.agrees().await?;
    for (number, volume) in volumes.iter().enumerate() {
        bed.case.delete_claim(&format!("data-{number}")).await?;
        bed.image(volume).await.ok();
    }
    for volume in &volumes {
        bed.case.volume_gone(&volume.name_any()).await?;
    }
    Ok(())
}

async fn manager_gone(bed: Arc<Bed>) -> Result<()> {
    let rbd = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    impatient(&bed).await?;
    let old = bed.bound("old", &cephfs).await?;
    bed.cluster.kill(Daemon::Mgr).await?;
    bed.claim("subvolume", &cephfs).await?;
    bed.case.delete_claim("old").await?;
    let image = bed.bound("image", &rbd).await?;
    unreachable(&bed, "subvolume").await?;
    bed.cluster.recover().await?;
    let subvolume = bed.case.bound_pair("subvolume").await?.1;
    bed.case.volume_gone(&old.name_any()).await?;
    bed.delete("image", &image).await?;
    bed.delete("subvolume", &subvolume).await
}

async fn restarted(bed: Arc<Bed>) -> Result<()> {
    const CLAIMS: usize = 8;
    let rbd = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    impatient(&bed).await?;
    let kept = bed.bound("kept", &rbd).await?;
    let making = async {
        for number in 0..CLAIMS {
            bed.claim(&format!("image-{number}"), &rbd).await?;
            bed.claim(&format!("subvolume-{number}"), &cephfs).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    let restarting = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for daemon in Daemon::ALL {
            bed.cluster.kill(daemon).await.with_context(|| format!("kill the {daemon}"))?;
        }
        bed.cluster.recover().await
    };
    futures::try_join!(making, restarting)?;
    let mut volumes = Vec::new();
    for kind in ["image", "subvolume"] {
        for number in 0..CLAIMS {
            let name = format!("{kind}-{number}");
            volumes.push((bed.case.bound_pair(&name).await?.1, name));
        }
    }
    bed.image(&kept).await?;
    bed.agrees().await?;
    // And once more while they go.
    for (_, name) in &volumes {
        bed.case.delete_claim(name).await?;
    }
    for daemon in Daemon::ALL {
        bed.cluster.kill(daemon).await.with_context(|| format!("kill the {daemon}"))?;
    }
    bed.cluster.recover().await?;
    for (volume, _) in &volumes {
        bed.case.volume_gone(&volume.name_any()).await?;
    }
    bed.delete("kept", &kept).await
}

//! Moves that the file server carries out late: when another leader works, when the volume is to stay after all.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;

use super::rescue::{policy, unguarded};
use crate::{
    berth::Setup,
    case::{Case, Volume},
    control_plane::User,
    held::Held,
    proxy::Effect,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a move that hangs until the next claim has the place loses none of its data", taken_again),
        scenario(
            "a volume that is rescued while its move hangs keeps its finalizer and gets its data back",
            rescued,
        ),
    ]
}

/// A lock that another replica has soon.
const SOON: [&str; 3] = ["--lease-duration=4s", "--lease-renew-deadline=3s", "--lease-retry-period=1s"];

/// At the top of the export: a parent that is made again is another one, which the call that hangs does not reach.
const PATTERN: &str = "${.PVC.name}";

fn held_by(setup: Setup, held: &Held) -> Setup {
    held.environment().into_iter().fold(setup, |setup, (name, value)| setup.env(name, value))
}

/// The volume of the claim `data`, with a file.
async fn filled(case: &Case, class: &str, text: &str) -> Result<Volume> {
    case.claim("data").class(class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", text)?;
    Ok(volume)
}

fn holds(volume: &Volume, expected: &str) -> bool {
    std::fs::read_to_string(volume.directory.join("kept")).is_ok_and(|text| text == expected)
}

/// Lets the claim go, and waits until the move of its volume hangs.
async fn hanging(case: &Case, held: &Held) -> Result<()> {
    held.hold("data")?;
    case.delete_claim("data").await?;
    case.until("the move to hang", async || held.reached()).await
}

async fn taken_again(case: Arc<Case>) -> Result<()> {
    let held = Held::build(case.scratch()).await?;
    let class = case.class("nfs").deletes().parameter("pathPattern", PATTERN).create().await?;
    let plain = case.class("plain").deletes().create().await?;
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?)).flags(SOON);
    let first = case.start(&held_by(setup, &held))?;
    let volume = filled(&case, &class, "of the first").await?;
    hanging(&case, &held).await?;

    // It loses the lock; another one removes the volume, and gives the place to the next claim.
    proxy.on(|call| call.resource == "leases", usize::MAX, Effect::LoseRequest);
    let second = case.start(&case.setup()?.flags(SOON))?;
    case.volume_gone(&volume.name).await?;
    let next = filled(&case, &class, "of the second").await?;
    ensure!(next.directory == volume.directory, "it lies elsewhere: {}", next.directory.display());

    held.release()?;
    // The first sees by the inode that it took another directory. The file system may have given the next volume the inode of
    // the one that was purged: then the second sees it by its records.
    case.until_so("the move to be carried out", || {
        first.log().contains("moved the wrong directory")
            || second.log().contains("had moved another volume's directory to the trash")
    })
    .await?;
    // What is removed next lets the trash be looked at.
    case.barrier(&plain).await?;
    case.until_so("the data to be back", || holds(&next, "of the second")).await?;
    case.barrier(&plain).await?;
    ensure!(holds(&next, "of the second"), "the data is lost: {:?}", case.tree()?);
    case.delete_claim("data").await?;
    case.volume_gone(&next.name).await
}

async fn rescued(case: Arc<Case>) -> Result<()> {
    let held = Held::build(case.scratch()).await?;
    let class = case.class("nfs").deletes().parameter("pathPattern", PATTERN).create().await?;
    let plain = case.class("plain").deletes().create().await?;
    case.start(&held_by(case.setup()?, &held))?;
    let volume = filled(&case, &class, "precious").await?;
    hanging(&case, &held).await?;
    case.patch_volume(&volume.name, &policy("Retain")).await?;
    // All that it can do meanwhile is done.
    for _ in 0..2 {
        case.barrier(&plain).await?;
    }
    let live = case.get_volume(&volume.name).await?.context("the PV is gone")?;
    let ours = |finalizer: &String| finalizer.starts_with("external-provisioner");
    ensure!(live.finalizers().iter().any(ours), "nothing guards the volume: {:?}", live.finalizers());

    held.release()?;
    case.event("PersistentVolume", &volume.name, "VolumeRestored").await?;
    unguarded(&case, &volume).await?;
    case.barrier(&plain).await?;
    ensure!(holds(&volume, "precious"), "the data is lost: {:?}", case.tree()?);
    Ok(())
}

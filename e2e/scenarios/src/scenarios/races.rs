//! Crashes and deletions at the moments that hurt: between directory and PV, between PV and
//! answer, between release and removal. The proxy stops a request there, so that each is hit
//! exactly.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    berth::{Berth, Setup},
    case::Case,
    control_plane::User,
    proxy::{Call, Effect, Gate, Proxy},
    storm::Storm,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a claim deleted before its PV is stored leaves nothing", deleted_while_provisioning),
        scenario("a crash between directory and PV makes no second directory", crash_before_store),
        scenario("a crash after the PV was stored makes no second PV", crash_after_store),
        scenario("a directory whose claim went while berth was dead is swept", orphan),
        scenario("a crash between archive and PV makes one archive", crash_after_archive),
        scenario("a crash before the PV's deletion is seen is worked off", crash_in_delete),
        scenario("a finalizer that arrives during the removal does not keep the PV", late_finalizer),
        scenario("a storm of kills ends with storage and API in agreement", storm),
    ]
}

/// Berth behind a proxy, with the sweep of unused directories at a pace for tests.
async fn proxied(case: &Case) -> Result<(Proxy, Setup)> {
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?)).alone().sweeps_soon();
    Ok((proxy, setup))
}

fn stores_volume(call: &Call) -> bool {
    call.verb == "create" && call.resource == "persistentvolumes"
}

/// One claim `data`, with berth stopped at the request that `effect` makes of the PV's creation.
async fn stopped_at_store(
    case: &Case,
    class: &str,
    effect: impl Fn(Gate) -> Effect,
) -> Result<(Proxy, Setup, Berth, Gate)> {
    let (proxy, setup) = proxied(case).await?;
    let gate = Gate::default();
    proxy.on(stores_volume, 1, effect(gate.clone()));
    let berth = case.start(&setup)?;
    case.claim("data").class(class).create().await?;
    gate.reached(1).await?;
    Ok((proxy, setup, berth, gate))
}

/// Nothing is left on the storage but berth's own empty folders.
async fn nothing_left(case: &Case) -> Result<()> {
    case.until("the export to be empty", async || {
        let root = case.root()?;
        ensure!(root.is_empty(), "it holds {root:?}");
        for folder in ["volumes", "trash"] {
            let own = case.own(folder)?;
            ensure!(own.is_empty(), ".berth/{folder} holds {own:?}");
        }
        let volumes = case.volumes().await?;
        ensure!(volumes.is_empty(), "{} PVs", volumes.len());
        Ok(())
    })
    .await
}

/// Proves: case 16
async fn deleted_while_provisioning(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (_proxy, _, _, gate) = stopped_at_store(&case, &class, Effect::HoldRequest).await?;
    case.delete_claim("data").await?;
    case.claim_gone("data").await?;
    gate.open();
    nothing_left(&case).await
}

/// Proves: case 7
async fn crash_before_store(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, setup, berth, _) = stopped_at_store(&case, &class, Effect::HoldRequest).await?;
    berth.kill().await?;
    proxy.heal();
    ensure!(case.root()?.len() == 1, "made beforehand: {:?}", case.root()?);
    case.start(&setup)?;
    let volume = case.bound("data").await?;
    ensure!(case.root()?.len() == 1, "made twice: {:?}", case.root()?);
    volume.write("kept", "")?;
    // The sweep must not take what is in use.
    case.barrier(&class).await?;
    ensure!(volume.directory.join("kept").exists(), "a volume in use was swept");
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    nothing_left(&case).await
}

/// Proves: case 7, case 21
async fn crash_after_store(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, setup, berth, _) = stopped_at_store(&case, &class, Effect::HoldAnswer).await?;
    berth.kill().await?;
    proxy.heal();
    // The PV is stored, whoever heard of it: it may be used from now on.
    let volume = case.bound("data").await?;
    volume.write("kept", "")?;
    case.start(&setup)?;
    case.barrier(&class).await?;
    ensure!(volume.directory.join("kept").exists(), "a volume in use was swept");
    ensure!(case.volumes().await?.len() == 1, "there is a second PV");
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    nothing_left(&case).await
}

async fn orphan(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").create().await?;
    let (proxy, setup, berth, _) = stopped_at_store(&case, &class, Effect::HoldRequest).await?;
    berth.kill().await?;
    proxy.heal();
    case.delete_claim("data").await?;
    case.claim_gone("data").await?;
    ensure!(case.root()?.len() == 1, "nothing to sweep: {:?}", case.root()?);
    // What nobody made for a claim must stay.
    let foreign = case.export().join("by-hand");
    std::fs::create_dir(&foreign)?;
    std::fs::write(foreign.join("precious"), "x")?;
    case.start(&setup)?;
    case.until("the orphan to be swept", async || {
        let root = case.root()?;
        ensure!(root.iter().eq(["by-hand"]), "the export holds {root:?}");
        Ok(())
    })
    .await?;
    std::fs::remove_dir_all(&foreign).context("clear the stranger")?;
    nothing_left(&case).await
}

/// Proves: case 26
async fn crash_after_archive(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").create().await?;
    let (proxy, setup) = proxied(&case).await?;
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "1")?;
    let gate = Gate::default();
    proxy.on(
        |call| call.verb == "delete" && call.resource == "persistentvolumes",
        1,
        Effect::HoldRequest(gate.clone()),
    );
    case.delete_claim("data").await?;
    gate.reached(1).await?;
    berth.kill().await?;
    proxy.heal();
    case.volume_phase(&volume.name, "Released").await?;
    case.start(&setup)?;
    case.volume_gone(&volume.name).await?;
    let root = case.root()?;
    let archive = format!("archived-{}", volume.relative);
    ensure!(root.iter().eq([&archive]), "expected one archive, found {root:?}");
    ensure!(case.export().join(archive).join("kept").exists(), "the archive is empty");
    Ok(())
}

/// Proves: case 26
async fn crash_in_delete(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, setup) = proxied(&case).await?;
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("kept", "1")?;
    let gate = Gate::default();
    proxy.on(
        |call| call.verb == "delete" && call.resource == "persistentvolumes",
        1,
        Effect::HoldAnswer(gate.clone()),
    );
    case.delete_claim("data").await?;
    gate.reached(1).await?;
    berth.kill().await?;
    proxy.heal();
    case.start(&setup)?;
    case.volume_gone(&volume.name).await?;
    nothing_left(&case).await
}

/// Berth puts its finalizer on volumes that exist already. Here that request is still on its way while
/// the claim is deleted and the volume removed; the delays only make the two meet.
///
/// Proves: case 33, case 35
async fn late_finalizer(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let volume = case.old_volume("data").by_default().class(&class).bound_to("data").await?;
    let (proxy, setup) = proxied(&case).await?;
    let guard = proxy.on(
        |call| call.verb == "patch" && call.resource == "persistentvolumes",
        1,
        Effect::Delay(Duration::from_secs(2)),
    );
    proxy.on(
        |call| call.verb == "delete" && call.resource == "persistentvolumes",
        1,
        Effect::Delay(Duration::from_secs(4)),
    );
    case.start(&setup)?;
    guard.reached(1).await.context("the volume gets no finalizer")?;
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    case.until_so("the directory to be gone", || !volume.directory.exists()).await
}

/// A small one, always the same; the program `storm` makes bigger ones.
async fn storm(case: Arc<Case>) -> Result<()> {
    let storm = Storm { seed: 20_260_101, claims: 80, kills: 8, longest_life: Duration::from_millis(1500) };
    storm.run(&case, &case.setup()?.alone()).await.map(drop)
}

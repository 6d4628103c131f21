//! More than one berth: one leads, the other takes over, and a lock is let go at the end. Also the
//! hand-over from the old provisioner, whose lock is an Endpoints object.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Endpoints};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    berth::Berth,
    case::Case,
    control_plane::User,
    suite::{Scenario, scenario},
};

const ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("of two replicas one works, and the other goes on when it is killed", killed),
        scenario("SIGTERM releases the lock, and the other replica leads at once", terminated),
        scenario("a replica that hung and woke does not work beside its successor", woke),
        scenario("a new berth waits until the old provisioner's lock has run out", hand_over),
        scenario("without rights on leases the old lock is used", endpoints_lock),
    ]
}

/// The lock's name, as the old provisioner and berth build it.
fn lock_name(case: &Case) -> String {
    case.provisioner.replace('/', "-")
}

async fn holder(case: &Case) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(case.admin.clone(), User::Berth.namespace());
    let lease = leases.get(&lock_name(case)).await.context("get the Lease")?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// Starts one that leads, then one that waits.
async fn pair(case: &Case) -> Result<[Berth; 2]> {
    let first = case.berth().await?;
    case.until("a leader", async || {
        ensure!(!holder(case).await?.is_empty(), "nobody holds the Lease");
        Ok(())
    })
    .await?;
    let second = case.berth().await?;
    Ok([first, second])
}

async fn exactly(case: &Case, count: usize) -> Result<()> {
    let (root, volumes) = (case.root()?, case.volumes().await?);
    ensure!(
        root.len() == count && volumes.len() == count,
        "expected {count} volumes: {} PVs, directories {root:?}",
        volumes.len()
    );
    Ok(())
}

/// Proves: case 43
async fn killed(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let [first, second] = pair(&case).await?;
    let leader = holder(&case).await?;
    for number in 0..10 {
        case.claim(&format!("a-{number}")).class(&class).create().await?;
    }
    case.bound("a-0").await?;
    first.kill().await?;
    for number in 0..10 {
        case.claim(&format!("b-{number}")).class(&class).create().await?;
    }
    for number in 0..10 {
        case.bound(&format!("a-{number}")).await?;
        case.bound(&format!("b-{number}")).await?;
    }
    exactly(&case, 20).await?;
    ensure!(holder(&case).await? != leader, "the Lease still names the dead");
    second.check_alive()
}

/// Proves: statement 17
async fn terminated(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let [first, second] = pair(&case).await?;
    case.claim("before").class(&class).create().await?;
    case.bound("before").await?;
    let status = first.terminate().await?;
    ensure!(status.code() == Some(0), "SIGTERM ended it with {status}");
    case.claim("after").class(&class).create().await?;
    case.bound("after").await?;
    exactly(&case, 2).await?;

    // With nobody left to take it, the Lease stays free.
    let status = second.terminate().await?;
    ensure!(status.code() == Some(0), "SIGTERM ended it with {status}");
    let holder = holder(&case).await?;
    ensure!(holder.is_empty(), "the Lease is still held by {holder}");
    Ok(())
}

/// Proves: case 43
async fn woke(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let [first, second] = pair(&case).await?;
    case.barrier(&class).await?;
    let leader = holder(&case).await?;
    first.signal(Signal::SIGSTOP)?;
    for number in 0..10 {
        case.claim(&format!("data-{number}")).class(&class).create().await?;
    }
    case.bound("data-0").await?;
    // It wakes into a queue of claims that are no longer its own.
    first.signal(Signal::SIGCONT)?;
    for number in 0..10 {
        case.bound(&format!("data-{number}")).await?;
    }
    exactly(&case, 10).await?;
    ensure!(holder(&case).await? != leader, "the sleeper took the Lease back");
    first.answers("/livez").await?;

    // And it is still good for something: it leads when the other one goes.
    second.terminate().await?;
    case.claim("last").class(&class).create().await?;
    case.bound("last").await?;
    exactly(&case, 11).await
}

fn record(renewed: Timestamp) -> Value {
    let time = renewed.round(jiff::Unit::Second).unwrap_or(renewed).to_string();
    json!({
        "holderIdentity": "old-host_1234",
        "leaseDurationSeconds": 8,
        "acquireTime": time,
        "renewTime": time,
        "leaderTransitions": 1,
    })
}

async fn renew(case: &Case) -> Result<Timestamp> {
    let endpoints: Api<Endpoints> = Api::namespaced(case.admin.clone(), User::Berth.namespace());
    let now = Timestamp::now();
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": lock_name(case),
            "annotations": { ANNOTATION: record(now).to_string() },
        },
    });
    endpoints
        .patch(&lock_name(case), &PatchParams::apply("old-provisioner").force(), &Patch::Apply(&object))
        .await
        .context("write the old lock")?;
    Ok(now)
}

/// The only bound on time is from below, so a slow machine cannot fail it.
async fn hand_over(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    case.claim("data").class(&class).create().await?;
    renew(&case).await?;
    let berth = case.berth().await?;
    // The old one is still alive once more.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let renewed = renew(&case).await?;
    ensure!(case.root()?.is_empty(), "worked while the old one led");
    let volume = case.bound("data").await?;
    let made = volume.volume.creation_timestamp().context("a PV without a creation time")?.0;
    // The annotation and the PV both have whole seconds.
    let least = renewed + SignedDuration::from_secs(8 - 2);
    if made < least {
        bail!("the PV was made at {made}, the old lock was renewed at {renewed} for 8 s");
    }
    berth.check_alive()
}

/// Proves: row 8.2
async fn endpoints_lock(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let setup = case.setup_as(User::OldProvisioner)?;
    let berth = case.start(&setup)?;
    case.claim("data").class(&class).create().await?;
    case.bound("data").await?;
    let endpoints: Api<Endpoints> = Api::namespaced(case.admin.clone(), User::OldProvisioner.namespace());
    let lock = endpoints.get(&lock_name(&case)).await.context("get the old lock")?;
    let record: Value =
        serde_json::from_str(lock.annotations().get(ANNOTATION).context("no leader annotation")?)?;
    for field in ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions"] {
        ensure!(record.get(field).is_some(), "the record has no {field}: {record}");
    }
    let status = berth.terminate().await?;
    ensure!(status.code() == Some(0), "SIGTERM ended it with {status}");
    let next = case.start(&setup)?;
    case.claim("next").class(&class).create().await?;
    case.bound("next").await?;
    next.check_alive()
}

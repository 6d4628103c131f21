//! An API server that is slow, busy, wrong, restarted or gone: everything converges, nothing is
//! made twice, nothing leaks, and berth stays alive.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    berth::Berth,
    case::Case,
    control_plane::User,
    proxy::{Call, Effect, Proxy},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("an API server restart in the middle is waited out", restart).alone(),
        scenario("a slow API server makes berth slow and nothing else", slow),
        scenario("a 429 is obeyed and retried", busy),
        scenario("server errors on every kind of request are retried", server_errors),
        scenario("a conflict is read again and retried", conflict),
        scenario("lost answers do not make anything twice", lost_answers),
        scenario("lost requests are sent again", lost_requests),
        scenario("an expired watch begins anew, in both its forms", expired_watch),
        scenario("watches that end again and again miss nothing", short_watches),
        scenario("a PV of the same name for another claim is an error, and is left alone", taken_name),
    ]
}

/// Berth behind a proxy of its own, leading at once.
async fn proxied(case: &Case) -> Result<(Proxy, Berth)> {
    let proxy = case.proxy().await?;
    let setup = case.setup()?.through(proxy.access(&case.plane.access(User::Berth)?)).alone();
    let berth = case.start(&setup)?;
    berth.answers("/livez").await?;
    Ok((proxy, berth))
}

fn of_volumes(call: &Call) -> bool {
    call.resource == "persistentvolumes"
}

/// Makes claims, sees them bound with one directory and one PV each, deletes them, sees all gone.
async fn round(case: &Case, class: &str, name: &str, claims: usize) -> Result<()> {
    let names: Vec<String> = (0..claims).map(|number| format!("{name}-{number}")).collect();
    for name in &names {
        case.claim(name).class(class).create().await?;
    }
    let mut volumes = Vec::new();
    for name in &names {
        volumes.push(case.bound(name).await.with_context(|| format!("claim {name}"))?);
    }
    let (root, made) = (case.root()?, case.volumes().await?);
    ensure!(root.len() == claims, "{claims} claims have the directories {root:?}");
    ensure!(made.len() == claims, "{claims} claims have {} PVs", made.len());
    for name in &names {
        case.delete_claim(name).await?;
    }
    for volume in &volumes {
        case.volume_gone(&volume.name).await?;
    }
    case.until("the export to be empty", async || {
        let root = case.root()?;
        ensure!(root.is_empty(), "it holds {root:?}");
        Ok(())
    })
    .await
}

/// Proves: statement 13
async fn restart(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.berth().await?;
    for name in ["before", "during"] {
        case.claim(name).class(&class).create().await?;
    }
    let before = case.bound("before").await?;
    case.plane.stop_api_server().await?;
    berth.answers("/livez").await.context("the API server is gone")?;
    case.plane.start_api_server().await?;
    case.bound("during").await?;
    case.claim("after").class(&class).create().await?;
    case.bound("after").await?;
    case.delete_claim("before").await?;
    case.volume_gone(&before.name).await?;
    ensure!(case.root()?.len() == 2, "directories: {:?}", case.root()?);
    berth.check_alive()
}

/// Proves: statement 13
async fn slow(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, berth) = proxied(&case).await?;
    let fired = proxy.on(|call| call.verb != "watch", usize::MAX, Effect::Delay(Duration::from_millis(800)));
    round(&case, &class, "data", 4).await?;
    ensure!(fired.count() >= 8, "the API server was not slow");
    berth.answers("/readyz").await
}

async fn busy(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    let fired = proxy.on(
        Call::writes,
        6,
        Effect::Answer { code: 429, reason: "TooManyRequests", retry_after: Some(1) },
    );
    round(&case, &class, "data", 3).await?;
    ensure!(fired.count() == 6, "struck {} times", fired.count());
    Ok(())
}

/// Proves: case 19, case 25
async fn server_errors(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    for (code, reason) in [(500, "InternalError"), (503, "ServiceUnavailable"), (504, "Timeout")] {
        for verb in ["create", "delete", "get", "patch"] {
            proxy.on(move |call| call.verb == verb, 1, Effect::Answer { code, reason, retry_after: None });
        }
        // Every list and watch has to be made again.
        proxy.on(
            |call| matches!(call.verb, "list" | "watch"),
            3,
            Effect::Answer { code, reason, retry_after: None },
        );
        proxy.end_watches();
        round(&case, &class, &format!("data-{code}"), 2).await?;
        proxy.heal();
    }
    Ok(())
}

async fn conflict(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    let fired = proxy.on(
        |call| of_volumes(call) && matches!(call.verb, "delete" | "patch" | "update"),
        2,
        Effect::Answer { code: 409, reason: "Conflict", retry_after: None },
    );
    round(&case, &class, "data", 2).await?;
    ensure!(fired.count() == 2, "struck {} times", fired.count());
    Ok(())
}

/// Proves: case 21
async fn lost_answers(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    let created = proxy.on(|call| of_volumes(call) && call.verb == "create", 3, Effect::LoseAnswer);
    let deleted = proxy.on(|call| of_volumes(call) && call.verb == "delete", 3, Effect::LoseAnswer);
    proxy.on(|call| call.resource == "events", 3, Effect::LoseAnswer);
    round(&case, &class, "data", 3).await?;
    ensure!(
        (created.count(), deleted.count()) == (3, 3),
        "struck {} and {} times",
        created.count(),
        deleted.count()
    );
    Ok(())
}

/// Proves: case 19
async fn lost_requests(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    let fired = proxy.on(|call| of_volumes(call) && call.writes(), 5, Effect::LoseRequest);
    round(&case, &class, "data", 3).await?;
    ensure!(fired.count() == 5, "struck {} times", fired.count());
    Ok(())
}

/// Ends every watch again and again while `work` is under way. Once would miss a watch that is
/// just being begun, or waits for its next attempt.
async fn ending_watches(proxy: &Proxy, work: impl Future<Output = Result<()>>) -> Result<()> {
    let interrupt = async {
        loop {
            proxy.end_watches();
            // The pace of the disturbance, not a wait for anything.
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    };
    tokio::select! {
        () = interrupt => Ok(()),
        result = work => result,
    }
}

async fn expired_watch(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, berth) = proxied(&case).await?;
    round(&case, &class, "before", 1).await?;

    let inside = proxy.on(|call| call.verb == "watch", 3, Effect::ExpireWatch);
    ending_watches(&proxy, inside.reached(3)).await.context("410 as an event of the watch")?;
    round(&case, &class, "inside", 2).await?;

    let outside = proxy.on(
        // A watch that asks for the initial state is no continuation, and cannot expire.
        |call| call.verb == "watch" && !call.query.contains("sendInitialEvents"),
        3,
        Effect::Answer { code: 410, reason: "Expired", retry_after: None },
    );
    ending_watches(&proxy, outside.reached(3)).await.context("410 as the answer to the watch")?;
    round(&case, &class, "outside", 2).await?;
    berth.answers("/readyz").await
}

async fn short_watches(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let (proxy, _berth) = proxied(&case).await?;
    ending_watches(&proxy, round(&case, &class, "data", 12)).await
}

/// Proves: case 21
async fn taken_name(case: Arc<Case>) -> Result<()> {
    use kube::ResourceExt;
    let class = case.class("nfs").deletes().create().await?;
    // Without berth, so that the name can be taken before it looks.
    let claim = case.claim("data").class(&class).create().await?;
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    case.create_global::<k8s_openapi::api::core::v1::PersistentVolume>(&serde_json::json!({
        "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": { "storage": "1Mi" },
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "another",
            "nfs": { "server": "another.test", "path": "/another" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": case.namespace,
                "name": "another", "uid": "11111111-2222-3333-4444-555555555555",
            },
        },
    }))
    .await?;
    case.berth().await?;
    let message = case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(message.contains(&name), "the Event does not name the PV: {message}");
    case.barrier(&class).await?;
    let volume = case.get_volume(&name).await?.context("the PV is gone")?;
    ensure!(
        volume.spec.and_then(|spec| spec.storage_class_name).as_deref() == Some("another"),
        "somebody's PV was changed"
    );
    Ok(())
}

//! The edges of the contract with claims: what selects everything, what a class says by mistake, claims and classes that come
//! in the wrong order or do not agree, and what a claim's author cannot do to others.

use std::sync::Arc;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    case::Case,
    control_plane::User,
    proxy::{Effect, Gate},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("an empty selector selects everything", empty_selector),
        scenario(
            "a pattern with what only looks like a token is told of once, and taken as it is",
            look_alikes,
        ),
        scenario(
            "the parameters of csi-driver-nfs are told of with what stands for them here",
            csi_driver_nfs,
        ),
        scenario("a class that is told later than its claim makes no Warning", late_news),
        scenario(
            "a claim whose class names another provisioner is left alone, and the log says so",
            disagreement,
        ),
        scenario("a path of a thousand directories is refused at once, and nobody waits for it", deep_path),
        scenario("no pattern gives a volume the name of an archive", archive_names),
        scenario("classes and kinds that claims invent do not become labels of metrics", invented_labels),
        scenario("a label that the pattern needs since the class was made again is found", changed_pattern),
    ]
}

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

async fn empty_selector(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    for (name, selector) in [("bare", json!({})), ("labels", json!({ "matchLabels": {} }))] {
        case.claim(name).class(&class).set(&["spec", "selector"], selector).create().await?;
        case.bound(name).await?;
    }
    Ok(())
}

/// The notes of our Warning Events with this reason about these claims.
async fn warnings(case: &Case, claims: &[&str], reason: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for claim in claims {
        let events = case.events("PersistentVolumeClaim", claim).await?;
        let of_reason = events.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        found.extend(of_reason.map(|event| event.message.unwrap_or_default()));
    }
    Ok(found)
}

async fn look_alikes(case: Arc<Case>) -> Result<()> {
    let class = case
        .class("foreign")
        .deletes()
        .parameter("pathPattern", "${pvc.metadata.namespace}-${.PVC.name}")
        .create()
        .await?;
    case.berth().await?;
    for name in ["one", "two"] {
        case.claim(name).class(&class).create().await?;
        let volume = case.bound(name).await?;
        let expected = format!("${{pvc.metadata.namespace}}-{name}");
        ensure!(volume.relative == expected, "claim {name} got {}", volume.relative);
    }
    case.until("one Warning", async || {
        let told = warnings(&case, &["one", "two"], "LiteralPattern").await?;
        ensure!(told.len() == 1, "{} Warnings", told.len());
        let spelt = "(write \"${.PVC.namespace}\")";
        ensure!(told.iter().all(|note| note.contains(spelt)), "it does not help: {told:?}");
        Ok(())
    })
    .await
}

async fn csi_driver_nfs(case: Arc<Case>) -> Result<()> {
    let class = case
        .class("foreign")
        .deletes()
        .parameter("subDir", "${pvc.metadata.name}")
        .parameter("mountPermissions", "0770")
        .parameter("mountOptions", "hard")
        .create()
        .await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    case.bound("data").await?;
    let note = case.event("PersistentVolumeClaim", "data", "UnknownParameter").await?;
    for part in ["here it is pathPattern", "here it is mode", "a field of the class"] {
        ensure!(note.contains(part), "nothing of {part:?}: {note}");
    }
    Ok(())
}

async fn late_news(case: Arc<Case>) -> Result<()> {
    let proxy = case.proxy().await?;
    let direct = case.plane.access(User::Berth)?;
    let berth = case.start(&case.setup()?.through(proxy.access(&direct)))?;
    berth.answers("/readyz").await?;
    let gate = Gate::default();
    let watches_classes =
        |call: &crate::proxy::Call| call.verb == "watch" && call.resource == "storageclasses";
    proxy.on(watches_classes, usize::MAX, Effect::HoldRequest(gate.clone()));
    proxy.end_watches();
    gate.reached(1).await?;
    let class = case.class("nfs").deletes().create().await?;
    case.claim("data").class(&class).create().await?;
    case.until("berth to ask for the class", async || {
        let asked = proxy.calls().iter().filter(|call| call.verb == "get" && call.name == class).count();
        ensure!(asked > 1, "it asked {asked} times");
        Ok(())
    })
    .await?;
    proxy.heal();
    gate.open();
    case.bound("data").await?;
    case.event("PersistentVolumeClaim", "data", "ProvisioningSucceeded").await?;
    let told = warnings(&case, &["data"], "ProvisioningFailed").await?;
    ensure!(told.is_empty(), "it was told of: {told:?}");
    Ok(())
}

/// Proves: case 9
async fn disagreement(case: Arc<Case>) -> Result<()> {
    let good = case.class("good").deletes().create().await?;
    // Without a node Kubernetes does not correct what the claim says.
    let other = case.class("other").provisioner("other.test/x").late().create().await?;
    let berth = case.berth().await?;
    // As if the class had been made again for another provisioner.
    case.claim("data").class(&other).annotation(PROVISIONER, &case.provisioner).create().await?;
    case.until("the log to say so", async || {
        let log = berth.log();
        let line = log.lines().find(|line| line.contains("ignoring a claim"));
        ensure!(line.is_some_and(|line| line.contains("other.test/x")), "{line:?}");
        Ok(())
    })
    .await?;
    case.barrier(&good).await?;
    ensure!(case.root()?.is_empty(), "something was made: {:?}", case.root()?);
    Ok(())
}

async fn deep_path(case: Arc<Case>) -> Result<()> {
    let class =
        case.class("free").deletes().parameter("pathPattern", "${.PVC.annotations.path}").create().await?;
    case.berth().await?;
    let deep = "a/".repeat(1536);
    let names: Vec<String> = (0..48).map(|number| format!("deep-{number}")).collect();
    for name in &names {
        case.claim(name).class(&class).annotation("path", &deep).create().await?;
    }
    case.claim("shallow").class(&class).annotation("path", "x/y").create().await?;
    case.bound("shallow").await?;
    for name in &names {
        let message = case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        ensure!(message.contains("at most 32 directories deep"), "claim {name}: {message}");
    }
    case.barrier(&class).await?;
    let root = case.root()?;
    ensure!(root.iter().eq(["x"]), "something was made: {root:?}");
    Ok(())
}

async fn archive_names(case: Arc<Case>) -> Result<()> {
    let class = case
        .class("free")
        .parameter("existingDirectory", "adopt")
        .parameter("pathPattern", "${.PVC.annotations.path}")
        .create()
        .await?;
    case.berth().await?;
    case.claim("first").class(&class).annotation("path", "team/data").create().await?;
    let first = case.bound("first").await?;
    first.write("file", "secret")?;
    case.delete_claim("first").await?;
    case.volume_gone(&first.name).await?;
    let archive = case.export().join("archived-team/data/file");
    ensure!(archive.exists(), "it is not where it should be archived");
    for (name, path) in [("thief", "archived-team/data"), ("loud", "ARCHIVED-team/data")] {
        case.claim(name).class(&class).annotation("path", path).create().await?;
        let message = case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        ensure!(message.contains("kept for archives"), "claim {name}: {message}");
    }
    case.claim("below").class(&class).annotation("path", "volumes/archived-team").create().await?;
    case.bound("below").await?;
    ensure!(archive.exists(), "the archive was touched");
    Ok(())
}

async fn invented_labels(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    let berth = case.berth().await?;
    let kind = "k".repeat(500_000);
    for number in 0..20 {
        case.claim(&format!("class-{number}"))
            .class(&format!("invented-{number}"))
            .annotation(PROVISIONER, &case.provisioner)
            .create()
            .await?;
        let kind = if number == 0 { kind.clone() } else { format!("Kind{number}") };
        let source = json!({ "apiGroup": "populators.test", "kind": kind, "name": "x", "namespace": "y" });
        let claim = case.claim(&format!("kind-{number}")).class(&class);
        claim.set(&["spec", "dataSourceRef"], source).create().await?;
    }
    for number in 0..20 {
        case.event("PersistentVolumeClaim", &format!("class-{number}"), "ProvisioningFailed").await?;
    }
    case.barrier(&class).await?;
    let (_, text) = berth.get("/metrics").await?;
    for word in ["invented", "Kind1", "kkkk"] {
        ensure!(!text.contains(word), "{word:?} is in the metrics");
    }
    ensure!(text.len() < 100_000, "the metrics have {} bytes", text.len());
    Ok(())
}

async fn changed_pattern(case: Arc<Case>) -> Result<()> {
    let pattern = |name: &str, text: &str| case.class(name).deletes().parameter("pathPattern", text);
    let class = pattern("nfs", "${.PVC.labels.tier}/${.PVC.labels.missing}").create().await?;
    case.berth().await?;
    case.claim("data").class(&class).label("tier", "gold").create().await?;
    case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    let claims: Api<PersistentVolumeClaim> = case.api();
    let patch = json!({ "metadata": { "labels": { "team": "red" } } });
    claims.patch("data", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    case.delete_class(&class).await?;
    let again = pattern("nfs", "${.PVC.labels.team}/${.PVC.labels.tier}").create().await?;
    ensure!(again == class, "another name");
    let volume = case.bound("data").await?;
    ensure!(volume.relative == "red/gold", "it got {}", volume.relative);
    Ok(())
}

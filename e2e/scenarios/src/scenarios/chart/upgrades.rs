//! A release of the old chart that is upgraded to berth with its values, while its volumes are in use.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, ServiceAccount},
        storage::v1::StorageClass,
    },
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use super::{merged, old_name};
use crate::{
    berth::{Berth, Export},
    case::Case,
    control_plane::{Access, User},
    helm::{Helm, Major, path},
    scenarios::{old_volumes, reclaim::Left},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "an old release is upgraded to berth while its volumes are in use, and rolled back, by Helm 3",
            |case| over(case, Major::Three),
        ),
        scenario(
            "an old release is upgraded to berth while its volumes are in use, and rolled back, by Helm 4",
            |case| over(case, Major::Four),
        ),
        scenario("an old release of Helm 3 is upgraded to berth by Helm 4 with --reuse-values", reused),
        scenario("an old release with mount options keeps the PersistentVolume of its export", mount_options),
        scenario("an uninstall leaves the volumes and their data", uninstalled),
    ]
}

/// What an old release was installed with: the names are the scenario's, all else is the old chart's.
fn old_values(case: &Case) -> Value {
    json!({
        "nfs": { "server": case.server, "path": case.path },
        "storageClass": { "name": class(case), "provisionerName": case.provisioner },
    })
}

fn class(case: &Case) -> String {
    format!("{}-nfs", case.id())
}

fn uid<K: Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>>(object: &K) -> String {
    object.metadata().uid.clone().unwrap_or_default()
}

/// The UIDs of what must not be replaced by an upgrade.
async fn identities(case: &Case) -> Result<BTreeMap<&'static str, String>> {
    let full = old_name(case.id());
    let (deployments, accounts): (Api<Deployment>, Api<ServiceAccount>) = (case.api(), case.api());
    let classes: Api<StorageClass> = case.global();
    Ok(BTreeMap::from([
        ("Deployment", uid(&deployments.get(&full).await?)),
        ("ServiceAccount", uid(&accounts.get(&full).await?)),
        ("StorageClass", uid(&classes.get(&class(case)).await?)),
    ]))
}

/// The only container of the release's Deployment.
async fn container(case: &Case) -> Result<k8s_openapi::api::core::v1::Container> {
    let deployments: Api<Deployment> = case.api();
    let deployment = deployments.get(&old_name(case.id())).await?;
    let mut containers = deployment.spec.template.spec.context("no pod")?.containers;
    ensure!(containers.len() == 1, "{} containers", containers.len());
    Ok(containers.remove(0))
}

/// Runs berth as the release's pod would run: its arguments, its environment, and the rights of its account.
async fn run(case: &Case) -> Result<Berth> {
    let container = container(case).await?;
    ensure!(container.image.as_deref() == Some("berth:0.1.0"), "{:?}", container.image);
    ensure!(container.args == Some(vec!["controller".to_owned()]), "{:?}", container.args);
    let environment: BTreeMap<String, String> =
        container.env.into_iter().flatten().filter_map(|var| Some((var.name, var.value?))).collect();
    let get = |name: &str| environment.get(name).cloned().with_context(|| format!("{name} is not set"));
    let token = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": [], "expirationSeconds": 3600 },
    });
    let accounts: Api<ServiceAccount> = case.api();
    let answer: Value = accounts
        .create_subresource("token", &old_name(case.id()), &PostParams::default(), &token)
        .await
        .context("ask for a token of the release's account")?;
    let token = answer.pointer("/status/token").and_then(Value::as_str).context("no token")?.to_owned();
    let mut setup = case.setup()?.env("POD_NAMESPACE", &case.namespace);
    setup.access = Access { token, ..case.plane.access(User::Admin)? };
    setup.provisioner = get("PROVISIONER_NAME")?;
    setup.export = Some(Export { server: get("NFS_SERVER")?, path: get("NFS_PATH")?, root: case.export() });
    let berth = case.start(&setup)?;
    berth.answers("/readyz").await?;
    Ok(berth)
}

/// Both an old and a new volume are archived when their claims go, as the class says.
async fn serves(case: &Case, old: &str) -> Result<()> {
    let class = class(case);
    let before = {
        let (claim, volume) = case.bound_pair(old).await?;
        let directory = volume.spec.as_ref().and_then(|spec| spec.nfs.clone()).context("no NFS")?.path;
        (claim, volume, directory)
    };
    let fresh = format!("{old}-fresh");
    case.claim(&fresh).class(&class).create().await?;
    let new = case.bound(&fresh).await?;
    new.write("data", "new")?;
    case.delete_claim(&fresh).await?;
    old_volumes::check(case, &new, Left::Archive).await.context("the new volume")?;
    case.delete_claim(old).await?;
    let name = before.1.metadata.name.context("no name")?;
    case.volume_gone(&name).await?;
    let relative = before.2.trim_start_matches(&case.path).trim_start_matches('/').to_owned();
    let archive = case.export().join(format!("archived-{relative}/data"));
    ensure!(archive.exists(), "the old volume is not at {}", archive.display());
    ensure!(!case.export().join(&relative).exists(), "{relative} is still there");
    Ok(())
}

async fn over(case: Arc<Case>, major: Major) -> Result<()> {
    let helm = Helm::new(&case, major).await?;
    let (old_chart, chart) = (path("e2e/scenarios/old-chart")?, path("deploy/chart")?);
    let values = helm.values("old", &old_values(&case))?;
    helm.run(&["install", case.id(), &old_chart, "--values", &values]).await?;
    let class = class(&case);
    for claim in ["first", "second", "third"] {
        case.old_volume("").by_default().class(&class).bound_to(claim).await?;
    }
    let before = identities(&case).await?;

    // Forward, with the values as they are.
    helm.run(&["upgrade", case.id(), &chart, "--values", &values]).await?;
    ensure!(identities(&case).await? == before, "an object was replaced");
    let berth = run(&case).await?;
    serves(&case, "first").await?;
    berth.terminate().await?;

    // Back, and forward again.
    helm.run(&["rollback", case.id(), "1"]).await?;
    let image = container(&case).await?.image.unwrap_or_default();
    ensure!(image.contains("nfs-subdir-external-provisioner:v4.0.2"), "{image}");
    ensure!(identities(&case).await? == before, "an object was replaced");
    helm.run(&["upgrade", case.id(), &chart, "--values", &values]).await?;
    let berth = run(&case).await?;
    serves(&case, "second").await?;
    berth.terminate().await?;
    for claim in ["third"] {
        let (_, volume) = case.bound_pair(claim).await?;
        ensure!(volume.metadata.deletion_timestamp.is_none(), "{claim} is touched");
    }
    helm.run(&["uninstall", case.id()]).await?;
    Ok(())
}

async fn reused(case: Arc<Case>) -> Result<()> {
    let old = Helm::new(&case, Major::Three).await?;
    let values = old.values("old", &old_values(&case))?;
    old.run(&["install", case.id(), &path("e2e/scenarios/old-chart")?, "--values", &values]).await?;
    case.old_volume("").by_default().class(&class(&case)).bound_to("data").await?;
    let before = identities(&case).await?;
    let new = Helm::new(&case, Major::Four).await?;
    new.run(&["upgrade", case.id(), &path("deploy/chart")?, "--reuse-values"]).await?;
    ensure!(identities(&case).await? == before, "an object was replaced");
    let berth = run(&case).await?;
    serves(&case, "data").await?;
    berth.terminate().await?;
    new.run(&["uninstall", case.id()]).await?;
    Ok(())
}

async fn mount_options(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let full = old_name(case.id());
    let options = json!({ "nfs": { "mountOptions": ["nfsvers=4.1", "hard"] } });
    let values = helm.values("old", &merged(old_values(&case), &options))?;
    helm.run(&["install", case.id(), &path("e2e/scenarios/old-chart")?, "--values", &values]).await?;
    let claims: Api<PersistentVolumeClaim> = case.api();
    let root = format!("pvc-{full}");
    let (before, _) = case.bound_pair(&root).await.context("the claim of the export")?;
    case.old_volume("").by_default().class(&class(&case)).bound_to("data").await?;

    helm.run(&["upgrade", case.id(), &path("deploy/chart")?, "--values", &values]).await?;
    let after = claims.get(&root).await?;
    ensure!(uid(&after) == uid(&before), "the claim of the export was replaced");
    ensure!(after.metadata.deletion_timestamp.is_none(), "the claim of the export is being deleted");
    // The PersistentVolume of the export lies above all others, and stands in no one's way.
    let berth = run(&case).await?;
    serves(&case, "data").await?;
    berth.terminate().await?;
    let volume =
        case.get_volume(&format!("pv-{full}")).await?.context("the export's PersistentVolume is gone")?;
    ensure!(volume.status.and_then(|status| status.phase).as_deref() == Some("Bound"));
    helm.run(&["uninstall", case.id()]).await?;
    ensure!(case.export().exists(), "the export is gone");
    Ok(())
}

async fn uninstalled(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let values = helm.values("old", &old_values(&case))?;
    helm.run(&["install", case.id(), &path("deploy/chart")?, "--values", &values]).await?;
    let class = class(&case);
    let old = case.old_volume("").by_default().class(&class).bound_to("old").await?;
    let berth = run(&case).await?;
    case.claim("new").class(&class).create().await?;
    let new = case.bound("new").await?;
    new.write("data", "precious")?;
    berth.terminate().await?;
    helm.run(&["uninstall", case.id()]).await?;
    for volume in [&old, &new] {
        let live = case.get_volume(&volume.name).await?.context("the volume is gone")?;
        ensure!(live.metadata.deletion_timestamp.is_none(), "{} is being deleted", volume.name);
        ensure!(volume.directory.join("data").exists(), "{} lost its data", volume.relative);
    }
    // Installed again, it finds both and removes them properly.
    helm.run(&["install", case.id(), &path("deploy/chart")?, "--values", &values]).await?;
    let berth = run(&case).await?;
    case.delete_claim("new").await?;
    old_volumes::check(&case, &new, Left::Archive).await?;
    case.delete_claim("old").await?;
    old_volumes::check(&case, &old, Left::Archive).await?;
    berth.terminate().await?;
    helm.run(&["uninstall", case.id()]).await?;
    Ok(())
}

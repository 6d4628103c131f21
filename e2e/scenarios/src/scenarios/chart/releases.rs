//! Releases of the chart on a real API server: every object is accepted, and install, upgrade, rollback and uninstall leave
//! what they should.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::merged;
use crate::{
    case::Case,
    control_plane::manifests::{self, Manifest},
    helm::{Helm, Major, objects, path},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("the API server takes every object of deploy/rendered, and knows each field", dry_run),
        scenario(
            "Pod Security admits every pod as baseline, and as restricted those that promise it",
            admitted,
        ),
        scenario("install, upgrade, rollback and uninstall with everything on, by Helm 3", |case| {
            life(case, Major::Three)
        }),
        scenario("install, upgrade, rollback and uninstall with everything on, by Helm 4", |case| {
            life(case, Major::Four)
        }),
        scenario(
            "a class with parameters that changed is refused, and the release stays as it was",
            immutable,
        ),
    ]
}

/// What other projects bring, with no schema: the chart has no CRD of its own.
const FOREIGN: [(&str, &str, &str, &str, &str); 4] = [
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors", "Namespaced"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules", "Namespaced"),
    ("security.openshift.io", "v1", "SecurityContextConstraints", "securitycontextconstraints", "Cluster"),
];

/// Makes the kinds of other projects, and the namespaces that the values of `everything` name.
async fn surroundings(case: &Case) -> Result<()> {
    let apply = PatchParams::apply("berth-e2e").force();
    for (group, version, kind, plural, scope) in FOREIGN {
        let name = format!("{plural}.{group}");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": name,
                // The API server asks this of groups that end in k8s.io alone; it does no harm elsewhere.
                "annotations": { "api-approved.kubernetes.io": "unapproved, for tests" },
            },
            "spec": {
                "group": group,
                "scope": scope,
                "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
                "versions": [{
                    "name": version, "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    } },
                }],
            },
        });
        let definitions: Api<CustomResourceDefinition> = case.global();
        definitions.patch(&name, &apply, &Patch::Apply(&definition)).await.context(name.clone())?;
        case.until(&format!("{name} to be served"), async || {
            let text = format!("/apis/{group}/{version}");
            let served = case.admin.request_text(http::Request::get(text).body(Vec::new())?).await?;
            ensure!(served.contains(plural), "it is not served yet");
            Ok(())
        })
        .await?;
    }
    for namespace in ["berth-node", "ceph", "ceph-users", "monitoring", "team-a"] {
        let namespaces: Api<Namespace> = case.global();
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        namespaces.patch(namespace, &apply, &Patch::Apply(&object)).await?;
    }
    Ok(())
}

async fn dry_run(case: Arc<Case>) -> Result<()> {
    surroundings(&case).await?;
    let rendered = manifests::rendered()?;
    ensure!(rendered.len() > 60, "deploy/rendered holds {} objects", rendered.len());
    for manifest in rendered {
        manifest.validate(&case.admin).await?;
    }
    Ok(())
}

/// The renderings whose pods the standard `restricted` admits.
const RESTRICTED: [&str; 3] = ["ceph", "plain-ceph", "restricted"];

/// Proves what `docs/install.md` says of Pod Security.
async fn admitted(case: Arc<Case>) -> Result<()> {
    let try_pod = PostParams { dry_run: true, ..PostParams::default() };
    for level in ["restricted", "baseline"] {
        let namespace = format!("{}-{level}", case.id());
        let labels = json!({ "pod-security.kubernetes.io/enforce": level });
        case.create_global::<Namespace>(&json!({ "metadata": { "name": namespace, "labels": labels } }))
            .await?;
        let pods: Api<Pod> = Api::namespaced(case.admin.clone(), &namespace);
        for manifest in manifests::rendered()?.iter().filter(|manifest| manifest.kind() == "Deployment") {
            let deployment: Deployment = serde_json::from_value(manifest.object().clone())?;
            let spec = deployment.spec.template.spec;
            let pod = Pod {
                metadata: ObjectMeta { name: Some("pod".into()), ..ObjectMeta::default() },
                spec,
                status: None,
            };
            let name = manifest.file_stem();
            let answer = pods.create(&try_pod, &pod).await;
            if level == "baseline" || RESTRICTED.contains(&name) {
                answer.with_context(|| format!("{name} as {level}"))?;
            } else {
                let error = answer.err().with_context(|| format!("{name} is admitted as {level}"))?;
                ensure!(error.to_string().contains("violates PodSecurity"), "{name}: {error}");
            }
        }
    }
    Ok(())
}

/// The objects of a release, as the server has them.
async fn release(case: &Case, helm: &Helm, release: &str) -> Result<Vec<Manifest>> {
    let found = objects(&helm.run(&["get", "manifest", release]).await?)?;
    let of = |object: Value| Manifest::new(&format!("release {release}"), object);
    let namespaced = |manifest: Manifest| {
        let everywhere = [
            "ClusterRole",
            "ClusterRoleBinding",
            "StorageClass",
            "PersistentVolume",
            "SecurityContextConstraints",
        ];
        let named = manifest.object().pointer("/metadata/namespace").is_some();
        if named || everywhere.contains(&manifest.kind()) {
            manifest
        } else {
            manifest.in_namespace(&case.namespace)
        }
    };
    Ok(found.into_iter().map(of).map(namespaced).collect())
}

/// The values of `everything`, with names that no other scenario uses.
fn everything(case: &Case) -> Result<Value> {
    let text = std::fs::read_to_string(path("deploy/chart/ci/everything-values.yaml")?)?;
    let values: Value = serde_saphyr::from_str(&text)?;
    let classes = values.get("storageClasses").and_then(Value::as_array).context("no classes")?.iter();
    let renamed: Vec<Value> = classes
        .map(|class| {
            let name = class.get("name").and_then(Value::as_str).unwrap_or_default();
            merged(class.clone(), &json!({ "name": format!("{}-{name}", case.id()) }))
        })
        .collect();
    Ok(merged(
        values,
        &json!({
            "storageClass": { "name": format!("{}-nfs-client", case.id()) },
            "storageClasses": renamed,
            "openshift": { "enabled": true },
        }),
    ))
}

async fn life(case: Arc<Case>, major: Major) -> Result<()> {
    surroundings(&case).await?;
    let helm = Helm::new(&case, major).await?;
    let chart = path("deploy/chart")?;
    let name = case.id().to_owned();
    let full = super::old_name(&name);
    let values = everything(&case)?;
    let file = helm.values("everything", &values)?;
    let notes = helm.run(&["install", &name, &chart, "--values", &file]).await?;
    ensure!(notes.contains("/readyz?verbose") && notes.contains("kubectl create"), "the notes say: {notes}");
    let first = release(&case, &helm, &name).await?;
    ensure!(first.len() > 25, "{} objects", first.len());
    for object in &first {
        object.get(&case.admin).await?.with_context(|| format!("{object} is not there"))?;
    }
    let deployments: Api<Deployment> = case.api();
    let sum = async || -> Result<String> {
        let deployment = deployments.get(&full).await?;
        let template = deployment.spec.template.metadata.context("no metadata")?;
        template.annotations.and_then(|all| all.get("checksum/config").cloned()).context("no sum")
    };
    let file_there = async || -> Result<String> {
        let map: Api<ConfigMap> = case.api();
        map.get(&full).await?.data.and_then(|mut data| data.remove("berth.yaml")).context("no file")
    };
    let (sum_before, file_before) = (sum().await?, file_there().await?);

    // A changed configuration is in the file, and replaces the pods. What is not asked for any more goes.
    let changed = json!({
        "config": { "workers": 7 },
        "networkPolicy": { "enabled": false },
        // The API server refuses what is left of one strategy in the other.
        "strategyType": "Recreate",
    });
    let file = helm.values("changed", &merged(values, &changed))?;
    helm.run(&["upgrade", &name, &chart, "--values", &file]).await?;
    ensure!(file_there().await?.contains("workers: 7"), "{}", file_there().await?);
    ensure!(sum().await? != sum_before, "the pods stay");
    let gone = first.iter().find(|object| object.kind() == "NetworkPolicy").context("no NetworkPolicy")?;
    ensure!(gone.get(&case.admin).await?.is_none(), "{gone} is still there");

    helm.run(&["rollback", &name, "1"]).await?;
    ensure!(file_there().await? == file_before && sum().await? == sum_before, "the first file is not back");
    ensure!(gone.get(&case.admin).await?.is_some(), "{gone} is not back");

    helm.run(&["uninstall", &name]).await?;
    for object in &first {
        case.until(&format!("{object} to be gone"), async || {
            ensure!(object.get(&case.admin).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn immutable(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let chart = path("deploy/chart")?;
    let class = format!("{}-nfs", case.id());
    let values = |mode: &str| {
        json!({
            "exports": [{ "name": "main", "server": case.server, "path": case.path }],
            "storageClasses": [
                { "name": class, "provisioner": "nfs.berth.storage", "parameters": { "mode": mode } },
            ],
        })
    };
    let (first, second) = (helm.values("first", &values("0770"))?, helm.values("second", &values("0700"))?);
    helm.run(&["install", case.id(), &chart, "--values", &first]).await?;
    let said = helm.refused(&["upgrade", case.id(), &chart, "--values", &second]).await?;
    ensure!(said.contains("parameters") && said.contains("immutable"), "{said}");
    // As documented: an administrator deletes the class; volumes do not depend on it.
    case.delete_class(&class).await?;
    helm.run(&["upgrade", case.id(), &chart, "--values", &second]).await?;
    helm.run(&["uninstall", case.id()]).await?;
    Ok(())
}

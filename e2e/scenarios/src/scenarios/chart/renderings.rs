//! What the chart renders, and what it refuses to render.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{merged, old_name};
use crate::{
    case::Case,
    helm::{Helm, Major, objects, path, repository},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("helm lint finds nothing, whatever the values", lint),
        scenario(
            "both Helms render deploy/rendered for every Kubernetes from 1.26 on, and none before",
            versions,
        ),
        scenario("every value of the old chart has the default and the effect that it had", old_values),
        scenario("the values of an old release without any of the new ones render the same", reused_values),
        scenario(
            "an image of the old provisioner in old values gives way to ours, or is refused",
            old_images,
        ),
        scenario("a wrong value is refused, and the message says which and why", wrong_values),
        scenario("a release of the retired chart keeps its names and selectors", retired_chart),
    ]
}

/// The files of values in `deploy/chart/ci/`, with the rendering that is made of each.
fn cases() -> Result<Vec<(String, PathBuf)>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(repository().join("deploy/chart/ci"))? {
        let file = entry?.path().into_os_string().into_string().ok().context("not UTF-8")?;
        let name = file.rsplit('/').next().and_then(|name| name.strip_suffix("-values.yaml"));
        let name = name.with_context(|| format!("{file} is no file of values"))?;
        let rendered = repository().join(format!("deploy/rendered/{name}.yaml"));
        cases.push((file.clone(), rendered));
    }
    ensure!(cases.len() > 6, "deploy/chart/ci holds {} files", cases.len());
    Ok(cases)
}

async fn lint(case: Arc<Case>) -> Result<()> {
    for major in Major::ALL {
        let helm = Helm::new(&case, major).await?;
        for (values, _) in cases()? {
            helm.run(&["lint", "--strict", "--values", &values, &path("deploy/chart")?]).await?;
        }
        // Without values there is no storage, which lint tells and does not fail for.
        helm.run(&["lint", "--strict", &path("deploy/chart")?]).await?;
    }
    Ok(())
}

async fn versions(case: Arc<Case>) -> Result<()> {
    let chart = path("deploy/chart")?;
    for major in Major::ALL {
        let helm = Helm::new(&case, major).await?;
        for (values, rendered) in cases()? {
            let golden = objects(&std::fs::read_to_string(&rendered)?)?;
            // The newest is the one that the API's types of the scenarios are of.
            for minor in 26..=37 {
                let version = format!("1.{minor}.0");
                let args = ["template", "berth", &chart, "--namespace=berth", "--kube-version", &version];
                let found = helm.objects(&[&args[..], &["--values", &values]].concat()).await?;
                ensure!(
                    sorted(&found) == sorted(&golden),
                    "Helm {major:?} for Kubernetes {version} does not give {}; hack/chart writes it",
                    rendered.display()
                );
            }
        }
        let values = path("deploy/chart/ci/old-minimal-values.yaml")?;
        let said = helm
            .refused(&["template", "berth", &chart, "--kube-version=1.25.16", "--values", &values])
            .await?;
        ensure!(said.contains("1.26"), "{said}");
    }
    Ok(())
}

fn sorted(objects: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.sort();
    texts
}

/// One row of `deploy/chart/tests/old-values.yaml`.
struct Row {
    value: String,
    default: Option<Value>,
    check: [String; 3],
    plain: Option<Value>,
    set: Value,
    then: Value,
}

fn rows() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(repository().join("deploy/chart/tests/old-values.yaml"))?;
    let rows: Vec<Value> = serde_saphyr::from_str(&text).context("read old-values.yaml")?;
    let row = |row: Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let check: Vec<String> = row.get("check")?.as_array()?.iter().filter_map(text).collect();
        Some(Row {
            value: text(row.get("value")?)?,
            default: row.get("default").cloned(),
            check: check.try_into().ok()?,
            plain: row.get("plain").cloned(),
            set: row.get("set")?.clone(),
            then: row.get("then")?.clone(),
        })
    };
    rows.into_iter().map(|one| row(one.clone()).with_context(|| format!("not a row: {one}"))).collect()
}

/// What stands where a row looks; `Null` where nothing does. `name=X` in a pointer is the entry of a list with that name.
fn find(objects: &[Value], [kind, name, pointer]: &[String; 3], full: &str) -> Value {
    let name = name.replace("FULL", full);
    let mut found = objects.iter().filter(|object| object["kind"] == *kind);
    let object = found.find(|object| name == "*" || object.pointer("/metadata/name") == Some(&json!(name)));
    let step = |at: Option<Value>, step: &str| match step.strip_prefix("name=") {
        Some(name) => at?.as_array()?.iter().find(|entry| entry["name"] == *name).cloned(),
        None => at?.pointer(&format!("/{step}")).cloned(),
    };
    let value = pointer.split('/').filter(|part| !part.is_empty()).fold(object.cloned(), step);
    value.unwrap_or(Value::Null)
}

async fn old_values(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let chart = path("deploy/chart")?;
    let shown: Value = serde_saphyr::from_str(&helm.run(&["show", "values", &chart]).await?)?;
    let minimal = json!({ "nfs": { "server": "s" } });
    let render = async |values: &Value| {
        let file = helm.values("values", values)?;
        helm.template("old", &chart, &file).await
    };
    let plain = render(&minimal).await?;
    let full = old_name("old");
    let with_full = |value: &Value| -> Result<Value> {
        Ok(serde_json::from_str(&value.to_string().replace("FULL", &full))?)
    };
    let mut wrong = Vec::new();
    for row in rows()? {
        if let Some(default) = &row.default {
            let found = row.value.split('.').try_fold(&shown, |at, key| at.get(key));
            if found != Some(default) {
                wrong.push(format!("{}: the default is {found:?} and was {default}", row.value));
            }
        }
        let before = find(&plain, &row.check, &full);
        let expected = with_full(row.plain.as_ref().unwrap_or(&Value::Null))?;
        if before != expected {
            wrong.push(format!("{}: by default there is {before}, not {expected}", row.value));
        }
        let set = render(&merged(minimal.clone(), &row.set)).await.with_context(|| row.value.clone())?;
        let after = find(&set, &row.check, &full);
        let expected = with_full(&row.then)?;
        if after != expected {
            wrong.push(format!("{}: with {} there is {after}, not {expected}", row.value, row.set));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// `helm upgrade --reuse-values` puts the old chart's values in the place of `values.yaml`.
async fn reused_values(case: Arc<Case>) -> Result<()> {
    let old = std::fs::read_to_string(repository().join("e2e/scenarios/old-chart/values.yaml"))?;
    let before: Value = serde_saphyr::from_str(&old)?;
    let values =
        merged(before.clone(), &json!({ "nfs": { "server": "nfs.example.com", "path": "/exported/path" } }));
    // A copy of the chart whose own values are the old ones.
    let copy = case.scratch().join("chart");
    copy_folder(&repository().join("deploy/chart"), &copy)?;
    std::fs::write(copy.join("values.yaml"), serde_json::to_string(&values)?)?;
    let copy = copy.into_os_string().into_string().ok().context("not UTF-8")?;
    let golden = objects(&std::fs::read_to_string(repository().join("deploy/rendered/old-minimal.yaml"))?)?;
    for major in Major::ALL {
        let helm = Helm::new(&case, major).await?;
        let found =
            helm.objects(&["template", "berth", &copy, "--namespace=berth", "--kube-version=1.36.0"]).await?;
        ensure!(sorted(&found) == sorted(&golden), "the old values alone give something else:\n{found:#?}");
    }
    Ok(())
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

async fn old_images(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let chart = path("deploy/chart")?;
    let rows: [(Value, Result<&str, &str>); 10] = [
        (json!({}), Ok("berth:0.1.0")),
        (
            json!({"repository": "registry.k8s.io/sig-storage/nfs-subdir-external-provisioner", "tag": "v4.0.2"}),
            Ok("berth:0.1.0"),
        ),
        (json!({"repository": "k8s.gcr.io/sig-storage/nfs-subdir-external-provisioner"}), Ok("berth:0.1.0")),
        (
            json!({"repository": "quay.io/external_storage/nfs-client-provisioner", "tag": "v3.1.0-k8s1.11"}),
            Ok("berth:0.1.0"),
        ),
        (json!({"tag": "v4.0.2"}), Ok("berth:0.1.0")),
        (json!({"repository": "quay.io/example/berth", "tag": "v2.0.0"}), Ok("quay.io/example/berth:v2.0.0")),
        (
            json!({"repository": "mirror.example.com/nfs-subdir-external-provisioner"}),
            Err("push berth's image"),
        ),
        (json!({"repository": "quay.io/example/berth", "tag": "0.2.0"}), Ok("quay.io/example/berth:0.2.0")),
        (
            json!({"repository": "quay.io/example/berth", "digest": format!("sha256:{}", "0".repeat(64))}),
            Ok(
                "quay.io/example/berth@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ),
        (json!({"digest": "sha256:1"}), Err("digest")),
    ];
    for (image, expected) in rows {
        let values = helm.values("image", &json!({ "nfs": { "server": "s" }, "image": image }))?;
        match expected {
            Ok(expected) => {
                let found = helm.template("old", &chart, &values).await?;
                let check = ["Deployment", "*", "/spec/template/spec/containers/0/image"].map(str::to_owned);
                let found = find(&found, &check, "");
                ensure!(found == *expected, "{image} gives {found}");
            }
            Err(expected) => {
                let said = helm.template_refused(&chart, &values).await?;
                ensure!(said.contains(expected), "{image}: {said}");
            }
        }
    }
    // A mirror stands in for the registry, and before a name without one.
    for (repository, expected) in
        [("berth", "m.test/x/berth:1"), ("quay.io/example/berth", "m.test/x/example/berth:1")]
    {
        let image = json!({ "repository": repository, "tag": "1" });
        let global = json!({ "imageRegistry": "m.test/x" });
        let values = json!({ "nfs": { "server": "s" }, "image": image, "global": global });
        let values = helm.values("mirror", &values)?;
        let found = helm.template("old", &chart, &values).await?;
        let check = ["Deployment", "*", "/spec/template/spec/containers/0/image"].map(str::to_owned);
        ensure!(find(&found, &check, "") == *expected, "{repository}");
    }
    Ok(())
}

/// Values, and words of the message that refuses them.
fn wrong() -> Vec<(Value, &'static str)> {
    let with = |more: Value| merged(json!({ "nfs": { "server": "s" } }), &more);
    let export = json!({ "name": "a", "server": "s", "path": "/a" });
    let cluster = json!({ "name": "c", "monitors": ["m"] });
    vec![
        (json!({}), "set nfs.server"),
        (with(json!({ "replicaCount": "two" })), "replicaCount"),
        (with(json!({ "replicacount": 2 })), "replicacount"),
        (with(json!({ "nfs": { "sever": "s" } })), "sever"),
        (with(json!({ "nfs": { "path": "export" } })), "nfs/path"),
        (with(json!({ "nfs": { "mountOptions": "hard" } })), "nfs/mountOptions"),
        (with(json!({ "strategyType": "Rolling" })), "strategyType"),
        (with(json!({ "storageClass": { "onDelete": "purge" } })), "storageClass/onDelete"),
        (with(json!({ "storageClass": { "archiveOnDelete": "maybe" } })), "storageClass/archiveOnDelete"),
        (with(json!({ "storageClass": { "reclaimPolicy": "Recycle" } })), "storageClass/reclaimPolicy"),
        (
            with(json!({ "podDisruptionBudget": { "maxUnavailable": "half" } })),
            "podDisruptionBudget/maxUnavailable",
        ),
        (with(json!({ "config": { "wrokers": 1 } })), "wrokers"),
        (with(json!({ "config": { "workers": "lots" } })), "config/workers"),
        (with(json!({ "config": { "trashRetention": "7d" } })), "config/trashRetention"),
        (with(json!({ "config": { "logFormat": "yaml" } })), "config/logFormat"),
        // The pod's own namespace would win over it.
        (with(json!({ "config": { "leaseNamespace": "other" } })), "leaseNamespace"),
        (with(json!({ "labels": { "number": 1_234_567 } })), "labels/number"),
        (with(json!({ "labels": { "app": "other" } })), "labels has the label \"app\""),
        (with(json!({ "provisioners": { "nfs": "ceph.com/rbd" } })), "which stands for Ceph"),
        (with(json!({ "kubeletDir": "var/lib/kubelet" })), "kubeletDir"),
        (with(json!({ "node": { "updateStrategy": "Recreate" } })), "node/updateStrategy"),
        (with(json!({ "metrics": { "port": 0 } })), "metrics/port"),
        (with(json!({ "replicaCount": 2, "leaderElection": { "enabled": false } })), "without a lock"),
        (
            with(json!({ "strategyType": "RollingUpdate", "leaderElection": { "enabled": false } })),
            "strategyType: Recreate",
        ),
        (json!({ "exports": [{ "name": "a" }] }), "server"),
        (json!({ "exports": [{ "name": "A_b", "server": "s", "path": "/a" }] }), "exports/0/name"),
        (json!({ "exports": [export, export] }), "exports names \"a\" twice"),
        (
            with(json!({ "exports": [{ "name": "default", "server": "s", "path": "/a" }] })),
            "nfs.server is the export \"default\"",
        ),
        (json!({ "clusters": [{ "name": "c" }] }), "monitors"),
        (json!({ "clusters": [cluster, cluster] }), "clusters names \"c\" twice"),
        (
            json!({ "exports": [export], "storageClasses": [{ "name": "k", "provisioner": "rbd.berth.storage" }] }),
            "is not served; write one of nfs.berth.storage",
        ),
        (
            json!({ "exports": [export], "storageClasses": [
                { "name": "k", "provisioner": "nfs.berth.storage", "parameters": { "export": "b" } },
            ] }),
            "the parameter export of storageClasses \"k\" is \"b\"",
        ),
        (
            json!({ "clusters": [cluster], "storageClasses": [
                { "name": "k", "provisioner": "rbd.berth.storage", "parameters": { "clusterID": "d" } },
            ] }),
            "the parameter clusterID of storageClasses \"k\" is \"d\"",
        ),
        (
            with(json!({ "exports": [export], "storageClasses": [
                { "name": "nfs-client", "provisioner": "nfs.berth.storage" },
            ] })),
            "two StorageClasses are called \"nfs-client\"",
        ),
    ]
}

async fn wrong_values(case: Arc<Case>) -> Result<()> {
    let chart = path("deploy/chart")?;
    for major in Major::ALL {
        let helm = Helm::new(&case, major).await?;
        for (values, expected) in wrong() {
            let file = helm.values("wrong", &values)?;
            let said = helm.template_refused(&chart, &file).await;
            let said = said.with_context(|| values.to_string())?;
            ensure!(said.contains(expected), "{values} is refused with: {said}");
        }
        // On a server too, and nothing is left of the attempt.
        let file = helm.values("wrong", &json!({ "nfs": { "server": "s", "path": "no" } }))?;
        let said = helm.refused(&["install", "wrong", &chart, "--values", &file]).await?;
        ensure!(said.contains("nfs/path"), "{said}");
        let list = helm.run(&["list", "--all", "--short"]).await.or(helm.run(&["list", "--short"]).await)?;
        if !list.trim().is_empty() {
            bail!("a release is left: {list}");
        }
        // What is not ours to judge passes: anchors, values of a parent chart, and null for an absent value.
        let values = json!({
            "x-anchor": { "a": 1 }, "enabled": true, "global": { "other": true }, "priorityClassName": null,
            "nfs": { "server": "s", "mountOptions": null },
            "storageClass": { "onDelete": null, "archiveOnDelete": "false" },
        });
        let file = helm.values("free", &values)?;
        helm.template("berth", &chart, &file).await?;
    }
    Ok(())
}

async fn retired_chart(case: Arc<Case>) -> Result<()> {
    let helm = Helm::new(&case, Major::Three).await?;
    let values = json!({ "nfs": { "server": "s" }, "nameOverride": "nfs-client-provisioner" });
    let file = helm.values("retired", &values)?;
    let found = helm.template("old", &path("deploy/chart")?, &file).await?;
    let look = |kind: &str, pointer: &str| find(&found, &[kind.into(), "*".into(), pointer.into()], "");
    ensure!(look("Deployment", "/metadata/name") == "old-nfs-client-provisioner");
    ensure!(look("Deployment", "/spec/selector/matchLabels/app") == "nfs-client-provisioner");
    ensure!(look("StorageClass", "/provisioner") == "cluster.local/old-nfs-client-provisioner");
    Ok(())
}

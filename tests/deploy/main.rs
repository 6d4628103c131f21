//! The files of `deploy/`, and what the chart renders, against the API's types, against the rights that the code asks for, and against its configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // It is all test.

mod chart;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use berth::{
    backend::{cephfs, nfs, rbd},
    config::{self, Controller, Environment, Invocation, Storage},
    provisioner::rights::{self, ATTACHMENTS, ELECTION, Right, Rights, SECRETS, VOLUMES},
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{
        ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, PodSpec, Secret, Service,
        ServiceAccount,
    },
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    storage::v1::{CSIDriver, StorageClass},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The YAML files directly in a folder, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(deploy().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in deploy/{folder}");
    files
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(!documents.is_empty(), "{} is empty", file.display());
    documents
}

fn all(folders: &[&str]) -> Vec<(String, Value)> {
    let of_file = |file: PathBuf| {
        let name = file.strip_prefix(deploy()).unwrap().display().to_string();
        documents(&file).into_iter().map(move |document| (name.clone(), document))
    };
    folders.iter().flat_map(|folder| files(folder)).flat_map(of_file).collect()
}

fn everything() -> Vec<(String, Value)> {
    all(&[
        "manifests",
        "manifests/ceph",
        "manifests/node",
        "examples",
        "examples/classes",
        "examples/ceph-csi",
    ])
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap()
}

/// The one object of this kind in the manifests.
fn manifest<T: DeserializeOwned>(wanted: &str) -> T {
    only("manifests", wanted)
}

/// The one object of this kind in a folder.
fn only<T: DeserializeOwned>(folder: &str, wanted: &str) -> T {
    let mut found: Vec<Value> =
        all(&[folder]).into_iter().map(|(_, d)| d).filter(|d| kind(d) == wanted).collect();
    assert_eq!(found.len(), 1, "{wanted}");
    serde_json::from_value(found.remove(0)).unwrap()
}

/// What of `written` is lost in `read`: fields that the type does not know, or values that it reads differently.
fn lost(written: &Value, read: &Value, path: &str, found: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written {
                match read.get(key) {
                    Some(read) => lost(value, read, &format!("{path}.{key}"), found),
                    None => found.push(format!("{path}.{key}")),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                lost(written, read, &format!("{path}[{index}]"), found);
            }
        }
        (written, read) if written == read => {}
        (written, read) => found.push(format!("{path}: {written} is read as {read}")),
    }
}

fn round<T: DeserializeOwned + Serialize>(document: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// The problems of one document.
fn problems(document: &Value) -> Vec<String> {
    let read = match kind(document) {
        "Namespace" => round::<Namespace>(document),
        "ServiceAccount" => round::<ServiceAccount>(document),
        "ClusterRole" => round::<ClusterRole>(document),
        "ClusterRoleBinding" => round::<ClusterRoleBinding>(document),
        "Role" => round::<Role>(document),
        "RoleBinding" => round::<RoleBinding>(document),
        "Deployment" => round::<Deployment>(document),
        "StatefulSet" => round::<StatefulSet>(document),
        "StorageClass" => round::<StorageClass>(document),
        "PersistentVolumeClaim" => round::<PersistentVolumeClaim>(document),
        "PersistentVolume" => round::<PersistentVolume>(document),
        "ConfigMap" => round::<ConfigMap>(document),
        "Secret" => round::<Secret>(document),
        "DaemonSet" => round::<DaemonSet>(document),
        "CSIDriver" => round::<CSIDriver>(document),
        "Service" => round::<Service>(document),
        "NetworkPolicy" => round::<NetworkPolicy>(document),
        "PodDisruptionBudget" => round::<PodDisruptionBudget>(document),
        other => Err(format!("the kind {other} is not expected here")),
    };
    match read {
        Ok(read) => {
            let mut found = Vec::new();
            lost(document, &read, "", &mut found);
            found
        }
        Err(error) => vec![error],
    }
}

#[test]
fn every_document_is_what_the_api_server_expects() {
    for (file, document) in everything() {
        assert_eq!(problems(&document), Vec::<String>::new(), "{file}: {}", kind(&document));
    }
}

#[test]
fn a_field_that_the_api_does_not_know_is_found() {
    let document = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "nmespace": "b"}
    });
    assert_eq!(problems(&document), [".metadata.nmespace"]);
    let document = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": 1}});
    assert_eq!(problems(&document).len(), 1);
}

#[test]
fn every_verb_carries_its_reason() {
    let mut verbs = 0;
    for file in [files("manifests"), files("manifests/ceph"), files("rendered")].concat() {
        let text = fs::read_to_string(&file).unwrap();
        let mut below = None;
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            let indent = line.len() - line.trim_start().len();
            if let Some(rest) = line.trim().strip_prefix("verbs:") {
                assert!(rest.trim().is_empty(), "{place}: write one verb a line, each with its reason");
                below = Some(indent);
            } else if below.is_some_and(|at| indent > at) {
                let (verb, reason) = line.split_once(" # ").unwrap_or((line, ""));
                assert!(reason.len() > 10, "{place}: {} has no reason beside it", verb.trim());
                verbs += 1;
            } else {
                below = None;
            }
        }
    }
    assert!(verbs > 10, "only {verbs} verbs were found");
}

/// Every `verb resource.group/subresource` that the rules grant.
fn granted(rules: Option<Vec<PolicyRule>>) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for rule in rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.clone().unwrap() {
                for verb in &rule.verbs {
                    assert!(!verb.contains('*') && !resource.contains('*') && !group.contains('*'));
                    let (name, below) = match resource.split_once('/') {
                        Some((name, below)) => (name, format!("/{below}")),
                        None => (resource.as_str(), String::new()),
                    };
                    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                    let only = rule.resource_names.clone().unwrap_or_default().concat();
                    let only = if only.is_empty() { only } else { format!("/{only}") };
                    granted.insert(format!("{verb} {name}{group}{below}{only}"));
                }
            }
        }
    }
    granted
}

#[test]
fn exactly_the_rights_that_the_code_asks_for_are_granted() {
    let named = |rights: &[Right]| rights.iter().map(Right::to_string).collect::<BTreeSet<_>>();
    let cluster: ClusterRole = manifest("ClusterRole");
    assert_eq!(granted(cluster.rules), named(&[VOLUMES, rights::host(true, false)].concat()));
    let role: Role = manifest("Role");
    // Where there are Leases, the Endpoints of an old provisioner are only looked at.
    let needed: Vec<Right> = ELECTION
        .iter()
        .copied()
        .filter(|right| !matches!(right, Right::CreateEndpoints | Right::UpdateEndpoints))
        .collect();
    assert_eq!(granted(role.rules), named(&needed));

    let cluster: ClusterRole = only("manifests/ceph", "ClusterRole");
    assert_eq!(granted(cluster.rules), named(&[rights::host(true, true), ATTACHMENTS].concat()));
    let role: Role = only("manifests/ceph", "Role");
    assert_eq!(granted(role.rules), named(SECRETS));
}

/// What `berth_rights_missing` and `/readyz` tell.
#[test]
fn an_account_with_the_rights_of_the_manifests_misses_none() {
    let (cluster, role): (ClusterRole, Role) = (manifest("ClusterRole"), manifest("Role"));
    let nfs = &granted(cluster.rules) | &granted(role.rules);
    let (cluster, role): (ClusterRole, Role) =
        (only("manifests/ceph", "ClusterRole"), only("manifests/ceph", "Role"));
    let ceph = &nfs | &(&granted(cluster.rules) | &granted(role.rules));
    for (row, on_ceph, granted) in [("NFS alone", false, nfs), ("Ceph", true, ceph)] {
        let attached = if on_ceph { ATTACHMENTS } else { &[] };
        let asked = [VOLUMES, rights::host(true, on_ceph), attached, ELECTION].concat();
        let denied = asked.into_iter().filter(|right| !granted.contains(&right.to_string()));
        assert_eq!(Rights::without(denied).missing(), BTreeSet::new(), "{row}");
    }
}

/// The pod of a deployment whose account has these roles by these bindings.
fn pod_of(
    deployment: Deployment,
    account: &ServiceAccount,
    (cluster, cluster_binding): (&ClusterRole, ClusterRoleBinding),
    (role, binding): (&Role, RoleBinding),
) -> PodSpec {
    assert_eq!(Some(cluster_binding.role_ref.name), cluster.metadata.name);
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    for subject in [cluster_binding.subjects.unwrap(), binding.subjects.unwrap()].concat() {
        assert_eq!(Some(subject.name), account.metadata.name);
        assert_eq!(subject.namespace, account.metadata.namespace);
    }
    for namespaced in [&role.metadata, &binding.metadata, &deployment.metadata] {
        assert_eq!(namespaced.namespace, account.metadata.namespace);
    }
    let spec = deployment.spec;
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    for (label, value) in spec.selector.match_labels.unwrap() {
        assert_eq!(labels.get(&label), Some(&value));
    }
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name, account.metadata.name);
    pod
}

#[test]
fn the_names_of_what_ceph_needs_fit_together() {
    let account: ServiceAccount = manifest("ServiceAccount");
    let cluster: ClusterRole = only("manifests/ceph", "ClusterRole");
    let cluster_binding: ClusterRoleBinding = only("manifests/ceph", "ClusterRoleBinding");
    let role: Role = only("manifests/ceph", "Role");
    let binding: RoleBinding = only("manifests/ceph", "RoleBinding");
    let secret: Secret = only("manifests/ceph", "Secret");
    let map: ConfigMap = only("manifests/ceph", "ConfigMap");
    let deployment: Deployment = only("manifests/ceph", "Deployment");

    let pod = pod_of(deployment, &account, (&cluster, cluster_binding), (&role, binding));
    for namespaced in [&secret.metadata, &map.metadata] {
        assert_eq!(namespaced.namespace, account.metadata.namespace);
    }
    let mounted = pod.volumes.unwrap().into_iter().find_map(|volume| volume.config_map).unwrap();
    assert_eq!(Some(mounted.name), map.metadata.name);

    // The arguments and the file start the controller, whose cluster's Secret is the one that is there.
    let text = map.data.unwrap().remove("berth.yaml").unwrap();
    let read = |path: &Path| match path.to_str() {
        Some("/etc/berth/berth.yaml") => Ok(text.clone()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    let args: Vec<String> =
        std::iter::once("berth".to_owned()).chain(pod.containers[0].args.clone().unwrap()).collect();
    let started = config::parse(&args, Environment { env: &|_| None, read: &read }).unwrap();
    let Invocation::Controller(started) = started else { panic!("the controller is not started") };
    let ceph = started.ceph.unwrap();
    let admin = ceph.clusters[0].admin.clone().unwrap();
    assert_eq!(Some(admin.secret.name), secret.metadata.name);
    assert_eq!(Some(admin.secret.namespace), secret.metadata.namespace);
    assert_eq!(ceph.secret_namespace, account.metadata.namespace);
    assert!(pod.termination_grace_period_seconds.unwrap() > started.shutdown_grace.as_secs().cast_signed());

    let power = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(power.allow_privilege_escalation, Some(false));
    assert_eq!(power.read_only_root_filesystem, Some(true));
    let capabilities = power.capabilities.unwrap();
    assert_eq!((capabilities.drop.unwrap(), capabilities.add), (vec!["ALL".to_owned()], None));
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
}

#[test]
fn names_fit_together() {
    let account: ServiceAccount = manifest("ServiceAccount");
    let namespace: Namespace = manifest("Namespace");
    let cluster: ClusterRole = manifest("ClusterRole");
    let cluster_binding: ClusterRoleBinding = manifest("ClusterRoleBinding");
    let role: Role = manifest("Role");
    let binding: RoleBinding = manifest("RoleBinding");
    let deployment: Deployment = manifest("Deployment");
    let class: StorageClass = manifest("StorageClass");

    let pod = pod_of(deployment, &account, (&cluster, cluster_binding), (&role, binding));
    assert_eq!(account.metadata.namespace, namespace.metadata.name);
    let environment: BTreeMap<String, String> = pod.containers[0]
        .env
        .iter()
        .flatten()
        .map(|var| (var.name.clone(), var.value.clone().unwrap_or_default()))
        .collect();
    assert_eq!(environment["PROVISIONER_NAME"], class.provisioner);
    let export = pod.volumes.unwrap().remove(0).nfs.unwrap();
    assert_eq!((&export.server, &export.path), (&environment["NFS_SERVER"], &environment["NFS_PATH"]));

    // The container's environment and arguments start the controller, and the pod outlives its shutdown.
    let args: Vec<String> =
        std::iter::once("berth".to_owned()).chain(pod.containers[0].args.clone().unwrap()).collect();
    let env = |name: &str| environment.get(name).map(std::ffi::OsString::from);
    let read = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let started = config::parse(&args, Environment { env: &env, read: &read }).unwrap();
    let Invocation::Controller(started) = started else { panic!("the controller is not started") };
    let mount = &pod.containers[0].volume_mounts.as_ref().unwrap()[0];
    assert_eq!(started.exports[0].root, Path::new(&mount.mount_path));
    let listen = started.listen.unwrap().address.port();
    assert_eq!(i32::from(listen), pod.containers[0].ports.as_ref().unwrap()[0].container_port);
    assert!(pod.termination_grace_period_seconds.unwrap() > started.shutdown_grace.as_secs().cast_signed());
}

#[test]
fn the_process_has_no_more_power_than_it_needs() {
    let deployment: Deployment = manifest("Deployment");
    let text = fs::read_to_string(deploy().join("manifests/04-deployment.yaml")).unwrap();
    let pod = deployment.spec.template.spec.unwrap();
    let context = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    for capability in capabilities.add.unwrap() {
        let line = text.lines().find(|line| line.trim().starts_with(&format!("- {capability}"))).unwrap();
        assert!(line.contains(" # "), "{capability} has no reason beside it");
    }
}

/// What storage a provisioner name stands for.
fn storage(name: &str) -> Storage {
    let args: Vec<String> =
        ["berth", "--nfs-server=s", "--nfs-path=/p", "--provisioner-name", name].map(String::from).to_vec();
    let read = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    match config::parse(&args, Environment { env: &|_| None, read: &read }) {
        Ok(Invocation::Controller(started)) => started.provisioners[0].storage,
        other => panic!("{name}: {other:?}"),
    }
}

/// Whether a class of this storage has such a parameter.
fn known(storage: Storage, parameter: &str) -> bool {
    let common = ["archiveOnDelete", "onDelete", "strictParameters", "trashRetention"];
    let (theirs, case_insensitive) = match storage {
        Storage::Nfs => (nfs::PARAMETERS, false),
        Storage::Rbd => (rbd::PARAMETERS, true),
        Storage::Cephfs => (cephfs::PARAMETERS, true),
    };
    let named = |name: &str| name == parameter || case_insensitive && name.eq_ignore_ascii_case(parameter);
    theirs.iter().any(|known| named(known.name)) || common.iter().any(|name| named(name))
}

#[test]
fn the_parameters_of_all_classes_are_known() {
    let mut classes: BTreeMap<Storage, usize> = BTreeMap::new();
    for (file, document) in everything() {
        if kind(&document) != "StorageClass" {
            continue;
        }
        let class: StorageClass = serde_json::from_value(document).unwrap();
        let storage = storage(&class.provisioner);
        *classes.entry(storage).or_default() += 1;
        for parameter in class.parameters.unwrap_or_default().keys() {
            assert!(known(storage, parameter), "{file}: {parameter}");
        }
    }
    let expected = [(Storage::Nfs, 9), (Storage::Rbd, 3), (Storage::Cephfs, 2)];
    assert_eq!(classes, BTreeMap::from(expected));
}

#[test]
fn the_configuration_files_in_config_maps_are_accepted() {
    let mut maps = 0;
    for (file, document) in everything() {
        if kind(&document) != "ConfigMap" {
            continue;
        }
        maps += 1;
        let map: ConfigMap = serde_json::from_value(document).unwrap();
        let text = map.data.unwrap().remove("berth.yaml").unwrap();
        let read = |path: &Path| match path.to_str() {
            Some("/etc/berth/berth.yaml") => Ok(text.clone()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let args = ["berth".to_owned(), "--config=/etc/berth/berth.yaml".to_owned()];
        let started = config::parse(&args, Environment { env: &|_| None, read: &read });
        let Ok(Invocation::Controller(started)) = started else { panic!("{file}: {started:?}") };
        assert!(
            !started.exports.is_empty() || started.ceph.is_some_and(|ceph| !ceph.clusters.is_empty()),
            "{file}"
        );
        if !started.exports.is_empty() {
            nfs::check(&started.exports).unwrap();
        }
    }
    assert_eq!(maps, 2);
}

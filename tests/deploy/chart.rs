//! `deploy/rendered/`, what the chart gives for the values of `deploy/chart/ci/`: against the API's types, the rights that
//! the code asks for, the configuration that it reads, the plain manifests, and what the old chart's objects cannot change.
//!
//! Needs no Helm: that the files are what the chart gives is checked by `hack/chart --check`.

use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use super::{
    BTreeMap, BTreeSet, CSIDriver, ConfigMap, Controller, DaemonSet, Deployment, DeserializeOwned,
    Environment, Invocation, PodSpec, Right, Rights, Role, SECRETS, Storage, StorageClass, VOLUMES, Value,
    config, deploy, documents, files, fs, granted, kind, manifest, nfs, only, problems, rights,
};

/// The kinds of the Prometheus Operator and of `OpenShift`, which the API's types do not have.
const FOREIGN: &[&str] = &["PodMonitor", "ServiceMonitor", "PrometheusRule", "SecurityContextConstraints"];

/// A file of `deploy/rendered/` with the values that it was made of.
struct Rendering {
    name: String,
    objects: Vec<Value>,
    values: Value,
}

fn renderings() -> Vec<Rendering> {
    files("rendered").iter().map(|file| rendering(file.file_stem().unwrap().to_str().unwrap())).collect()
}

fn rendering(name: &str) -> Rendering {
    let objects = documents(&deploy().join(format!("rendered/{name}.yaml")));
    let values = fs::read_to_string(deploy().join(format!("chart/ci/{name}-values.yaml"))).unwrap();
    Rendering { name: name.into(), objects, values: serde_saphyr::from_str(&values).unwrap() }
}

impl Rendering {
    fn all<T: DeserializeOwned>(&self, wanted: &str) -> Vec<T> {
        let found = self.objects.iter().filter(|object| kind(object) == wanted);
        found.map(|object| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    fn one<T: DeserializeOwned>(&self, wanted: &str) -> T {
        let mut found = self.all(wanted);
        assert_eq!(found.len(), 1, "{}: {wanted}", self.name);
        found.remove(0)
    }

    fn object(&self, wanted: &str, name: &str) -> &Value {
        let mut found = self.objects.iter().filter(|object| kind(object) == wanted);
        found.find(|object| object["metadata"]["name"] == name).unwrap_or_else(|| {
            panic!("{} has no {wanted} {name}", self.name);
        })
    }

    fn pod(&self) -> PodSpec {
        self.one::<Deployment>("Deployment").spec.template.spec.unwrap()
    }

    fn container(&self) -> Container {
        self.pod().containers.remove(0)
    }

    /// The configuration file in the `ConfigMap` that the pod mounts.
    fn file(&self) -> Option<String> {
        let volumes = self.pod().volumes.unwrap_or_default();
        let name = volumes.into_iter().find_map(|volume| volume.config_map)?.name;
        let maps: Vec<ConfigMap> = self.all("ConfigMap");
        let map = maps.into_iter().find(|map| map.metadata.name.as_ref() == Some(&name)).unwrap();
        map.data.unwrap().remove("berth.yaml")
    }

    /// What the process is, started as its container says.
    fn started(&self) -> Controller {
        let container = self.container();
        let environment: BTreeMap<String, String> = container
            .env
            .into_iter()
            .flatten()
            .map(|var| (var.name, var.value.unwrap_or_default()))
            .collect();
        let file = self.file();
        let read = |path: &Path| match (&file, path.to_str()) {
            (Some(text), Some("/etc/berth/berth.yaml")) => Ok(text.clone()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let env = |name: &str| environment.get(name).map(std::ffi::OsString::from);
        let args: Vec<String> =
            std::iter::once("berth".to_owned()).chain(container.args.unwrap_or_default()).collect();
        match config::parse(&args, Environment { env: &env, read: &read }) {
            Ok(Invocation::Controller(started)) => *started,
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

#[test]
fn every_rendering_is_made_of_values_and_every_values_file_is_rendered() {
    let stem =
        |file: &Path, end: &str| file.file_name().unwrap().to_str().unwrap().trim_end_matches(end).to_owned();
    let rendered: BTreeSet<String> = files("rendered").iter().map(|file| stem(file, ".yaml")).collect();
    let values: BTreeSet<String> = files("chart/ci")
        .iter()
        .filter(|file| file.to_str().unwrap().ends_with("-values.yaml"))
        .map(|file| stem(file, "-values.yaml"))
        .collect();
    assert_eq!(rendered, values);
    for wanted in
        ["old-minimal", "old-full", "several-exports", "ceph", "everything", "openshift", "restricted"]
    {
        assert!(rendered.contains(wanted), "{wanted}");
    }
}

#[test]
fn every_rendered_object_is_what_the_api_server_expects() {
    for rendering in renderings() {
        let mut names = BTreeSet::new();
        for object in &rendering.objects {
            let metadata = &object["metadata"];
            assert!(
                names.insert((kind(object), metadata["namespace"].to_string(), metadata["name"].to_string())),
                "{}: {} {} is there twice",
                rendering.name,
                kind(object),
                metadata["name"]
            );
            if !FOREIGN.contains(&kind(object)) {
                assert_eq!(problems(object), Vec::<String>::new(), "{}: {}", rendering.name, kind(object));
            }
        }
    }
}

#[test]
fn every_rendered_configuration_starts_the_controller_with_what_the_pod_mounts() {
    for rendering in renderings() {
        let name = &rendering.name;
        let started = rendering.started();
        let container = rendering.container();
        if !started.exports.is_empty() {
            nfs::check(&started.exports).unwrap();
        }
        let mounts: BTreeSet<String> =
            container.volume_mounts.unwrap().into_iter().map(|mount| mount.mount_path).collect();
        for export in &started.exports {
            assert!(mounts.contains(export.root.to_str().unwrap()), "{name}: {} is not mounted", export.name);
        }
        let port = container.ports.unwrap()[0].container_port;
        assert_eq!(i32::from(started.listen.unwrap().address.port()), port, "{name}");
        let grace = rendering.pod().termination_grace_period_seconds.unwrap();
        assert!(grace > started.shutdown_grace.as_secs().cast_signed(), "{name}");
        let served: BTreeSet<String> =
            started.provisioners.iter().map(|served| served.name.clone()).collect();
        for class in rendering.all::<StorageClass>("StorageClass") {
            assert!(served.contains(&class.provisioner), "{name}: {} is not served", class.provisioner);
        }
    }
}

#[test]
fn the_chart_grants_exactly_the_rights_that_the_code_asks_for() {
    let named = |rights: &[Right]| rights.iter().map(Right::to_string).collect::<BTreeSet<_>>();
    for rendering in renderings() {
        let name = &rendering.name;
        let started = rendering.started();
        let ceph = started.provisioners.iter().any(|served| served.storage != Storage::Nfs);
        let rbd = started.provisioners.iter().any(|served| served.storage == Storage::Rbd);
        let attached = if rbd { rights::ATTACHMENTS } else { &[] };
        let nameless = rendering.values["config"]["clusterId"].is_null();
        let cluster: super::ClusterRole = rendering.one("ClusterRole");
        let cluster = granted(cluster.rules);
        assert_eq!(cluster, named(&[VOLUMES, rights::host(nameless, ceph), attached].concat()), "{name}");
        let mut secrets = 0;
        let mut mine = cluster;
        for role in rendering.all::<Role>("Role") {
            let of = role.metadata.name.clone().unwrap();
            let rules = granted(role.rules);
            if of.starts_with("leader-locking-") {
                let needed = rights::ELECTION.iter().copied();
                let needed: Vec<Right> = needed
                    .filter(|right| !matches!(right, Right::CreateEndpoints | Right::UpdateEndpoints))
                    .collect();
                assert_eq!(rules, named(&needed), "{name}");
                mine.extend(rules);
                continue;
            }
            // Where the Secrets of volumes' own users are kept berth may write, elsewhere it may only read.
            let kept = started.ceph.as_ref().unwrap().secret_namespace == role.metadata.namespace;
            let expected = if kept { named(SECRETS) } else { named(&[Right::GetSecrets]) };
            assert_eq!(rules, expected, "{name}: {of} in {:?}", role.metadata.namespace);
            secrets += 1;
        }
        assert_eq!(secrets > 0, ceph, "{name}");
        let asked = [VOLUMES, rights::host(nameless, ceph), attached, rights::ELECTION].concat();
        let denied = asked.into_iter().filter(|right| !mine.contains(&right.to_string()));
        assert_eq!(Rights::without(denied).missing(), BTreeSet::new(), "{name}");
    }
}

#[test]
fn every_secret_that_a_configured_cluster_names_can_be_read() {
    for rendering in renderings() {
        let Some(ceph) = rendering.started().ceph else { continue };
        let readable: BTreeSet<String> = rendering
            .all::<Role>("Role")
            .into_iter()
            .filter(|role| role.metadata.name.as_ref().unwrap().ends_with("-secrets"))
            .map(|role| role.metadata.namespace.unwrap())
            .collect();
        for cluster in &ceph.clusters {
            let Some(admin) = &cluster.admin else { continue };
            let namespace = admin.secret.namespace.clone();
            // Without a namespace it is berth's own, which only the running process knows.
            let namespace = if namespace == "default" { "berth".to_owned() } else { namespace };
            assert!(readable.contains(&namespace), "{}: {namespace}", rendering.name);
        }
    }
}

#[test]
fn every_binding_gives_its_role_to_the_pods_account() {
    for rendering in renderings() {
        let account = rendering.pod().service_account_name.unwrap();
        for binding in ["ClusterRoleBinding", "RoleBinding"] {
            for object in rendering.objects.iter().filter(|object| kind(object) == binding) {
                let role = &object["roleRef"];
                let target = rendering.objects.iter().find(|other| {
                    kind(other) == role["kind"]
                        && other["metadata"]["name"] == role["name"]
                        && other["metadata"]["namespace"] == object["metadata"]["namespace"]
                });
                assert!(target.is_some(), "{}: {object}", rendering.name);
                let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": "berth"}]);
                assert_eq!(object["subjects"], subjects, "{}", rendering.name);
            }
        }
    }
}

#[test]
fn the_chart_gives_no_pod_more_power_than_it_needs() {
    for rendering in renderings() {
        let name = &rendering.name;
        let started = rendering.started();
        let pod = rendering.pod();
        let context = pod.security_context.unwrap();
        let container = rendering.container().security_context.unwrap();
        assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault", "{name}");
        assert_eq!(container.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(container.read_only_root_filesystem, Some(true), "{name}");
        assert_ne!(container.privileged, Some(true), "{name}");
        assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (None, None, None), "{name}");
        let capabilities = container.capabilities.unwrap();
        assert_eq!(capabilities.drop.unwrap(), ["ALL"], "{name}");
        let root = !started.exports.is_empty() && name != "restricted";
        let added = capabilities.add.unwrap_or_default();
        if root {
            assert_eq!(context.run_as_user, Some(0), "{name}");
            assert_eq!(added, ["CHOWN", "FOWNER", "FSETID", "DAC_OVERRIDE"], "{name}");
        } else {
            assert_eq!((context.run_as_non_root, added), (Some(true), vec![]), "{name}");
        }
    }
}

/// Pod Security "restricted" allows no NFS volume in a pod, and "baseline" no volume of the node's.
#[test]
fn a_pod_without_root_is_within_the_restricted_standard_and_every_other_one_within_baseline() {
    for rendering in renderings() {
        let restricted = matches!(rendering.name.as_str(), "ceph" | "plain-ceph" | "restricted");
        for volume in rendering.pod().volumes.unwrap() {
            assert!(volume.host_path.is_none(), "{}", rendering.name);
            assert!(!restricted || volume.nfs.is_none(), "{}: {}", rendering.name, volume.name);
        }
    }
}

/// Immutable in an old release: if one of these changes, `helm upgrade` is refused.
#[test]
fn what_an_old_release_cannot_change_is_as_the_old_chart_made_it() {
    let full = "berth-nfs-subdir-external-provisioner";
    let old = rendering("old-minimal");
    let deployment = old.object("Deployment", full);
    let selector = json!({"matchLabels": {"app": "nfs-subdir-external-provisioner", "release": "berth"}});
    assert_eq!(deployment["spec"]["selector"], selector);
    assert_eq!(old.container().name, "nfs-subdir-external-provisioner");
    for (wanted, name) in [
        ("ServiceAccount", full),
        ("ClusterRole", "berth-nfs-subdir-external-provisioner-runner"),
        ("ClusterRoleBinding", "run-berth-nfs-subdir-external-provisioner"),
        ("Role", "leader-locking-berth-nfs-subdir-external-provisioner"),
        ("RoleBinding", "leader-locking-berth-nfs-subdir-external-provisioner"),
    ] {
        old.object(wanted, name);
    }
    let class = old.object("StorageClass", "nfs-client");
    assert_eq!(class["provisioner"], "cluster.local/berth-nfs-subdir-external-provisioner");
    assert_eq!(class["parameters"], json!({"archiveOnDelete": "true"}));
    assert_eq!(
        (&class["reclaimPolicy"], &class["volumeBindingMode"]),
        (&json!("Delete"), &json!("Immediate"))
    );

    let old = rendering("old-full");
    let volume = old.object("PersistentVolume", "pv-berth-nfs-subdir-external-provisioner");
    assert_eq!(
        volume["spec"],
        json!({
            "capacity": {"storage": "10Mi"}, "volumeMode": "Filesystem", "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "mountOptions": ["nfsvers=4.1", "hard"], "nfs": {"server": "10.0.0.9", "path": "/srv/nfs"},
        })
    );
    assert_eq!(volume["metadata"]["labels"]["nfs-subdir-external-provisioner"], full);
    let claim = old.object("PersistentVolumeClaim", "pvc-berth-nfs-subdir-external-provisioner");
    assert_eq!(
        claim["spec"],
        json!({
            "accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem", "storageClassName": "",
            "selector": {"matchLabels": {"nfs-subdir-external-provisioner": full}},
            "resources": {"requests": {"storage": "10Mi"}},
        })
    );
    let class = old.object("StorageClass", "managed-nfs-storage");
    assert_eq!(
        class["parameters"],
        json!({
            "archiveOnDelete": "false", "onDelete": "retain",
            "pathPattern": "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}",
        })
    );
    assert_eq!(class["mountOptions"], json!(["nfsvers=4.1", "hard"]));
}

/// A container without what only names it: the chart names it after the old one, and the file where the environment says less.
fn bare(mut pod: PodSpec) -> PodSpec {
    pod.containers[0].name = "berth".into();
    pod.containers[0].image_pull_policy = None;
    pod.affinity = None;
    for volume in pod.volumes.iter_mut().flatten() {
        if let Some(map) = &mut volume.config_map {
            map.name = "berth".into();
        }
    }
    pod
}

#[test]
fn the_plain_manifests_and_the_chart_run_the_same_pod_with_the_same_rights() {
    let rules = |rules: [Option<Vec<super::PolicyRule>>; 2]| {
        rules.into_iter().flat_map(granted).collect::<BTreeSet<String>>()
    };
    let plain: Deployment = manifest("Deployment");
    let chart = rendering("plain-nfs");
    let rendered: Deployment = chart.one("Deployment");
    assert_eq!(plain.spec.replicas, rendered.spec.replicas);
    let kind_of = |deployment: &Deployment| deployment.spec.strategy.as_ref().unwrap().type_.clone();
    assert_eq!(kind_of(&plain), kind_of(&rendered));
    assert_eq!(bare(plain.spec.template.spec.unwrap()), bare(rendered.spec.template.spec.unwrap()));
    let (cluster, role): (super::ClusterRole, Role) = (manifest("ClusterRole"), manifest("Role"));
    let (theirs, their_role): (super::ClusterRole, Role) = (chart.one("ClusterRole"), chart.one("Role"));
    assert_eq!(rules([cluster.rules.clone(), role.rules.clone()]), rules([theirs.rules, their_role.rules]));
    let (plain, rendered): (StorageClass, StorageClass) =
        (manifest("StorageClass"), chart.one("StorageClass"));
    let mut parameters = rendered.parameters.unwrap();
    // The old value, which onDelete overrides.
    parameters.remove("archiveOnDelete");
    assert_eq!(plain.parameters.unwrap(), parameters);
    assert_eq!((plain.provisioner, plain.metadata.name), (rendered.provisioner, rendered.metadata.name));

    let plain: Deployment = only("manifests/ceph", "Deployment");
    let chart = rendering("plain-ceph");
    let rendered: Deployment = chart.one("Deployment");
    assert_eq!(plain.spec.replicas, rendered.spec.replicas);
    assert_eq!(bare(plain.spec.template.spec.unwrap()), bare(rendered.spec.template.spec.unwrap()));
    let (more, more_role): (super::ClusterRole, Role) =
        (only("manifests/ceph", "ClusterRole"), only("manifests/ceph", "Role"));
    let mut expected = rules([cluster.rules, role.rules]);
    expected.extend(rules([more.rules, more_role.rules]));
    let roles = chart.all::<Role>("Role").into_iter().flat_map(|role| granted(role.rules));
    let theirs: super::ClusterRole = chart.one("ClusterRole");
    assert_eq!(expected, granted(theirs.rules).into_iter().chain(roles).collect());
    let map: ConfigMap = only("manifests/ceph", "ConfigMap");
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
    let mut file = read(&chart.file().unwrap());
    // Of its own, so that adding an export does not change the lock.
    assert_eq!(file.as_object_mut().unwrap().remove("leaseName"), Some(json!("berth-ceph")));
    assert_eq!(read(&map.data.unwrap()["berth.yaml"]), file);
}

#[test]
fn the_directory_of_kubelet_is_in_every_path_of_the_node_plugin_and_the_same_inside_as_outside() {
    let kubelet = "/var/lib/k0s/kubelet";
    let daemon: DaemonSet = rendering("node").one("DaemonSet");
    let text = serde_json::to_string(&daemon).unwrap();
    assert!(!text.contains("/var/lib/kubelet"), "{text}");
    let pod = daemon.spec.template.spec.unwrap();
    let container = &pod.containers[0];
    assert!(container.args.as_ref().unwrap().contains(&format!("--kubelet-dir={kubelet}")));
    let volumes = pod.volumes.unwrap();
    let host = volumes.iter().find(|volume| volume.name == "kubelet").unwrap().host_path.as_ref().unwrap();
    let mount =
        container.volume_mounts.as_ref().unwrap().iter().find(|mount| mount.name == "kubelet").unwrap();
    assert_eq!((host.path.as_str(), mount.mount_path.as_str()), (kubelet, kubelet));
    assert_eq!(mount.mount_propagation.as_deref(), Some("Bidirectional"));
    assert_eq!(pod.automount_service_account_token, Some(false));
}

#[test]
fn berth_node_understands_the_arguments_and_the_file_that_the_chart_gives_it() {
    for name in ["node", "plain-node"] {
        let rendering = rendering(name);
        let daemon: DaemonSet = rendering.one("DaemonSet");
        let maps: Vec<ConfigMap> = rendering.all("ConfigMap");
        let map = maps.into_iter().find(|map| map.metadata.name == daemon.metadata.name);
        let file = map.map(|map| map.data.unwrap().remove("berth.yaml").unwrap());
        let container = daemon.spec.template.spec.unwrap().containers.remove(0);
        let args: Vec<String> =
            std::iter::once("berth".to_owned()).chain(container.args.unwrap_or_default()).collect();
        let read = |path: &Path| match (&file, path.to_str()) {
            (Some(text), Some("/etc/berth/berth.yaml")) => Ok(text.clone()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let names: BTreeSet<String> = container.env.unwrap().into_iter().map(|var| var.name).collect();
        let env = |name: &str| names.contains(name).then(|| "worker-1".into());
        let Ok(Invocation::Node(node)) = config::parse(&args, Environment { env: &env, read: &read }) else {
            panic!("{name}: {args:?} {file:?}")
        };
        let kubelet = if name == "node" { "/var/lib/k0s/kubelet" } else { "/var/lib/kubelet" };
        assert_eq!((node.kubelet.to_str(), node.node.as_deref()), (Some(kubelet), Some("worker-1")));
        assert_eq!(file.is_some(), name == "node", "only clusters need a file");
    }
}

#[test]
fn the_pods_of_the_node_plugin_are_none_of_the_controllers() {
    let node = rendering("node");
    let (daemon, deployment): (DaemonSet, Deployment) = (node.one("DaemonSet"), node.one("Deployment"));
    let labels = daemon.spec.template.metadata.unwrap().labels.unwrap();
    let selector = deployment.spec.selector.match_labels.unwrap();
    assert!(selector.iter().any(|(key, value)| labels.get(key) != Some(value)), "{labels:?}");
    // Nor are they those of the plain manifests, whose selector is shorter.
    let plain: DaemonSet = only("manifests/node", "DaemonSet");
    let deployment: Deployment = manifest("Deployment");
    let labels = plain.spec.template.metadata.unwrap().labels.unwrap();
    let selector = deployment.spec.selector.match_labels.unwrap();
    assert!(selector.iter().any(|(key, value)| labels.get(key) != Some(value)), "{labels:?}");
}

#[test]
fn every_privilege_of_the_node_plugin_carries_its_reason_and_none_reaches_the_api() {
    let file = deploy().join("chart/templates/node.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut found = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        let wanted = ["privileged: true", "hostNetwork: true", "runAsUser: 0", "allow", "mountPath: "];
        let Some(wanted) = wanted.iter().find(|wanted| line.trim_start().starts_with(**wanted)) else {
            continue;
        };
        let refused = line.contains("false");
        let own = line.contains(" # ");
        let above = lines[at.saturating_sub(3)..at].iter().any(|line| line.trim_start().starts_with("# "));
        assert!(refused || own || above, "{}:{}: {line} has no reason", file.display(), at + 1);
        found.insert(*wanted);
    }
    assert_eq!(found.len(), 5, "{found:?}");
    for name in ["node", "plain-node"] {
        let rendering = rendering(name);
        let daemon: DaemonSet = rendering.one("DaemonSet");
        let account = daemon.spec.template.spec.unwrap().service_account_name.unwrap();
        let bound = [rendering.all("RoleBinding"), rendering.all("ClusterRoleBinding")].concat();
        let bound: Vec<Value> = bound;
        assert!(!bound.is_empty());
        let named = |binding: &Value| binding["subjects"].to_string().contains(&format!("\"{account}\""));
        assert!(!bound.iter().any(named), "{account} has rights");
    }
}

/// Immutable or hard to change: the values of the first release stay.
#[test]
fn the_csidriver_objects_have_values_that_can_stay() {
    let drivers = |name: &str| -> BTreeMap<String, CSIDriver> {
        let all = rendering(name).all::<CSIDriver>("CSIDriver").into_iter();
        all.map(|driver| (driver.metadata.name.clone().unwrap(), driver)).collect()
    };
    let all = drivers("node");
    assert_eq!(
        all.keys().collect::<Vec<_>>(),
        ["cephfs.berth.storage", "nfs.berth.storage", "rbd.berth.storage"]
    );
    for (name, driver) in all {
        let spec = driver.spec;
        let rbd = name.starts_with("rbd");
        assert_eq!(spec.attach_required, Some(rbd), "{name}");
        // CephFS as the values say.
        assert_eq!(spec.se_linux_mount, Some(rbd || name.starts_with("cephfs")), "{name}");
        assert_eq!(spec.volume_lifecycle_modes, Some(vec!["Persistent".to_owned()]), "{name}");
        let never = [spec.pod_info_on_mount, spec.storage_capacity, spec.requires_republish];
        assert_eq!(never, [Some(false); 3], "{name}");
        let policy = if name.starts_with("nfs") { "None" } else { "File" };
        assert_eq!(spec.fs_group_policy.as_deref(), Some(policy), "{name}");
    }
    let nfs = drivers("plain-node");
    assert_eq!(nfs.keys().collect::<Vec<_>>(), ["nfs.berth.storage"], "only what is served");
    let spec = &nfs["nfs.berth.storage"].spec;
    assert_eq!((spec.se_linux_mount, spec.fs_group_policy.as_deref()), (Some(false), Some("File")));
    assert!(drivers("everything").is_empty(), "without node.enabled there is none");
}

#[test]
fn a_changed_configuration_replaces_the_pods() {
    let mut sums = BTreeSet::new();
    for rendering in renderings() {
        let deployment: Deployment = rendering.one("Deployment");
        let annotations = deployment.spec.template.metadata.unwrap().annotations.unwrap_or_default();
        let sum = annotations.get("checksum/config").cloned();
        assert_eq!(sum.is_some(), rendering.file().is_some(), "{}", rendering.name);
        sums.extend(sum);
    }
    assert!(sums.len() > 3, "the sum does not depend on the file: {sums:?}");
}

#[test]
fn the_alerts_of_the_chart_are_those_that_are_tried() {
    let read = |file: &str| fs::read_to_string(deploy().join(file)).unwrap();
    assert_eq!(
        read("chart/files/alerts.yaml"),
        read("alerts/berth.yaml"),
        "cp deploy/alerts/berth.yaml deploy/chart/files/alerts.yaml"
    );
    let everything = rendering("everything");
    let rule = everything.object("PrometheusRule", "berth-nfs-subdir-external-provisioner");
    let tried: Value = serde_saphyr::from_str(&read("alerts/berth.yaml")).unwrap();
    assert_eq!(rule["spec"], tried);
}

#[test]
fn the_chart_has_the_version_of_the_program_without_a_v() {
    let chart: Value =
        serde_saphyr::from_str(&fs::read_to_string(deploy().join("chart/Chart.yaml")).unwrap()).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_parameters_of_all_rendered_classes_are_known() {
    for rendering in renderings() {
        let served = rendering.started().provisioners;
        for class in rendering.all::<StorageClass>("StorageClass") {
            let storage = served.iter().find(|served| served.name == class.provisioner).unwrap().storage;
            for parameter in class.parameters.unwrap_or_default().keys() {
                assert!(super::known(storage, parameter), "{}: {parameter}", rendering.name);
            }
        }
    }
}

//! Classes as tables: what they ask for, and what is refused.

use super::*;
use crate::{
    backend::{
        ceph::{Tools, class},
        conformance,
    },
    volume::Capacity,
};

fn clusters() -> Clusters {
    let cluster =
        |name: &str, monitors: &str| Cluster::new(name, monitors.parse().unwrap(), Tools::default()).unwrap();
    Clusters::new(
        vec![cluster("main", "10.0.0.1:6789,10.0.0.2:6789"), cluster("bare", "10.0.1.1")],
        Tools::default(),
    )
}

fn settings() -> Settings {
    let secret = SecretName { namespace: "berth".into(), name: "ceph".into() };
    Settings {
        driver: "cephfs.berth.storage".into(),
        admins: BTreeMap::from([("main".into(), Admin { user: "berth".into(), secret })]),
        secret_namespace: None,
    }
}

fn request(parameters: &[(&str, &str)]) -> VolumeRequest {
    let mut request = conformance::request("1");
    request.parameters = parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    request
}

fn planned(parameters: &[(&str, &str)]) -> Plan {
    plan(&clusters(), &settings(), &request(parameters))
        .unwrap_or_else(|error| unreachable!("{parameters:?}: {error}"))
}

/// What is compared of a plan, on one line.
fn shown(plan: &Plan) -> String {
    let node = match &plan.node {
        Node::Own { user, secret } => format!("own {user} {secret}"),
        Node::Shared { user, secret } => format!("shared {user} {secret}"),
        Node::Configured => "configured".to_owned(),
    };
    format!(
        "{} as {} {}; {}; {node}; {:?}",
        plan.cluster.name(),
        plan.admin.user,
        plan.admin.secret,
        plan.names.subvolume,
        plan.form
    )
}

const OLD: &[(&str, &str)] = &[
    ("monitors", "172.24.0.6:6789,172.24.0.7:6789"),
    ("adminId", "admin"),
    ("adminSecretName", "ceph-secret-admin"),
    ("adminSecretNamespace", "kube-system"),
    ("claimRoot", "/volumes/kubernetes"),
];

/// Proves: cephfs 3
#[test]
fn classes_say_which_cluster_user_group_and_source() {
    type Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, String);
    let own = "own berth-uid-1 team/ceph-berth-uid-1-secret";
    let rows: &[Row] = &[
        (
            "a configured cluster",
            vec![("clusterID", "main")],
            format!("main as berth berth/ceph; berth-uid-1; {own}; Csi"),
        ),
        (
            "a configured cluster by one of its monitors",
            vec![("monitors", "mon.example,10.0.0.2:6789")],
            format!("main as berth berth/ceph; berth-uid-1; {own}; Csi"),
        ),
        (
            "a configured cluster with the class's own user",
            vec![("clusterID", "main"), ("adminId", "client.me"), ("adminSecretName", "mine")],
            format!("main as me default/mine; berth-uid-1; {own}; Csi"),
        ),
        (
            "deterministic names, empty values as charts render them",
            vec![
                ("clusterID", "main"),
                ("deterministicNames", "T"),
                ("pool", ""),
                ("userId", ""),
                ("cluster", "ceph"),
            ],
            format!("main as berth berth/ceph; team.1; {own}; Csi"),
        ),
        (
            "a namespace for the Secrets of the volumes' users",
            vec![("clusterID", "main"), ("userSecretNamespace", "keys"), ("perVolumeUser", "true")],
            "main as berth berth/ceph; berth-uid-1; own berth-uid-1 keys/ceph-berth-uid-1-secret; Csi".into(),
        ),
        (
            "one user for all",
            vec![
                ("clusterID", "main"),
                ("userId", "client.pods"),
                ("userSecretName", "pods"),
                ("userSecretNamespace", "keys"),
            ],
            "main as berth berth/ceph; berth-uid-1; shared pods keys/pods; Csi".into(),
        ),
        (
            "one user for all whose Secret is each claim's",
            vec![("clusterID", "main"), ("userSecretName", "pods"), ("pvSource", "in-tree")],
            "main as berth berth/ceph; berth-uid-1; shared berth /pods; InTree".into(),
        ),
        (
            "a node plugin that knows its user",
            vec![("clusterID", "main"), ("perVolumeUser", "false")],
            "main as berth berth/ceph; berth-uid-1; configured; Csi".into(),
        ),
    ];
    for (why, parameters, expected) in rows {
        assert_eq!(shown(&planned(parameters)), *expected, "{why}");
    }
    let old = planned(OLD);
    assert!(class::is_described(&old.cluster));
    assert_eq!(old.monitors.as_ref().map(Monitors::as_str), Some("172.24.0.6:6789,172.24.0.7:6789"));
    assert_eq!((old.admin.user.as_str(), old.own_admin), ("admin", true));
    assert_eq!(old.names.group, "kubernetes");
    assert!(matches!(old.node, Node::Own { .. }), "as every volume of the old provisioner had");
    assert_eq!(old.place.path.to_string(), "volumes/kubernetes/berth-uid-1");
    let elsewhere = Settings { secret_namespace: Some("cephfs".into()), ..settings() };
    let Node::Own { secret, .. } = plan(&clusters(), &elsewhere, &request(OLD)).unwrap().node else {
        unreachable!()
    };
    assert_eq!(secret.namespace, "cephfs");
}

#[test]
fn sizes_are_rounded_up_to_what_clients_show() {
    const STEP: u64 = 4 << 20;
    for (asked, quota) in
        [(1, STEP), (STEP, STEP), (STEP + 1, 2 * STEP), (5_000_000, 2 * STEP), (LARGEST, LARGEST)]
    {
        let mut request = request(OLD);
        request.capacity = Capacity::from_bytes(asked);
        assert_eq!(plan(&clusters(), &settings(), &request).unwrap().quota, quota, "{asked}");
    }
    for absurd in [0, LARGEST + 1, u64::MAX] {
        let error = quota(absurd).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("request at"), "{error}");
    }
}

/// Proves: cephfs 2, cephfs 3
#[test]
fn bad_values_are_refused_naming_parameter_value_and_what_to_write() {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: &[Row] = &[
        ("no cluster", &[], &["clusterID", "monitors"]),
        ("an unknown cluster", &[("clusterID", "other")], &["\"other\"", "main, bare", "monitors"]),
        ("a cluster that nobody configured", &[("clusterID", "mon-0123456789")], &["mon-0123456789"]),
        ("no monitors", &[("monitors", " ")], &["monitors", "6789"]),
        ("monitors that are none", &[("monitors", "a b:c:d")], &["monitors"]),
        (
            "two clusters",
            &[("clusterID", "bare"), ("monitors", "10.0.0.1:6789"), ("adminSecretName", "s")],
            &["two clusters", "bare", "10.0.1.1"],
        ),
        ("no Secret", &[("monitors", "10.9.9.9")], &["adminSecretName", "is missing", "\"admin\""]),
        (
            "no Secret for a cluster without a user",
            &[("clusterID", "bare"), ("adminId", "x")],
            &["adminSecretName", "bare", "\"x\""],
        ),
        (
            "a user without its Secret",
            &[("clusterID", "main"), ("adminId", "x")],
            &["adminId", "adminSecretName"],
        ),
        (
            "a truth that is none",
            &[("clusterID", "main"), ("deterministicNames", "yes")],
            &["deterministicNames", "\"yes\"", "true or false"],
        ),
        (
            "a root that climbs",
            &[("clusterID", "main"), ("claimRoot", "/volumes/../etc")],
            &["claimRoot", "..", "/volumes/kubernetes"],
        ),
        (
            "a relative root",
            &[("clusterID", "main"), ("claimRoot", "volumes/kubernetes")],
            &["claimRoot", "absolute"],
        ),
        (
            "a root elsewhere",
            &[("clusterID", "main"), ("claimRoot", "/data/k8s")],
            &["claimRoot", "cannot be mapped", "\"/volumes/k8s\""],
        ),
        (
            "a root too deep",
            &[("clusterID", "main"), ("claimRoot", "/volumes/a/b")],
            &["claimRoot", "\"/volumes/b\""],
        ),
        (
            "a root of all",
            &[("clusterID", "main"), ("claimRoot", "/volumes")],
            &["claimRoot", "\"/volumes/kubernetes\""],
        ),
        (
            "a root that the module keeps",
            &[("clusterID", "main"), ("claimRoot", "/volumes/_deleting")],
            &["claimRoot", "_deleting"],
        ),
        ("a group that leads out", &[("clusterID", "main"), ("group", "../x")], &["group", "\"../x\""]),
        (
            "two groups",
            &[("clusterID", "main"), ("group", "a"), ("claimRoot", "/volumes/b")],
            &["group says \"a\"", "claimRoot says \"b\""],
        ),
        ("a pool that is an option", &[("clusterID", "main"), ("pool", "--force")], &["pool", "--force"]),
        ("a file system with a slash", &[("clusterID", "main"), ("fsName", "a/b")], &["fsName", "\"a/b\""]),
        (
            "both kinds of users",
            &[("clusterID", "main"), ("perVolumeUser", "true"), ("userSecretName", "s")],
            &["perVolumeUser", "userSecretName", "contradict"],
        ),
        (
            "a shared user without its Secret",
            &[("clusterID", "main"), ("userId", "x")],
            &["userId", "userSecretName"],
        ),
        (
            "an in-tree PV without a user",
            &[("clusterID", "main"), ("pvSource", "in-tree"), ("perVolumeUser", "false")],
            &["in-tree", "userSecretName"],
        ),
        ("another source", &[("clusterID", "main"), ("pvSource", "intree")], &["pvSource", "csi or in-tree"]),
        ("a mode that is none", &[("clusterID", "main"), ("mode", "0788")], &["mode", "octal"]),
        ("a mode too big", &[("clusterID", "main"), ("mode", "17777")], &["mode", "7777"]),
        ("an owner that is none", &[("clusterID", "main"), ("uid", "-1")], &["uid", "4294967294"]),
        (
            "a group that means unchanged",
            &[("clusterID", "main"), ("gid", "4294967295")],
            &["gid", "4294967294"],
        ),
    ];
    for (why, parameters, expected) in rows {
        let error = plan(&clusters(), &settings(), &request(parameters)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{why}: {error}");
        for part in *expected {
            assert!(error.to_string().contains(part), "{why}: {error} lacks {part}");
        }
    }
    let block = VolumeRequest { mode: Mode::Block, ..request(OLD) };
    assert_eq!(plan(&clusters(), &settings(), &block).unwrap_err().kind(), Kind::Unsupported);
}

/// Proves: cephfs 1
#[test]
fn every_parameter_of_the_old_provisioner_is_known() {
    for old in [
        "cluster",
        "monitors",
        "adminId",
        "adminSecretName",
        "adminSecretNamespace",
        "claimRoot",
        "deterministicNames",
    ] {
        assert!(PARAMETERS.iter().any(|parameter| parameter.name == old), "{old}");
    }
}

#[test]
fn every_parameter_that_is_read_is_declared_and_the_other_way_round() {
    class::tests::check_declared(PARAMETERS, include_str!("../class.rs"));
}

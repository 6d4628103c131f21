//! Tables of what classes mean.

use super::*;
use crate::backend::{
    ceph::{Tools, class},
    conformance,
};

type Pairs<'a> = &'a [(&'a str, &'a str)];

const CONFIGURED: &str = "10.0.0.1:6789,10.0.0.2:6789";

fn clusters() -> Clusters {
    let cluster =
        |name: &str, monitors: &str| Cluster::new(name, monitors.parse().unwrap(), Tools::default()).unwrap();
    Clusters::new(vec![cluster("main", CONFIGURED), cluster("bare", "10.9.9.9")], Tools::default())
}

fn settings() -> Settings {
    let secret = SecretName { namespace: "storage".into(), name: "main-admin".into() };
    let admins = BTreeMap::from([("main".to_owned(), Admin { user: "berth".into(), secret })]);
    Settings { driver: "rbd.berth.storage".into(), admins }
}

fn request(parameters: &[(&str, &str)]) -> VolumeRequest {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    VolumeRequest { parameters: parameters.collect(), ..conformance::request("a") }
}

fn planned(parameters: &[(&str, &str)]) -> Result<Plan, Error> {
    plan(&clusters(), &settings(), &request(parameters))
}

const MAIN: [(&str, &str); 2] = [("clusterID", "main"), ("userSecretName", "ceph-user")];

fn main_with(more: &[(&'static str, &'static str)]) -> Result<Plan, Error> {
    planned(&[&MAIN[..], more].concat())
}

/// Proves: rbd 1
#[test]
fn the_class_of_the_old_provisioner_means_what_it_meant() {
    // Both older provisioners have examples of this shape.
    let plan = planned(&[
        ("monitors", "mon-a.example.org:6789, 10.1.0.2:6789"),
        ("adminId", "kube"),
        ("adminSecretName", "ceph-admin-secret"),
        ("adminSecretNamespace", "kube-system"),
        ("pool", "kube"),
        ("userId", "client.mapper"),
        ("userSecretName", "ceph-user-secret"),
        ("imageFormat", "2"),
        ("imageFeatures", "layering"),
        ("fsType", "xfs"),
    ])
    .unwrap();
    assert!(plan.target.cluster.name().starts_with("mon-"), "{}", plan.target.cluster.name());
    assert_eq!(plan.target.monitors.unwrap().as_str(), "mon-a.example.org:6789, 10.1.0.2:6789");
    let secret = SecretName { namespace: "kube-system".into(), name: "ceph-admin-secret".into() };
    assert_eq!(plan.target.admin, Admin { user: "kube".into(), secret });
    assert_eq!(plan.target.pool_namespace, PoolNamespace { pool: "kube".into(), namespace: None });
    assert_eq!(plan.user, "mapper");
    assert_eq!(plan.user_secret, SecretName { namespace: String::new(), name: "ceph-user-secret".into() });
    assert_eq!(plan.features.to_string(), "layering");
    assert_eq!(plan.fs_type.as_deref(), Some("xfs"));
    assert_eq!((plan.form, plan.data_pool, plan.image.as_str()), (Form::Csi, None, "berth-uid-a"));
    assert_eq!(plan.size, 1 << 30);
}

/// Proves: rbd 2
#[test]
fn what_a_class_leaves_out_is_as_with_the_old_provisioner() {
    let plan =
        planned(&[("monitors", "10.1.0.2"), ("adminSecretName", "s"), ("userSecretName", "u")]).unwrap();
    let secret = SecretName { namespace: "default".into(), name: "s".into() };
    assert_eq!(plan.target.admin, Admin { user: "admin".into(), secret });
    assert_eq!(plan.target.pool_namespace.pool, "rbd");
    assert_eq!(plan.user, "admin");
    assert_eq!((plan.features, plan.fs_type), (Features::NONE, None));
}

/// Proves: case 44
#[test]
fn a_configured_cluster_brings_its_own_admin() {
    let rows: [(&str, Pairs<'_>, &str, &str); 4] = [
        ("by its name", &[("clusterID", "main")], "berth", "storage/main-admin"),
        ("by one of its monitors", &[("monitors", "10.0.0.2:6789")], "berth", "storage/main-admin"),
        ("by both", &[("clusterID", "main"), ("monitors", CONFIGURED)], "berth", "storage/main-admin"),
        (
            "with another admin",
            &[("clusterID", "main"), ("adminId", "other"), ("adminSecretName", "s")],
            "other",
            "default/s",
        ),
    ];
    for (row, parameters, user, secret) in rows {
        let plan = planned(&[parameters, &[("userSecretName", "u")]].concat()).unwrap();
        assert_eq!(plan.target.cluster.name(), "main", "{row}");
        assert_eq!(plan.target.admin.user, user, "{row}");
        assert_eq!(plan.target.admin.secret.to_string(), secret, "{row}");
    }
}

#[test]
fn empty_values_count_as_left_out_as_charts_render_them() {
    let plan = main_with(&[
        ("monitors", ""),
        ("adminId", ""),
        ("pool", ""),
        ("dataPool", ""),
        ("fsType", ""),
        ("imageFormat", ""),
        ("pvSource", ""),
        ("archiveExpiry", ""),
        ("radosNamespace", ""),
    ])
    .unwrap();
    assert_eq!(plan.target.pool_namespace, PoolNamespace { pool: "rbd".into(), namespace: None });
    assert_eq!((plan.data_pool, plan.fs_type, plan.form), (None, None, Form::Csi));
}

/// Proves: rbd 3, rbd 5
#[test]
fn a_wrong_class_is_refused_with_what_to_write() {
    let rows: [(&str, Pairs<'_>, &[&str]); 26] = [
        ("no cluster at all", &[("userSecretName", "u")], &["monitors", "is missing", "main, bare"]),
        ("empty monitors", &[("monitors", " ")], &["monitors", "is empty"]),
        ("monitors that are none", &[("monitors", "10.0.0.1:none")], &["monitors", "10.0.0.1:none"]),
        ("an unknown cluster", &[("clusterID", "mian")], &["clusterID", "\"mian\"", "main, bare"]),
        ("a cluster that a class described", &[("clusterID", "mon-0123456789")], &["clusterID", "monitors"]),
        (
            "monitors of another cluster",
            &[("clusterID", "main"), ("monitors", "10.7.7.7")],
            &["10.7.7.7", "\"main\"", "one of both"],
        ),
        ("no admin secret", &[("monitors", "10.7.7.7")], &["adminSecretName", "missing"]),
        ("a configured cluster without admin", &[("clusterID", "bare")], &["adminSecretName", "missing"]),
        (
            "another admin than configured, without key",
            &[("clusterID", "main"), ("adminId", "other")],
            &["adminSecretName", "\"other\""],
        ),
        ("no user secret", &[("clusterID", "main")], &["userSecretName", "missing", "\"berth\""]),
        (
            "a keyring on the nodes",
            &[("clusterID", "main"), ("keyring", "/etc/ceph/keyring")],
            &["keyring", "/etc/ceph/keyring", "userSecretName"],
        ),
        ("a pool that is two", &[("pool", "a/b")], &["pool", "\"a/b\""]),
        ("a pool that is an option", &[("pool", "-m")], &["pool", "\"-m\""]),
        ("a data pool that is a snapshot", &[("dataPool", "a@b")], &["dataPool", "\"a@b\""]),
        ("a namespace that is a way up", &[("radosNamespace", "..")], &["radosNamespace"]),
        ("format 1", &[("imageFormat", "1")], &["imageFormat", "format 1", "\"2\""]),
        ("format 3", &[("imageFormat", "3")], &["imageFormat", "\"3\"", "\"2\""]),
        (
            "an unknown feature",
            &[("imageFeatures", "layering,shiny")],
            &["imageFeatures", "\"shiny\"", "fast-diff"],
        ),
        ("features that are empty", &[("imageFeatures", "")], &["imageFeatures", "leave it out"]),
        ("a file system with options", &[("fsType", "ext4 -F")], &["fsType", "ext4 -F"]),
        (
            "two file systems",
            &[("fsType", "ext4"), ("csi.storage.k8s.io/fstype", "xfs")],
            &["fsType", "\"xfs\"", "one of both"],
        ),
        ("another source", &[("pvSource", "intree")], &["pvSource", "\"intree\"", "in-tree"]),
        (
            "a namespace in an in-tree PV",
            &[("pvSource", "in-tree"), ("radosNamespace", "team")],
            &["radosNamespace", "pvSource: csi"],
        ),
        ("an expiry without unit", &[("archiveExpiry", "30")], &["archiveExpiry", "\"30\"", "30d"]),
        ("an expiry that is none", &[("archiveExpiry", "5s")], &["archiveExpiry", "1m"]),
        ("an expiry beyond Ceph's", &[("archiveExpiry", "99999d")], &["archiveExpiry", "never"]),
    ];
    for (row, parameters, expected) in rows {
        let whole = if parameters
            .iter()
            .any(|(name, _)| matches!(*name, "clusterID" | "monitors" | "userSecretName"))
        {
            parameters.to_vec()
        } else {
            [&MAIN[..], parameters].concat()
        };
        let error = planned(&whole).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{row}: {error}");
        for part in expected {
            assert!(error.to_string().contains(part), "{row}: {error}");
        }
    }
}

/// Proves: rbd 4
#[test]
fn a_keyring_beside_a_secret_is_as_good_as_none() {
    assert!(main_with(&[("keyring", "/etc/ceph/keyring")]).is_ok());
}

#[test]
fn a_file_system_is_for_those_who_mount_one() {
    let csi = [("csi.storage.k8s.io/fstype", "xfs")];
    assert_eq!(main_with(&csi).unwrap().fs_type.as_deref(), Some("xfs"));
    let block = VolumeRequest { mode: Mode::Block, ..request(&[&MAIN[..], &csi].concat()) };
    assert_eq!(plan(&clusters(), &settings(), &block).unwrap().fs_type, None);
}

/// Proves: rbd 10
#[test]
fn only_raw_devices_are_written_from_several_nodes() {
    use Access::{ReadOnlyMany, ReadWriteMany, ReadWriteOnce, ReadWriteOncePod};
    let rows = [
        (vec![ReadWriteOnce], Mode::Filesystem, true),
        (vec![ReadOnlyMany, ReadWriteOnce], Mode::Filesystem, true),
        (vec![ReadWriteOncePod], Mode::Filesystem, true),
        (vec![ReadWriteMany], Mode::Filesystem, false),
        (vec![ReadWriteOnce, ReadWriteMany], Mode::Filesystem, false),
        (vec![ReadWriteMany], Mode::Block, true),
        (vec![ReadWriteOnce], Mode::Block, true),
    ];
    for (access, mode, possible) in rows {
        let request = VolumeRequest { access: access.clone(), mode, ..request(&MAIN) };
        match plan(&clusters(), &settings(), &request) {
            Ok(_) => assert!(possible, "{access:?} {mode:?}"),
            Err(error) => {
                assert!(!possible && error.kind() == Kind::Unsupported, "{access:?} {mode:?}: {error}");
                assert!(error.to_string().contains("volumeMode Block"), "{error}");
            }
        }
    }
}

/// Proves: rbd 9
#[test]
fn a_size_is_kept_to_the_byte_in_whole_sectors() {
    let sized = |bytes| size(Capacity::from_bytes(bytes));
    let rows = [
        (1, 512),
        (512, 512),
        (5_000_001, 5_000_192),
        (5_000_192, 5_000_192),
        (1 << 30, 1 << 30),
        (1_073_741_824_000_000, 1_073_741_824_000_000),
    ];
    for (asked, given) in rows {
        assert_eq!(sized(asked).unwrap(), given, "{asked}");
    }
    for absurd in [0, 1_073_741_824_000_001, i64::MAX.unsigned_abs()] {
        assert_eq!(sized(absurd).unwrap_err().kind(), Kind::Invalid, "{absurd}");
    }
}

#[test]
fn every_parameter_that_is_read_is_declared_and_the_other_way_round() {
    class::tests::check_declared(PARAMETERS, include_str!("../class.rs"));
}

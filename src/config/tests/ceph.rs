//! What is configured of Ceph: served names, clusters, programs and limits; as tables.

use super::*;
use crate::backend::ceph::{Admin, Tools};

#[test]
fn a_name_says_what_storage_it_stands_for() {
    let rows: [(&str, Start<'_>, &str); 9] = [
        (
            "known names and others",
            (
                "berth --provisioner-name ceph.com/rbd --provisioner-name ceph.com/cephfs --provisioner-name x",
                OLD_EXPORT,
                "",
            ),
            "ceph.com/rbd (RBD), ceph.com/cephfs (CephFS), x",
        ),
        (
            "our own",
            (
                "berth --provisioner-name nfs.berth.storage --provisioner-name rbd.berth.storage \
                 --provisioner-name cephfs.berth.storage",
                OLD_EXPORT,
                "",
            ),
            "nfs.berth.storage, rbd.berth.storage (RBD), cephfs.berth.storage (CephFS)",
        ),
        (
            "the in-tree plugin's",
            ("berth --provisioner-name kubernetes.io/rbd", &[], ""),
            "kubernetes.io/rbd (RBD)",
        ),
        (
            "names that are given as such",
            (
                "berth --rbd-provisioner-name example.com/rbd --cephfs-provisioner-name example.com/fs",
                &[],
                "",
            ),
            "example.com/rbd (RBD), example.com/fs (CephFS)",
        ),
        (
            "all of them in the file",
            (
                "berth --config /etc/berth.yaml",
                OLD_EXPORT,
                "provisionerNames: [a, ceph.com/rbd]\nrbdProvisionerNames: [b]\ncephfsProvisionerNames: [c]",
            ),
            "a, ceph.com/rbd (RBD), b (RBD), c (CephFS)",
        ),
        (
            "the entry point of rbd-provisioner",
            ("/usr/local/bin/rbd-provisioner", &[], ""),
            "ceph.com/rbd (RBD)",
        ),
        (
            "the entry point of cephfs-provisioner",
            ("/usr/local/bin/cephfs-provisioner -id=cephfs-provisioner-1", &[], ""),
            "ceph.com/cephfs (CephFS)",
        ),
        (
            "a name of one's own at the entry point of rbd-provisioner",
            ("rbd-provisioner", &["PROVISIONER_NAME=example.com/ssd"], ""),
            "example.com/ssd (RBD)",
        ),
        (
            "a known name at another entry point",
            ("rbd-provisioner", &["PROVISIONER_NAME=ceph.com/cephfs"], ""),
            "ceph.com/cephfs (CephFS)",
        ),
    ];
    for (row, given, expected) in rows {
        assert_eq!(names(&start(given).unwrap()).join(", "), expected, "{row}");
    }
}

#[test]
fn ceph_needs_no_export_and_nfs_needs_no_cluster() {
    let ceph = start(("berth --provisioner-name ceph.com/rbd", &[], "")).unwrap();
    let tools = Tools::default();
    assert_eq!(ceph.exports, []);
    assert_eq!(ceph.ceph, Some(Ceph { tools, clusters: Vec::new(), secret_namespace: None }));
    assert_eq!(ceph.lease.unwrap().name, "ceph.com-rbd", "the lock of the old provisioner");

    let unused = start(("berth --provisioner-name ceph.com/rbd", OLD_EXPORT, "")).unwrap();
    assert_eq!(unused.exports, []);
    assert_eq!(unused.notes, ["no name of an NFS provisioner is served: the exports are not used"]);

    let file = "clusters: [{name: main, monitors: a}]";
    let unused = start(("berth --config /etc/berth.yaml", OLD, file)).unwrap();
    assert_eq!(unused.ceph, None);
    assert_eq!(unused.notes, ["no name of a Ceph provisioner is served: the clusters are not used"]);
}

#[test]
fn clusters_come_from_the_file() {
    let file = "provisionerNames: [rbd.berth.storage]\ncephConnectTimeout: 3s\nclusters:\n\
        - {name: main, monitors: [mon-a.example, '10.0.0.2:6789'], adminId: client.kube, adminSecretName: ceph-admin}\n\
        - {name: far, monitors: '10.1.0.1', adminSecretName: far-admin, adminSecretNamespace: storage, \
           connectTimeout: 20s, operationTimeout: 1m, commandTimeout: 2m, concurrency: 3, sessions: 0, \
           rbdProgram: /opt/ceph/rbd, cephProgram: ceph-far, radosProgram: rados-far}\n\
        - {name: quick, monitors: 10.2.0.1, commandTimeout: 4s}\n";
    let line = "berth --config /etc/berth.yaml --ceph-concurrency 5 --secret-namespace users";
    let ceph = start((line, &["IN_POD=1"], file)).unwrap().ceph.unwrap();
    let tools = Tools { connect: seconds(3), concurrency: 5, ..Tools::default() };
    let admin = |user: &str, namespace: &str, name: &str| {
        let secret = SecretName { namespace: namespace.into(), name: name.into() };
        Some(Admin { user: user.into(), secret })
    };
    let expected = [
        ConfiguredCluster {
            name: "main".into(),
            monitors: "mon-a.example,10.0.0.2:6789".parse().unwrap(),
            tools: tools.clone(),
            admin: admin("kube", "storage", "ceph-admin"),
        },
        ConfiguredCluster {
            name: "far".into(),
            monitors: "10.1.0.1".parse().unwrap(),
            tools: Tools {
                rbd: "/opt/ceph/rbd".into(),
                ceph: "ceph-far".into(),
                rados: "rados-far".into(),
                connect: seconds(20),
                operation: seconds(60),
                deadline: seconds(120),
                concurrency: 3,
                sessions: 0,
                ..tools.clone()
            },
            admin: admin("admin", "storage", "far-admin"),
        },
        ConfiguredCluster {
            name: "quick".into(),
            monitors: "10.2.0.1".parse().unwrap(),
            tools: Tools {
                connect: seconds(2),
                operation: seconds(2),
                deadline: seconds(4),
                ..tools.clone()
            },
            admin: None,
        },
    ];
    assert_eq!(ceph.clusters, expected);
    assert_eq!((ceph.tools, ceph.secret_namespace.as_deref()), (tools, Some("users")));
}

/// Proves: rbd 17
#[test]
fn the_flags_and_the_environment_of_the_ceph_provisioners_have_their_meaning() {
    let line = "/usr/local/bin/cephfs-provisioner -id=cephfs-provisioner-1 -master=https://10.0.0.1:6443 \
                -metrics-port=9090 -command-timeout=5 -enable-quota";
    let started = start((line, &["PROVISIONER_SECRET_NAMESPACE=cephfs"], "")).unwrap();
    assert_eq!(started.identity.as_deref(), Some("cephfs-provisioner-1"));
    assert_eq!(started.master.as_deref(), Some("https://10.0.0.1:6443"));
    let every = Listen { address: crate::observe::Address::Every(9090), explicit: true };
    assert_eq!(started.listen, Some(every));
    let ceph = started.ceph.unwrap();
    assert_eq!(ceph.secret_namespace.as_deref(), Some("cephfs"));
    assert_eq!(ceph.tools.deadline, seconds(60), "the short limit of old is not shortened to");
    assert_eq!(started.notes.len(), 1, "{:?}", started.notes);

    let longer =
        start(("rbd-provisioner -command-timeout 300 -metrics-port 9090 --listen off", &[], "")).unwrap();
    assert_eq!(longer.ceph.unwrap().tools.deadline, seconds(300));
    assert_eq!(longer.listen, None, "our own flag wins");
    let ours = start(("rbd-provisioner -command-timeout 300 --ceph-command-timeout 90s", &[], "")).unwrap();
    assert_eq!(ours.ceph.unwrap().tools.deadline, seconds(90));
}

/// Proves the quality of errors: flag, variable or key, the value, and what is allowed.
#[test]
fn a_wrong_setting_of_ceph_is_named_with_its_place_and_what_is_allowed() {
    let file = "berth --config /etc/berth.yaml --provisioner-name rbd.berth.storage";
    let rows: &[(Start<'_>, &str)] = &[
        (
            ("berth --provisioner-name ceph.com/rbd --cephfs-provisioner-name ceph.com/rbd", &[], ""),
            "--cephfs-provisioner-name \"ceph.com/rbd\" means RBD and cannot be served by CephFS",
        ),
        (
            ("berth --rbd-provisioner-name x --cephfs-provisioner-name x", &[], ""),
            "--cephfs-provisioner-name \"x\" is served by RBD already: a name can stand for one kind of storage only",
        ),
        (
            ("berth --provisioner-name x --rbd-provisioner-name x", OLD_EXPORT, ""),
            "--rbd-provisioner-name \"x\" is served by NFS already: a name can stand for one kind of storage only",
        ),
        (
            ("berth --provisioner-name ceph.com/rbd --rbd-provisioner-name ceph.com/rbd", &[], ""),
            "--rbd-provisioner-name \"ceph.com/rbd\" is given twice",
        ),
        (
            (file, &[], "clusters: [{}]"),
            "not configured: clusters[0].name in the file; clusters[0].monitors in the file",
        ),
        (
            (file, &[], "clusters: [{name: Main, monitors: a}]"),
            "/etc/berth.yaml: clusters[0].name \"Main\" must be 1 to 40 lower case letters, digits and '-'",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: a}, {name: a, monitors: b}]"),
            "/etc/berth.yaml: clusters[1].name \"a\" is given twice",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: 'x,y'}, {name: b, monitors: 'y,z'}]"),
            "/etc/berth.yaml: clusters[1].monitors \"y,z\" has a monitor that the cluster \"a\" has: a monitor belongs to \
             one cluster",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: a, adminId: kube}]"),
            "/etc/berth.yaml: clusters[0].adminId \"kube\" needs adminSecretName beside it, which names the Secret with \
             the key",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: a, adminSecretName: A}]"),
            "/etc/berth.yaml: clusters[0].adminSecretName \"A\" must be 1 to 253 lower case letters, digits, '-' and '.', \
             beginning and ending with a letter or digit",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: a, connectTimeout: 90s}]"),
            "/etc/berth.yaml: clusters[0].connectTimeout \"90s\" must be shorter than commandTimeout, which is 60s",
        ),
        (
            (file, &[], "cephOperationTimeout: 60s"),
            "/etc/berth.yaml: cephOperationTimeout \"60s\" must be shorter than --ceph-command-timeout, which is 60s",
        ),
        (
            (file, &[], "clusters: [{name: a, monitors: a, concurrency: 0}]"),
            "/etc/berth.yaml: clusters[0].concurrency \"0\" must be a whole number from 1 to 256",
        ),
        (
            ("berth --provisioner-name ceph.com/rbd --rbd-program bin/rbd", &[], ""),
            "--rbd-program \"bin/rbd\" must be the name of a program, or its absolute path",
        ),
        (
            ("rbd-provisioner -secret-namespace Ceph", &[], ""),
            "--secret-namespace \"Ceph\" must be 1 to 253 lower case letters, digits, '-' and '.', beginning and ending \
             with a letter or digit",
        ),
    ];
    for (given, message) in rows {
        assert_eq!(start(*given).unwrap_err(), *message);
    }
}

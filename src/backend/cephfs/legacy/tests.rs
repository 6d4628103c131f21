//! Which paths, users and annotations are those of cephfs-provisioner.

use std::collections::BTreeMap;

use super::{super::users::only_below, *};

const PVC: &str = "kubernetes-dynamic-pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";
const USER: &str = "kubernetes-dynamic-user-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f12";

fn read(path: &str, user: &str, annotations: &[(&str, &str)]) -> Result<LegacyVolume, Error> {
    let source = CephfsSource {
        monitors: vec!["10.0.0.1:6789".into()],
        path: path.into(),
        user: user.into(),
        secret: Some(SecretName { namespace: String::new(), name: format!("ceph-{user}-secret") }),
    };
    let claim = ClaimKey { namespace: "team".into(), name: "data".into(), uid: "u-1".into() };
    let annotations: BTreeMap<_, _> = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    LegacyVolume::read(&source, &claim, &PvMetadata { annotations, ..PvMetadata::default() })
}

/// Proves: cephfs 10
#[test]
fn what_the_old_provisioner_made_is_recognised_wherever_it_put_it() {
    let rows = [
        ("its default", format!("/volumes/kubernetes/kubernetes/{PVC}"), USER, "kubernetes/kubernetes"),
        ("a deterministic name", "/volumes/kubernetes/team/data".into(), "k8s.team.data", "kubernetes/team"),
        ("claimRoot /volumes", format!("/volumes/kubernetes/{PVC}"), USER, "kubernetes"),
        ("a deeper claimRoot", format!("/volumes/a/b/kubernetes/{PVC}"), USER, "a/b/kubernetes"),
        ("a claimRoot outside", format!("/data/k8s/kubernetes/{PVC}"), USER, "../data/k8s/kubernetes"),
        ("a claimRoot of nothing", format!("/kubernetes/{PVC}"), USER, "../kubernetes"),
        (
            "slashes too many",
            format!("//volumes/kubernetes//kubernetes/{PVC}/"),
            USER,
            "kubernetes/kubernetes",
        ),
    ];
    for (why, path, user, group) in rows {
        let legacy = read(&path, user, &[]).unwrap_or_else(|error| unreachable!("{why}: {error}"));
        assert_eq!(legacy.group, group, "{why}");
        assert!(
            !legacy.path.contains("//") && path.contains(legacy.path.rsplit('/').next().unwrap()),
            "{why}"
        );
        assert_eq!(legacy.secret.unwrap().namespace, "team", "{why}: the claim's, where the PV names none");
    }
    read(
        &format!("/volumes/k/kubernetes/{PVC}"),
        USER,
        &[("cephShare", PVC), ("cephFSProvisionerIdentity", "x")],
    )
    .unwrap();
}

#[test]
fn anything_else_is_refused_untouched() {
    let other = PVC.replace('6', "7");
    let rows = [
        ("a relative path", "volumes/kubernetes/x".to_owned(), USER, &[][..]),
        ("only a share", format!("/{PVC}"), USER, &[]),
        ("a way up", format!("/volumes/kubernetes/../kubernetes/{PVC}"), USER, &[]),
        ("another name", "/volumes/kubernetes/kubernetes/data".into(), USER, &[]),
        (
            "a name that only begins so",
            "/volumes/kubernetes/kubernetes/kubernetes-dynamic-pvc-x".into(),
            USER,
            &[],
        ),
        ("another user", format!("/volumes/kubernetes/kubernetes/{PVC}"), "admin", &[]),
        (
            "the user of another claim's directory",
            "/volumes/kubernetes/team/other".into(),
            "k8s.team.data",
            &[],
        ),
        (
            "the user of another namespace's directory",
            "/volumes/kubernetes/them/data".into(),
            "k8s.team.data",
            &[],
        ),
        (
            "an annotation of another share",
            format!("/volumes/k/kubernetes/{other}"),
            USER,
            &[("cephShare", PVC)],
        ),
        ("a segment that is an option", format!("/volumes/--force/kubernetes/{PVC}"), USER, &[]),
        ("a segment with a space", format!("/volumes/a b/kubernetes/{PVC}"), USER, &[]),
        ("what the module keeps for itself", format!("/volumes/_deleting/kubernetes/{PVC}"), USER, &[]),
    ];
    for (why, path, user, annotations) in rows {
        let error = read(&path, user, annotations).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{why}");
        assert!(error.to_string().contains("nothing was touched"), "{why}: {error}");
    }
}

#[test]
fn a_user_is_removed_only_if_it_reaches_nothing_else() {
    let above = "/volumes/kubernetes/team/data/";
    for ours in [
        "",
        "allow r",
        "allow r,allow rw path=/volumes/kubernetes/team/data",
        "allow r, allow rw path=\"/volumes/kubernetes/team/data\"",
        "allow rw path=/volumes/kubernetes/team/data/uuid",
        "allow r,allow rw fsname=cephfs path=/volumes/kubernetes/team/data",
    ] {
        assert!(ours.is_empty() || only_below(ours, "cephfs", above), "{ours}");
    }
    for theirs in [
        "allow *",
        "allow rw",
        "allow rw path=/volumes/kubernetes/team",
        "allow rw path=/volumes/kubernetes/team/database",
        "allow rw path=/volumes/kubernetes/team/data,allow rw path=/other",
        "allow r,allow rw fsname=other path=/volumes/kubernetes/team/data",
        "allow rw fsname=cephfs",
    ] {
        assert!(!only_below(theirs, "cephfs", above), "{theirs}");
    }
}

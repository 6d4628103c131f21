//! Objects from volumes and back, as golden files.

use serde_json::json;

use super::*;
use crate::{provisioner::fixtures, volume::VolumeName};

fn volume() -> Volume {
    Volume {
        id: VolumeId::new("nfs", "default", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
        source: Source::Nfs { server: "nas.example".into(), path: "/export/default-data-pvc-0b6f-11".into() },
        capacity: None,
        origin: Origin::Created,
        store_identity: "5f0c".into(),
        record: BTreeMap::new(),
    }
}

fn recording(disposal: Disposal) -> Recording {
    Recording { disposal, retention: None, has_finalizer: true }
}

fn place() -> Location {
    Location::new("default", "default-data-pvc-0b6f-11").unwrap()
}

/// Proves: case 10, case 32, row 5.1, row 5.2, row 5.3, row 5.4, row 5.5, row 5.6, row 5.7, row 5.8, row 5.9, row 5.10, row 5.11, row 5.12
#[test]
fn a_volume_is_described_in_full() {
    let claim = fixtures::claim(json!({}));
    let class = fixtures::class(json!({
        "reclaimPolicy": "Retain", "mountOptions": ["nfsvers=4.2", "hard"],
    }));
    let full = build(&volume(), &place(), &claim, &class, recording(Disposal::Archive)).unwrap();
    insta::assert_json_snapshot!("full", full);

    let plain = fixtures::claim(json!({"spec": {"volumeMode": null}}));
    let class = fixtures::class(json!({}));
    let bare = Recording { has_finalizer: false, ..recording(Disposal::Delete) };
    let bare = build(&volume(), &place(), &plain, &class, bare).unwrap();
    insta::assert_json_snapshot!("bare", bare);
}

/// Proves: case 51, case 52
#[test]
fn the_capacity_is_what_was_asked_for_unless_the_storage_gives_more() {
    let table: &[(&str, Option<u64>, Option<&str>)] = &[
        ("1500Mi", None, Some("1500Mi")),
        ("1.5Gi", None, Some("1.5Gi")),
        ("1Gi", Some(0), Some("1Gi")),
        ("1024Mi", Some(1 << 30), Some("1024Mi")),
        ("1G", Some(1 << 30), Some("1Gi")),
        ("1Gi", Some(1_000_000_000), None),
    ];
    for (request, reported, expected) in table {
        let claim = fixtures::claim(json!({"spec": {"resources": {"requests": {"storage": request}}}}));
        let result = capacity(reported.map(Capacity::from_bytes), &claim);
        assert_eq!(result.ok().as_deref(), *expected, "{request} {reported:?}");
    }
}

#[test]
fn what_was_written_is_read_back() {
    let claim = fixtures::claim(json!({}));
    let class = fixtures::class(json!({}));
    let terms = Recording { retention: Some(Duration::from_hours(36)), ..recording(Disposal::Retain) };
    let built = build(&volume(), &place(), &claim, &class, terms).unwrap();
    let object: VolumeObject = serde_json::from_value(serde_json::to_value(built).unwrap()).unwrap();
    assert_eq!(source(&object), Some(volume().source));
    let expected = Recorded {
        id: Some(volume().id),
        disposal: Some(Disposal::Retain),
        origin: Some(Origin::Created),
        store_identity: Some("5f0c".into()),
        record: BTreeMap::new(),
        retention: Some(Duration::from_hours(36)),
    };
    assert_eq!(Recorded::read(&object), Ok(expected));
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn secret(namespace: &str, name: &str) -> SecretName {
    SecretName { namespace: namespace.into(), name: name.into() }
}

/// A volume on Ceph with this source.
fn ceph(backend: &str, source: Source, record: &[(&str, &str)]) -> Volume {
    Volume {
        id: VolumeId::new(backend, "main", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
        source,
        capacity: None,
        origin: Origin::Created,
        store_identity: "a7f64266-0894-4f1e-a635-d0aeaca0e993".into(),
        record: texts(record),
    }
}

/// Every kind of source, with a name for its golden file.
fn sources() -> Vec<(&'static str, Volume)> {
    let csi = |driver: &str, attributes: &[(&str, &str)], fs_type: Option<&str>| {
        let backend = driver.split('.').next().unwrap();
        Source::Csi(CsiSource {
            driver: driver.into(),
            handle: format!("1/{backend}/main/pvc-0b6f-11"),
            attributes: texts(attributes),
            fs_type: fs_type.map(str::to_owned),
            stage_secret: Some(secret("storage", "ceph-node")),
        })
    };
    let image = [("clusterID", "main"), ("pool", "kube"), ("image", "berth-0b6f-11")];
    let rbd = |fs_type: Option<&str>, namespace: &str| {
        Source::Rbd(RbdSource {
            monitors: vec!["mon-a.example:6789".into(), "10.0.0.2:6789".into()],
            pool: "kube".into(),
            image: "berth-0b6f-11".into(),
            user: "kube".into(),
            secret: Some(secret(namespace, "ceph-user")),
            fs_type: fs_type.map(str::to_owned),
        })
    };
    let cephfs = Source::Cephfs(CephfsSource {
        monitors: vec!["mon-a.example:6789".into()],
        path: "/volumes/kubernetes/berth-0b6f-11/5f0c".into(),
        user: "berth-0b6f-11".into(),
        secret: Some(secret("default", "ceph-berth-0b6f-11-secret")),
    });
    vec![
        ("rbd-csi", ceph("rbd", csi("rbd.berth.storage", &image, Some("ext4")), &[("pool", "kube")])),
        ("rbd-csi-block", ceph("rbd", csi("rbd.berth.storage", &image, None), &[("pool", "kube")])),
        ("cephfs-csi", ceph("cephfs", csi("cephfs.berth.storage", &[("fsName", "a")], None), &[("fs", "a")])),
        ("rbd-in-tree", ceph("rbd", rbd(Some("xfs"), "storage"), &[("adminId", "admin"), ("quote", "\"\\")])),
        ("rbd-in-tree-bare", ceph("rbd", rbd(None, ""), &[])),
        ("cephfs-in-tree", ceph("cephfs", cephfs, &[])),
    ]
}

#[test]
fn every_kind_of_source_is_described_in_full_and_read_back_equal() {
    for (name, volume) in sources() {
        let mode = if name.ends_with("block") { "Block" } else { "Filesystem" };
        let claim = fixtures::claim(json!({"spec": {"volumeMode": mode, "accessModes": ["ReadWriteOnce"]}}));
        let class = fixtures::class(json!({"mountOptions": ["noatime"]}));
        let place = Location::new("main", "kube/berth-0b6f-11").unwrap();
        let built = build(&volume, &place, &claim, &class, recording(Disposal::Archive)).unwrap();
        insta::assert_json_snapshot!(name, built);
        let object: VolumeObject = serde_json::from_value(serde_json::to_value(built).unwrap()).unwrap();
        assert_eq!(source(&object).as_ref(), Some(&volume.source), "{name}");
        let recorded = Recorded::read(&object).unwrap();
        assert_eq!(recorded.record, volume.record, "{name}");
        assert_eq!(recorded.id.as_ref(), Some(&volume.id), "{name}");
        assert_eq!(contradiction(&volume.source, &recorded), None, "{name}");
    }
}

/// The API server fills in what an older provisioner left out.
#[test]
fn what_a_volume_leaves_to_the_defaults_is_filled_in() {
    let read = |spec: serde_json::Value| {
        source(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    };
    let bare =
        read(json!({"rbd": {"monitors": ["m"], "image": "i", "fsType": "", "secretRef": {"name": ""}}}));
    let expected = RbdSource {
        monitors: vec!["m".into()],
        pool: "rbd".into(),
        image: "i".into(),
        user: "admin".into(),
        secret: None,
        fs_type: None,
    };
    assert_eq!(bare, Some(Source::Rbd(expected)));
    let expected =
        CephfsSource { monitors: vec!["m".into()], path: "/".into(), user: "admin".into(), secret: None };
    assert_eq!(read(json!({"cephfs": {"monitors": ["m"]}})), Some(Source::Cephfs(expected)));
    for nothing in [
        json!({"rbd": {"image": "i"}}),
        json!({"rbd": {"monitors": ["m"]}}),
        json!({"cephfs": {"path": "/a"}}),
        json!({"csi": {"driver": "d"}}),
        json!({"csi": {"volumeHandle": "h"}}),
        json!({"hostPath": {"path": "/"}}),
    ] {
        assert_eq!(read(nothing.clone()), None, "{nothing}");
    }
}

#[test]
fn an_annotation_that_was_tampered_with_is_named() {
    for (key, value) in [
        (names::VOLUME_ID, "1/nfs/../../x"),
        (names::ON_DELETE, "Delete"),
        (names::ORIGIN, ""),
        (names::RECORD, "pool=kube"),
        (names::TRASH_RETENTION, "10"),
        (names::TRASH_RETENTION, ""),
    ] {
        let object: VolumeObject =
            serde_json::from_value(json!({"metadata": {"annotations": {key: value}}})).unwrap();
        let error = Recorded::read(&object).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        let lenient = Recorded::lenient(&object);
        assert_eq!(
            (lenient.id, lenient.disposal, lenient.origin, lenient.retention),
            (None, None, None, None)
        );
    }
}

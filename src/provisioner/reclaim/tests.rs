//! Tables of what is decided about volumes; what is then done is in `tests/removal.rs`.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    backend::memory::Memory,
    provisioner::fixtures::{self, NAME},
    volume::{ClaimKey, PvMetadata, Source, VolumeId},
};

fn backends() -> Backends {
    Backends::default().with(NAME, Arc::new(Memory::new()))
}

fn annotated(annotations: Value) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

/// What an older provisioner left: nothing of ours but the name.
fn old() -> Value {
    json!({"metadata": {
        "annotations": {
            "berth.storage/volume-id": null, "berth.storage/on-delete": null, "berth.storage/origin": null,
            "berth.storage/path": null, "berth.storage/store-id": null,
        },
        "finalizers": ["kubernetes.io/pv-protection"],
    }})
}

fn with(mut base: Value, patch: &Value) -> Value {
    // `merge` drops nulls, which here must reach the fixture.
    fn overlay(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    overlay(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }
    overlay(&mut base, patch);
    base
}

/// Proves: case 22, case 23, case 24, case 27, case 28, case 29, case 33, case 34, case 35, case 36, row 6.9
#[test]
fn only_our_released_volumes_with_policy_delete_are_removed() {
    use Action::{AddFinalizer, None, Remove, RemoveFinalizer};
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    let policy = |policy: &str| json!({"spec": {"persistentVolumeReclaimPolicy": policy}});
    let deleting = || json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}});
    let bare = || json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}});
    let foreign = || annotated(json!({"pv.kubernetes.io/provisioned-by": "other"}));
    // The volume, and the duty with and without the right to patch volumes.
    let table: Vec<(&str, Value, Action, Action)> = vec![
        ("a released volume is removed", json!({}), Remove, Remove),
        ("one without our finalizer as well", bare(), Remove, Remove),
        ("a bound volume is left alone", phase("Bound"), None, None),
        ("an available volume is left alone", phase("Available"), None, None),
        ("a pending volume is left alone", phase("Pending"), None, None),
        ("a failed volume is left alone", phase("Failed"), None, None),
        ("a volume without a phase is left alone", json!({"status": null}), None, None),
        (
            "a released volume that is being deleted is removed, if our finalizer holds it",
            deleting(),
            Remove,
            None,
        ),
        ("one that nothing of ours holds is gone already", with(deleting(), &bare()), None, None),
        ("a volume to be retained loses our finalizer", policy("Retain"), RemoveFinalizer, None),
        ("a volume to be recycled as well", policy("Recycle"), RemoveFinalizer, None),
        (
            "a bound volume to be retained as well",
            with(phase("Bound"), &policy("Retain")),
            RemoveFinalizer,
            None,
        ),
        (
            "a retained volume without our finalizer is left alone",
            with(policy("Retain"), &bare()),
            None,
            None,
        ),
        ("a bound volume without our finalizer gets it", with(phase("Bound"), &bare()), AddFinalizer, None),
        (
            "a volume under deletion never gets it",
            with(with(phase("Bound"), &bare()), &deleting()),
            None,
            None,
        ),
        ("a foreign volume is left alone", foreign(), None, None),
        ("a foreign volume keeps our finalizer", with(foreign(), &policy("Retain")), None, None),
        (
            "a volume that was migrated to us is ours",
            with(foreign(), &annotated(json!({"pv.kubernetes.io/migrated-to": NAME}))),
            Remove,
            Remove,
        ),
        (
            "a volume that was migrated elsewhere is not",
            with(foreign(), &annotated(json!({"pv.kubernetes.io/migrated-to": "another"}))),
            None,
            None,
        ),
        (
            "a volume made by hand is never ours",
            annotated(json!({"pv.kubernetes.io/provisioned-by": null})),
            None,
            None,
        ),
        (
            "a CSI volume made by hand is not ours either, whatever driver it names",
            with(
                annotated(json!({"pv.kubernetes.io/provisioned-by": null})),
                &json!({"spec": {"nfs": null, "csi": {"driver": NAME, "volumeHandle": "1/memory/default/pvc-0b6f-11"}}}),
            ),
            None,
            None,
        ),
    ];
    for (name, volume, may_patch, may_not) in table {
        let state = state_of(&fixtures::volume_object(volume), &backends());
        assert_eq!(action(state, true), may_patch, "{name}");
        assert_eq!(action(state, false), may_not, "{name}, without the right to patch");
    }
}

#[test]
fn volumes_of_a_plugin_of_kubernetes_are_ours_where_a_claim_made_them_and_keep_their_finalizers() {
    use Action::{None, Remove};
    let backends = Backends::default().with("kubernetes.io/rbd", Arc::new(Memory::new()));
    let usual = with(
        old(),
        &json!({"metadata": {
            "annotations": {
                "pv.kubernetes.io/provisioned-by": "kubernetes.io/rbd",
                "kubernetes.io/createdby": "rbd-dynamic-provisioner",
            },
            "finalizers": ["kubernetes.io/pv-controller"],
        }}),
    );
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}});
    let by = |by: Value| json!({"metadata": {"annotations": {"kubernetes.io/createdby": by}}});
    let table: Vec<(&str, Value, Action, Action)> = vec![
        ("a released volume is removed", json!({}), Remove, Remove),
        ("Kubernetes without the plugin has failed with it", phase("Failed"), Remove, Remove),
        ("one under deletion is held by their finalizer, which we take off", deleting, Remove, None),
        ("a bound volume gets no finalizer of ours", phase("Bound"), None, None),
        (
            "a volume to be retained keeps theirs",
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
            None,
            None,
        ),
        ("a volume made by hand is not ours", by(Value::Null), None, None),
        ("nor is one that another plugin made", by(json!("gce-pd-dynamic-provisioner")), None, None),
    ];
    for (name, patch, may_patch, may_not) in table {
        let volume = fixtures::volume_object(with(usual.clone(), &patch));
        let state = state_of(&volume, &backends);
        assert_eq!(action(state, true), may_patch, "{name}");
        assert_eq!(action(state, false), may_not, "{name}, without the right to patch");
    }
}

#[test]
fn volumes_of_an_older_provisioner_with_another_identity_are_left_to_it() {
    let named = |identity: Option<&str>| backends().identified_as(identity.map(str::to_owned));
    let mark = |key: &str, value: &str| with(old(), &annotated(json!({key: value})));
    let (rbd, cephfs) = ("rbdProvisionerIdentity", "cephFSProvisionerIdentity");
    let ours_by_id = annotated(json!({rbd: "another"}));
    let table: Vec<(&str, Option<&str>, Value, bool)> = vec![
        ("without an identity of ours every one counts", None, mark(rbd, "ceph.com/rbd"), true),
        ("ours", Some("rbd-1"), mark(rbd, "rbd-1"), true),
        ("another one", Some("rbd-1"), mark(rbd, "rbd-2"), false),
        ("ours of CephFS", Some("cephfs-provisioner-1"), mark(cephfs, "cephfs-provisioner-1"), true),
        ("another one of CephFS", Some("cephfs-provisioner-1"), mark(cephfs, "cephfs-provisioner-2"), false),
        ("an NFS volume has none", Some("rbd-1"), old(), true),
        ("what berth made carries an id", Some("rbd-1"), ours_by_id, true),
    ];
    for (name, identity, volume, ours) in table {
        let state = state_of(&fixtures::volume_object(volume), &named(identity));
        assert_eq!(state.ours, ours, "{name}");
    }
}

#[test]
fn the_parameters_of_an_old_volumes_class_reach_the_backend_under_their_declared_names() {
    let memory = || {
        Memory::new().with_capabilities(|capabilities| {
            capabilities.case_insensitive = true;
            capabilities.legacy_default = Disposal::Delete;
        })
    };
    let backends = Backends::default().with(NAME, Arc::new(memory()));
    let class = fixtures::class(json!({"parameters": {"PATHPATTERN": "x", "export": "default"}}));
    let Plan::Remove(order) = plan(&fixtures::volume_object(old()), Some(&class), &backends, true) else {
        panic!("not removed")
    };
    let parameters = &order.removal.pv_metadata.parameters;
    assert_eq!(parameters.get("pathPattern").map(String::as_str), Some("x"));
    assert_eq!(parameters.get("export").map(String::as_str), Some("default"));
    assert_eq!(
        order.removal.disposal,
        Disposal::Delete,
        "as the older provisioner did, where the class is silent"
    );
    let class = fixtures::class(json!({"parameters": {"ARCHIVEONDELETE": "true"}}));
    let Plan::Remove(order) = plan(&fixtures::volume_object(old()), Some(&class), &backends, true) else {
        panic!("not removed")
    };
    assert_eq!(order.removal.disposal, Disposal::Archive);
    let Plan::Remove(order) = plan(&fixtures::volume_object(old()), None, &backends, true) else {
        panic!("not removed")
    };
    assert_eq!(order.removal.disposal, Disposal::Archive, "without its class it is archived");
}

#[test]
fn everything_for_a_removal_is_taken_from_the_volume() {
    let volume = fixtures::volume_object(json!({}));
    let changed = fixtures::class(json!({"parameters": {"onDelete": "retain"}}));
    let Plan::Remove(order) = plan(&volume, Some(&changed), &backends(), true) else { panic!("not removed") };
    let expected = Order {
        provisioner: NAME.into(),
        removal: Removal {
            name: "pvc-0b6f-11".parse().unwrap(),
            id: Some("1/memory/default/pvc-0b6f-11".parse::<VolumeId>().unwrap()),
            source: Source::Nfs { server: "memory".into(), path: "/default/default-data-pvc-0b6f-11".into() },
            claim: ClaimKey { namespace: "default".into(), name: "data".into(), uid: "0b6f-11".into() },
            origin: Origin::Created,
            disposal: Disposal::Delete,
            pv_metadata: PvMetadata {
                store_identity: Some("store-1".into()),
                annotations: volume.metadata.annotations.clone().unwrap(),
                uid: "volume-1".into(),
                ..PvMetadata::default()
            },
        },
        remark: None,
    };
    assert_eq!(*order, expected);
}

/// Proves: row 6.1, row 6.2, row 6.3, row 6.4, row 6.5, row 6.6, row 6.7, row 6.8, row 6.10, statement 12
#[test]
fn the_volume_says_what_becomes_of_it_else_the_class_else_it_is_archived() {
    use Disposal::{Archive, Delete, Retain};
    let recorded = |value: &str| annotated(json!({"berth.storage/on-delete": value}));
    let class = |parameters: Value| json!({"parameters": parameters});
    let table: Vec<(&str, Value, Option<Value>, Disposal, &str)> = vec![
        ("recorded: delete", recorded("delete"), None, Delete, ""),
        ("recorded: archive", recorded("archive"), Some(class(json!({"onDelete": "delete"}))), Archive, ""),
        ("recorded: retain", recorded("retain"), Some(class(json!({"onDelete": "delete"}))), Retain, ""),
        ("old: the class says nothing", old(), Some(json!({})), Archive, ""),
        ("old: the class deletes", old(), Some(class(json!({"onDelete": "delete"}))), Delete, ""),
        ("old: the class retains", old(), Some(class(json!({"onDelete": "retain"}))), Retain, ""),
        (
            "old: the class archives, whatever the older parameter says",
            old(),
            Some(class(json!({"onDelete": "archive", "archiveOnDelete": "false"}))),
            Archive,
            "",
        ),
        (
            "old: the class does not archive",
            old(),
            Some(class(json!({"archiveOnDelete": "false"}))),
            Delete,
            "",
        ),
        (
            "old: a value that nobody knew falls through",
            old(),
            Some(class(json!({"onDelete": "Delete", "archiveOnDelete": "true"}))),
            Archive,
            "",
        ),
        (
            "old: a value that made the old one fail archives and says so",
            old(),
            Some(class(json!({"archiveOnDelete": "nope"}))),
            Archive,
            "must be true or false",
        ),
        ("old: the class is gone", old(), None, Archive, "storage class \"nfs\" does not exist"),
        (
            "old: there never was a class",
            with(old(), &json!({"spec": {"storageClassName": null}})),
            None,
            Archive,
            "neither the PersistentVolume nor a storage class",
        ),
    ];
    for (name, volume, class, disposal, remark) in table {
        let class = class.map(fixtures::class);
        let volume = fixtures::volume_object(volume);
        let Plan::Remove(order) = plan(&volume, class.as_ref(), &backends(), true) else { panic!("{name}") };
        assert_eq!(order.removal.disposal, disposal, "{name}");
        assert_eq!(order.remark.is_some(), !remark.is_empty(), "{name}: {:?}", order.remark);
        assert!(order.remark.unwrap_or_default().contains(remark), "{name}");
    }
}

/// Proves: case 30, case 31, statement 24
#[test]
fn a_volume_that_contradicts_itself_is_refused_with_a_reason() {
    let table: Vec<(&str, Value, &str)> = vec![
        ("no source at all", json!({"spec": {"nfs": null}}), "has no source that berth supports"),
        (
            "a source without a path",
            json!({"spec": {"nfs": {"path": ""}}}),
            "has no source that berth supports",
        ),
        ("no claim", json!({"spec": {"claimRef": null}}), "names no claim"),
        (
            "an unreadable record of what shall become of it",
            annotated(json!({"berth.storage/on-delete": "Delete"})),
            "must be delete, archive or retain",
        ),
        ("an unreadable origin", annotated(json!({"berth.storage/origin": "found"})), "created or adopted"),
        ("an unreadable id", annotated(json!({"berth.storage/volume-id": "x"})), "volume-id"),
        (
            "a record that is no object",
            annotated(json!({"berth.storage/record": "[]"})),
            "berth.storage/record \"[]\" must be a JSON object whose values are strings",
        ),
        (
            "a record with something else than texts",
            annotated(json!({"berth.storage/record": "{\"pool\": 1}"})),
            "must be a JSON object whose values are strings",
        ),
        (
            "a handle of another volume",
            json!({"spec": {
                "nfs": null, "csi": {"driver": "rbd.berth.storage", "volumeHandle": "1/memory/default/pvc-other"},
            }}),
            "the volume handle of the PersistentVolume is \"1/memory/default/pvc-other\", but its annotation berth.storage/volume-id says \
             1/memory/default/pvc-0b6f-11; nothing was removed",
        ),
        (
            "an id of another volume",
            annotated(json!({"berth.storage/volume-id": "1/memory/default/pvc-other"})),
            "names the volume pvc-other",
        ),
    ];
    for (name, volume, says) in table {
        match plan(&fixtures::volume_object(volume), None, &backends(), true) {
            Plan::Refuse(why) => assert!(why.contains(says), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let retained = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    assert_eq!(plan(&fixtures::volume_object(retained), None, &backends(), true), Plan::Ignore);
}

/// Proves: row 6.11
#[test]
fn another_volume_in_the_same_place_keeps_the_data_and_one_above_or_below_stops_the_removal() {
    let order = || {
        let volume = fixtures::volume_object(json!({}));
        match plan(&volume, None, &backends(), true) {
            Plan::Remove(order) => order,
            other => panic!("{other:?}"),
        }
    };
    let other = |relation| Occupant { relation, who: "PersistentVolume pvc-x".into(), id: "pvc-x".into() };
    let kept = retain_for(order(), "PersistentVolume pvc-x");
    assert_eq!(kept.removal.disposal, Disposal::Retain);
    assert!(kept.remark.unwrap().contains("PersistentVolume pvc-x uses the same location"));
    assert_eq!(in_the_way(&other(Relation::Same)), None);
    for (relation, says) in [(Relation::Above, "lies within that of"), (Relation::Below, "contains that of")]
    {
        let why = in_the_way(&other(relation)).unwrap();
        assert!(why.contains(says) && why.contains("pvc-x") && why.contains("nothing was removed"), "{why}");
    }
}

/// Proves: case 38
#[test]
fn the_finalizer_patches_name_our_finalizer_alone_and_the_object_they_mean() {
    let volume = fixtures::volume_object(json!({}));
    assert_eq!(
        object::add_finalizer_patch(&volume),
        json!({"metadata": {"uid": "volume-1", "finalizers": [names::FINALIZER]}}),
        "finalizers merge, so that adding twice adds once and others stay"
    );
    assert_eq!(
        object::remove_finalizer_patch(&volume),
        json!({"metadata": {
            "uid": "volume-1", "resourceVersion": "9",
            "$deleteFromPrimitiveList/finalizers": [names::FINALIZER],
        }}),
        "what was changed since it was looked at keeps it"
    );
}

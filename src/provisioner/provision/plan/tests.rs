//! Tables of what is decided about claims; what is then done is in `tests/provisioning.rs`.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    backend::{StorageSystem, memory::Memory},
    provisioner::{
        cache::ResourceKind,
        fixtures::{self, NAME},
        queue::Outcome,
    },
    volume::Location,
};

fn backends() -> Backends {
    let memory: Arc<dyn StorageSystem> = Arc::new(Memory::new());
    Backends::default().with(NAME, Arc::clone(&memory)).with("second.example/name", memory)
}

/// What is known: the usual class unless `class` is `None`, changed as it says, and these volumes.
fn cache(class: Option<Value>, volumes: Vec<Value>) -> Cache {
    let mut cache = Cache::new(backends(), true);
    cache.begin(ResourceKind::Classes);
    if let Some(patch) = class {
        cache.upsert_class(fixtures::class(patch));
    }
    for volume in volumes {
        cache.upsert_volume(&fixtures::volume_object(volume));
    }
    cache
}

/// The plan in short: its kind, and for a rejection also when it is looked at again.
fn decide(claim: &Value, cache: &mut Cache) -> (String, String) {
    let object = fixtures::claim_object(claim.clone());
    cache.upsert_claim(&object);
    let Some(claim) = cache.claim(object.metadata.uid.as_deref().unwrap()).cloned() else {
        return ("not kept".into(), String::new());
    };
    match plan(&claim, cache, &backends(), None) {
        Plan::Ignore => ("ignore".into(), String::new()),
        Plan::Foreign(why) => ("foreign".into(), why),
        Plan::Reread => ("reread".into(), String::new()),
        Plan::Wait(why) => ("wait".into(), why.into()),
        Plan::LeaveToPopulator(note) => ("step aside".into(), note),
        Plan::Reject(rejection) => {
            let again = match rejection.again {
                Again::OnChange => "on change".to_owned(),
                Again::Later => "later".to_owned(),
                Again::NoClass => "unless there is a class".to_owned(),
                Again::After(id) => format!("after {id}"),
            };
            (format!("reject, {again}"), rejection.why)
        }
        Plan::Provision(order) => ("provision".into(), order.location.path()),
    }
}

struct Row {
    name: &'static str,
    claim: Value,
    /// `None`: there is no class.
    class: Option<Value>,
    plan: &'static str,
    /// What the text of the plan contains.
    says: &'static str,
}

fn row(name: &'static str, claim: Value, class: Value, plan: &'static str, says: &'static str) -> Row {
    let class = (!class.is_null()).then_some(class);
    Row { name, claim, class, plan, says }
}

fn check(rows: Vec<Row>) {
    for Row { name, claim, class, plan, says } in rows {
        let (found, text) = decide(&claim, &mut cache(class, Vec::new()));
        assert_eq!(found, plan, "{name}: {text}");
        assert!(text.contains(says), "{name}: {text}");
    }
}

fn usual() -> Value {
    json!({})
}

fn annotated(annotations: Value) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

const STABLE: &str = "volume.kubernetes.io/storage-provisioner";
const BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const NODE: &str = "volume.kubernetes.io/selected-node";

/// Proves: case 1, case 2, case 3, case 4, case 5, case 9, statement 14
#[test]
fn a_claim_is_served_if_it_names_us_and_has_no_volume() {
    check(vec![
        row("a claim that names us is served", usual(), usual(), "provision", "default-data-pvc-0b6f-11"),
        row(
            "a bound claim is left alone",
            json!({"spec": {"volumeName": "pvc-other"}}),
            usual(),
            "not kept",
            "",
        ),
        row(
            "a claim that names nobody is left alone",
            annotated(json!({STABLE: null})),
            usual(),
            "not kept",
            "",
        ),
        row(
            "a claim that names another is left alone",
            annotated(json!({STABLE: "other"})),
            usual(),
            "not kept",
            "",
        ),
        row(
            "a claim that names us only under the old key is served",
            annotated(json!({STABLE: null, BETA: NAME})),
            usual(),
            "provision",
            "",
        ),
        row(
            "where the new key names another, the old one does not count",
            annotated(json!({STABLE: "other", BETA: NAME})),
            usual(),
            "not kept",
            "",
        ),
        row(
            "an empty new key is not an absent one",
            annotated(json!({STABLE: "", BETA: NAME})),
            usual(),
            "not kept",
            "",
        ),
        row(
            "a second name of ours is served like the first",
            annotated(json!({STABLE: "second.example/name"})),
            json!({"provisioner": "second.example/name"}),
            "provision",
            "",
        ),
        row(
            "a class of another provisioner is left to that one",
            usual(),
            json!({"provisioner": "other"}),
            "foreign",
            "names the provisioner \"nfs.example/berth\", but its storage class \"nfs\" names \"other\"",
        ),
        row(
            "a class of our other name is not what the claim says",
            usual(),
            json!({"provisioner": "second.example/name"}),
            "foreign",
            "\"second.example/name\"",
        ),
        row(
            "a claim without a self link is served",
            json!({"metadata": {"selfLink": null}}),
            usual(),
            "provision",
            "",
        ),
        row(
            "a claim that is being deleted is served, as its PV is then released",
            json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}}),
            usual(),
            "provision",
            "",
        ),
        row(
            "a missing class is told and waited for",
            usual(),
            Value::Null,
            "reject, unless there is a class",
            "\"nfs\" does not exist",
        ),
        row(
            "a claim without a class is told so",
            json!({"spec": {"storageClassName": null}}),
            usual(),
            "reject, later",
            "names no storage class",
        ),
    ]);
}

/// Proves: case 4
#[test]
fn the_old_annotation_names_the_class_also_when_it_is_empty() {
    check(vec![
        row(
            "the old annotation wins over the field",
            json!({"metadata": {"annotations": {BETA_CLASS: "nfs"}}, "spec": {"storageClassName": "other"}}),
            usual(),
            "provision",
            "",
        ),
        row(
            "the old annotation alone is enough",
            json!({"metadata": {"annotations": {BETA_CLASS: "nfs"}}, "spec": {"storageClassName": null}}),
            usual(),
            "provision",
            "",
        ),
        row(
            "the old annotation wins also when it is empty",
            annotated(json!({BETA_CLASS: ""})),
            usual(),
            "reject, later",
            "names no storage class",
        ),
    ]);
}

/// Proves: case 11
#[test]
fn late_binding_waits_for_a_node() {
    let late = || json!({"volumeBindingMode": "WaitForFirstConsumer"});
    check(vec![
        row("without a node it waits", usual(), late(), "wait", "WaitForFirstConsumer"),
        row(
            "with an empty node it waits",
            annotated(json!({NODE: ""})),
            late(),
            "wait",
            "WaitForFirstConsumer",
        ),
        row("with a node it is served", annotated(json!({NODE: "n1"})), late(), "provision", ""),
        row(
            "the alpha annotation does not decide",
            annotated(json!({"volume.alpha.kubernetes.io/selected-node": "n1"})),
            late(),
            "wait",
            "",
        ),
        row("immediate binding ignores the node", usual(), usual(), "provision", ""),
    ]);
}

/// Proves: case 6, case 8, case 12
#[test]
fn what_cannot_be_done_is_refused_and_told() {
    let spec = |spec: Value| json!({"spec": spec});
    check(vec![
        row("no volume mode is the file system", spec(json!({"volumeMode": null})), usual(), "provision", ""),
        row(
            "a raw device is refused",
            spec(json!({"volumeMode": "Block"})),
            usual(),
            "reject, on change",
            "does not support block volume provisioning",
        ),
        row(
            "an unknown volume mode is refused",
            spec(json!({"volumeMode": "Tape"})),
            usual(),
            "reject, on change",
            "\"Tape\" must be Filesystem or Block",
        ),
        row(
            "a selector is refused",
            spec(json!({"selector": {"matchLabels": {"a": "b"}}})),
            usual(),
            "reject, on change",
            "spec.selector is not supported",
        ),
        row(
            "an unknown access mode is refused",
            spec(json!({"accessModes": ["ReadWriteSometimes"]})),
            usual(),
            "reject, on change",
            "ReadWriteSometimes",
        ),
        row(
            "a claim without a size is refused",
            spec(json!({"resources": null})),
            usual(),
            "reject, on change",
            "requests.storage",
        ),
        row(
            "a size that is none is refused",
            spec(json!({"resources": {"requests": {"storage": "much"}}})),
            usual(),
            "reject, on change",
            "\"much\"",
        ),
        row(
            "a negative size is refused",
            spec(json!({"resources": {"requests": {"storage": "-1Gi"}}})),
            usual(),
            "reject, on change",
            "negative",
        ),
        row(
            "a bad onDelete is refused with what is allowed",
            usual(),
            json!({"parameters": {"onDelete": "Delete"}}),
            "reject, on change",
            "must be delete, archive or retain",
        ),
        row(
            "a bad archiveOnDelete is refused with what is allowed",
            usual(),
            json!({"parameters": {"archiveOnDelete": ""}}),
            "reject, on change",
            "must be true or false",
        ),
        row(
            "a strict class refuses what nobody reads",
            usual(),
            json!({"parameters": {"strictParameters": "true", "pathpattern": "x"}}),
            "reject, on change",
            "did you mean \"pathPattern\"?",
        ),
        row(
            "the backend's refusal of a parameter is passed on",
            usual(),
            json!({"parameters": {"export": "none"}}),
            "reject, on change",
            "export",
        ),
        row(
            "a UID that is no name is refused",
            json!({"metadata": {"uid": "../x"}}),
            usual(),
            "reject, on change",
            "volume name",
        ),
    ]);
}

#[test]
fn a_claim_that_wants_attributes_of_volumes_is_refused_and_an_empty_selector_is_none() {
    let spec = |spec: Value| json!({"spec": spec});
    check(vec![
        row(
            "an empty selector selects every volume",
            spec(json!({"selector": {}})),
            usual(),
            "provision",
            "",
        ),
        row(
            "attributes of volumes are refused, since no volume that is made would be bound",
            spec(json!({"volumeAttributesClassName": "gold"})),
            usual(),
            "reject, on change",
            "spec.volumeAttributesClassName \"gold\" is not supported",
        ),
        row(
            "an empty name of attributes is none",
            spec(json!({"volumeAttributesClassName": ""})),
            usual(),
            "provision",
            "",
        ),
    ]);
}

/// Proves: case 48, case 49, case 50, statement 15
#[test]
fn a_volume_with_content_is_never_made_empty() {
    let source = |source: Value| json!({"spec": {"dataSource": source}});
    let reference = |source: Value| json!({"spec": {"dataSourceRef": source}});
    let snapshot = || json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    let claim = || json!({"kind": "PersistentVolumeClaim", "name": "c"});
    check(vec![
        row("a snapshot is refused", source(snapshot()), usual(), "reject, on change", "cannot copy data"),
        row("a clone is refused", source(claim()), usual(), "reject, on change", "cannot copy data"),
        row(
            "a reference to a snapshot is refused",
            reference(snapshot()),
            usual(),
            "reject, on change",
            "cannot copy",
        ),
        row(
            "a reference to a claim is refused",
            reference(claim()),
            usual(),
            "reject, on change",
            "cannot copy",
        ),
        row(
            "a source in another namespace is refused",
            reference(json!({"kind": "PersistentVolumeClaim", "name": "c", "namespace": "n"})),
            usual(),
            "reject, on change",
            "another namespace",
        ),
        row(
            "a source without a name is refused",
            source(json!({"kind": "PersistentVolumeClaim", "name": ""})),
            usual(),
            "reject, on change",
            "has no name",
        ),
        row(
            "any other kind is left to a populator",
            reference(json!({"apiGroup": "x.example", "kind": "Copy", "name": "c"})),
            usual(),
            "step aside",
            "populator",
        ),
        row(
            "a kind of the same name in another group is any other kind",
            reference(json!({"apiGroup": "x.example", "kind": "VolumeSnapshot", "name": "c"})),
            usual(),
            "step aside",
            "",
        ),
        row(
            "the data source counts where both are set",
            json!({"spec": {
                "dataSource": claim(),
                "dataSourceRef": {"apiGroup": "x.example", "kind": "Copy", "name": "c"},
            }}),
            usual(),
            "reject, on change",
            "PersistentVolumeClaim",
        ),
    ]);
}

#[test]
fn what_a_class_needs_of_a_claim_is_kept_and_the_claim_is_read_again_when_that_changes() {
    let claim = json!({"metadata": {
        "labels": {"tier": "gold", "other": "x"}, "annotations": {"team": "a"},
    }});
    let class = |pattern: &str, version: &str| {
        fixtures::class(
            json!({"metadata": {"resourceVersion": version}, "parameters": {"pathPattern": pattern}}),
        )
    };
    let mut cache = cache(None, Vec::new());
    assert_eq!(decide(&claim, &mut cache).0, "reject, unless there is a class");
    cache.upsert_class(class("${.PVC.labels.tier}/${.PVC.name}", "1"));
    let kept = cache.claim("0b6f-11").cloned().unwrap();
    assert!(
        matches!(plan(&kept, &cache, &backends(), None), Plan::Reread),
        "nothing was kept without a class"
    );
    assert_eq!(decide(&claim, &mut cache), ("provision".into(), "gold/data".into()));
    let kept = cache.claim("0b6f-11").cloned().unwrap().to_volume_claim();
    assert_eq!(kept.labels, BTreeMap::from([("tier".into(), "gold".into())]), "and only what is needed");
    assert!(kept.annotations.is_empty(), "{:?}", kept.annotations);

    cache.upsert_class(class("${.PVC.annotations.team}/${.PVC.labels.tier}", "2"));
    let kept = cache.claim("0b6f-11").cloned().unwrap();
    assert!(matches!(plan(&kept, &cache, &backends(), None), Plan::Reread), "the new edition needs more");
    assert_eq!(decide(&claim, &mut cache).1, "a/gold");
    cache.upsert_class(class("${.PVC.name}", "3"));
    let kept = cache.claim("0b6f-11").cloned().unwrap();
    assert!(matches!(plan(&kept, &cache, &backends(), None), Plan::Provision(_)), "less is enough");
}

#[test]
fn values_for_a_pattern_that_are_longer_than_any_path_are_refused_and_not_kept() {
    let claim =
        json!({"metadata": {"annotations": {"a": format!("x{}", "/".repeat(2100)), "b": "y".repeat(2000)}}});
    let class = json!({"parameters": {"pathPattern": "${.PVC.annotations.a}/${.PVC.annotations.b}"}});
    let mut cache = cache(Some(class), Vec::new());
    let (found, text) = decide(&claim, &mut cache);
    assert_eq!(found, "reject, on change");
    assert!(text.contains("are 4101 bytes long; a path has at most 4096"), "{text}");
    assert!(cache.claim("0b6f-11").unwrap().to_volume_claim().annotations.is_empty());
}

fn at(name: &str, path: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"claimRef": {"uid": format!("of-{name}")}, "nfs": {"path": path}},
        "status": {"phase": "Bound"},
    })
}

/// Proves: case 7, row 3.18, row 3.19
#[test]
fn a_place_that_another_volume_has_is_refused() {
    let foreign = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other"}}});
    let mut static_volume = at("by-hand", "/default/ns/data");
    fixtures::merge(&mut static_volume, &foreign);
    let pattern = |pattern: &str| json!({"parameters": {"pathPattern": pattern}});
    let share = |pattern: &str| json!({"parameters": {"pathPattern": pattern, "existingDirectory": "share"}});
    let table: Vec<(&str, Value, Vec<Value>, &str, &str)> = vec![
        ("our volume is there already", usual(), vec![json!({"status": {"phase": "Bound"}})], "not kept", ""),
        (
            "a volume of our name for another claim does not count as ours",
            usual(),
            vec![json!({"spec": {"claimRef": {"uid": "x"}, "nfs": {"path": "/default/elsewhere"}}})],
            "provision",
            "",
        ),
        (
            "a free place is taken",
            pattern("ns/data"),
            vec![at("pvc-x", "/default/ns/other")],
            "provision",
            "ns/data",
        ),
        (
            "the same place is refused",
            pattern("ns/data"),
            vec![at("pvc-x", "/default/ns/data")],
            "reject, after pvc-x",
            "is that of PersistentVolume pvc-x",
        ),
        (
            "a place above is refused",
            pattern("ns/data"),
            vec![at("pvc-x", "/default/ns")],
            "reject, after pvc-x",
            "lies within that of PersistentVolume pvc-x",
        ),
        (
            "a place below is refused",
            pattern("ns"),
            vec![at("pvc-x", "/default/ns/data")],
            "reject, after pvc-x",
            "contains that of PersistentVolume pvc-x",
        ),
        (
            "a volume made by hand counts as well",
            pattern("ns/data"),
            vec![static_volume],
            "reject, after by-hand",
            "is that of PersistentVolume by-hand",
        ),
        (
            "a class that shares may have exactly the same place",
            share("ns/data"),
            vec![at("pvc-x", "/default/ns/data")],
            "provision",
            "ns/data",
        ),
        (
            "a class that shares may not have a place above",
            share("ns"),
            vec![at("pvc-x", "/default/ns"), at("pvc-y", "/default/ns/data")],
            "reject, after pvc-y",
            "contains",
        ),
        (
            "a volume on another server is not in the way",
            pattern("ns/data"),
            vec![
                json!({"metadata": {"name": "a"}, "spec": {"nfs": {"server": "s", "path": "/default/ns/data"}}}),
            ],
            "provision",
            "",
        ),
    ];
    for (name, class, volumes, expected, says) in table {
        let (found, text) = decide(&usual(), &mut cache(Some(class), volumes));
        assert_eq!(found, expected, "{name}: {text}");
        assert!(text.contains(says), "{name}: {text}");
    }
}

/// Proves: case 7
#[test]
fn a_claim_whose_volume_is_stored_needs_nothing_more() {
    let cache = cache(Some(usual()), vec![json!({"status": {"phase": "Bound"}})]);
    assert!(matches!(plan(&fixtures::claim(usual()), &cache, &backends(), None), Plan::Ignore));
}

#[test]
fn a_place_that_is_being_made_is_refused_until_it_is_free() {
    let mut cache = cache(Some(json!({"parameters": {"pathPattern": "same"}})), Vec::new());
    let other = fixtures::claim(json!({"metadata": {"uid": "first", "name": "first"}}));
    let place = Location::new("default", "same").unwrap();
    cache.reserve(&other, LocationKey::new("memory", &place));
    let (found, text) = decide(&usual(), &mut cache);
    assert_eq!(found, "reject, after first");
    assert!(text.contains("is that of claim default/first"), "{text}");
    cache.release("first");
    assert_eq!(decide(&usual(), &mut cache).0, "provision");
}

#[test]
fn the_backend_is_asked_for_what_the_claim_says_with_its_own_parameters_only() {
    let class =
        json!({"parameters": {"pathPattern": "${.PVC.labels.tier}", "onDelete": "retain", "odd": "1"}});
    let mut cache = cache(Some(class), Vec::new());
    let claim = json!({
        "metadata": {"labels": {"tier": "gold"}},
        "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]},
    });
    cache.upsert_claim(&fixtures::claim_object(claim));
    let claim = Arc::clone(cache.claim("0b6f-11").unwrap());
    let Plan::Provision(order) = plan(&claim, &cache, &backends(), None) else { panic!("not provisioned") };
    let mut expected = VolumeRequest {
        name: "pvc-0b6f-11".parse().unwrap(),
        claim: claim.to_volume_claim(),
        capacity: Capacity::from_bytes(1500 << 20),
        access: vec![Access::ReadWriteOnce, Access::ReadOnlyMany],
        mode: Mode::Filesystem,
        parameters: BTreeMap::from([("pathPattern".into(), "${.PVC.labels.tier}".into())]),
        placement: order.request.placement.clone(),
    };
    assert_eq!(order.request, expected);
    assert_eq!(std::mem::take(&mut expected.claim.labels), BTreeMap::from([("tier".into(), "gold".into())]));
    assert_eq!(order.disposal, Disposal::Retain);
    assert_eq!(order.location.path(), "gold");
    assert_eq!(order.unknown.as_deref(), Some("has the unknown parameter \"odd\""));
}

#[test]
fn a_claim_and_a_class_that_are_the_same_are_not_parsed_again() {
    let mut cache = cache(Some(json!({})), Vec::new());
    let claim = fixtures::claim(json!({}));
    let Plan::Provision(mut parsed) = plan(&claim, &cache, &backends(), None) else {
        panic!("not provisioned")
    };
    parsed.request.capacity = Capacity::from_bytes(1);
    let again = |claim: &Arc<Claim>, cache: &Cache| {
        let Plan::Provision(order) = plan(claim, cache, &backends(), Some(&parsed)) else {
            panic!("refused")
        };
        order.request.capacity == parsed.request.capacity
    };
    assert!(again(&claim, &cache), "what was parsed is used");
    assert!(!again(&Arc::new(Claim::clone(&claim)), &cache), "the claim is another edition");
    let mut class = Class::clone(cache.class(&claim.class).unwrap());
    class.version = "2".into();
    cache.upsert_class(class);
    assert!(!again(&claim, &cache), "the class is another edition");
}

/// Proves: case 13, case 14, case 39
#[test]
fn failures_are_retried_at_a_pace_that_fits_them() {
    let slow = [Kind::Invalid, Kind::Unsupported, Kind::Refused];
    let usual = [
        Kind::Conflict,
        Kind::NotFound,
        Kind::Exhausted,
        Kind::InUse,
        Kind::Busy,
        Kind::Unavailable,
        Kind::Internal,
    ];
    for kind in slow {
        assert_eq!(Outcome::from(kind), Outcome::Slow, "{kind}");
    }
    for kind in usual {
        assert_eq!(Outcome::from(kind), Outcome::Retry, "{kind}");
    }
}

//! Released volumes, and volumes that were begun and never used.

use std::{collections::BTreeMap, time::Duration};

use berth_apiserver::{Fault, Match, Options, Times};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::bed::{Bed, NAME, USER, full_rules};
use crate::{
    backend::{
        Backend, Kind as Failure,
        memory::{Memory, Moment, Operation},
    },
    provisioner::{Settings, names},
    volume::{Access, Capacity, Claim, Location, Mode, Permit, VolumeName, VolumeRequest},
};

pub(super) async fn with_volume(bed: &Bed) -> String {
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap()
}

pub(super) fn patch_volume(bed: &Bed, name: &str, patch: Value) {
    bed.server.store().patch::<PersistentVolume>("", name, &patch).unwrap();
}

/// Proves: case 32, case 35, case 22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_volume_goes_with_two_writes_and_no_event() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    let finalizers = bed.volume(&name).unwrap().metadata.finalizers.unwrap();
    assert!(finalizers.iter().any(|name| name == names::FINALIZER), "{finalizers:?}");
    bed.event("data", "ProvisioningSucceeded").await;
    bed.until("the event is counted", || bed.requests("create", "events") == 1).await;
    bed.server.audit().reset();
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.volumes().is_empty());
    assert_eq!(
        (bed.requests("delete", "persistentvolumes"), bed.requests("patch", "persistentvolumes")),
        (1, 1)
    );
    assert_eq!(bed.server.audit().writes(USER), 2);
    assert_eq!(bed.requests("get", "persistentvolumes"), 1);
    assert_eq!(bed.events(&name), []);
}

/// Proves: case 35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_deleted_before_its_claim_is_removed_when_the_claim_goes() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    bed.server.store().delete::<PersistentVolume>("", &name).unwrap();
    bed.settle().await;
    assert_eq!(bed.memory.volumes().len(), 1, "a bound volume stays");
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    assert!(bed.memory.volumes().is_empty());
    running.stop().await;
}

/// Proves: case 25, case 37, row 7.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_fails_is_reported_and_tried_again() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    bed.memory.fail_next(Operation::Remove, 3, Moment::Before, Failure::Unavailable);
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    let why = bed.event(&name, "VolumeFailedDelete").await;
    assert!(why.contains("Remove failed"), "{why}");
    assert_eq!(bed.memory.calls(Operation::Remove), 4);
    let metrics = running.metrics.clone();
    running.stop().await;
    let text = metrics.text();
    assert!(text.contains("controller_persistentvolume_delete_failed_total{class=\"nfs\"} 3"), "{text}");
    assert!(text.contains("controller_persistentvolume_delete_total{class=\"nfs\"} 1"), "{text}");
}

/// Proves: case 26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_whose_object_could_not_be_deleted_is_completed() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    bed.server.faults().inject(deletes, Fault::Code(500, None), Times::Count(2));
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    let why = bed.event(&name, "VolumeFailedDelete").await;
    assert!(why.contains("cannot be deleted"), "{why}");
    assert_eq!(bed.memory.calls(Operation::Remove), 3);
    running.stop().await;
}

/// What is asked again slowly, is not within a test.
async fn patient(bed: &Bed) -> Settings {
    let mut settings = bed.settings().await;
    settings.backoff.slow = Duration::from_hours(1);
    settings
}

/// Proves: statement 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_removal_is_tried_again_when_an_annotation_was_corrected() {
    let bed = Bed::new();
    let running = bed.start_with(patient(&bed).await);
    let name = with_volume(&bed).await;
    let annotate = |key: &str, value: &str| {
        patch_volume(&bed, &name, json!({"metadata": {"annotations": {key: value}}}));
    };
    annotate(names::ON_DELETE, "Delete");
    bed.delete_claim("data");
    let why = bed.event(&name, "VolumeFailedDelete").await;
    assert!(why.contains("must be delete, archive or retain"), "{why}");
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.calls(Operation::Remove)), (1, 0));
    bed.memory.fail_next(Operation::Remove, 1, Moment::Before, Failure::Refused);
    annotate(names::ON_DELETE, "delete");
    bed.until("the storage refuses it", || bed.memory.calls(Operation::Remove) == 1).await;
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Remove), 1);
    annotate("looked-at", "today");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.volumes().is_empty());
}

/// What the storage refuses for is mended where Kubernetes sees nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_storage_is_asked_again_slowly() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    bed.memory.fail_next(Operation::Remove, 2, Moment::Before, Failure::Refused);
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    let text = running.metrics.text();
    running.stop().await;
    assert!(text.contains("berth_refused_total{operation=\"delete\"} 2"), "{text}");
    assert_eq!(bed.memory.calls(Operation::Remove), 3);
    assert_eq!(bed.events(&name).len(), 1, "the same refusal is the same Event: {:?}", bed.events(&name));
}

/// Proves: statement 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_removal_waits_for_a_change_of_the_volume() {
    let bed = Bed::new();
    let running = bed.start_with(patient(&bed).await);
    let name = with_volume(&bed).await;
    bed.memory.fail_next(Operation::Remove, 1, Moment::Before, Failure::Refused);
    bed.delete_claim("data");
    bed.event(&name, "VolumeFailedDelete").await;
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Remove), 1, "not retried by itself");
    patch_volume(&bed, &name, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    bed.settle().await;
    patch_volume(&bed, &name, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
}

/// Proves: case 31, case 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_rescued_at_the_last_moment_is_left_alone() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    // The loop sees the release; what it reads just before the removal is the rescued volume.
    let reads = Match::verb("get").resource("persistentvolumes").user(USER);
    let held = bed.server.faults().inject(reads, Fault::Hang, Times::Always);
    bed.delete_claim("data");
    bed.until("the volume is about to be removed", || bed.server.faults().hits(held) > 0).await;
    patch_volume(&bed, &name, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    bed.server.faults().remove(held);
    bed.until("the finalizer is taken off", || {
        let finalizers = bed.volume(&name).unwrap().metadata.finalizers.unwrap_or_default();
        !finalizers.iter().any(|name| name == names::FINALIZER)
    })
    .await;
    running.stop().await;
    assert_eq!((bed.volumes(), bed.memory.calls(Operation::Remove)), (1, 0));
}

/// Proves: statement 12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_is_gone_or_changed_changes_nothing_for_its_volumes() {
    let bed = Bed::new();
    let running = bed.start().await;
    with_volume(&bed).await;
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.class(json!({"parameters": {"onDelete": "retain"}}));
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.volumes().is_empty() && bed.memory.archived().is_empty(), "it was deleted, not kept");
}

/// A volume as the old provisioner left it, released.
pub(super) fn old_volume(bed: &Bed, name: &str, path: &str) {
    old_volume_on(bed, name, "default", path);
}

/// The same on another store.
pub(super) fn old_volume_on(bed: &Bed, name: &str, store: &str, path: &str) {
    bed.memory.plant(Location { store: store.into(), ..place(path) }, true);
    bed.create(json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": NAME}},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "gone", "uid": format!("uid-of-{name}")},
            "nfs": {"server": "memory", "path": format!("/{store}/{path}")},
        },
    }));
    bed.server
        .store()
        .patch_status::<PersistentVolume>("", name, &json!({"status": {"phase": "Released"}}))
        .unwrap();
}

pub(super) fn place(path: &str) -> Location {
    Location::new("default", path).unwrap()
}

/// Proves: statement 12, row 6.10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_an_old_provisioner_are_removed_as_their_class_says_else_archived() {
    let bed = Bed::without_controllers();
    old_volume(&bed, "pvc-deleted", "default-a-pvc-1");
    let running = bed.start().await;
    bed.until("it is deleted as the class says", || bed.volumes() == 0).await;
    assert!(!bed.memory.exists(&place("default-a-pvc-1")) && bed.memory.archived().is_empty());

    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.until("the loop knows that the class is gone", || {
        bed.server.store().get::<StorageClass>("", "nfs").is_none()
    })
    .await;
    bed.settle().await;
    old_volume(&bed, "pvc-archived", "default-b-pvc-2");
    let why = bed.event("pvc-archived", "VolumeRemoved").await;
    assert!(
        why.contains("storage class \"nfs\" does not exist") && why.contains("archived-default-b-pvc-2"),
        "{why}"
    );
    bed.until("its object is gone", || bed.volumes() == 0).await;
    assert_eq!(bed.memory.archived().len(), 1);

    old_volume(&bed, "pvc-broken", "default-c-pvc-3");
    bed.event("pvc-broken", "VolumeRemoved").await;
    running.stop().await;
}

/// Proves: statement 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_without_a_usable_source_is_reported_and_the_loop_goes_on() {
    let bed = Bed::without_controllers();
    bed.create(json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "strange", "annotations": {"pv.kubernetes.io/provisioned-by": NAME}},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "gone", "uid": "1"},
            "hostPath": {"path": "/etc"},
        },
    }));
    let store = bed.server.store();
    store.patch_status::<PersistentVolume>("", "strange", &json!({"status": {"phase": "Released"}})).unwrap();
    let running = bed.start().await;
    let why = bed.event("strange", "VolumeFailedDelete").await;
    assert!(why.contains("has no source that berth supports"), "{why}");
    bed.annotated_claim("data");
    bed.until("the loop goes on", || bed.volumes() == 2).await;
    running.stop().await;
}

/// Proves: row 6.11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_within_another_is_not_removed_before_that_one_is_gone() {
    let bed = Bed::without_controllers();
    old_volume(&bed, "pvc-outer", "team");
    bed.create(json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "nfs": {"server": "memory", "path": "/default/team/app"},
        },
    }));
    let running = bed.start().await;
    let why = bed.event("pvc-outer", "VolumeFailedDelete").await;
    assert!(why.contains("contains that of PersistentVolume by-hand"), "{why}");
    bed.settle().await;
    assert!(bed.memory.exists(&place("team")) && bed.memory.calls(Operation::Remove) == 0);
    bed.server.store().delete::<PersistentVolume>("", "by-hand").unwrap();
    bed.until("it is removed once the other is gone", || bed.volumes() == 0).await;
    running.stop().await;
}

/// Proves: case 33, case 38
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_volumes_of_old_get_the_finalizer_and_keep_the_others() {
    let bed = Bed::without_controllers();
    old_volume(&bed, "pvc-old", "default-a-pvc-1");
    patch_volume(&bed, "pvc-old", json!({"metadata": {"finalizers": ["example.com/other"]}}));
    let store = bed.server.store();
    store.patch_status::<PersistentVolume>("", "pvc-old", &json!({"status": {"phase": "Bound"}})).unwrap();
    let running = bed.start().await;
    let finalizers = || bed.volume("pvc-old").unwrap().metadata.finalizers.unwrap_or_default();
    bed.until("it has the finalizer", || finalizers().iter().any(|name| name == names::FINALIZER)).await;
    assert_eq!(finalizers().len(), 2);
    patch_volume(&bed, "pvc-old", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    bed.until("it has lost it again", || finalizers() == ["example.com/other"]).await;
    running.stop().await;
}

fn request(uid: &str, name: &str) -> VolumeRequest {
    VolumeRequest {
        name: VolumeName::for_claim(uid).unwrap(),
        claim: Claim {
            namespace: "default".into(),
            name: name.into(),
            uid: uid.into(),
            labels: BTreeMap::default(),
            annotations: BTreeMap::default(),
        },
        capacity: Capacity::from_bytes(1 << 30),
        access: vec![Access::ReadWriteMany],
        mode: Mode::Filesystem,
        parameters: BTreeMap::default(),
        placement: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_removes_what_was_never_used_and_commits_what_was() {
    let bed = Bed::without_controllers();
    let permit = Permit::unlimited();
    // Killed after the directory was made; the claim is gone.
    bed.memory.create(&request("gone", "gone"), &permit).await.unwrap();
    // Killed after the directory was made; a claim of that name, but another UID, lives.
    bed.memory.create(&request("former", "successor"), &permit).await.unwrap();
    bed.claim("successor", json!({}));
    // Killed after the directory was made; the claim lives, though nobody asks us to provision it now.
    let lives = bed.claim("lives", json!({}));
    bed.memory.create(&request(&lives, "lives"), &permit).await.unwrap();
    // Killed after the PV was stored.
    let stored = bed.annotated_claim("stored");
    bed.memory.hang(Operation::Commit);
    let running = bed.start().await;
    bed.until("the PV is stored", || bed.volumes() == 1).await;
    running.kill().await;
    bed.memory.release(Operation::Commit);
    let running = bed.start().await;
    let held = |uid: &str| {
        let name = VolumeName::for_claim(uid).unwrap();
        bed.memory.volumes().into_iter().find(|held| *held.volume.id.name() == name)
    };
    bed.until("what was never used is gone", || held("gone").is_none() && held("former").is_none()).await;
    bed.until("what is used is committed", || held(&stored).is_some_and(|held| held.committed)).await;
    running.stop().await;
    assert!(held(&lives).is_some_and(|held| !held.committed), "a living claim keeps its volume");
    assert_eq!(bed.server.store().list::<PersistentVolumeClaim>("default").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_known_by_its_uid_alone_is_looked_for_among_all_that_live() {
    let bed = Bed::without_controllers();
    bed.memory.forget_names();
    let permit = Permit::unlimited();
    bed.memory.create(&request("gone", "gone"), &permit).await.unwrap();
    // It lives, under a name and in a namespace that the storage does not remember, and nobody asks us to provision it.
    let lives = bed.claim("lives", json!({}));
    bed.memory.create(&request(&lives, "lives"), &permit).await.unwrap();
    for number in 0..1200 {
        bed.claim(&format!("other-{number}"), json!({}));
    }
    let running = bed.start().await;
    bed.until("what was never used is gone", || bed.memory.volumes().len() == 1).await;
    bed.settle().await;
    running.stop().await;
    assert_eq!(bed.memory.volumes()[0].claim.uid, lives);
    assert_eq!(bed.memory.calls(Operation::Rollback), 1);
    let lists = bed.requests("list", "persistentvolumeclaims");
    assert!(lists >= 6, "twice, in pages: {lists}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_cannot_be_asked_which_claims_live_nothing_is_rolled_back() {
    let bed = Bed::without_controllers();
    bed.memory.forget_names();
    bed.memory.create(&request("gone", "gone"), &Permit::unlimited()).await.unwrap();
    let list = Match::verb("list").resource("persistentvolumeclaims").user(USER);
    let refused = bed.server.faults().inject(list, Fault::Code(500, None), Times::Always);
    let running = bed.start().await;
    bed.until("it was asked", || bed.server.faults().hits(refused) > 0).await;
    bed.annotated_claim("data");
    bed.until("the loop goes on", || bed.volumes() == 1).await;
    bed.settle().await;
    running.stop().await;
    assert_eq!((bed.memory.volumes().len(), bed.memory.calls(Operation::Rollback)), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backends_learn_of_every_class_of_theirs_also_of_one_that_comes_later() {
    let bed = Bed::without_controllers();
    bed.class(json!({"metadata": {"name": "other"}, "parameters": {"export": "default", "odd": "x"}}));
    bed.class(
        json!({"metadata": {"name": "foreign"}, "provisioner": "other", "parameters": {"export": "x"}}),
    );
    let running = bed.start().await;
    bed.until("both are told", || bed.memory.met().len() == 2).await;
    bed.class(json!({"metadata": {"name": "later"}, "parameters": {"export": "later"}}));
    bed.until("the later one is told", || bed.memory.met().len() == 3).await;
    running.stop().await;
    let mut met = bed.memory.met();
    met.sort();
    let export = |name: &str| BTreeMap::from([("export".to_owned(), name.to_owned())]);
    assert_eq!(met, [BTreeMap::new(), export("default"), export("later")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_finds_its_volume_busy_is_tried_again_without_an_event() {
    let bed = Bed::new();
    let running = bed.start().await;
    let name = with_volume(&bed).await;
    bed.memory.fail_next(Operation::Remove, 3, Moment::Before, Failure::Busy);
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Remove), 4);
    assert_eq!(bed.events(&name), []);
}

/// A volume as the in-tree plugin left it, in this phase.
fn in_tree_volume(bed: &Bed, name: &str, phase: &str, patch: Value) {
    bed.memory.plant(place(name), true);
    let mut usual = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {
                "pv.kubernetes.io/provisioned-by": "kubernetes.io/rbd",
                "kubernetes.io/createdby": "rbd-dynamic-provisioner",
            },
            "finalizers": ["kubernetes.io/pv-controller"],
        },
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "nfs",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "gone", "uid": format!("uid-of-{name}")},
            "nfs": {"server": "memory", "path": format!("/default/{name}")},
        },
    });
    crate::provisioner::fixtures::merge(&mut usual, &patch);
    bed.create(usual);
    let status = json!({"status": {"phase": phase}});
    bed.server.store().patch_status::<PersistentVolume>("", name, &status).unwrap();
}

/// Kubernetes without the plugin calls a volume Failed when it cannot remove it, and holds it by a finalizer that it never
/// takes off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_the_in_tree_plugin_are_removed_where_somebody_made_them_by_a_claim() {
    let bed = Bed::without_controllers();
    in_tree_volume(&bed, "failed", "Failed", json!({}));
    in_tree_volume(&bed, "released", "Released", json!({}));
    in_tree_volume(
        &bed,
        "by-hand",
        "Released",
        json!({"metadata": {"annotations": {"kubernetes.io/createdby": null}}}),
    );
    in_tree_volume(&bed, "bound", "Bound", json!({"metadata": {"finalizers": null}}));
    let mut settings = bed.settings().await;
    settings.workers = 2;
    let running = bed.start_as("kubernetes.io/rbd", settings);
    bed.until("both are gone", || bed.volumes() == 2).await;
    bed.settle().await;
    running.stop().await;
    assert!(bed.volume("by-hand").is_some(), "what somebody made by hand is not ours");
    let finalizers = bed.volume("bound").unwrap().metadata.finalizers;
    assert_eq!(finalizers, None, "Kubernetes looks after the finalizers of its own volumes");
    assert!(!bed.memory.exists(&place("failed")) && !bed.memory.exists(&place("released")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_empty_is_never_swept() {
    let bed = Bed::with(Options::default(), Memory::new(), full_rules());
    let made = request("gone", "gone");
    bed.memory.create(&made, &Permit::unlimited()).await.unwrap();
    bed.memory.fill(&bed.memory.place(&made).unwrap().location);
    let running = bed.start().await;
    bed.until("the sweep tried", || bed.memory.calls(Operation::Rollback) > 0).await;
    bed.settle().await;
    running.stop().await;
    assert_eq!(bed.memory.volumes().len(), 1);
}

#[tokio::test]
async fn which_classes_and_volumes_there_are_is_reported_again_when_some_have_gone() {
    let bed = Bed::new();
    let running = bed.start().await;
    with_volume(&bed).await;
    bed.class(json!({"metadata": {"name": "other"}, "parameters": {"pathPattern": "other"}}));
    let told = |classes: usize, stores: &[&str]| {
        let expected: std::collections::BTreeSet<String> =
            stores.iter().map(|store| (*store).to_owned()).collect();
        let retained = bed.memory.retained();
        retained.is_some_and(|(known, used)| known.len() == classes && used == expected)
    };
    bed.until("both classes are told of", || told(2, &["default"])).await;
    bed.server.store().delete::<StorageClass>("", "other").unwrap();
    bed.until("a class has gone", || told(1, &["default"])).await;
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.until("the volume is left", || told(0, &["default"])).await;
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    bed.until("nothing is left", || told(0, &[])).await;
    running.stop().await;
}

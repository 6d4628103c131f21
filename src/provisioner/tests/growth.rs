//! Claims that ask for more than they have.

use std::time::Duration;

use berth_apiserver::{AuditKey, Fault, Match, Options, Times};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;

use super::bed::{Bed, USER, full_rules, old_rules};
use crate::backend::{
    Kind as Failure,
    memory::{Memory, Moment, Operation},
};

fn grow(bed: &Bed, to: &str) {
    let patch = json!({"spec": {"resources": {"requests": {"storage": to}}}});
    bed.server.store().patch::<PersistentVolumeClaim>("default", "data", &patch).unwrap();
}

fn has(bed: &Bed) -> String {
    let capacity = bed.get_claim("data").unwrap().status.unwrap().capacity.unwrap();
    capacity["storage"].0.clone()
}

fn volume_has(bed: &Bed) -> String {
    let name = bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap();
    bed.volume(&name).unwrap().spec.unwrap().capacity.unwrap()["storage"].0.clone()
}

/// Proves: case 53, case 54, statement 20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bigger_request_is_completed() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.event("data", "ProvisioningSucceeded").await;
    bed.server.audit().reset();
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    assert_eq!(volume_has(&bed), "2Gi");
    bed.event("data", "Resizing").await;
    bed.event("data", "VolumeResizeSuccessful").await;
    bed.settle().await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Expand), 1);
    assert_eq!(bed.server.audit().writes(USER), 4, "two patches and two events");
}

/// Proves: case 53
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_that_was_interrupted_is_completed_by_the_next_process() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    let status = Match::verb("patch").resource("persistentvolumeclaims").subresource("status").user(USER);
    bed.server.faults().inject(status, Fault::Code(500, None), Times::Always);
    grow(&bed, "2Gi");
    bed.until("the PV has grown", || volume_has(&bed) == "2Gi").await;
    let why = bed.event("data", "VolumeResizeFailed").await;
    assert!(why.contains("cannot record the new size"), "{why}");
    running.kill().await;
    assert_eq!(has(&bed), "1Gi");
    bed.server.faults().clear();
    let running = bed.start().await;
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    running.stop().await;
}

/// The conditions of the claim.
fn conditions(bed: &Bed) -> Vec<String> {
    let conditions = bed.get_claim("data").unwrap().status.unwrap().conditions.unwrap_or_default();
    conditions.into_iter().map(|condition| condition.type_).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_on_a_device_is_left_to_the_node_and_not_asked_for_twice() {
    let bed = Bed::new();
    bed.memory.grow_on_nodes();
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    grow(&bed, "2Gi");
    bed.until("the node is asked", || conditions(&bed) == ["FileSystemResizePending"]).await;
    assert_eq!(
        (volume_has(&bed).as_str(), has(&bed).as_str()),
        ("2Gi", "1Gi"),
        "the kubelet tells the claim"
    );
    let note = bed.event("data", "FileSystemResizeRequired").await;
    assert!(note.contains("2Gi"), "{note}");
    // Whatever touches the claim in between, and a new process, asks nobody again.
    let patch = json!({"metadata": {"labels": {"touched": "1"}}});
    bed.server.store().patch::<PersistentVolumeClaim>("default", "data", &patch).unwrap();
    bed.settle().await;
    running.stop().await;
    let running = bed.start().await;
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Expand), 1);
    // As the kubelet does when the file system has grown.
    let done = json!({"status": {
        "capacity": {"storage": "2Gi"},
        "conditions": [{"type": "FileSystemResizePending", "$patch": "delete"}],
    }});
    bed.server.store().patch_status::<PersistentVolumeClaim>("default", "data", &done).unwrap();
    bed.settle().await;
    assert!(!bed.events("data").iter().any(|(reason, _)| reason == "VolumeResizeSuccessful"));
    assert_eq!(bed.memory.calls(Operation::Expand), 1);
    grow(&bed, "3Gi");
    bed.until("it grows once more", || volume_has(&bed) == "3Gi").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_that_finds_its_volume_busy_is_tried_again_without_an_event() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    bed.memory.fail_next(Operation::Expand, 3, Moment::Before, Failure::Busy);
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    bed.event("data", "VolumeResizeSuccessful").await;
    running.stop().await;
    assert!(!bed.events("data").iter().any(|(reason, _)| reason == "VolumeResizeFailed"));
    assert_eq!(bed.memory.calls(Operation::Expand), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_that_was_refused_is_asked_for_again_slowly() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    bed.memory.fail_next(Operation::Expand, 2, Moment::Before, Failure::Refused);
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    assert_eq!(bed.memory.calls(Operation::Expand), 3);
    // What is wrong with the volume may be corrected, which is no news about the claim.
    let name = bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap();
    let origin = |origin: &str| {
        let patch = json!({"metadata": {"annotations": {"berth.storage/origin": origin}}});
        bed.server.store().patch::<PersistentVolume>("", &name, &patch).unwrap();
    };
    origin("what");
    grow(&bed, "3Gi");
    let refused = || bed.events("data").iter().any(|(_, note)| note.contains("created or adopted"));
    bed.until("the volume is not understood", refused).await;
    origin("created");
    bed.until("the claim has grown again", || has(&bed) == "3Gi").await;
    running.stop().await;
}

/// It waited for as long as what is wrong until a person corrects it, though space may be freed at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_that_found_no_space_does_not_wait_for_the_slowest_retry() {
    let bed = Bed::new();
    let mut settings = bed.settings().await;
    settings.backoff.slow = Duration::from_hours(1);
    let running = bed.start_with(settings);
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    bed.memory.fail_next(Operation::Expand, 2, Moment::Before, Failure::Exhausted);
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Expand), 3);
}

/// Proves: case 55, row 8.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_rights_one_event_explains_and_nothing_else_happens() {
    let bed = Bed::with(Options::default(), Memory::new(), old_rules());
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    grow(&bed, "2Gi");
    let why = bed.event("data", "VolumeResizeFailed").await;
    assert!(why.contains("patch persistentvolumes and patch persistentvolumeclaims/status"), "{why}");
    bed.settle().await;
    running.stop().await;
    let explained = bed.events("data").into_iter().filter(|(reason, _)| reason == "VolumeResizeFailed");
    assert_eq!(explained.count(), 1);
    let changes = ["patch", "update", "delete"];
    let changed = |key: &AuditKey| key.user == USER && changes.contains(&key.verb.as_str());
    assert_eq!(bed.server.audit().count(changed), 0);
    assert_eq!((has(&bed).as_str(), bed.memory.calls(Operation::Expand)), ("1Gi", 0));
    assert_ne!(full_rules(), old_rules());
}

/// Annotations, the size that was asked for, and how far it is.
fn expansion(bed: &Bed) -> (Option<String>, Option<String>, Option<String>) {
    let claim = bed.get_claim("data").unwrap();
    let annotation = claim.metadata.annotations.unwrap_or_default().remove(NO_NODE_EXPANSION);
    let status = claim.status.unwrap();
    let allocated = status.allocated_resources.unwrap_or_default().remove("storage").map(|size| size.0);
    let state = status.allocated_resource_statuses.unwrap_or_default().remove("storage");
    (annotation, allocated, state)
}

const NO_NODE_EXPANSION: &str = "volume.kubernetes.io/node-expansion-not-required";

/// A claim with a volume of a CSI driver, and the loop.
async fn csi_claim() -> (Bed, super::bed::Running) {
    let bed = Bed::new();
    bed.memory.mount_by("cephfs.berth.storage");
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    (bed, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_csi_volume_that_needs_no_node_says_so_to_kubelet() {
    let (bed, running) = csi_claim().await;
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    assert_eq!(expansion(&bed), (Some("true".into()), Some("2Gi".into()), None));
    assert_eq!(conditions(&bed), [""; 0]);
    // The next expansion begins without the mark of the last one, which is of the older size.
    bed.memory.fail_next(Operation::Expand, 1, Moment::Before, Failure::Unavailable);
    bed.memory.hang(Operation::Expand);
    grow(&bed, "3Gi");
    let begun = (None, Some("3Gi".into()), Some("ControllerResizeInProgress".into()));
    bed.until("it is begun", || expansion(&bed) == begun).await;
    assert_eq!(conditions(&bed), ["Resizing"]);
    bed.memory.release(Operation::Expand);
    bed.until("the claim has grown again", || has(&bed) == "3Gi").await;
    assert_eq!(expansion(&bed), (Some("true".into()), Some("3Gi".into()), None));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_csi_volume_with_a_file_system_is_handed_to_kubelet_and_more_waits_for_it() {
    let (bed, running) = csi_claim().await;
    bed.memory.grow_on_nodes();
    grow(&bed, "2Gi");
    let pending = (None, Some("2Gi".into()), Some("NodeResizePending".into()));
    bed.until("the node is asked", || expansion(&bed) == pending).await;
    assert_eq!((volume_has(&bed).as_str(), has(&bed).as_str()), ("2Gi", "1Gi"));
    let name = bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap();
    let before = bed.volume(&name).unwrap().metadata.annotations.unwrap();
    assert_eq!(before["volume.alpha.kubernetes.io/pre-resize-capacity"], "1Gi");
    assert_eq!(conditions(&bed), ["FileSystemResizePending"]);
    grow(&bed, "3Gi");
    bed.settle().await;
    assert_eq!((bed.memory.calls(Operation::Expand), volume_has(&bed).as_str()), (1, "2Gi"));
    // As the kubelet does when the file system has grown.
    let done = json!({"status": {
        "capacity": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": null},
        "conditions": [{"type": "FileSystemResizePending", "$patch": "delete"}],
    }});
    bed.server.store().patch_status::<PersistentVolumeClaim>("default", "data", &done).unwrap();
    bed.until("the rest is asked for", || volume_has(&bed) == "3Gi").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_storage_refused_can_be_lowered() {
    let (bed, running) = csi_claim().await;
    bed.memory.fail_next(Operation::Expand, 1000, Moment::Before, Failure::Invalid);
    grow(&bed, "4Gi");
    let refused = (None, Some("4Gi".into()), Some("ControllerResizeInfeasible".into()));
    bed.until("the refusal is told", || expansion(&bed) == refused).await;
    assert_eq!(conditions(&bed), ["ControllerResizeError"]);
    bed.memory.forget_faults();
    grow(&bed, "2Gi");
    bed.until("the claim has grown", || has(&bed) == "2Gi").await;
    assert_eq!(expansion(&bed), (Some("true".into()), Some("2Gi".into()), None));
    assert_eq!(conditions(&bed), [""; 0]);
    running.stop().await;
}

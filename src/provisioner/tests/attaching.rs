//! `VolumeAttachment`s of a driver with `attachRequired`, which kube-controller-manager makes and berth answers.

use berth_apiserver::{Fault, Match, Options, Times};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};

use super::{
    bed::{Bed, USER, full_rules},
    removal::with_volume,
};
use crate::{backend::memory::Memory, provisioner::Settings};

const DRIVER: &str = "rbd.berth.storage";
const FINALIZER: &str = "external-attacher/rbd-berth-storage";

/// The full rights with those that images need besides.
fn rules_with_attachments() -> Value {
    let mut rules = full_rules();
    let attachments = |resource: &str, verbs: &[&str]| json!({"apiGroups": ["storage.k8s.io"], "resources": [resource], "verbs": verbs});
    let rules_list = rules.as_array_mut().unwrap();
    rules_list.push(attachments("volumeattachments", &["list", "watch", "patch"]));
    rules_list.push(attachments("volumeattachments/status", &["patch"]));
    rules
}

/// Volumes of [`DRIVER`], of which one node alone uses each.
fn bed() -> Bed {
    let memory = Memory::new();
    memory.mount_by(DRIVER);
    Bed::with(Options::default(), memory, rules_with_attachments())
}

async fn settings(bed: &Bed) -> Settings {
    Settings { attachers: vec![DRIVER.to_owned()], ..bed.settings().await }
}

/// As kube-controller-manager does for a pod on this node.
fn attach(bed: &Bed, name: &str, volume: &str, node: &str) {
    bed.create(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
        "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}},
    }));
}

fn attachment(bed: &Bed, name: &str) -> Option<VolumeAttachment> {
    bed.server.store().get("", name)
}

fn detach(bed: &Bed, name: &str) {
    bed.server.store().delete::<VolumeAttachment>("", name).unwrap();
}

async fn attached(bed: &Bed, name: &str) {
    let is_attached = || attachment(bed, name).unwrap().status.is_some_and(|status| status.attached);
    bed.until(&format!("{name} is attached"), is_attached).await;
}

/// A claim that one node alone may use, with its volume.
async fn single(bed: &Bed) -> String {
    bed.claim("data", json!({"spec": {"accessModes": ["ReadWriteOnce"]}}));
    bed.bound("data").await;
    bed.provisioned(1).await;
    bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_attached_held_by_a_finalizer_and_let_go_with_three_writes() {
    let bed = bed();
    let running = bed.start_with(settings(&bed).await);
    let name = single(&bed).await;
    bed.event("data", "ProvisioningSucceeded").await;
    bed.server.audit().reset();
    attach(&bed, "csi-1", &name, "node-a");
    attached(&bed, "csi-1").await;
    assert_eq!(attachment(&bed, "csi-1").unwrap().metadata.finalizers.unwrap(), [FINALIZER]);
    detach(&bed, "csi-1");
    bed.until("it is let go", || attachment(&bed, "csi-1").is_none()).await;
    running.stop().await;
    assert_eq!(bed.server.audit().writes(USER), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_is_refused_with_the_reason_until_the_first_one_has_let_go() {
    let bed = bed();
    let running = bed.start_with(settings(&bed).await);
    let name = single(&bed).await;
    attach(&bed, "csi-1", &name, "node-a");
    attached(&bed, "csi-1").await;
    attach(&bed, "csi-2", &name, "node-b");
    let error = || attachment(&bed, "csi-2").unwrap().status.and_then(|status| status.attach_error);
    bed.until("the refusal is told", || error().is_some()).await;
    let told = error().unwrap();
    let message = told.message.unwrap();
    assert!(message.contains("VolumeAttachment csi-1 attaches it to node node-a"), "{message}");
    assert_eq!(told.error_code, Some(9));
    bed.settle().await;
    assert_eq!(attachment(&bed, "csi-2").unwrap().metadata.finalizers, None);
    // The node was taken out of service, or did not answer for too long: kube-controller-manager deletes the object.
    detach(&bed, "csi-1");
    attached(&bed, "csi-2").await;
    let status = attachment(&bed, "csi-2").unwrap().status.unwrap();
    assert!(status.attach_error.is_none(), "{status:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_nodes_that_ask_at_once_one_gets_the_volume() {
    let bed = bed();
    let running = bed.start_with(settings(&bed).await);
    let name = single(&bed).await;
    let names: Vec<String> = (0..12).map(|at| format!("csi-{at}")).collect();
    for (at, one) in names.iter().enumerate() {
        attach(&bed, one, &name, &format!("node-{at}"));
    }
    let status = |one: &String| attachment(&bed, one).unwrap().status.unwrap_or_default();
    let decided = || names.iter().all(|one| status(one).attached || status(one).attach_error.is_some());
    bed.until("each was answered", decided).await;
    bed.settle().await;
    assert_eq!(names.iter().filter(|one| status(one).attached).count(), 1);
    // Each of the others in turn.
    for left in (1..names.len()).rev() {
        let holder = names.iter().find(|one| {
            attachment(&bed, one).is_some_and(|found| found.status.is_some_and(|status| status.attached))
        });
        detach(&bed, holder.unwrap());
        let attached = || {
            let there = names.iter().filter_map(|one| attachment(&bed, one));
            there.filter(|found| found.status.as_ref().is_some_and(|status| status.attached)).count()
        };
        bed.until(&format!("one of {left} is attached"), || {
            // First whether the old one is gone, which counts as attached until then.
            names.iter().filter(|one| attachment(&bed, one).is_some()).count() == left && attached() == 1
        })
        .await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_not_removed_before_its_last_attachment_is_gone() {
    let bed = bed();
    let mut told = settings(&bed).await;
    // Nothing is asked again within the test: what happens follows from the watch.
    told.backoff.slow = std::time::Duration::from_hours(1);
    let running = bed.start_with(told);
    let name = with_volume(&bed).await;
    attach(&bed, "csi-1", &name, "node-a");
    attach(&bed, "csi-2", &name, "node-b");
    attached(&bed, "csi-1").await;
    attached(&bed, "csi-2").await;
    bed.delete_claim("data");
    let phase = || bed.volume(&name).unwrap().status.and_then(|status| status.phase);
    bed.until("it is released", || phase().as_deref() == Some("Released")).await;
    bed.settle().await;
    detach(&bed, "csi-2");
    bed.until("the second one is let go", || attachment(&bed, "csi-2").is_none()).await;
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.volumes().len()), (1, 1), "the first one is left");
    detach(&bed, "csi-1");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.volumes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_waits_long_for_an_attachment_says_so() {
    let bed = bed();
    let running = bed.start_with(settings(&bed).await);
    let name = with_volume(&bed).await;
    attach(&bed, "csi-1", &name, "node-a");
    attached(&bed, "csi-1").await;
    bed.delete_claim("data");
    let why = bed.event(&name, "VolumeFailedDelete").await;
    assert_eq!(why, "not removed yet: VolumeAttachment csi-1 attaches it to node node-a");
    assert_eq!(bed.memory.volumes().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_attached_when_the_process_was_killed_is_completed_and_let_go_by_the_next() {
    let bed = bed();
    let running = bed.start_with(settings(&bed).await);
    let name = single(&bed).await;
    let status = Match::verb("patch").resource("volumeattachments").subresource("status").user(USER);
    bed.server.faults().inject(status, Fault::Code(500, None), Times::Always);
    attach(&bed, "csi-1", &name, "node-a");
    bed.until("the finalizer is written", || {
        attachment(&bed, "csi-1").unwrap().metadata.finalizers.is_some()
    })
    .await;
    running.kill().await;
    bed.server.faults().clear();
    let running = bed.start_with(settings(&bed).await);
    attached(&bed, "csi-1").await;
    running.kill().await;
    detach(&bed, "csi-1");
    assert!(attachment(&bed, "csi-1").is_some(), "the finalizer holds it");
    let running = bed.start_with(settings(&bed).await);
    bed.until("it is let go", || attachment(&bed, "csi-1").is_none()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_rights_volumes_are_made_and_removed_and_the_missing_rule_is_told() {
    let bed = Bed::new();
    bed.memory.mount_by(DRIVER);
    let running = bed.start_with(settings(&bed).await);
    let name = with_volume(&bed).await;
    attach(&bed, "csi-1", &name, "node-a");
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    let text = running.metrics.text();
    assert!(text.contains("list volumeattachments.storage.k8s.io"), "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_driver_attaches_nothing_is_asked_about_attachments() {
    let bed = Bed::new();
    let running = bed.start().await;
    with_volume(&bed).await;
    running.stop().await;
    let asked = bed.server.audit().count(|key| key.user == USER && key.resource == "volumeattachments");
    assert_eq!(asked, 0);
}

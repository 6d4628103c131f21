//! The edges of the contract with claims: what is refused, what is told of a class, and what a claim's author cannot do.

use std::time::Duration;

use berth_apiserver::{Controllers, Fault, Match, Options, Times};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::bed::{Bed, NAME, USER, full_rules};
use crate::{
    backend::memory::{Memory, Operation},
    provisioner::queue::Backoff,
    volume::SecretName,
};

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// Makes the class `nfs` again.
fn change_class(bed: &Bed, patch: Value) {
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.class(patch);
}

/// A claim of that kind got a volume, and no control plane ever bound it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_wants_attributes_of_volumes_is_refused_and_one_that_selects_everything_is_served() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.claim("gold", json!({"spec": {"volumeAttributesClassName": "gold"}}));
    bed.claim("all", json!({"spec": {"selector": {}}}));
    bed.claim("some", json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}));
    let why = bed.event("gold", "ProvisioningFailed").await;
    assert!(why.contains("volumeAttributesClassName \"gold\""), "{why}");
    let why = bed.event("some", "ProvisioningFailed").await;
    assert!(why.contains("spec.selector"), "{why}");
    bed.bound("all").await;
    running.stop().await;
    assert_eq!(bed.volumes(), 1);
    assert_eq!(bed.memory.calls(Operation::Create), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_arrives_later_than_its_claim_makes_no_warning() {
    let bed = Bed::without_controllers();
    let running = bed.start().await;
    bed.until("the watches run", || bed.requests("watch", "storageclasses") > 1).await;
    let news = Match::verb("watch").resource("storageclasses").user(USER);
    let held = bed.server.faults().inject(news, Fault::Hang, Times::Always);
    bed.server.cut_watches();
    bed.until("the watch hangs", || bed.server.faults().hits(held) > 0).await;
    bed.class(json!({"metadata": {"name": "late"}}));
    let asked = bed.requests("get", "storageclasses");
    bed.claim(
        "data",
        json!({"metadata": {"annotations": {PROVISIONER: NAME}}, "spec": {"storageClassName": "late"}}),
    );
    bed.until("it was asked for", || bed.requests("get", "storageclasses") > asked + 1).await;
    assert_eq!(bed.events("data"), []);
    bed.server.faults().remove(held);
    bed.provisioned(1).await;
    bed.event("data", "ProvisioningSucceeded").await;
    running.stop().await;
    assert!(!bed.events("data").iter().any(|(reason, _)| reason == "ProvisioningFailed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_seen_before_its_class_needed_a_label_is_read_once_more() {
    let bed = Bed::without_controllers();
    change_class(&bed, json!({"parameters": {"pathPattern": "${.PVC.labels.tier}/${.PVC.labels.no}"}}));
    let running = bed.start().await;
    bed.claim(
        "data",
        json!({"metadata": {
            "labels": {"tier": "gold", "team": "red"}, "annotations": {PROVISIONER: NAME},
        }}),
    );
    let why = bed.event("data", "ProvisioningFailed").await;
    assert!(why.contains("label \"no\""), "{why}");
    assert_eq!(bed.requests("get", "persistentvolumeclaims"), 0, "what is needed was kept at once");
    change_class(&bed, json!({"parameters": {"pathPattern": "${.PVC.labels.team}/${.PVC.labels.tier}"}}));
    bed.provisioned(1).await;
    running.stop().await;
    assert_eq!(bed.memory.volumes()[0].place.path.to_string(), "red/gold");
    assert!(bed.requests("get", "persistentvolumeclaims") > 0);
}

/// The series stayed for ever, and made 135 MB of metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_invent_classes_and_kinds_of_sources_do_not_become_labels() {
    let bed = Bed::without_controllers();
    let running = bed.start().await;
    let size = || running.metrics.text().len();
    let invent = |index: usize| {
        bed.claim(
            &format!("class-{index}"),
            json!({
                "metadata": {"annotations": {PROVISIONER: NAME}},
                "spec": {"storageClassName": format!("invented-{index}-{}", "x".repeat(200))},
            }),
        );
        let kind = if index == 0 { "k".repeat(900_000) } else { format!("Kind{index}") };
        bed.claim(
            &format!("kind-{index}"),
            json!({
                "metadata": {"annotations": {PROVISIONER: NAME}},
                "spec": {"dataSourceRef": {"apiGroup": "x.example", "kind": kind, "name": ""}},
            }),
        );
    };
    invent(0);
    bed.event("class-0", "ProvisioningFailed").await;
    let note = bed.event("kind-0", "ProvisioningFailed").await;
    assert!(note.len() <= 1024, "{} bytes", note.len());
    let before = size();
    for index in 1..60 {
        invent(index);
    }
    for index in 1..60 {
        bed.event(&format!("class-{index}"), "ProvisioningFailed").await;
        bed.event(&format!("kind-{index}"), "ProvisioningFailed").await;
    }
    let text = running.metrics.text();
    running.stop().await;
    assert!(!text.contains("invented") && !text.contains("Kind") && !text.contains("kkkk"), "{text}");
    assert!(text.contains("provision_failed_total{class=\"nfs\",source=\"other\"} "), "{text}");
    assert!(text.len() < before + 4096, "it grew from {before} to {} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_class_probably_did_not_mean_is_reported_once_for_each_edition_of_it() {
    let bed = Bed::without_controllers();
    let class =
        json!({"parameters": {"pathPattern": "{{ .PVC.name }}-${.PVC.name}", "mountableBefore": "0"}});
    change_class(&bed, class);
    let running = bed.start().await;
    let told = |reason: &str| {
        let later = (0..100).map(|number| format!("later-{number}"));
        let all = ["a", "b"].into_iter().map(str::to_owned).chain(later);
        let all = all.flat_map(|name| bed.events(&name));
        all.filter(|(found, _)| found == reason).map(|(_, note)| note).collect::<Vec<_>>()
    };
    for name in ["a", "b"] {
        bed.annotated_claim(name);
    }
    bed.provisioned(2).await;
    bed.until("both things are told", || {
        !told("LiteralPattern").is_empty() && !told("NotMountable").is_empty()
    })
    .await;
    let places: Vec<_> = bed.memory.volumes().iter().map(|held| held.place.path.to_string()).collect();
    assert!(places.contains(&"{{ .PVC.name }}-a".to_owned()), "it is taken as it is: {places:?}");
    assert_eq!((told("LiteralPattern").len(), told("NotMountable").len()), (1, 1));
    assert!(told("LiteralPattern")[0].contains("write \"${.PVC.name}\""), "{:?}", told("LiteralPattern"));
    let again =
        json!({"metadata": {"annotations": {"edition": "2"}}, "parameters": {"mountableBefore": "0"}});
    change_class(&bed, again);
    // A claim may be seen before the new edition is.
    for number in 0..100 {
        bed.annotated_claim(&format!("later-{number}"));
        bed.provisioned(3 + number).await;
        bed.settle().await;
        if told("NotMountable").len() == 2 {
            break;
        }
    }
    assert_eq!(told("NotMountable").len(), 2, "the new edition is told of");
    running.stop().await;
    assert_eq!(told("LiteralPattern").len(), 1);
}

/// Lets a claim fail for want of a Secret at a pace that brings it back in an hour, makes the Secret, and waits for the
/// volume. `verbs`: what may be done with Secrets.
async fn secret_that_appears(verbs: Value) -> Bed {
    let mut rules = full_rules();
    rules.as_array_mut().unwrap().push(json!({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}));
    let options = Options { controllers: Controllers::none(), ..Options::default() };
    let bed = Bed::with(options, Memory::new(), rules);
    bed.memory.lack(Some(SecretName { namespace: "default".into(), name: "key".into() }));
    let hour = Duration::from_hours(1);
    let mut settings = bed.settings().await;
    settings.backoff = Backoff { min: hour, max: hour, slow: hour };
    let running = bed.start_with(settings);
    for name in ["one", "two"] {
        bed.annotated_claim(name);
        bed.event(name, "ProvisioningFailed").await;
    }
    bed.memory.lack(None);
    bed.create(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "default"},
        "stringData": {"key": "x"},
    }));
    bed.provisioned(2).await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Create), 4);
    bed
}

/// They waited for minutes, since nothing told them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_appears_wakes_the_claims_that_wait_for_it_by_one_watch_where_that_is_allowed() {
    let bed = secret_that_appears(json!(["get", "watch"])).await;
    assert!(bed.requests("watch", "secrets") > 0);
    assert_eq!(bed.requests("get", "secrets"), 0, "nothing is asked for again and again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_appears_wakes_the_claims_that_wait_for_it_where_it_can_only_be_asked_for() {
    let bed = secret_that_appears(json!(["get"])).await;
    assert!(bed.requests("get", "secrets") > 0);
}

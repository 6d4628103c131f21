//! Claims that become volumes, and everything that can come between.

use berth_apiserver::{Fault, Kind, Match, Options, Times};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::json;

use super::bed::{Bed, NAME, USER, full_rules, old_rules};
use crate::{
    backend::{
        Kind as Failure,
        memory::{Memory, Moment, Operation},
    },
    volume::Location,
};

fn creates(resource: &str) -> Match {
    Match::verb("create").resource(resource).user(USER)
}

/// Proves: case 1, case 42, row 7.2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_costs_one_volume_one_event_and_no_reads() {
    let bed = Bed::without_controllers();
    let running = bed.start().await;
    bed.until("the watches run", || bed.requests("watch", "persistentvolumeclaims") > 0).await;
    let uid = bed.annotated_claim("first");
    bed.event("first", "ProvisioningSucceeded").await;
    bed.provisioned(1).await;
    // A request is counted after what it made can be seen.
    bed.until("its Event is counted", || bed.requests("create", "events") == 1).await;

    bed.server.audit().reset();
    for index in 0..20 {
        bed.annotated_claim(&format!("data-{index}"));
    }
    bed.claim(
        "foreign",
        json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "x"}}}),
    );
    bed.provisioned(21).await;
    for index in 0..20 {
        bed.event(&format!("data-{index}"), "ProvisioningSucceeded").await;
    }
    running.stop().await;
    assert_eq!(bed.requests("create", "persistentvolumes"), 20);
    assert_eq!(bed.requests("create", "events"), 20);
    assert_eq!(bed.server.audit().writes(USER), 40);
    assert_eq!(bed.server.audit().reads(USER), 0);
    // It begins as the Go library has it, and goes on with the directory and the class.
    let note = format!(
        "Successfully provisioned volume pvc-{uid} at memory/default:default-first-pvc-{uid} of class \"nfs\""
    );
    assert_eq!(bed.events("first"), [("ProvisioningSucceeded".to_owned(), note)]);
}

/// Proves: case 56, statement 19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_already_are_served_and_bound_and_told_to_the_metrics() {
    let bed = Bed::new();
    for index in 0..5 {
        bed.claim(&format!("data-{index}"), json!({}));
    }
    let running = bed.start().await;
    for index in 0..5 {
        bed.bound(&format!("data-{index}")).await;
    }
    bed.provisioned(5).await;
    let text = running.metrics.text();
    let line = "controller_persistentvolumeclaim_provision_total{class=\"nfs\",source=\"\"} 5";
    assert!(text.contains(line), "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_finds_its_volume_busy_is_tried_again_without_an_event() {
    let bed = Bed::without_controllers();
    bed.memory.fail_next(Operation::Create, 1, Moment::Before, Failure::Busy);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.event("data", "ProvisioningSucceeded").await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Create), 2);
    assert!(!bed.events("data").iter().any(|(reason, _)| reason == "ProvisioningFailed"));
}

/// Proves: case 4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_waits_for_its_class() {
    let bed = Bed::without_controllers();
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    let running = bed.start().await;
    bed.annotated_claim("data");
    let why = bed.event("data", "ProvisioningFailed").await;
    assert_eq!(why, "storage class \"nfs\" does not exist");
    bed.class(json!({}));
    bed.provisioned(1).await;
    running.stop().await;
}

/// Proves: case 19, row 7.1, row 7.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_object_could_not_be_stored_at_first_is_stored_later() {
    let bed = Bed::without_controllers();
    let fault = Fault::Code(500, None);
    bed.server.faults().inject(creates("persistentvolumes"), fault, Times::Count(2));
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.provisioned(1).await;
    bed.event("data", "ProvisioningSucceeded").await;
    bed.event("data", "Provisioning").await;
    let failed = bed.event("data", "ProvisioningFailed").await;
    assert!(failed.contains("not stored yet"), "{failed}");
    running.stop().await;
    let succeeded = bed.events("data").into_iter().filter(|(reason, _)| reason == "ProvisioningSucceeded");
    assert_eq!(succeeded.count(), 1);
    assert_eq!(bed.memory.calls(Operation::Rollback), 0);
}

/// Proves: case 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_found_out() {
    let bed = Bed::without_controllers();
    bed.server.faults().inject(creates("persistentvolumes"), Fault::DropAfter, Times::Count(1));
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.event("data", "ProvisioningSucceeded").await;
    bed.provisioned(1).await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Rollback), 0);
}

/// A PV was stored, nobody knows it yet, and the class was made again with other details in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_object_was_stored_with_other_details_is_not_rolled_back() {
    let bed = Bed::without_controllers();
    bed.memory.change_details();
    let running = bed.start().await;
    bed.until("the watches run", || bed.requests("watch", "persistentvolumes") > 0).await;
    let news = Match::verb("watch").resource("persistentvolumes").user(USER);
    bed.server.faults().inject(news, Fault::Hang, Times::Always);
    bed.server.cut_watches();
    bed.server.faults().inject(creates("persistentvolumes"), Fault::DropAfter, Times::Count(1));
    bed.annotated_claim("data");
    bed.provisioned(1).await;
    bed.event("data", "ProvisioningSucceeded").await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Create), 2, "the second one tells other details");
    assert_eq!(bed.memory.calls(Operation::Rollback), 0);
}

/// Proves: case 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_that_name_for_another_claim_is_an_error() {
    let bed = Bed::without_controllers();
    let uid = bed.annotated_claim("data");
    let name = format!("pvc-{uid}");
    bed.create(json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "x",
            "claimRef": {"namespace": "other", "name": "b", "uid": "b"},
            "nfs": {"server": "elsewhere", "path": "/x"},
        },
    }));
    let running = bed.start().await;
    let why = bed.event("data", "ProvisioningFailed").await;
    assert!(why.contains("exists already and belongs to claim other/b"), "{why}");
    assert_eq!(bed.volumes(), 1);
    bed.server.store().delete::<PersistentVolume>("", &name).unwrap();
    bed.provisioned(1).await;
    running.stop().await;
}

/// Proves: case 20, statement 11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_can_never_be_stored_is_rolled_back_when_its_claim_goes() {
    let bed = Bed::without_controllers();
    let before = Location::new("default", "precious").unwrap();
    bed.memory.plant(before.clone(), true);
    bed.server.faults().inject(creates("persistentvolumes"), Fault::Code(422, None), Times::Always);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.event("data", "ProvisioningFailed").await;
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.volumes().len()), (0, 1), "the directory waits with the claim");
    bed.delete_claim("data");
    bed.until("the directory is taken back", || bed.memory.volumes().is_empty()).await;
    assert!(bed.memory.exists(&before));
    running.stop().await;
    assert_eq!(bed.volumes(), 0);
}

/// Proves: row 7.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_cannot_be_rolled_back_is_reported_on_its_claim_and_rolled_back_later() {
    let bed = Bed::without_controllers();
    bed.server.faults().inject(creates("persistentvolumes"), Fault::Code(422, None), Times::Always);
    bed.memory.fail_next(Operation::Rollback, 1, Moment::Before, Failure::Unavailable);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.event("data", "ProvisioningFailed").await;
    bed.delete_claim("data");
    let why = bed.event("data", "ProvisioningCleanupFailed").await;
    assert!(why.starts_with("could not remove the volume that was created for this claim: "), "{why}");
    bed.until("the volume is removed", || bed.memory.volumes().is_empty()).await;
    running.stop().await;
    assert_eq!((bed.volumes(), bed.memory.calls(Operation::Rollback)), (0, 2));
}

/// Proves: case 14, case 16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_goes_while_the_outcome_is_unknown_is_worked_on_until_it_is_known() {
    let bed = Bed::without_controllers();
    bed.memory.hang(Operation::Create);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.until("the backend is asked", || bed.memory.calls(Operation::Create) > 0).await;
    bed.delete_claim("data");
    bed.settle().await;
    bed.memory.fail_next(Operation::Create, 1, Moment::After, Failure::Unavailable);
    bed.memory.release(Operation::Create);
    bed.until("what was made is taken back", || {
        bed.memory.calls(Operation::Rollback) > 0 && bed.memory.volumes().is_empty()
    })
    .await;
    running.stop().await;
    assert_eq!(bed.volumes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_goes_while_its_volume_is_made_gets_no_volume() {
    let bed = Bed::without_controllers();
    bed.memory.hang(Operation::Create);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.until("the backend is asked", || bed.memory.calls(Operation::Create) > 0).await;
    bed.delete_claim("data");
    bed.settle().await;
    bed.memory.release(Operation::Create);
    bed.until("it is taken back", || bed.memory.calls(Operation::Rollback) > 0).await;
    bed.until("nothing is left", || bed.memory.volumes().is_empty()).await;
    running.stop().await;
    assert_eq!(bed.requests("create", "persistentvolumes"), 0);
}

/// Proves: case 13, case 18, case 39, case 40, row 7.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_reported_and_tried_again_and_a_change_of_the_claim_ends_the_wait() {
    let bed = Bed::without_controllers();
    let mut settings = bed.settings().await;
    settings.backoff.slow = std::time::Duration::from_hours(1);
    bed.memory.fail_next(Operation::Create, 2, Moment::Before, Failure::Exhausted);
    bed.memory.fail_next(Operation::Create, 1, Moment::Before, Failure::Invalid);
    let running = bed.start_with(settings);
    bed.annotated_claim("data");
    bed.until("the third failure is infeasible", || bed.memory.calls(Operation::Create) == 3).await;
    bed.event("data", "ProvisioningFailed").await;
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Create), 3, "an hour is waited");
    let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
    bed.server.store().patch::<PersistentVolumeClaim>("default", "data", &touch).unwrap();
    bed.provisioned(1).await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Create), 4);
    let written = ["update", "patch"].map(|verb| bed.requests(verb, "persistentvolumeclaims"));
    assert_eq!(written, [0, 0], "the claim, with its selected node, is left as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_volume_is_deleted_before_it_is_bound_gets_another() {
    let bed = Bed::without_controllers();
    let running = bed.start().await;
    let name = format!("pvc-{}", bed.annotated_claim("data"));
    bed.provisioned(1).await;
    let first = bed.volume(&name).unwrap().metadata.uid;
    bed.server
        .store()
        .patch::<PersistentVolume>("", &name, &json!({"metadata": {"finalizers": null}}))
        .unwrap();
    bed.server.store().delete::<PersistentVolume>("", &name).unwrap();
    bed.until("there is another volume", || {
        bed.volume(&name).is_some_and(|other| other.metadata.uid != first)
    })
    .await;
    running.stop().await;
}

/// A claim of a cluster that never answered kept its store, and what it cost, until the end of the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_for_a_claim_is_left_to_the_sweep_when_its_class_is_gone_too() {
    let bed = Bed::new();
    bed.memory.fail_next(Operation::Create, 100_000, Moment::Before, Failure::Unavailable);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.event("data", "ProvisioningFailed").await;
    bed.delete_claim("data");
    let calls = || bed.memory.calls(Operation::Create);
    let before = calls();
    bed.until("it is found out what was made", || calls() > before).await;
    // One that is made again under its name is another one.
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.class(json!({}));
    bed.until("nothing is asked any more", || {
        let before = calls();
        std::thread::sleep(std::time::Duration::from_secs(1));
        calls() == before
    })
    .await;
    running.stop().await;
}

/// Proves: case 15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_cannot_be_committed_does_not_fail_its_claim() {
    let bed = Bed::without_controllers();
    bed.memory.fail_next(Operation::Commit, 3, Moment::Before, Failure::Unavailable);
    let running = bed.start().await;
    bed.annotated_claim("data");
    bed.provisioned(1).await;
    bed.event("data", "ProvisioningSucceeded").await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Commit), 4);
    assert_eq!(bed.requests("create", "persistentvolumes"), 1);
    assert_eq!(bed.events("data").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlapping_claim_is_refused_and_served_when_the_place_is_free() {
    let bed = Bed::new();
    bed.class(
        json!({"metadata": {"name": "pattern"}, "parameters": {"pathPattern": "${.PVC.annotations.dir}"}}),
    );
    let labelled = |dir: &str| json!({"metadata": {"annotations": {"dir": dir}}, "spec": {"storageClassName": "pattern"}});
    let running = bed.start().await;
    bed.claim("first", labelled("a/b"));
    bed.bound("first").await;
    let first = bed.get_claim("first").unwrap().spec.unwrap().volume_name.unwrap();
    for (name, dir) in [("same", "a/b"), ("above", "a"), ("below", "a/b/c")] {
        bed.claim(name, labelled(dir));
        let why = bed.event(name, "ProvisioningFailed").await;
        assert!(why.contains(&format!("PersistentVolume {first}")), "{name}: {why}");
    }
    assert_eq!(bed.volumes(), 1);
    bed.delete_claim("above");
    bed.delete_claim("below");
    bed.delete_claim("first");
    bed.bound("same").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_that_nobody_reads_is_reported_once_for_each_edition_of_a_class() {
    let bed = Bed::without_controllers();
    bed.server.store().delete::<StorageClass>("", "nfs").unwrap();
    bed.class(json!({"parameters": {"ondelete": "retain"}}));
    let running = bed.start().await;
    for name in ["a", "b", "c"] {
        bed.annotated_claim(name);
    }
    bed.provisioned(3).await;
    let told = || {
        let all = ["a", "b", "c"].into_iter().flat_map(|name| bed.events(name));
        all.filter(|(reason, _)| reason == "UnknownParameter").map(|(_, note)| note).collect::<Vec<_>>()
    };
    bed.until("it is told", || !told().is_empty()).await;
    running.stop().await;
    assert_eq!(told().len(), 1);
    assert!(told()[0].contains("\"ondelete\" (did you mean \"onDelete\"?)"), "{:?}", told());
}

/// Proves: case 41, statement 18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_keeps_nobody_elses_workers() {
    let memory = Memory::with_stores(&["default", "other"]);
    let bed = Bed::with(Options::default(), memory, full_rules());
    bed.class(json!({"metadata": {"name": "other"}, "parameters": {"export": "other"}}));
    bed.memory.hang(Operation::Create);
    let running = bed.start().await;
    for index in 0..20 {
        bed.claim(&format!("stuck-{index}"), json!({}));
    }
    bed.until("all workers of the store hang", || bed.memory.calls(Operation::Create) == 12).await;
    // The memory hangs in all its stores at once; that the other store is asked at all shows that it has its own workers.
    bed.claim("free", json!({"spec": {"storageClassName": "other"}}));
    bed.until("the other store is asked", || bed.memory.calls(Operation::Create) == 13).await;
    bed.memory.release(Operation::Create);
    bed.provisioned(21).await;
    running.stop().await;
}

/// Proves: row 8.1, row 8.3, row 8.5, row 8.8, row 8.9, row 8.10, row 8.11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_an_old_installation_are_enough() {
    let bed = Bed::with(Options::default(), Memory::new(), old_rules());
    let running = bed.start().await;
    bed.claim("data", json!({}));
    bed.bound("data").await;
    let name = bed.get_claim("data").unwrap().spec.unwrap().volume_name.unwrap();
    let finalizers = bed.volume(&name).unwrap().metadata.finalizers.unwrap_or_default();
    assert!(!finalizers.iter().any(|name| name.starts_with("external-provisioner")), "{finalizers:?}");
    bed.event("data", "ProvisioningSucceeded").await;
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    assert_eq!(bed.memory.volumes().len(), 0);
    running.stop().await;
    let refused = bed.server.audit().count(|key| key.user == USER && key.code == 403);
    assert_eq!(refused, 0, "{:?}", bed.server.audit().counts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_streaming_lists_are_read_in_pages() {
    let options = Options { watch_list: false, ..Options::default() };
    let bed = Bed::with(options, Memory::new(), full_rules());
    for index in 0..3 {
        bed.claim(&format!("data-{index}"), json!({}));
    }
    let running = bed.start().await;
    bed.provisioned(3).await;
    assert!(bed.requests("list", "persistentvolumeclaims") > 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_and_forgets_is_found_again() {
    let bed = Bed::without_controllers();
    let running = bed.start().await;
    bed.annotated_claim("first");
    bed.provisioned(1).await;
    bed.server.expire_watches();
    bed.annotated_claim("second");
    bed.provisioned(2).await;
    bed.server.cut_watches();
    bed.annotated_claim("third");
    bed.provisioned(3).await;
    bed.server.stop_listening();
    bed.server.compact();
    bed.annotated_claim("fourth");
    bed.server.listen_again().unwrap();
    bed.provisioned(4).await;
    let busy = Fault::Code(429, Some(0));
    bed.server.faults().inject(creates("persistentvolumes"), busy, Times::Count(3));
    bed.annotated_claim("fifth");
    bed.provisioned(5).await;
    running.stop().await;
}

/// Proves: case 3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_among_finished_volumes_writes_nothing() {
    let bed = Bed::new();
    let running = bed.start().await;
    for index in 0..10 {
        bed.claim(&format!("data-{index}"), json!({}));
    }
    for index in 0..10 {
        bed.bound(&format!("data-{index}")).await;
    }
    bed.provisioned(10).await;
    running.stop().await;
    bed.server.audit().reset();
    let (created, committed) = (bed.memory.calls(Operation::Create), bed.memory.calls(Operation::Commit));
    let running = bed.start().await;
    bed.until("the sweep has looked", || bed.memory.calls(Operation::ListUncommitted) > 1).await;
    bed.settle().await;
    running.stop().await;
    assert_eq!(bed.server.audit().writes(USER), 0);
    assert_eq!(bed.requests("get", "persistentvolumes") + bed.requests("get", "persistentvolumeclaims"), 0);
    assert_eq!(
        (bed.memory.calls(Operation::Create), bed.memory.calls(Operation::Commit)),
        (created, committed)
    );
    let past = bed.memory.expected("default").unwrap();
    assert_eq!((past.identity.as_deref(), past.places.len()), (Some("identity-of-default"), 10));
    assert_eq!(bed.server.store().count(Kind::PersistentVolumeClaim), 10);
    assert_eq!(NAME, "nfs.example/berth");
}

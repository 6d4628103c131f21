//! Publishing against a stub of the API server: what is posted, merged, held back and dropped.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::provisioner::stub::{Call, Fault, Stub, eventually, status};

fn about_claim(number: usize, reason: &'static str, note: &str) -> Event {
    Event {
        regarding: Regarding::claim("team", &format!("data-{number}"), &format!("uid-{number}"), Some("7")),
        kind: Type::Warning,
        reason,
        note: note.to_owned(),
    }
}

fn normal(number: usize) -> Event {
    Event { kind: Type::Normal, ..about_claim(number, "ProvisioningSucceeded", "made pv") }
}

fn reporter() -> Reporter {
    Reporter { component: "example.com/nfs_pod_1".to_owned(), instance: "pod".to_owned() }
}

fn quiet(stub: &Stub) -> Events {
    Events::start(stub.client(), reporter(), || 0)
}

const LONG: Duration = Duration::from_hours(1);

#[test]
fn the_reporter_is_named_as_the_old_provisioners_named_it() {
    let reporter = Reporter::new("cluster.local/nfs", "pod-1");
    let uuid = reporter.component.strip_prefix("cluster.local/nfs_pod-1_").unwrap();
    let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    assert_eq!(uuid.as_bytes()[14], b'4');
    assert_ne!(reporter, Reporter::new("cluster.local/nfs", "pod-1"));
}

/// Proves: row 7.3, row 7.8, row 8.11
#[tokio::test(start_paused = true)]
async fn an_event_is_a_core_event_in_the_namespace_of_its_object() {
    let stub = Stub::new();
    let events = quiet(&stub);
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    events.flush(LONG).await;
    let stored = stub.objects("events");
    let [event] = stored.as_slice() else { panic!("{stored:?}") };
    let call = &stub.calls()[0];
    assert_eq!((call.verb, call.namespace.as_str()), ("create", "team"));
    assert_eq!(event["apiVersion"], "v1");
    assert_eq!(
        event["involvedObject"],
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "team", "name": "data-1",
            "uid": "uid-1", "resourceVersion": "7",
        })
    );
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("ProvisioningFailed")));
    assert_eq!((&event["message"], &event["count"]), (&json!("no space left"), &json!(1)));
    assert_eq!(event["source"], json!({"component": "example.com/nfs_pod_1"}));
    assert_eq!(event["reportingComponent"], "example.com/nfs_pod_1");
    assert_eq!(event["reportingInstance"], "pod");
    assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
    assert!(event["eventTime"].is_null());
    let name = event["metadata"]["name"].as_str().unwrap();
    let hex = name.strip_prefix("data-1.").unwrap();
    assert!(!hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}

/// Proves: row 7.5
#[tokio::test(start_paused = true)]
async fn an_event_about_a_volume_goes_to_the_default_namespace() {
    let stub = Stub::new();
    let events = quiet(&stub);
    let metadata =
        ObjectMeta { name: Some("pvc-1".into()), uid: Some("uid-9".into()), ..ObjectMeta::default() };
    let regarding = Regarding::object("PersistentVolume", &metadata);
    events.publish(Event { regarding, ..about_claim(1, "VolumeFailedDelete", "busy") });
    events.flush(LONG).await;
    let event = stub.objects("events").remove(0);
    assert_eq!(event["metadata"]["namespace"], "default");
    assert!(event["involvedObject"]["namespace"].is_null());
    assert_eq!(event["involvedObject"]["kind"], "PersistentVolume");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_within_ten_minutes_patches_the_event_that_is_there() {
    let stub = Stub::new();
    let events = quiet(&stub);
    for _ in 0..3 {
        events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
        events.flush(LONG).await;
        advance(Duration::from_mins(9)).await;
    }
    let event = stub.objects("events").remove(0);
    assert_eq!(event["count"], 3);
    assert_eq!(events.counts(), Counts { created: 1, repeated: 2, ..Counts::default() });
    let patch = &stub.calls()[2];
    assert_eq!(patch.verb, "patch");
    let fields: Vec<&String> = patch.body.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["count", "lastTimestamp", "message"]);

    advance(Duration::from_mins(2)).await;
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    events.flush(LONG).await;
    assert_eq!(stub.objects("events").len(), 2, "after eleven minutes it is a new event");
}

#[tokio::test(start_paused = true)]
async fn repeats_that_come_while_the_first_is_on_its_way_cost_one_more_request() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Slow(Duration::from_secs(1)));
    let events = quiet(&stub);
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    eventually("the first is on its way", || stub.calls().len() == 1).await;
    for _ in 0..5 {
        events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    }
    assert_eq!(events.counts().pending, 1);
    events.flush(LONG).await;
    assert_eq!(stub.calls().len(), 2);
    assert_eq!(stub.objects("events").remove(0)["count"], 6);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_on_the_server_is_made_again() {
    let stub = Stub::new();
    let events = quiet(&stub);
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    events.flush(LONG).await;
    let name = stub.objects("events")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    stub.put("events", "team", &name, None);
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    events.flush(LONG).await;
    assert_eq!(stub.objects("events")[0]["count"], 2);
    assert_eq!(stub.calls().iter().map(|call| call.verb).collect::<Vec<_>>(), ["create", "patch", "create"]);
}

/// Provisioning goes first.
#[tokio::test(start_paused = true)]
async fn events_go_one_at_a_time_while_volumes_are_stored_and_eight_at_a_time_when_not() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Slow(Duration::from_millis(5)));
    let busy = Arc::new(AtomicUsize::new(1));
    let events = Events::start(stub.client(), reporter(), {
        let busy = Arc::clone(&busy);
        move || busy.load(Ordering::SeqCst)
    });
    (0..400).for_each(|number| events.publish(normal(number)));
    eventually("some are posted", || events.counts().created >= 100).await;
    assert_eq!(stub.most_under_way(), 1);
    busy.store(0, Ordering::SeqCst);
    eventually("some more are posted", || events.counts().created >= 200).await;
    assert_eq!(stub.most_under_way(), 8);
    busy.store(1, Ordering::SeqCst);
    eventually("the eight are done", || events.counts().created >= 220).await;
    stub.most_under_way();
    eventually("some more are posted", || events.counts().created >= 240).await;
    assert_eq!(stub.most_under_way(), 1);
    events.flush(LONG).await;
    assert_eq!(stub.most_under_way(), 8, "a flush waits for nobody");
    assert_eq!(stub.objects("events").len(), 400);
}

/// Nothing tells the task that the foreground has become quiet while a single request hangs: it looks by itself.
#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_holds_up_the_others_only_as_long_as_volumes_are_stored() {
    let stub = Stub::new();
    stub.fail(|call| if call.name.starts_with("data-0.") { Fault::Hang } else { Fault::None });
    let busy = Arc::new(AtomicUsize::new(1));
    let events = Events::start(stub.client(), reporter(), {
        let busy = Arc::clone(&busy);
        move || busy.load(Ordering::SeqCst)
    });
    (0..20).for_each(|number| events.publish(normal(number)));
    eventually("the first hangs", || !stub.calls().is_empty()).await;
    busy.store(0, Ordering::SeqCst);
    let begin = Instant::now();
    eventually("the others are posted", || events.counts().created == 19).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    events.flush(LONG).await;
    assert_eq!(events.counts().dropped, 1);
}

type Make = Box<dyn Fn() -> Fault + Send + Sync>;

#[tokio::test(start_paused = true)]
async fn what_each_failure_of_the_server_means() {
    let terminating = || {
        let mut status = status(403, "the namespace is being terminated");
        status["details"] = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        Fault::Status(status)
    };
    let later = || {
        let mut status = status(429, "too many requests");
        status["details"] = json!({"retryAfterSeconds": 7});
        Fault::Status(status)
    };
    let table: [(&str, Make, usize, usize, u64); 10] = [
        ("a server error is tried again", Box::new(|| Fault::Refuse(500)), 1, 2, 1),
        ("a lost answer is not told twice", Box::new(|| Fault::LoseAnswer), 1, 2, 1),
        ("a server that asks for patience is obeyed", Box::new(later), 1, 2, 1),
        ("a server that hangs is tried again", Box::new(|| Fault::Hang), 1, 2, 1),
        ("after four tries it is dropped", Box::new(|| Fault::Refuse(503)), 9, 4, 0),
        ("also if the server hangs", Box::new(|| Fault::Hang), 9, 4, 0),
        ("a namespace that is gone is not tried again", Box::new(|| Fault::Refuse(404)), 9, 1, 0),
        ("a namespace that is going is not tried again", Box::new(terminating), 9, 1, 0),
        ("an event that is not valid is not tried again", Box::new(|| Fault::Refuse(422)), 9, 1, 0),
        ("a refusal is not tried again", Box::new(|| Fault::Refuse(403)), 9, 1, 0),
    ];
    for (row, fault, times, tries, created) in table {
        let stub = Stub::new();
        let count = AtomicUsize::new(0);
        stub.fail(move |_| if count.fetch_add(1, Ordering::SeqCst) < times { fault() } else { Fault::None });
        let events = quiet(&stub);
        let begin = Instant::now();
        events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
        events.flush(LONG).await;
        assert_eq!(stub.calls().len(), tries, "{row}");
        let expected = Counts { created, dropped: 1 - created, ..Counts::default() };
        assert_eq!(events.counts(), expected, "{row}");
        if row.contains("patience") {
            assert!(begin.elapsed() >= Duration::from_secs(7), "{row}: {:?}", begin.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_nothing_is_tried_for_a_minute() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Refuse(403));
    let events = quiet(&stub);
    for number in 0..10 {
        events.publish(about_claim(number, "ProvisioningFailed", "no space left"));
        events.flush(LONG).await;
    }
    assert_eq!(stub.calls().len(), 1);
    assert_eq!(events.counts().dropped, 10);
    stub.fail(|_| Fault::None);
    advance(Duration::from_secs(61)).await;
    events.publish(about_claim(1, "ProvisioningFailed", "no space left"));
    events.flush(LONG).await;
    assert_eq!(events.counts().created, 1);
}

/// Without the right to patch, repeats are lost and first events are not.
#[tokio::test(start_paused = true)]
async fn a_refused_patch_does_not_stop_new_events() {
    let stub = Stub::new();
    stub.fail(|call: &Call| if call.verb == "patch" { Fault::Refuse(403) } else { Fault::None });
    let events = quiet(&stub);
    for number in [1, 1, 2, 2, 3] {
        events.publish(about_claim(number, "ProvisioningFailed", "no space left"));
        events.flush(LONG).await;
    }
    assert_eq!(events.counts(), Counts { created: 3, dropped: 2, ..Counts::default() });
}

#[tokio::test(start_paused = true)]
async fn a_flush_gives_up_in_time() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Hang);
    let events = quiet(&stub);
    events.publish(normal(1));
    let begin = Instant::now();
    events.flush(Duration::from_secs(3)).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(3));
    assert_eq!(events.counts().pending, 1);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_publisher() {
    let stub = Stub::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let events = Events::start(stub.client(), reporter(), {
        let asked = Arc::clone(&asked);
        move || asked.load(Ordering::SeqCst)
    });
    let other = events.clone();
    drop(events);
    other.publish(normal(1));
    other.flush(LONG).await;
    assert_eq!(Arc::strong_count(&asked), 2);
    drop(other);
    eventually("the task is gone", || Arc::strong_count(&asked) == 1).await;
}

/// A name that would be too long is cut so that it stays a valid one.
#[tokio::test(start_paused = true)]
async fn the_name_of_an_event_is_never_too_long() {
    let stub = Stub::new();
    let events = quiet(&stub);
    let object = format!("{}.{}", "a".repeat(230), "b".repeat(22));
    events.publish(Event { regarding: Regarding::claim("team", &object, "uid", None), ..normal(1) });
    events.flush(LONG).await;
    let stored: Value = stub.objects("events").remove(0);
    let name = stored["metadata"]["name"].as_str().unwrap();
    assert!(name.len() <= 253 && !name.contains(".."), "{name}");
    assert!(name.starts_with(&"a".repeat(230)));
}

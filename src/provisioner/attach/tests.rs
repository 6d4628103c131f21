//! Decisions about attachments.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    backend::{Backends, memory::Memory},
    provisioner::{
        cache::{Attachments, Cache, Held, ResourceKind},
        fixtures::{self, merge},
        objects::AttachmentObject,
        queue::{Backoff, Queue},
    },
};

const DRIVER: &str = "rbd.berth.storage";

/// An attachment of the volume `pvc-1` to the node `a`, not attached yet, changed as `patch` says.
fn object(name: &str, patch: Value) -> AttachmentObject {
    let mut usual = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "5"},
        "spec": {"attacher": DRIVER, "nodeName": "a", "source": {"persistentVolumeName": "pvc-1"}},
        "status": {"attached": false},
    });
    merge(&mut usual, &patch);
    serde_json::from_value(usual).unwrap()
}

fn cache() -> Cache {
    let mut cache = Cache::new(Backends::default().with(fixtures::NAME, Arc::new(Memory::new())), true);
    cache.attachments = Attachments::of(vec![DRIVER.to_owned()]);
    cache
}

fn see(cache: &mut Cache, object: &AttachmentObject) {
    cache.attachments.see(object, &mut cache.wakeups);
}

fn hold(cache: &mut Cache, driver: &str, volume: &str, key: Key) -> Option<Held> {
    cache.attachments.hold(driver, volume, key, &mut cache.wakeups)
}

/// The plan for the attachment `a` beside the others, of this volume.
fn plan_for(attachment: Value, volume: Option<Value>, others: &[Value]) -> Plan {
    let mut cache = cache();
    see(&mut cache, &object("a", attachment));
    for (at, other) in others.iter().enumerate() {
        see(&mut cache, &object(&format!("b{at}"), other.clone()));
    }
    let volume = volume.map(|patch| {
        let mut usual = json!({"spec": {
            "nfs": null, "csi": {"driver": DRIVER, "volumeHandle": "1/rbd/a/pvc-1"}, "accessModes": ["ReadWriteOnce"],
        }});
        merge(&mut usual, &patch);
        fixtures::volume_object(usual)
    });
    let of_volume = cache.attachments.of_volume("pvc-1").filter(|(name, _)| &***name != "a");
    let attachment = cache.attachments.get("a").unwrap();
    plan(attachment, volume.as_ref(), of_volume.map(|(name, attachment)| (&**name, attachment)))
}

fn refused_with(plan: &Plan) -> (&'static str, i32, String, Option<String>) {
    match plan {
        Plan::Ignore => ("ignore", 0, String::new(), None),
        Plan::Attach => ("attach", 0, String::new(), None),
        Plan::Detach => ("detach", 0, String::new(), None),
        Plan::Refuse(refusal) => (
            "refuse",
            refusal.code as i32,
            refusal.message.clone(),
            refusal.until.as_deref().map(str::to_owned),
        ),
    }
}

/// What is decided: a sentence, the attachment, its volume, the other attachments; the plan, its code, and words of the message.
type Row = (&'static str, Value, Option<Value>, Vec<Value>, &'static str, i32, &'static str);

#[test]
#[allow(clippy::too_many_lines, reason = "a table is read row by row")]
fn what_is_done_about_an_attachment() {
    let finalizers = json!({"finalizers": ["external-attacher/rbd-berth-storage"]});
    let deleting = |metadata: &Value| {
        let mut metadata = metadata.clone();
        merge(&mut metadata, &json!({"deletionTimestamp": "2026-11-27T20:00:00Z"}));
        json!({"metadata": metadata})
    };
    let on =
        |node: &str, attached: bool| json!({"spec": {"nodeName": node}, "status": {"attached": attached}});
    let (new, rwo) = (json!({}), Some(json!({})));
    let modes = |modes: &[&str]| Some(json!({"spec": {"accessModes": modes}}));
    let table: Vec<Row> = vec![
        ("a new one is attached", new.clone(), rwo.clone(), vec![], "attach", 0, ""),
        ("one that is attached stays", json!({"status": {"attached": true}}), None, vec![], "ignore", 0, ""),
        ("what is deleted is detached", deleting(&finalizers), None, vec![], "detach", 0, ""),
        (
            "also where it is attached and another waits",
            json!({"metadata": deleting(&finalizers)["metadata"], "status": {"attached": true}}),
            None,
            vec![on("b", false)],
            "detach",
            0,
            "",
        ),
        ("what never was ours to hold goes by itself", deleting(&json!({})), None, vec![], "ignore", 0, ""),
        (
            "an inline volume",
            json!({"spec": {"source": {"persistentVolumeName": null}}}),
            None,
            vec![],
            "refuse",
            3,
            "names no PersistentVolume",
        ),
        ("a volume that is gone", new.clone(), None, vec![], "refuse", 5, "pvc-1 does not exist"),
        (
            "a volume of another driver",
            new.clone(),
            Some(json!({"spec": {"csi": {"driver": "nfs.berth.storage"}}})),
            vec![],
            "refuse",
            3,
            "not a volume of the CSI driver rbd.berth.storage",
        ),
        (
            "a volume that Kubernetes mounts itself",
            new.clone(),
            Some(json!({"spec": {"csi": null}})),
            vec![],
            "refuse",
            3,
            "not a volume of the CSI driver",
        ),
        (
            "a volume that is being deleted",
            new.clone(),
            Some(json!({"metadata": {"deletionTimestamp": "2026-11-27T20:00:00Z"}})),
            vec![],
            "refuse",
            9,
            "is being deleted",
        ),
        (
            "a second node while the first one uses it",
            new.clone(),
            rwo.clone(),
            vec![on("b", true)],
            "refuse",
            9,
            "Multi-Attach: the volume may be used by one node at a time, and VolumeAttachment b0 attaches it to node b",
        ),
        (
            "a second node that waits itself is no reason",
            new.clone(),
            rwo.clone(),
            vec![on("b", false)],
            "attach",
            0,
            "",
        ),
        (
            "a first node that is being forced off still counts until it is let go",
            new.clone(),
            rwo,
            vec![
                json!({"metadata": deleting(&finalizers)["metadata"], "spec": {"nodeName": "b"}, "status": {"attached": true}}),
            ],
            "refuse",
            9,
            "Multi-Attach",
        ),
        (
            "many may read and write",
            new.clone(),
            modes(&["ReadWriteMany"]),
            vec![on("b", true)],
            "attach",
            0,
            "",
        ),
        (
            "many may read",
            new.clone(),
            modes(&["ReadWriteOnce", "ReadOnlyMany"]),
            vec![on("b", true)],
            "attach",
            0,
            "",
        ),
        (
            "one pod alone",
            new.clone(),
            modes(&["ReadWriteOncePod"]),
            vec![on("b", true)],
            "refuse",
            9,
            "Multi-Attach",
        ),
        (
            "without any mode one node alone",
            new,
            modes(&[]),
            vec![on("b", true)],
            "refuse",
            9,
            "Multi-Attach",
        ),
    ];
    for (row, attachment, volume, others, expected, code, words) in table {
        let (found, found_code, message, until) = refused_with(&plan_for(attachment, volume, &others));
        assert_eq!((found, found_code), (expected, code), "{row}: {message}");
        assert!(message.contains(words), "{row}: {message}");
        assert_eq!(until.is_some(), message.starts_with("Multi-Attach"), "{row}");
    }
}

#[test]
fn a_refusal_is_written_with_its_code_and_the_version_that_was_looked_at() {
    let mut cache = cache();
    see(&mut cache, &object("a", json!({})));
    let refusal = Refusal::new(Code::FailedPrecondition, "why".to_owned());
    let now: Timestamp = "2026-11-27T20:00:00.5Z".parse().unwrap();
    assert_eq!(
        refused(cache.attachments.get("a").unwrap(), &refusal, now),
        json!({
            "metadata": {"uid": "uid-a", "resourceVersion": "5"},
            "status": {"attached": false, "attachError": {
                "time": "2026-11-27T20:00:00Z", "message": "why", "errorCode": 9,
            }},
        })
    );
}

/// The keys in a queue, in order.
async fn queued(queue: &Queue<Key>) -> Vec<Key> {
    let mut keys = Vec::new();
    while queue.depth().ready > 0 {
        let work = queue.next().await.unwrap();
        keys.push(work.key().clone());
        work.finish(Outcome::Done);
    }
    keys
}

#[tokio::test]
async fn what_was_granted_and_not_written_yet_keeps_a_second_node_away() {
    let mut cache = cache();
    see(&mut cache, &object("a", json!({})));
    cache.attachments.grant("a");
    // The finalizer was written: news of our own, which ends nothing.
    let held =
        json!({"metadata": {"resourceVersion": "6", "finalizers": ["external-attacher/rbd-berth-storage"]}});
    see(&mut cache, &object("a", held));
    assert!(cache.attachments.get("a").unwrap().is_used());
    // Leadership was lost: the next leader decides by what was written.
    cache.rest();
    assert!(!cache.attachments.get("a").unwrap().is_used());
    cache.attachments.grant("a");
    see(&mut cache, &object("a", json!({"metadata": {"uid": "made-again"}})));
    assert!(!cache.attachments.get("a").unwrap().is_used(), "another object is another attachment");
}

#[tokio::test]
async fn a_removal_waits_for_each_attachment_of_its_volume_and_for_nothing_else() {
    let mut cache = cache();
    let queue = Queue::new(Backoff::default());
    cache.work(queue.clone());
    let key = || Key::Volume("pvc-1".into());
    assert_eq!(hold(&mut cache, DRIVER, "pvc-1", key()), Some(Held::Unknown), "nothing was listed yet");
    assert_eq!(hold(&mut cache, "nfs.berth.storage", "pvc-1", key()), None, "volumes of other drivers");
    cache.begin(ResourceKind::Attachments);
    see(&mut cache, &object("a", json!({"status": {"attached": true}})));
    see(
        &mut cache,
        &object(
            "c",
            json!({"spec": {"source": {"persistentVolumeName": "pvc-3"}}, "status": {"attached": true}}),
        ),
    );
    see(&mut cache, &object("d", json!({"spec": {"attacher": "ebs.csi.aws.com"}})));
    cache.complete(ResourceKind::Attachments);
    assert_eq!(queued(&queue).await, [key()], "the list is complete");
    assert_eq!(hold(&mut cache, DRIVER, "pvc-2", Key::Volume("pvc-2".into())), None);
    assert_eq!(hold(&mut cache, DRIVER, "pvc-1", key()), Some(Held::By("a".into(), "a".into())));
    cache.attachments.forget("c", &mut cache.wakeups);
    assert_eq!(queued(&queue).await, []);
    // A new list does not have it any more.
    cache.begin(ResourceKind::Attachments);
    cache.complete(ResourceKind::Attachments);
    assert_eq!(queued(&queue).await, [key()]);
    assert_eq!(hold(&mut cache, DRIVER, "pvc-1", key()), None);
    see(&mut cache, &object("a", json!({"status": {"attached": true}})));
    assert!(hold(&mut cache, DRIVER, "pvc-1", key()).is_some());
    // The right was taken away: what is not seen any more holds nothing.
    cache.attachments.read(false, &mut cache.wakeups);
    assert_eq!(queued(&queue).await, [key()]);
    assert_eq!(hold(&mut cache, DRIVER, "pvc-1", key()), None);
}

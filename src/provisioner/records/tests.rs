//! What is kept of watched objects, and which changes mean work.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::time::Duration;

use serde_json::{Value, json};

use super::{past::REMEMBERED, *};
use crate::{
    backend::memory::Memory,
    provisioner::{
        fixtures::{self, NAME},
        queue::Backoff,
    },
    volume::Location,
};

fn records() -> Records {
    Records::new(Backends::default().with(NAME, Arc::new(Memory::new())), true)
}

fn listen(records: &mut Records) -> Queue<Key> {
    let queue = Queue::new(Backoff::default());
    records.work(queue.clone());
    queue
}

/// Everything that is queued, in order; each key is done.
async fn queued(queue: &Queue<Key>) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Ok(Some(work)) = tokio::time::timeout(Duration::ZERO, queue.next()).await {
        keys.push(work.key().clone());
        work.finish(super::super::queue::Outcome::Done);
    }
    keys.sort();
    keys
}

/// A volume came, and it was looked whether the trash holds its bytes.
async fn come(records: &mut Records, queue: &Queue<Key>, object: &VolumeObject) {
    records.see_volume(object);
    queued(queue).await;
    records.end_removal(object.metadata.name.as_deref().unwrap());
}

fn claim(uid: &str, version: &str) -> ClaimObject {
    fixtures::claim_object(json!({"metadata": {"uid": uid, "resourceVersion": version}}))
}

fn volume(name: &str, patch: Value) -> VolumeObject {
    let mut usual = json!({"metadata": {"name": name}, "spec": {"claimRef": {"uid": name}}});
    fixtures::merge(&mut usual, &patch);
    fixtures::volume_object(usual)
}

fn bound() -> Value {
    json!({"status": {"phase": "Bound"}})
}

/// Proves: case 40
#[tokio::test]
async fn news_about_a_claim_is_work_and_old_news_is_none() {
    let mut records = records();
    records.see_claim(&claim("a", "1"));
    let queue = listen(&mut records);
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "what was seen before there was a queue");
    records.see_claim(&claim("a", "1"));
    assert_eq!(queued(&queue).await, [], "the same version again");
    records.see_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "a change");
    records.see_class(fixtures::class(json!({})));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "its class appears");
    records.see_class(fixtures::class(json!({})));
    assert_eq!(queued(&queue).await, [], "the same class again");
    records.see_class(fixtures::class(json!({"metadata": {"uid": "class-2"}})));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "its class was made anew");
    records.see_class(fixtures::class(json!({"metadata": {"name": "another"}})));
    assert_eq!(queued(&queue).await, [], "another class");
    records.forget_claim("a");
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "it is gone: what was begun must be ended");
    records.forget_claim("a");
    assert_eq!(queued(&queue).await, [], "it was gone already");
}

/// Pending claims kept all their annotations, and whatever else their authors wrote.
#[test]
fn what_is_kept_of_a_claim_has_a_bound_whatever_its_author_writes() {
    const MOST: usize = 8 * 1024;
    let long = || "x".repeat(900_000);
    let pairs: serde_json::Map<String, Value> =
        (0..64).map(|number| (format!("key-{number}"), "v".repeat(64).into())).collect();
    let mut annotations = pairs.clone();
    annotations.insert("volume.kubernetes.io/storage-provisioner".to_owned(), NAME.into());
    annotations.insert("volume.beta.kubernetes.io/storage-class".to_owned(), long().into());
    annotations.insert("huge".to_owned(), long().into());
    let modes: Vec<String> = (0..10_000).map(|number| format!("Mode{number}{}", "m".repeat(100))).collect();
    let object = fixtures::claim_object(json!({
        "metadata": {"labels": pairs, "annotations": annotations},
        "spec": {
            "storageClassName": long(), "volumeMode": long(), "accessModes": modes,
            "resources": {"requests": {"storage": long()}}, "volumeAttributesClassName": long(),
            "dataSource": {"apiGroup": long(), "kind": long(), "name": long(), "namespace": long()},
        },
    }));
    let keys = |annotations: &[&str]| {
        let annotations = annotations.iter().map(ToString::to_string).collect();
        Arc::new(ClaimKeys { labels: ["key-0".to_owned()].into(), annotations })
    };
    // All that is there, since nothing can be kept that is not shown.
    let kept = |claim: &Claim| format!("{claim:?}").len();
    let claim = Claim::new(&object, "uid", NAME, &keys(&["key-1"]));
    assert!(kept(&claim) < MOST, "{} bytes", kept(&claim));
    let seen = claim.to_volume_claim();
    assert_eq!((seen.labels.len(), seen.annotations.len()), (1, 1), "what the class needs, and nothing else");
    let claim = Claim::new(&object, "uid", NAME, &keys(&["huge"]));
    assert!(kept(&claim) < MOST, "{} bytes", kept(&claim));
    assert_eq!(claim.excess(), Some(900_064));
    let growing = fixtures::claim_object(json!({
        "spec": {"volumeName": long(), "resources": {"requests": {"storage": format!("2{}Gi", " ".repeat(9000))}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    }));
    assert!(PendingExpansion::new(&growing, "uid").is_none_or(|growing| format!("{growing:?}").len() < MOST));
}

/// A key per claim that ever wanted the place of a volume stayed for as long as the volume did.
#[tokio::test]
async fn a_claim_that_waits_for_a_place_leaves_nothing_behind_when_it_goes_or_is_served() {
    let mut records = records();
    let occupant: Arc<str> = "pvc-there".into();
    records.see_volume(&volume(&occupant, bound()));
    for number in 0..100 {
        let uid = format!("uid-{number}");
        records.see_claim(&claim(&uid, "1"));
        records.wake_after(&occupant, Key::Claim(uid.as_str().into()));
    }
    assert_eq!(records.blocked.sizes(), (100, 1));
    for number in 0..98 {
        records.forget_claim(&format!("uid-{number}"));
    }
    assert_eq!(records.blocked.sizes(), (2, 1), "claims that are gone wait for nothing");
    let served =
        volume("pvc-uid-98", json!({"spec": {"claimRef": {"uid": "uid-98"}}, "status": {"phase": "Bound"}}));
    records.see_volume(&served);
    assert_eq!(records.blocked.sizes(), (1, 1), "nor does one that has a volume");
    records.wake_after(&"pvc-other".into(), Key::Claim("uid-99".into()));
    assert_eq!(records.blocked.sizes(), (1, 1), "each waits for one thing");
    let queue = listen(&mut records);
    queued(&queue).await;
    records.forget_volume(&occupant);
    assert_eq!(queued(&queue).await, [], "and no more for what it waited for before");
    records.wake_after(&"pvc-uid-98".into(), Key::Volume("pvc-x".into()));
    records.see_volume(&volume("pvc-x", bound()));
    records.forget_volume("pvc-x");
    assert_eq!(records.blocked.sizes(), (1, 1), "a volume that is gone waits for nothing");
}

#[tokio::test]
async fn what_a_new_list_does_not_have_is_gone() {
    let mut records = records();
    for kind in [Watched::Claims, Watched::Volumes, Watched::Classes] {
        records.begin(kind);
    }
    for uid in ["a", "b"] {
        records.see_claim(&claim(uid, "1"));
        records.see_volume(&volume(&format!("pvc-{uid}"), bound()));
    }
    records.see_class(fixtures::class(json!({})));
    assert!(!records.complete(Watched::Claims) && !records.complete(Watched::Volumes));
    assert!(records.complete(Watched::Classes), "all kinds are listed");
    let queue = listen(&mut records);
    queued(&queue).await;

    for kind in [Watched::Claims, Watched::Volumes, Watched::Classes] {
        records.begin(kind);
    }
    records.see_claim(&claim("b", "1"));
    records.see_volume(&volume("pvc-b", bound()));
    records.see_volume(&volume("pvc-new", bound()));
    for kind in [Watched::Claims, Watched::Volumes, Watched::Classes] {
        records.complete(kind);
    }
    assert!(records.claim("a").is_none() && records.claim("b").is_some());
    assert!(records.volume("pvc-a").is_none() && records.volume("pvc-b").is_some());
    assert!(records.volume("pvc-new").is_some());
    assert!(records.class("nfs").is_none());
    assert_eq!(queued(&queue).await, [Key::Claim("a".into()), Key::Volume("pvc-new".into())]);
}

#[tokio::test]
async fn a_volume_is_work_when_it_may_be_removed_and_when_its_finalizer_is_wrong() {
    let mut records = records();
    records.see_volume(&volume("pvc-a", bound()));
    let unguarded = json!({"metadata": {"finalizers": []}, "status": {"phase": "Available"}});
    records.see_volume(&volume("pvc-b", unguarded));
    let queue = listen(&mut records);
    assert_eq!(queued(&queue).await, [], "a bound volume needs nothing");
    records.see_volume(&volume("pvc-a", json!({})));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "released");
    records
        .see_volume(&volume("pvc-b", json!({"metadata": {"finalizers": []}, "status": {"phase": "Bound"}})));
    let work = [Key::AddFinalizer("pvc-b".into()), Key::Register("pvc-b".into())];
    assert_eq!(queued(&queue).await, work, "without our finalizer, and not made just now");
    records.guard(false);
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "the right to set it is gone");
    records.guard(true);
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into()), Key::AddFinalizer("pvc-b".into())]);
}

#[tokio::test]
async fn what_a_removal_is_decided_by_is_news_and_nothing_else_of_the_volume() {
    let mut records = records();
    let queue = listen(&mut records);
    let annotated = |value: &str| json!({"metadata": {"annotations": {"berth.storage/on-delete": value}}});
    records.see_volume(&volume("pvc-a", annotated("Delete")));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "released");
    let labelled = json!({"metadata": {
        "labels": {"a": "b"}, "resourceVersion": "10", "annotations": {"berth.storage/on-delete": "Delete"},
    }});
    records.see_volume(&volume("pvc-a", labelled));
    assert_eq!(queued(&queue).await, [], "a label");
    records.see_volume(&volume("pvc-a", annotated("delete")));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "an annotation was corrected");
    let mut other = annotated("delete");
    fixtures::merge(&mut other, &json!({"spec": {"claimRef": {"uid": "corrected"}}}));
    records.see_volume(&volume("pvc-a", other));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "its claim was corrected");
    come(&mut records, &queue, &volume("pvc-b", bound())).await;
    let mut touched = bound();
    fixtures::merge(&mut touched, &annotated("archive"));
    records.see_volume(&volume("pvc-b", touched));
    assert_eq!(queued(&queue).await, [], "nothing is to be done for a bound volume");
}

#[test]
fn who_shares_a_place_uses_it_or_is_released_or_leaves_it() {
    use Sharing::{Leaves, Released, Uses};
    let mut records = records();
    let shared = json!({"spec": {"nfs": {"path": "/default/shared"}}});
    let at = |name: &str, phase: &str| {
        let mut patch = shared.clone();
        fixtures::merge(&mut patch, &json!({"status": {"phase": phase}}));
        volume(name, patch)
    };
    for (name, phase) in [("a", "Released"), ("b", "Bound"), ("c", "Released"), ("d", "Available")] {
        records.see_volume(&at(name, phase));
    }
    records.see_volume(&volume("below", json!({"spec": {"nfs": {"path": "/default/shared/x"}}})));
    records.leaving("c", true);
    let spot = LocationKey::new("memory", &Location::new("default", "shared").unwrap());
    records.reserve(&fixtures::claim(json!({})), spot.clone());
    let found = |records: &Records| -> Vec<(String, Sharing)> {
        records
            .sharers(&spot, "d")
            .into_iter()
            .map(|sharer| (sharer.id.to_string(), sharer.sharing))
            .collect()
    };
    let expected = [("a", Released), ("b", Uses), ("c", Leaves), ("0b6f-11", Uses)]
        .map(|(id, how)| (id.to_owned(), how));
    assert_eq!(found(&records), expected);
    let mut rescued = shared.clone();
    fixtures::merge(&mut rescued, &json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    records.see_volume(&volume("c", rescued));
    assert_eq!(found(&records)[2], ("c".to_owned(), Uses), "it was rescued meanwhile");
    records.leaving("a", true);
    records.rest();
    assert_eq!(found(&records)[0], ("a".to_owned(), Released), "what was on its way was dropped");
}

/// A volume that was to be removed, then to be retained, then to be removed again was Released for ever.
#[tokio::test]
async fn while_a_volume_is_removed_only_what_others_change_is_news() {
    let mut records = records();
    records.see_volume(&volume("a", json!({})));
    let queue = listen(&mut records);
    let work = || vec![Key::Volume("a".into())];
    assert_eq!(queued(&queue).await, work());
    assert!(!records.begin_removal("a", Disposal::Delete));
    records.leaving("a", true);
    assert!(records.begin_removal("a", Disposal::Delete), "it was begun before");
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}});
    let patched = |patch: Value| {
        let mut usual = deleting.clone();
        fixtures::merge(&mut usual, &patch);
        volume("a", usual)
    };
    records.see_volume(&patched(json!({})));
    assert_eq!(queued(&queue).await, [], "its last changes are our own");
    records.see_volume(&patched(json!({"metadata": {"annotations": {"berth.storage/on-delete": "retain"}}})));
    assert_eq!(queued(&queue).await, work(), "what shall become of it was changed");
    let retained = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    for rescue in [retained.clone(), bound(), json!({"status": {"phase": "Available"}})] {
        records.see_volume(&patched(rescue));
        assert!(queued(&queue).await.starts_with(&work()), "it is to stay");
        assert_eq!(records.removing("a"), Some(Disposal::Delete), "until its data is back");
        records.see_volume(&patched(json!({})));
        queued(&queue).await;
    }
    records.see_volume(&volume("a", retained));
    queued(&queue).await;
    records.end_removal("a");
    records.see_volume(&volume("a", json!({})));
    assert_eq!(queued(&queue).await, work(), "and it is to be removed once more");
}

#[tokio::test]
async fn another_object_of_the_same_name_is_another_volume() {
    let mut records = records();
    records.see_volume(&volume("a", json!({})));
    records.begin_removal("a", Disposal::Delete);
    records.leaving("a", true);
    let queue = listen(&mut records);
    queued(&queue).await;
    records.see_volume(&volume("a", json!({"metadata": {"uid": "made-again"}})));
    assert_eq!(queued(&queue).await, [Key::Volume("a".into())]);
}

/// From a backup, while the trash may still hold its data.
#[tokio::test]
async fn a_volume_of_ours_that_comes_back_is_looked_for_in_the_trash_and_one_that_we_make_is_not() {
    let mut records = records();
    let again = |name: &str, version: &str| {
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"claimRef": {"uid": "0b6f-11"}}, "status": {"phase": "Available"},
        });
        volume(name, patch)
    };
    records.see_volume(&again("listed", "1"));
    let queue = listen(&mut records);
    records.see_volume(&again("listed", "2"));
    assert_eq!(queued(&queue).await, [], "it was there before we worked");
    let place = Location::new("default", "made").unwrap();
    records.reserve(&fixtures::claim(json!({})), LocationKey::new("memory", &place));
    records.see_volume(&again("made", "1"));
    records.see_volume(&again("made", "2"));
    assert_eq!(queued(&queue).await, [], "we are making it");
    records.see_volume(&again("back", "1"));
    assert_eq!(queued(&queue).await, [Key::Volume("back".into())]);
    records.end_removal("back");
    records.see_volume(&again("back", "2"));
    assert_eq!(queued(&queue).await, [], "once");
}

#[tokio::test]
async fn volumes_of_older_provisioners_and_volumes_that_are_taken_over_are_recorded_when_they_are_bound() {
    let mut records = records();
    let old = json!({"metadata": {"annotations": {"berth.storage/volume-id": null}}});
    let patched = |name: &str, base: &Value, patch: Value| {
        let mut usual = json!({"metadata": {"annotations": {}}});
        fixtures::merge(&mut usual, &patch);
        let mut object = volume(name, usual);
        if base.is_object() {
            object.metadata.annotations.as_mut().unwrap().remove("berth.storage/volume-id");
        }
        object
    };
    let queue = listen(&mut records);
    let take_over = |owner: &str| json!({"metadata": {"annotations": {"berth.storage/take-over": owner}}, "status": {"phase": "Bound"}});
    let place = Location::new("default", "new").unwrap();
    let claim = fixtures::claim(json!({"metadata": {"uid": "new"}}));
    records.reserve(&claim, LocationKey::new("memory", &place));
    records.see_volume(&patched("new", &Value::Null, json!({"status": {"phase": "Pending"}})));
    records.see_volume(&patched("new", &Value::Null, bound()));
    assert_eq!(queued(&queue).await, [], "we recorded it when we made it");
    records.see_volume(&patched("old", &old, json!({"status": {"phase": "Available"}})));
    assert_eq!(queued(&queue).await, []);
    records.see_volume(&patched("old", &old, bound()));
    assert_eq!(queued(&queue).await, [Key::Register("old".into())]);
    records.see_volume(&patched("old", &old, bound()));
    assert_eq!(queued(&queue).await, [], "once");
    for name in ["new", "old"] {
        let base = if name == "old" { &old } else { &Value::Null };
        records.see_volume(&patched(name, base, take_over("blue")));
        assert_eq!(queued(&queue).await, [Key::Register(name.into())]);
    }
    let released = json!({
        "spec": {"persistentVolumeReclaimPolicy": "Retain"}, "metadata": {"finalizers": []},
        "status": {"phase": "Released"},
    });
    come(&mut records, &queue, &patched("again", &Value::Null, released)).await;
    let again = json!({
        "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"uid": "another"}},
        "metadata": {"finalizers": []}, "status": {"phase": "Bound"},
    });
    records.see_volume(&patched("again", &Value::Null, again));
    assert_eq!(queued(&queue).await, [Key::Register("again".into())], "it is used by another claim");
    records.forget_volume("again");
    let in_use = records.in_use();
    let known: Vec<_> = in_use[&("memory", "default".to_owned())]
        .iter()
        .map(|known| (known.name.as_str(), known.legacy))
        .collect();
    assert_eq!(known, [("new", false), ("old", true)]);
}

/// Nothing looked at its archive, which expired while the volume was in use.
#[tokio::test]
async fn a_volume_that_was_made_again_while_berth_was_stopped_is_recorded_when_it_is_bound() {
    let mut records = records();
    records.see_volume(&volume("again", json!({"status": {"phase": "Available"}})));
    let queue = listen(&mut records);
    records.see_volume(&volume("again", bound()));
    assert_eq!(queued(&queue).await, [Key::Register("again".into())]);
    records.see_volume(&volume("again", bound()));
    assert_eq!(queued(&queue).await, [], "once");
}

#[test]
fn a_secret_is_looked_for_only_while_its_volume_is_bound() {
    let record = r#"{"secretNamespace":"team","secretName":"key"}"#;
    let with = |record: &str, more: Value| {
        let mut patch = json!({"metadata": {"annotations": {names::RECORD: record}}});
        fixtures::merge(&mut patch, &more);
        patch
    };
    let stranger = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}, "status": {"phase": "Bound"}});
    let mut records = records();
    for (name, patch) in [
        ("bound", with(record, bound())),
        ("released", with(record, json!({}))),
        ("of-another-provisioner", with(record, stranger)),
        ("without-a-secret", with("{}", bound())),
        ("unreadable", with("{", bound())),
        ("without-a-record", bound()),
    ] {
        records.see_volume(&volume(name, patch));
    }
    assert_eq!(records.with_kept_secrets(), ["bound".into()]);
    assert_eq!(records.kept_secret("bound").map(ToString::to_string).as_deref(), Some("team/key"));
    records.see_volume(&volume("bound", with(record, json!({}))));
    assert_eq!((records.with_kept_secrets(), records.kept_secret("bound")), (Vec::new(), None));
}

#[test]
fn a_volume_at_the_same_path_of_a_store_that_nobody_named_is_found() {
    let memory = Memory::with_stores(&["default", "other", "mon-a", "mon-b"]);
    let mut records = Records::new(Backends::default().with(NAME, Arc::new(memory)), true);
    for (name, path) in [("a", "/mon-a/x"), ("b", "/mon-b/x/y"), ("c", "/default/z"), ("d", "/other/z")] {
        records.see_volume(&volume(name, json!({"spec": {"nfs": {"path": path}}})));
    }
    let double = |name: &str| {
        let spot = records.volume(name).unwrap().spot.clone().unwrap();
        let double = records.double(&spot, name, |store| store.starts_with("mon-"));
        double.map(|(other, store)| (other.relation, other.id.to_string(), store))
    };
    let found = |relation, id: &str, store: &str| Some((relation, id.to_owned(), store.to_owned()));
    assert_eq!(double("a"), found(Relation::Below, "b", "mon-b"));
    assert_eq!(double("b"), found(Relation::Above, "a", "mon-a"));
    assert_eq!(double("c"), None, "two stores with names are two stores");
    let spot = records.volume("c").unwrap().spot.clone().unwrap();
    assert!(records.double(&spot, "c", |store| store == "default").is_some(), "whichever of the two it is");
}

#[tokio::test]
async fn whoever_is_in_the_way_wakes_those_who_wait_when_it_goes() {
    let mut records = records();
    let queue = listen(&mut records);
    come(&mut records, &queue, &volume("pvc-a", bound())).await;
    records.wake_after(&"pvc-a".into(), Key::Claim("waits".into()));
    records.forget_volume("pvc-other");
    assert_eq!(queued(&queue).await, []);
    records.forget_volume("pvc-a");
    assert_eq!(queued(&queue).await, [Key::Claim("waits".into())]);
    come(&mut records, &queue, &volume("pvc-a", bound())).await;
    records.forget_volume("pvc-a");
    assert_eq!(queued(&queue).await, [], "it was woken once");
}

#[tokio::test]
async fn a_claim_whose_volume_was_deleted_before_it_was_bound_is_provisioned_again() {
    let mut records = records();
    records.see_claim(&claim("a", "1"));
    let stored =
        volume("pvc-a", json!({"spec": {"claimRef": {"uid": "a"}}, "status": {"phase": "Available"}}));
    records.see_volume(&stored);
    assert!(records.claim("a").is_none(), "what its volume was made of is not kept");
    let queue = listen(&mut records);
    records.see_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [], "nothing is to be done for it");
    assert_eq!(records.claim_without_volume("a"), None);
    records.forget_volume("pvc-a");
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())]);
    assert_eq!(records.claim_without_volume("a"), Some(("default".into(), "data".into())));
    records.see_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "it was read again");
    assert!(records.claim("a").is_some());
}

#[test]
fn what_concerns_nobody_here_is_not_kept() {
    let mut records = records();
    let foreign = |server: &str| {
        json!({
            "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other"}},
            "spec": {"nfs": {"server": server}},
        })
    };
    records.see_volume(&volume("elsewhere", foreign("another")));
    records.see_volume(&volume("here", foreign("memory")));
    records.see_volume(&volume("no-source", json!({"spec": {"nfs": null}})));
    records.see_claim(&fixtures::claim_object(
        json!({"spec": {"volumeName": "x"}, "status": {"phase": "Bound"}}),
    ));
    assert!(records.volume("elsewhere").is_none(), "a foreign volume on a foreign server");
    assert!(records.volume("here").is_some(), "a foreign volume in one of our stores");
    assert!(records.volume("no-source").is_some(), "a volume of ours without a place");
    assert_eq!(records.sizes(), (0, 2), "a bound claim");
    records.see_volume(&volume("here", foreign("moved")));
    assert!(records.volume("here").is_none());
    assert_eq!(records.sizes(), (0, 1));
}

#[test]
fn a_claim_that_grows_is_kept_until_it_has_grown() {
    let mut records = records();
    let grown = |has: &str| {
        fixtures::claim_object(json!({
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}},
        }))
    };
    for (has, grows) in [("1Gi", true), ("2048Mi", false), ("1999Mi", true), ("3Gi", false), ("what", false)]
    {
        records.see_claim(&grown(has));
        assert_eq!(records.growing("0b6f-11").is_some(), grows, "{has}");
    }
}

/// A cluster whose class went before the claim that failed there was never forgotten.
#[test]
fn a_place_that_is_kept_for_no_claim_any_more_is_news_of_which_stores_are_used() {
    let mut records = records();
    let claim = fixtures::claim(json!({}));
    let place = Location::new("default", "a").unwrap();
    records.reserve(&claim, LocationKey::new("memory", &place));
    records.take_stores_changed();
    assert!(records.stores_in_use("memory").contains("default"));
    records.release(&claim.uid);
    assert!(records.take_stores_changed() && records.stores_in_use("memory").is_empty());
}

#[test]
fn a_volume_takes_the_place_that_was_kept_for_its_claim() {
    let mut records = records();
    let claim = fixtures::claim(json!({}));
    let place = |path: &str| LocationKey::new("memory", &Location::new("default", path).unwrap());
    records.reserve(&claim, place("default-data-pvc-0b6f-11"));
    let who = |records: &Records, path| records.occupant(&place(path), "", "", false).map(|other| other.who);
    assert_eq!(who(&records, "default-data-pvc-0b6f-11").as_deref(), Some("claim default/data"));
    records.see_volume(&fixtures::volume_object(bound()));
    let occupant = who(&records, "default-data-pvc-0b6f-11");
    assert_eq!(occupant.as_deref(), Some("PersistentVolume pvc-0b6f-11"));
    records.see_volume(&fixtures::volume_object(json!({"spec": {"nfs": {"path": "/default/moved"}}})));
    assert_eq!(who(&records, "default-data-pvc-0b6f-11"), None, "it moved");
    assert_eq!(who(&records, "moved").as_deref(), Some("PersistentVolume pvc-0b6f-11"));
    records.forget_volume("pvc-0b6f-11");
    assert_eq!(who(&records, "moved"), None);
}

#[test]
fn the_newest_volume_tells_the_identity_of_its_store() {
    let mut records = records();
    let made = |name: &str, when: &str, identity: Value| {
        volume(
            name,
            json!({
                "metadata": {
                    "creationTimestamp": when, "annotations": {"berth.storage/store-id": identity},
                },
                "spec": {"nfs": {"path": format!("/default/{name}")}},
            }),
        )
    };
    records.see_volume(&made("a", "2026-11-02T00:00:00Z", json!("second")));
    records.see_volume(&made("b", "2026-11-01T00:00:00Z", json!("first")));
    records.see_volume(&made("c", "2026-11-03T00:00:00Z", Value::Null));
    for index in 0..20 {
        records.see_volume(&made(&format!("d{index}"), "2026-10-01T00:00:00Z", json!("oldest")));
    }
    let past = records.past("memory", &Memory::with_stores(&["default", "empty"]));
    let [default, empty] = past.as_slice() else { panic!("{past:?}") };
    assert_eq!((default.identity.as_deref(), default.places.len()), (Some("second"), REMEMBERED));
    assert_eq!((empty.identity.as_deref(), empty.places.len()), (None, 0));
    let unknown = records.past("memory", &Memory::with_stores(&["elsewhere"]));
    let stores: Vec<_> = unknown.iter().map(|past| (past.store.as_str(), past.identity.as_deref())).collect();
    assert_eq!(
        stores,
        [("elsewhere", None), ("default", Some("second"))],
        "a store that only volumes name has a past as well"
    );
    for index in 0..20 {
        records.forget_volume(&format!("d{index}"));
    }
    for name in ["a", "b", "c"] {
        records.forget_volume(name);
    }
    let [default] = &records.past("memory", &Memory::new())[..] else { panic!("one store") };
    assert_eq!(
        (default.identity.as_deref(), default.places.len()),
        (Some("second"), 0),
        "places are where volumes lie now; what a store is, is never forgotten"
    );
}

//! What is kept of watched objects, and which changes mean work.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::time::Duration;

use serde_json::{Value, json};

use super::{expectations::MOST_LOCATIONS, *};
use crate::{
    backend::memory::Memory,
    provisioner::{
        fixtures::{self, NAME},
        names,
        queue::Backoff,
    },
    volume::Location,
};

fn cache() -> Cache {
    Cache::new(Backends::default().with(NAME, Arc::new(Memory::new())), true)
}

fn listen(cache: &mut Cache) -> Queue<Key> {
    let queue = Queue::new(Backoff::default());
    cache.work(queue.clone());
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
async fn come(cache: &mut Cache, queue: &Queue<Key>, object: &VolumeObject) {
    cache.upsert_volume(object);
    queued(queue).await;
    cache.end_removal(object.metadata.name.as_deref().unwrap());
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
    let mut cache = cache();
    cache.upsert_claim(&claim("a", "1"));
    let queue = listen(&mut cache);
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "what was seen before there was a queue");
    cache.upsert_claim(&claim("a", "1"));
    assert_eq!(queued(&queue).await, [], "the same version again");
    cache.upsert_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "a change");
    cache.upsert_class(fixtures::class(json!({})));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "its class appears");
    cache.upsert_class(fixtures::class(json!({})));
    assert_eq!(queued(&queue).await, [], "the same class again");
    cache.upsert_class(fixtures::class(json!({"metadata": {"uid": "class-2"}})));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "its class was made anew");
    cache.upsert_class(fixtures::class(json!({"metadata": {"name": "another"}})));
    assert_eq!(queued(&queue).await, [], "another class");
    cache.remove_claim("a");
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "it is gone: what was begun must be ended");
    cache.remove_claim("a");
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
    let pending_expansion = fixtures::claim_object(json!({
        "spec": {"volumeName": long(), "resources": {"requests": {"storage": format!("2{}Gi", " ".repeat(9000))}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    }));
    assert!(
        PendingExpansion::new(&pending_expansion, "uid").is_none_or(|pending_expansion| format!(
            "{pending_expansion:?}"
        )
        .len()
            < MOST)
    );
}

/// A key per claim that ever wanted the place of a volume stayed for as long as the volume did.
#[tokio::test]
async fn a_claim_that_waits_for_a_place_leaves_nothing_behind_when_it_goes_or_is_served() {
    let mut cache = cache();
    let occupant: Arc<str> = "pvc-there".into();
    cache.upsert_volume(&volume(&occupant, bound()));
    for number in 0..100 {
        let uid = format!("uid-{number}");
        cache.upsert_claim(&claim(&uid, "1"));
        cache.wakeups.wait(&occupant, Key::Claim(uid.as_str().into()));
    }
    assert_eq!(cache.wakeups.sizes(), (100, 1));
    for number in 0..98 {
        cache.remove_claim(&format!("uid-{number}"));
    }
    assert_eq!(cache.wakeups.sizes(), (2, 1), "claims that are gone wait for nothing");
    let served =
        volume("pvc-uid-98", json!({"spec": {"claimRef": {"uid": "uid-98"}}, "status": {"phase": "Bound"}}));
    cache.upsert_volume(&served);
    assert_eq!(cache.wakeups.sizes(), (1, 1), "nor does one that has a volume");
    cache.wakeups.wait(&"pvc-other".into(), Key::Claim("uid-99".into()));
    assert_eq!(cache.wakeups.sizes(), (1, 1), "each waits for one thing");
    let queue = listen(&mut cache);
    queued(&queue).await;
    cache.remove_volume(&occupant);
    assert_eq!(queued(&queue).await, [], "and no more for what it waited for before");
    cache.wakeups.wait(&"pvc-uid-98".into(), Key::Volume("pvc-x".into()));
    cache.upsert_volume(&volume("pvc-x", bound()));
    cache.remove_volume("pvc-x");
    assert_eq!(cache.wakeups.sizes(), (1, 1), "a volume that is gone waits for nothing");
}

#[tokio::test]
async fn what_a_new_list_does_not_have_is_gone() {
    let mut cache = cache();
    for kind in [ResourceKind::Claims, ResourceKind::Volumes, ResourceKind::Classes] {
        cache.begin(kind);
    }
    for uid in ["a", "b"] {
        cache.upsert_claim(&claim(uid, "1"));
        cache.upsert_volume(&volume(&format!("pvc-{uid}"), bound()));
    }
    cache.upsert_class(fixtures::class(json!({})));
    assert!(!cache.complete(ResourceKind::Claims) && !cache.complete(ResourceKind::Volumes));
    assert!(cache.complete(ResourceKind::Classes), "all kinds are listed");
    let queue = listen(&mut cache);
    queued(&queue).await;

    for kind in [ResourceKind::Claims, ResourceKind::Volumes, ResourceKind::Classes] {
        cache.begin(kind);
    }
    cache.upsert_claim(&claim("b", "1"));
    cache.upsert_volume(&volume("pvc-b", bound()));
    cache.upsert_volume(&volume("pvc-new", bound()));
    for kind in [ResourceKind::Claims, ResourceKind::Volumes, ResourceKind::Classes] {
        cache.complete(kind);
    }
    assert!(cache.claim("a").is_none() && cache.claim("b").is_some());
    assert!(cache.volume("pvc-a").is_none() && cache.volume("pvc-b").is_some());
    assert!(cache.volume("pvc-new").is_some());
    assert!(cache.class("nfs").is_none());
    assert_eq!(queued(&queue).await, [Key::Claim("a".into()), Key::Volume("pvc-new".into())]);
}

#[tokio::test]
async fn a_volume_is_work_when_it_may_be_removed_and_when_its_finalizer_is_wrong() {
    let mut cache = cache();
    cache.upsert_volume(&volume("pvc-a", bound()));
    let unguarded = json!({"metadata": {"finalizers": []}, "status": {"phase": "Available"}});
    cache.upsert_volume(&volume("pvc-b", unguarded));
    let queue = listen(&mut cache);
    assert_eq!(queued(&queue).await, [], "a bound volume needs nothing");
    cache.upsert_volume(&volume("pvc-a", json!({})));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "released");
    cache.upsert_volume(&volume(
        "pvc-b",
        json!({"metadata": {"finalizers": []}, "status": {"phase": "Bound"}}),
    ));
    let work = [Key::AddFinalizer("pvc-b".into()), Key::Register("pvc-b".into())];
    assert_eq!(queued(&queue).await, work, "without our finalizer, and not made just now");
    cache.guard(false);
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "the right to set it is gone");
    cache.guard(true);
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into()), Key::AddFinalizer("pvc-b".into())]);
}

#[tokio::test]
async fn what_a_removal_is_decided_by_is_news_and_nothing_else_of_the_volume() {
    let mut cache = cache();
    let queue = listen(&mut cache);
    let annotated = |value: &str| json!({"metadata": {"annotations": {"berth.storage/on-delete": value}}});
    cache.upsert_volume(&volume("pvc-a", annotated("Delete")));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "released");
    let labelled = json!({"metadata": {
        "labels": {"a": "b"}, "resourceVersion": "10", "annotations": {"berth.storage/on-delete": "Delete"},
    }});
    cache.upsert_volume(&volume("pvc-a", labelled));
    assert_eq!(queued(&queue).await, [], "a label");
    cache.upsert_volume(&volume("pvc-a", annotated("delete")));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "an annotation was corrected");
    let mut other = annotated("delete");
    fixtures::merge(&mut other, &json!({"spec": {"claimRef": {"uid": "corrected"}}}));
    cache.upsert_volume(&volume("pvc-a", other));
    assert_eq!(queued(&queue).await, [Key::Volume("pvc-a".into())], "its claim was corrected");
    come(&mut cache, &queue, &volume("pvc-b", bound())).await;
    let mut touched = bound();
    fixtures::merge(&mut touched, &annotated("archive"));
    cache.upsert_volume(&volume("pvc-b", touched));
    assert_eq!(queued(&queue).await, [], "nothing is to be done for a bound volume");
}

#[test]
fn who_shares_a_place_uses_it_or_is_released_or_leaves_it() {
    use Sharing::{Leaves, Released, Uses};
    let mut cache = cache();
    let ctx = json!({"spec": {"nfs": {"path": "/default/shared"}}});
    let at = |name: &str, phase: &str| {
        let mut patch = ctx.clone();
        fixtures::merge(&mut patch, &json!({"status": {"phase": phase}}));
        volume(name, patch)
    };
    for (name, phase) in [("a", "Released"), ("b", "Bound"), ("c", "Released"), ("d", "Available")] {
        cache.upsert_volume(&at(name, phase));
    }
    cache.upsert_volume(&volume("below", json!({"spec": {"nfs": {"path": "/default/shared/x"}}})));
    cache.gives_up_data("c", true);
    let location = LocationKey::new("memory", &Location::new("default", "shared").unwrap());
    cache.reserve(&fixtures::claim(json!({})), location.clone());
    let found = |cache: &Cache| -> Vec<(String, Sharing)> {
        cache
            .sharers(&location, "d")
            .into_iter()
            .map(|sharer| (sharer.id.to_string(), sharer.sharing))
            .collect()
    };
    let expected = [("a", Released), ("b", Uses), ("c", Leaves), ("0b6f-11", Uses)]
        .map(|(id, how)| (id.to_owned(), how));
    assert_eq!(found(&cache), expected);
    let mut rescued = ctx.clone();
    fixtures::merge(&mut rescued, &json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    cache.upsert_volume(&volume("c", rescued));
    assert_eq!(found(&cache)[2], ("c".to_owned(), Uses), "its policy is Retain by now");
    cache.gives_up_data("a", true);
    cache.rest();
    assert_eq!(found(&cache)[0], ("a".to_owned(), Released), "what was on its way was dropped");
}

/// A volume that was to be removed, then to be retained, then to be removed again was Released for ever.
#[tokio::test]
async fn while_a_volume_is_removed_only_what_others_change_is_news() {
    let mut cache = cache();
    cache.upsert_volume(&volume("a", json!({})));
    let queue = listen(&mut cache);
    let work = || vec![Key::Volume("a".into())];
    assert_eq!(queued(&queue).await, work());
    assert!(!cache.begin_removal("a", Disposal::Delete));
    cache.gives_up_data("a", true);
    assert!(cache.begin_removal("a", Disposal::Delete), "it was begun before");
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}});
    let patched = |patch: Value| {
        let mut usual = deleting.clone();
        fixtures::merge(&mut usual, &patch);
        volume("a", usual)
    };
    cache.upsert_volume(&patched(json!({})));
    assert_eq!(queued(&queue).await, [], "its last changes are our own");
    cache
        .upsert_volume(&patched(json!({"metadata": {"annotations": {"berth.storage/on-delete": "retain"}}})));
    assert_eq!(queued(&queue).await, work(), "what shall become of it was changed");
    let retained = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    for rescue in [retained.clone(), bound(), json!({"status": {"phase": "Available"}})] {
        cache.upsert_volume(&patched(rescue));
        assert!(queued(&queue).await.starts_with(&work()), "it is to stay");
        assert_eq!(cache.removing("a"), Some(Disposal::Delete), "until its data is back");
        cache.upsert_volume(&patched(json!({})));
        queued(&queue).await;
    }
    cache.upsert_volume(&volume("a", retained));
    queued(&queue).await;
    cache.end_removal("a");
    cache.upsert_volume(&volume("a", json!({})));
    assert_eq!(queued(&queue).await, work(), "and it is to be removed once more");
}

#[tokio::test]
async fn another_object_of_the_same_name_is_another_volume() {
    let mut cache = cache();
    cache.upsert_volume(&volume("a", json!({})));
    cache.begin_removal("a", Disposal::Delete);
    cache.gives_up_data("a", true);
    let queue = listen(&mut cache);
    queued(&queue).await;
    cache.upsert_volume(&volume("a", json!({"metadata": {"uid": "made-again"}})));
    assert_eq!(queued(&queue).await, [Key::Volume("a".into())]);
}

/// From a backup, while the trash may still hold its data.
#[tokio::test]
async fn a_volume_of_ours_that_comes_back_is_looked_for_in_the_trash_and_one_that_we_make_is_not() {
    let mut cache = cache();
    let again = |name: &str, version: &str| {
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"claimRef": {"uid": "0b6f-11"}}, "status": {"phase": "Available"},
        });
        volume(name, patch)
    };
    cache.upsert_volume(&again("listed", "1"));
    let queue = listen(&mut cache);
    cache.upsert_volume(&again("listed", "2"));
    assert_eq!(queued(&queue).await, [], "it was there before we worked");
    let place = Location::new("default", "made").unwrap();
    cache.reserve(&fixtures::claim(json!({})), LocationKey::new("memory", &place));
    cache.upsert_volume(&again("made", "1"));
    cache.upsert_volume(&again("made", "2"));
    assert_eq!(queued(&queue).await, [], "we are making it");
    cache.upsert_volume(&again("back", "1"));
    assert_eq!(queued(&queue).await, [Key::Volume("back".into())]);
    cache.end_removal("back");
    cache.upsert_volume(&again("back", "2"));
    assert_eq!(queued(&queue).await, [], "once");
}

#[tokio::test]
async fn volumes_of_older_provisioners_and_volumes_that_are_taken_over_are_recorded_when_they_are_bound() {
    let mut cache = cache();
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
    let queue = listen(&mut cache);
    let take_over = |owner: &str| json!({"metadata": {"annotations": {"berth.storage/take-over": owner}}, "status": {"phase": "Bound"}});
    let place = Location::new("default", "new").unwrap();
    let claim = fixtures::claim(json!({"metadata": {"uid": "new"}}));
    cache.reserve(&claim, LocationKey::new("memory", &place));
    cache.upsert_volume(&patched("new", &Value::Null, json!({"status": {"phase": "Pending"}})));
    cache.upsert_volume(&patched("new", &Value::Null, bound()));
    assert_eq!(queued(&queue).await, [], "we recorded it when we made it");
    cache.upsert_volume(&patched("old", &old, json!({"status": {"phase": "Available"}})));
    assert_eq!(queued(&queue).await, []);
    cache.upsert_volume(&patched("old", &old, bound()));
    assert_eq!(queued(&queue).await, [Key::Register("old".into())]);
    cache.upsert_volume(&patched("old", &old, bound()));
    assert_eq!(queued(&queue).await, [], "once");
    for name in ["new", "old"] {
        let base = if name == "old" { &old } else { &Value::Null };
        cache.upsert_volume(&patched(name, base, take_over("blue")));
        assert_eq!(queued(&queue).await, [Key::Register(name.into())]);
    }
    let released = json!({
        "spec": {"persistentVolumeReclaimPolicy": "Retain"}, "metadata": {"finalizers": []},
        "status": {"phase": "Released"},
    });
    come(&mut cache, &queue, &patched("again", &Value::Null, released)).await;
    let again = json!({
        "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"uid": "another"}},
        "metadata": {"finalizers": []}, "status": {"phase": "Bound"},
    });
    cache.upsert_volume(&patched("again", &Value::Null, again));
    assert_eq!(queued(&queue).await, [Key::Register("again".into())], "it is used by another claim");
    cache.remove_volume("again");
    let in_use = cache.in_use();
    let known: Vec<_> = in_use[&("memory", "default".to_owned())]
        .iter()
        .map(|known| (known.name.as_str(), known.legacy))
        .collect();
    assert_eq!(known, [("new", false), ("old", true)]);
}

/// Nothing looked at its archive, which expired while the volume was in use.
#[tokio::test]
async fn a_volume_that_was_made_again_while_berth_was_stopped_is_recorded_when_it_is_bound() {
    let mut cache = cache();
    cache.upsert_volume(&volume("again", json!({"status": {"phase": "Available"}})));
    let queue = listen(&mut cache);
    cache.upsert_volume(&volume("again", bound()));
    assert_eq!(queued(&queue).await, [Key::Register("again".into())]);
    cache.upsert_volume(&volume("again", bound()));
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
    let mut cache = cache();
    for (name, patch) in [
        ("bound", with(record, bound())),
        ("released", with(record, json!({}))),
        ("of-another-provisioner", with(record, stranger)),
        ("without-a-secret", with("{}", bound())),
        ("unreadable", with("{", bound())),
        ("without-a-record", bound()),
    ] {
        cache.upsert_volume(&volume(name, patch));
    }
    assert_eq!(cache.with_kept_secrets(), ["bound".into()]);
    assert_eq!(cache.kept_secret("bound").map(ToString::to_string).as_deref(), Some("team/key"));
    cache.upsert_volume(&volume("bound", with(record, json!({}))));
    assert_eq!((cache.with_kept_secrets(), cache.kept_secret("bound")), (Vec::new(), None));
}

#[test]
fn a_volume_at_the_same_path_of_a_store_that_nobody_named_is_found() {
    let memory = Memory::with_stores(&["default", "other", "mon-a", "mon-b"]);
    let mut cache = Cache::new(Backends::default().with(NAME, Arc::new(memory)), true);
    for (name, path) in [("a", "/mon-a/x"), ("b", "/mon-b/x/y"), ("c", "/default/z"), ("d", "/other/z")] {
        cache.upsert_volume(&volume(name, json!({"spec": {"nfs": {"path": path}}})));
    }
    let double = |name: &str| {
        let location = cache.volume(name).unwrap().location.clone().unwrap();
        let double = cache.occupancy.double(&location, name, |store| store.starts_with("mon-"));
        double.map(|(other, store)| (other.relation, other.id.to_string(), store))
    };
    let found = |relation, id: &str, store: &str| Some((relation, id.to_owned(), store.to_owned()));
    assert_eq!(double("a"), found(Relation::Below, "b", "mon-b"));
    assert_eq!(double("b"), found(Relation::Above, "a", "mon-a"));
    assert_eq!(double("c"), None, "two stores with names are two stores");
    let location = cache.volume("c").unwrap().location.clone().unwrap();
    assert!(
        cache.occupancy.double(&location, "c", |store| store == "default").is_some(),
        "whichever of the two it is"
    );
}

#[tokio::test]
async fn whoever_is_in_the_way_wakes_those_who_wait_when_it_goes() {
    let mut cache = cache();
    let queue = listen(&mut cache);
    come(&mut cache, &queue, &volume("pvc-a", bound())).await;
    cache.wakeups.wait(&"pvc-a".into(), Key::Claim("waits".into()));
    cache.remove_volume("pvc-other");
    assert_eq!(queued(&queue).await, []);
    cache.remove_volume("pvc-a");
    assert_eq!(queued(&queue).await, [Key::Claim("waits".into())]);
    come(&mut cache, &queue, &volume("pvc-a", bound())).await;
    cache.remove_volume("pvc-a");
    assert_eq!(queued(&queue).await, [], "it was woken once");
}

#[tokio::test]
async fn a_claim_whose_volume_was_deleted_before_it_was_bound_is_provisioned_again() {
    let mut cache = cache();
    cache.upsert_claim(&claim("a", "1"));
    let stored =
        volume("pvc-a", json!({"spec": {"claimRef": {"uid": "a"}}, "status": {"phase": "Available"}}));
    cache.upsert_volume(&stored);
    assert!(cache.claim("a").is_none(), "what its volume was made of is not kept");
    let queue = listen(&mut cache);
    cache.upsert_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [], "nothing is to be done for it");
    assert_eq!(cache.claim_without_volume("a"), None);
    cache.remove_volume("pvc-a");
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())]);
    assert_eq!(cache.claim_without_volume("a"), Some(("default".into(), "data".into())));
    cache.upsert_claim(&claim("a", "2"));
    assert_eq!(queued(&queue).await, [Key::Claim("a".into())], "it was read again");
    assert!(cache.claim("a").is_some());
}

#[test]
fn what_concerns_nobody_here_is_not_kept() {
    let mut cache = cache();
    let foreign = |server: &str| {
        json!({
            "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other"}},
            "spec": {"nfs": {"server": server}},
        })
    };
    cache.upsert_volume(&volume("elsewhere", foreign("another")));
    cache.upsert_volume(&volume("here", foreign("memory")));
    cache.upsert_volume(&volume("no-source", json!({"spec": {"nfs": null}})));
    cache.upsert_claim(&fixtures::claim_object(
        json!({"spec": {"volumeName": "x"}, "status": {"phase": "Bound"}}),
    ));
    assert!(cache.volume("elsewhere").is_none(), "a foreign volume on a foreign server");
    assert!(cache.volume("here").is_some(), "a foreign volume in one of our stores");
    assert!(cache.volume("no-source").is_some(), "a volume of ours without a place");
    assert_eq!(cache.sizes(), (0, 2), "a bound claim");
    cache.upsert_volume(&volume("here", foreign("moved")));
    assert!(cache.volume("here").is_none());
    assert_eq!(cache.sizes(), (0, 1));
}

#[test]
fn a_claim_that_grows_is_kept_until_it_has_grown() {
    let mut cache = cache();
    let grown = |has: &str| {
        fixtures::claim_object(json!({
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}},
        }))
    };
    for (has, grows) in [("1Gi", true), ("2048Mi", false), ("1999Mi", true), ("3Gi", false), ("what", false)]
    {
        cache.upsert_claim(&grown(has));
        assert_eq!(cache.pending_expansion("0b6f-11").is_some(), grows, "{has}");
    }
}

/// A cluster whose class went before the claim that failed there was never forgotten.
#[test]
fn a_place_that_is_kept_for_no_claim_any_more_is_news_of_which_stores_are_used() {
    let mut cache = cache();
    let claim = fixtures::claim(json!({}));
    let place = Location::new("default", "a").unwrap();
    cache.reserve(&claim, LocationKey::new("memory", &place));
    cache.take_stores_changed();
    assert!(cache.occupancy.stores("memory").contains("default"));
    cache.release(&claim.uid);
    assert!(cache.take_stores_changed() && cache.occupancy.stores("memory").is_empty());
}

#[test]
fn a_volume_takes_the_place_that_was_kept_for_its_claim() {
    let mut cache = cache();
    let claim = fixtures::claim(json!({}));
    let place = |path: &str| LocationKey::new("memory", &Location::new("default", path).unwrap());
    cache.reserve(&claim, place("default-data-pvc-0b6f-11"));
    let who =
        |cache: &Cache, path| cache.occupancy.occupant(&place(path), "", "", false).map(|other| other.who);
    assert_eq!(who(&cache, "default-data-pvc-0b6f-11").as_deref(), Some("claim default/data"));
    cache.upsert_volume(&fixtures::volume_object(bound()));
    let occupant = who(&cache, "default-data-pvc-0b6f-11");
    assert_eq!(occupant.as_deref(), Some("PersistentVolume pvc-0b6f-11"));
    cache.upsert_volume(&fixtures::volume_object(json!({"spec": {"nfs": {"path": "/default/moved"}}})));
    assert_eq!(who(&cache, "default-data-pvc-0b6f-11"), None, "it moved");
    assert_eq!(who(&cache, "moved").as_deref(), Some("PersistentVolume pvc-0b6f-11"));
    cache.remove_volume("pvc-0b6f-11");
    assert_eq!(who(&cache, "moved"), None);
}

#[test]
fn the_newest_volume_tells_the_identity_of_its_store() {
    let mut cache = cache();
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
    cache.upsert_volume(&made("a", "2026-11-02T00:00:00Z", json!("second")));
    cache.upsert_volume(&made("b", "2026-11-01T00:00:00Z", json!("first")));
    cache.upsert_volume(&made("c", "2026-11-03T00:00:00Z", Value::Null));
    for index in 0..20 {
        cache.upsert_volume(&made(&format!("d{index}"), "2026-10-01T00:00:00Z", json!("oldest")));
    }
    let past = cache.expectations("memory", &Memory::with_stores(&["default", "empty"]));
    let [default, empty] = past.as_slice() else { panic!("{past:?}") };
    assert_eq!((default.identity.as_deref(), default.places.len()), (Some("second"), MOST_LOCATIONS));
    assert_eq!((empty.identity.as_deref(), empty.places.len()), (None, 0));
    let unknown = cache.expectations("memory", &Memory::with_stores(&["elsewhere"]));
    let stores: Vec<_> = unknown.iter().map(|past| (past.store.as_str(), past.identity.as_deref())).collect();
    assert_eq!(
        stores,
        [("elsewhere", None), ("default", Some("second"))],
        "a store that only volumes name has a past as well"
    );
    for index in 0..20 {
        cache.remove_volume(&format!("d{index}"));
    }
    for name in ["a", "b", "c"] {
        cache.remove_volume(name);
    }
    let [default] = &cache.expectations("memory", &Memory::new())[..] else { panic!("one store") };
    assert_eq!(
        (default.identity.as_deref(), default.places.len()),
        (Some("second"), 0),
        "places are where volumes lie now; what a store is, is never forgotten"
    );
}

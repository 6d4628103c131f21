//! Several volumes at one place, as the older provisioners left them, or at one path of what may be one store.

use std::time::Duration;

use berth_apiserver::{Controllers, Options};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::{
    bed::{Bed, full_rules},
    removal::{old_volume, old_volume_on, patch_volume, place},
};
use crate::backend::memory::{Memory, Operation};

fn on_delete(bed: &Bed, name: &str, disposal: &str) {
    let annotations = json!({"berth.storage/on-delete": disposal});
    patch_volume(bed, name, json!({"metadata": {"annotations": annotations}}));
}

fn phase(bed: &Bed, name: &str, phase: &str) {
    let status = json!({"status": {"phase": phase}});
    bed.server.store().patch_status::<PersistentVolume>("", name, &status).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_released_volumes_at_one_place_the_last_takes_the_data_with_it() {
    let bed = Bed::without_controllers();
    for name in ["pvc-a", "pvc-b", "pvc-c"] {
        old_volume(&bed, name, "data");
    }
    // Whatever is to be decided, is decided before anything has happened.
    bed.memory.hang(Operation::Remove);
    let mut settings = bed.settings().await;
    // What waits for another volume is looked at again when that one is gone, and not before, however long it takes.
    settings.backoff.slow = Duration::from_hours(1);
    let running = bed.start_with(settings);
    bed.until("the first ones leave", || bed.memory.calls(Operation::Remove) == 2).await;
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.exists(&place("data"))), (3, true));
    bed.memory.release(Operation::Remove);
    bed.until("all are gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(!bed.memory.exists(&place("data")), "nobody took the data along");
    assert_eq!(bed.memory.calls(Operation::Remove), 3);
    let why = bed.event("pvc-a", "VolumeRemoved").await;
    assert!(why.contains("the data was kept, because PersistentVolume pvc-"), "{why}");
    assert_eq!(bed.events("pvc-c"), [], "it waited in silence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_careful_of_the_released_volumes_at_one_place_decides() {
    let bed = Bed::without_controllers();
    for name in ["pvc-a", "pvc-b", "pvc-c"] {
        old_volume(&bed, name, "data");
        old_volume(&bed, &format!("{name}-kept"), "kept");
    }
    on_delete(&bed, "pvc-a", "archive");
    on_delete(&bed, "pvc-a-kept", "retain");
    on_delete(&bed, "pvc-b-kept", "archive");
    let running = bed.start().await;
    bed.until("all are gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.exists(&place("kept")));
    assert_eq!(bed.memory.archived().into_values().collect::<Vec<_>>(), ["archived-data"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_somebody_uses_keeps_its_data() {
    let bed = Bed::without_controllers();
    for name in ["pvc-a", "pvc-b", "pvc-user"] {
        old_volume(&bed, name, "data");
    }
    phase(&bed, "pvc-user", "Bound");
    let running = bed.start().await;
    bed.until("the others are gone", || bed.volumes() == 1).await;
    assert!(bed.memory.exists(&place("data")));
    phase(&bed, "pvc-user", "Released");
    bed.until("it is gone as well", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(!bed.memory.exists(&place("data")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_volume_that_a_person_has_to_correct_keeps_the_data_and_blocks_only_who_is_more_careful() {
    let bed = Bed::without_controllers();
    for name in ["pvc-a", "pvc-z"] {
        old_volume(&bed, name, "data");
        old_volume(&bed, &format!("{name}-2"), "other");
    }
    on_delete(&bed, "pvc-z", "Archive");
    on_delete(&bed, "pvc-a-2", "what");
    on_delete(&bed, "pvc-z-2", "archive");
    let running = bed.start().await;
    bed.until("who would delete is gone", || bed.volume("pvc-a").is_none()).await;
    let why = bed.event("pvc-z-2", "VolumeFailedDelete").await;
    assert!(
        why.contains("PersistentVolume pvc-a-2 uses the same location and must be removed first"),
        "{why}"
    );
    bed.settle().await;
    assert_eq!(bed.volumes(), 3);
    assert!(bed.memory.exists(&place("data")) && bed.memory.exists(&place("other")));
    on_delete(&bed, "pvc-z", "archive");
    on_delete(&bed, "pvc-a-2", "delete");
    bed.until("all are gone", || bed.volumes() == 0).await;
    running.stop().await;
    let archived: Vec<_> = bed.memory.archived().into_values().collect();
    assert_eq!(archived, ["archived-data", "archived-other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_another_volume_has_on_what_may_be_the_same_cluster_is_left_alone() {
    let memory = Memory::with_stores(&["main", "mon-0000000001", "mon-0000000002", "second"]);
    let options = Options { controllers: Controllers::none(), ..Options::default() };
    let bed = Bed::with(options, memory, full_rules());
    old_volume_on(&bed, "pvc-a", "mon-0000000001", "data");
    old_volume_on(&bed, "pvc-b", "mon-0000000002", "data");
    old_volume_on(&bed, "pvc-c", "main", "other");
    old_volume_on(&bed, "pvc-d", "second", "other");
    for user in ["pvc-b", "pvc-d"] {
        phase(&bed, user, "Bound");
        // So that it does not get our finalizer.
        patch_volume(&bed, user, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    }
    let running = bed.start().await;
    let why = bed.event("pvc-a", "VolumeFailedDelete").await;
    assert!(why.contains("PersistentVolume pvc-b has the same path on mon-0000000002"), "{why}");
    assert!(why.contains("configure it with the monitors of both"), "{why}");
    bed.until("clusters with names are different clusters", || bed.volume("pvc-c").is_none()).await;
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.calls(Operation::Remove)), (3, 1));
    bed.server.store().delete::<PersistentVolume>("", "pvc-b").unwrap();
    bed.until("it is removed once the other is gone", || bed.volume("pvc-a").is_none()).await;
    running.stop().await;
}

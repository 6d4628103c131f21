//! Volumes that are to stay after all, volumes that are used again, and volumes whose owner is not recorded.

use std::{sync::Arc, time::Duration};

use berth_apiserver::{Fault, FaultId, Match, Options, Times};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use super::{
    bed::{Bed, USER, full_rules},
    removal::{old_volume, patch_volume, place, with_volume},
};
use crate::{
    backend::{
        Kind as Failure, StoreExpectation,
        memory::{Memory, Moment, Operation},
    },
    provisioner::names,
    volume::{Location, VolumeName},
};

/// A bed whose trash holds what the API server does not say to be gone, and what is gone for `retention`.
async fn holding(retention: Duration) -> Bed {
    let mut bed = Bed::new();
    bed.ask_before_purging(retention).await;
    bed
}

/// Where the volume of claim `data` lies.
fn place_of(bed: &Bed, volume: &str) -> Location {
    let annotations = bed.volume(volume).unwrap().metadata.annotations.unwrap();
    place(&annotations[names::PATH])
}

fn has_finalizer(bed: &Bed, volume: &str) -> bool {
    let finalizers = bed.volume(volume).unwrap().metadata.finalizers.unwrap_or_default();
    finalizers.iter().any(|name| name == names::FINALIZER)
}

fn retain() -> Value {
    json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
}

fn name(volume: &str) -> VolumeName {
    volume.parse().unwrap()
}

/// A volume with data that was moved to the trash, and whose object is about to be deleted: its name, where it was, and the fault
/// that holds the deletion.
async fn moved_and_not_deleted(bed: &Bed) -> (String, Location, FaultId) {
    let volume = with_volume(bed).await;
    let place = place_of(bed, &volume);
    bed.memory.fill(&place);
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    let held = bed.server.faults().inject(deletes, Fault::Hang, Times::Always);
    bed.delete_claim("data");
    bed.until("its object is about to be deleted", || bed.server.faults().hits(held) > 0).await;
    assert!(!bed.memory.exists(&place), "it was moved");
    (volume, place, held)
}

/// The API server accepted the rescue before it accepted the deletion: the data is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_rescued_between_the_move_and_the_deletion_of_its_object_gets_its_data_back() {
    let rescues = [
        ("its policy", retain()),
        ("what to do with it", json!({"metadata": {"annotations": {names::ON_DELETE: "retain"}}})),
        ("nonsense on it", json!({"metadata": {"annotations": {names::ON_DELETE: "what"}}})),
    ];
    for (row, rescue) in rescues {
        let bed = Bed::new();
        // That the trash puts it back as well, is another test.
        bed.memory.leave_trash_alone();
        let running = bed.start().await;
        let (volume, place, held) = moved_and_not_deleted(&bed).await;
        patch_volume(&bed, &volume, rescue);
        bed.server.faults().remove(held);
        let told = bed.event(&volume, "VolumeRestored").await;
        assert!(told.contains("moved back"), "{row}: {told}");
        if row == "what to do with it" {
            bed.until("its object goes", || bed.volumes() == 0).await;
        } else {
            bed.settle().await;
            assert_eq!(bed.volumes(), 1, "{row}");
        }
        running.stop().await;
        assert!(bed.memory.exists(&place), "{row}");
        assert_eq!((bed.memory.purged(), bed.memory.trash().len()), (0, 0), "{row}");
    }
}

/// What puts data back beside us, as a round of the trash does, leaves nothing for us to move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_rescued_volume_has_its_data_again_is_reported_whoever_put_it_back() {
    let bed = Bed::new();
    bed.memory.leave_trash_alone();
    let running = bed.start().await;
    let (volume, place, held) = moved_and_not_deleted(&bed).await;
    bed.memory.fail_next(Operation::Restore, 1, Moment::After, Failure::Busy);
    patch_volume(&bed, &volume, retain());
    bed.server.faults().remove(held);
    bed.event(&volume, "VolumeRestored").await;
    running.stop().await;
    assert!(bed.memory.exists(&place));
}

/// Another writer changed the object: berth reads it again at once instead of waiting for the retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_cannot_be_taken_off_a_changed_object_is_taken_off_the_new_version_at_once() {
    let bed = holding(Duration::ZERO).await;
    bed.memory.leave_trash_alone();
    let mut settings = bed.settings().await;
    settings.backoff.min = Duration::from_hours(1);
    settings.backoff.max = Duration::from_hours(2);
    let running = bed.start_with(settings);
    let volume = with_volume(&bed).await;
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    let refused = bed.server.faults().inject(deletes, Fault::Code(500, None), Times::Always);
    bed.delete_claim("data");
    bed.event(&volume, "VolumeFailedDelete").await;
    let patches = Match::verb("patch").resource("persistentvolumes").user(USER);
    let conflict = bed.server.faults().inject(patches, Fault::Code(409, None), Times::Count(1));
    patch_volume(&bed, &volume, retain());
    bed.until("it is held no more", || !has_finalizer(&bed, &volume)).await;
    assert_eq!(bed.server.faults().hits(conflict), 1);
    bed.server.faults().remove(refused);
    running.stop().await;
}

/// The object is marked as deleted already, and goes when our finalizer is taken off: with the data in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_rescued_when_its_object_is_about_to_go_keeps_its_data() {
    let bed = Bed::new();
    bed.memory.leave_trash_alone();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    let place = place_of(&bed, &volume);
    let patches = Match::verb("patch").resource("persistentvolumes").user(USER);
    let held = bed.server.faults().inject(patches, Fault::Hang, Times::Always);
    bed.delete_claim("data");
    bed.until("our finalizer is about to be taken off", || bed.server.faults().hits(held) > 0).await;
    assert!(bed.volume(&volume).unwrap().metadata.deletion_timestamp.is_some());
    patch_volume(&bed, &volume, retain());
    bed.server.faults().remove(held);
    bed.until("its object is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(
        bed.memory.exists(&place),
        "its data stays, as with every retained volume whose object is deleted"
    );
    assert!(bed.memory.trash().is_empty());
}

/// Another process may be at work by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_object_of_a_volume_is_not_touched_once_the_right_to_it_has_ended() {
    for operation in [Operation::Remove, Operation::Restore] {
        let bed = Bed::new();
        bed.memory.leave_trash_alone();
        let running = bed.start().await;
        let volume = with_volume(&bed).await;
        bed.memory.revoke_after(operation);
        bed.server.audit().reset();
        if operation == Operation::Restore {
            patch_volume(&bed, &volume, retain());
        } else {
            bed.delete_claim("data");
        }
        bed.until("the storage was asked", || bed.memory.calls(operation) > 0).await;
        bed.settle().await;
        running.kill().await;
        assert!(
            bed.volume(&volume).unwrap().metadata.deletion_timestamp.is_none()
                && has_finalizer(&bed, &volume)
        );
        let written = ["delete", "patch"].map(|verb| bed.requests(verb, "persistentvolumes"));
        assert_eq!(written, [0, 0], "{operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_whose_object_was_changed_but_not_rescued_goes_on_with_the_new_version() {
    let bed = Bed::new();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    let held = bed.server.faults().inject(deletes, Fault::Hang, Times::Always);
    bed.delete_claim("data");
    bed.until("its object is about to be deleted", || bed.server.faults().hits(held) > 0).await;
    bed.server.audit().reset();
    patch_volume(&bed, &volume, json!({"metadata": {"labels": {"looked-at": "today"}}}));
    bed.server.faults().remove(held);
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Restore), 0);
    assert_eq!(bed.events(&volume), []);
    assert_eq!(bed.requests("delete", "persistentvolumes"), 2, "refused once, since it was another version");
}

/// It was Released for ever, until a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_object_could_not_be_deleted_can_be_retained_and_given_up_again() {
    let bed = holding(Duration::ZERO).await;
    // Its rounds hold the volume for a moment, and who meets them tries again later.
    bed.memory.leave_trash_alone();
    let mut settings = bed.settings().await;
    // Nothing is tried again by itself.
    settings.backoff.min = Duration::from_hours(1);
    settings.backoff.max = Duration::from_hours(2);
    let running = bed.start_with(settings);
    let volume = with_volume(&bed).await;
    let place = place_of(&bed, &volume);
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    let refused = bed.server.faults().inject(deletes, Fault::Code(500, None), Times::Always);
    bed.delete_claim("data");
    bed.event(&volume, "VolumeFailedDelete").await;
    for _ in 0..2 {
        assert!(!bed.memory.exists(&place));
        let tried = bed.server.faults().hits(refused);
        patch_volume(&bed, &volume, retain());
        bed.until("its data is back", || bed.memory.exists(&place)).await;
        bed.until("it is held no more", || !has_finalizer(&bed, &volume)).await;
        patch_volume(&bed, &volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
        bed.until("it is tried again", || bed.server.faults().hits(refused) > tried).await;
    }
    patch_volume(&bed, &volume, retain());
    bed.until("its data is back", || bed.memory.exists(&place)).await;
    bed.server.faults().remove(refused);
    bed.settle().await;
    patch_volume(&bed, &volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    bed.memory.look_after_trash_again();
    bed.until("and its data", || bed.memory.purged() == 1).await;
    running.stop().await;
}

/// The server hung in the middle of the move, the volume was rescued, and the move was delayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_finalizer_is_taken_off_before_the_storage_has_given_the_data_back() {
    let bed = Bed::new();
    bed.memory.leave_trash_alone();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    let place = place_of(&bed, &volume);
    bed.memory.fail_next(Operation::Remove, 10_000, Moment::After, Failure::Unavailable);
    bed.memory.fail_next(Operation::Restore, 2, Moment::Before, Failure::Unavailable);
    bed.memory.fail_next(Operation::Restore, 3, Moment::Before, Failure::Busy);
    bed.memory.hang(Operation::Restore);
    bed.delete_claim("data");
    bed.until("it is moved, as far as anybody knows", || !bed.memory.exists(&place)).await;
    patch_volume(&bed, &volume, retain());
    bed.until("its removal is to be undone", || bed.memory.calls(Operation::Restore) > 0).await;
    bed.settle().await;
    assert!(has_finalizer(&bed, &volume) && !bed.memory.exists(&place));
    bed.memory.release(Operation::Restore);
    bed.until("it is held no more", || !has_finalizer(&bed, &volume)).await;
    assert!(bed.memory.exists(&place));
    running.stop().await;
    assert_eq!(bed.memory.calls(Operation::Restore), 6);
    assert!(bed.event(&volume, "VolumeRestoreFailed").await.contains("cannot cancel the removal"));
}

/// The process that moved the data is gone; its successor finds a volume that is to stay, with our finalizer on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_rescued_while_nobody_worked_gets_its_data_back_from_the_next_process() {
    let bed = holding(Duration::ZERO).await;
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    let place = place_of(&bed, &volume);
    let deletes = Match::verb("delete").resource("persistentvolumes").user(USER);
    let held = bed.server.faults().inject(deletes, Fault::Hang, Times::Always);
    bed.delete_claim("data");
    bed.until("its object is about to be deleted", || bed.server.faults().hits(held) > 0).await;
    running.kill().await;
    patch_volume(&bed, &volume, retain());
    bed.server.faults().remove(held);
    assert!(!bed.memory.exists(&place));
    let running = bed.start().await;
    bed.until("it is held no more", || !has_finalizer(&bed, &volume)).await;
    assert!(bed.memory.exists(&place), "its data was back before");
    running.stop().await;
}

/// pv-migrate, backup tools and administrators do this. It was refused for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_bound_again_by_another_claim_grows_and_goes_like_any_other() {
    let bed = Bed::new();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    patch_volume(&bed, &volume, retain());
    bed.delete_claim("data");
    let phase = || bed.volume(&volume).unwrap().status.unwrap().phase.unwrap_or_default();
    bed.until("it is released", || phase() == "Released").await;
    patch_volume(&bed, &volume, json!({"spec": {"claimRef": null}}));
    bed.claim("moved", json!({"spec": {"volumeName": volume}}));
    bed.bound("moved").await;
    bed.until("it is bound", || phase() == "Bound").await;
    patch_volume(&bed, &volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
    bed.until("it is guarded again", || has_finalizer(&bed, &volume)).await;
    let bigger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    bed.server
        .store()
        .patch::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("default", "moved", &bigger)
        .unwrap();
    bed.event("moved", "VolumeResizeSuccessful").await;
    bed.delete_claim("moved");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    running.stop().await;
    assert!(bed.memory.volumes().is_empty());
}

/// The PV was deleted by mistake, and is made again from a backup, with another UID. The trash finds it by itself, but looks at what
/// it holds now and then only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_object_that_is_restored_from_a_backup_gets_its_data_back_at_once_while_the_trash_holds_it()
{
    let bed = Bed::new();
    bed.memory.leave_trash_alone();
    restored_from_a_backup(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trash_holds_what_is_deleted_and_gives_it_back_to_a_volume_object_of_its_name() {
    let bed = holding(Duration::from_hours(1)).await;
    restored_from_a_backup(&bed).await;
}

async fn restored_from_a_backup(bed: &Bed) {
    let running = bed.start().await;
    let volume = with_volume(bed).await;
    let place = place_of(bed, &volume);
    let mut backup = serde_json::to_value(bed.volume(&volume).unwrap()).unwrap();
    bed.delete_claim("data");
    bed.until("the volume is gone", || bed.volumes() == 0).await;
    bed.settle().await;
    assert_eq!((bed.memory.exists(&place), bed.memory.trash().len()), (false, 1), "the trash holds it");
    backup["apiVersion"] = json!("v1");
    backup["kind"] = json!("PersistentVolume");
    for field in ["uid", "resourceVersion", "creationTimestamp", "finalizers"] {
        backup["metadata"].as_object_mut().unwrap().remove(field);
    }
    backup["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    backup["spec"].as_object_mut().unwrap().remove("claimRef");
    bed.create(backup);
    bed.until("its data is back", || bed.memory.exists(&place)).await;
    bed.claim("again", json!({"spec": {"volumeName": volume}}));
    bed.bound("again").await;
    patch_volume(bed, &volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
    bed.until("it is guarded again", || has_finalizer(bed, &volume)).await;
    bed.delete_claim("again");
    bed.until("it can be removed again", || bed.volumes() == 0).await;
    running.stop().await;
}

/// Puts a volume of an older provisioner there, bound.
fn bound_old_volume(bed: &Bed, name: &str, path: &str) {
    old_volume(bed, name, path);
    let bound = json!({"status": {"phase": "Bound"}});
    bed.server.store().patch_status::<PersistentVolume>("", name, &bound).unwrap();
}

/// From then on it need not be guessed whose they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_an_old_provisioner_are_recorded_while_they_are_bound_with_one_request_each() {
    let bed = Bed::without_controllers();
    // So that a released one is not removed within the test.
    bed.memory.fail_next(Operation::Remove, 1000, Moment::Before, Failure::Unavailable);
    for number in 0..5 {
        bound_old_volume(&bed, &format!("pvc-old-{number}"), &format!("default-a-pvc-old-{number}"));
    }
    old_volume(&bed, "pvc-released", "default-b-pvc-released");
    let mut settings = bed.settings().await;
    settings.backoff.min = Duration::from_hours(1);
    settings.backoff.max = Duration::from_hours(2);
    let running = bed.start_with(settings);
    bed.until("they are recorded", || bed.memory.volumes().len() == 5).await;
    bed.settle().await;
    assert!(!bed.memory.volumes().iter().any(|held| held.volume.id.name().as_str() == "pvc-released"));
    // Five to record, five for the finalizer, one for the released one.
    assert_eq!(bed.requests("get", "persistentvolumes"), 11);
    assert_eq!(bed.memory.calls(Operation::Unregistered), 1, "one listing for the store");
    bound_old_volume(&bed, "pvc-later", "default-c-pvc-later");
    bed.until("one that comes later is recorded as well", || bed.memory.volumes().len() == 6).await;
    assert_eq!(bed.memory.calls(Operation::Unregistered), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_record_is_written_again_and_a_store_that_cannot_be_listed_is_asked_later() {
    let bed = Bed::new();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    running.stop().await;
    bed.memory.lose_record(&name(&volume));
    let running = bed.start().await;
    bed.until("it is recorded", || bed.memory.volumes().len() == 1).await;
    running.stop().await;
    assert_eq!(bed.memory.volumes()[0].volume.id.name().as_str(), volume);
}

/// What could not be signed before can be then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_is_asked_again_when_it_is_learned_what_the_cluster_is_called() {
    let bed = Bed::new();
    let running = bed.start().await;
    with_volume(&bed).await;
    running.stop().await;
    let calls = || bed.memory.calls(Operation::Unregistered);
    let at_first = calls();
    let settings = bed.settings().await;
    let cluster_identity = settings.cluster_identity.clone();
    let running = bed.start_with(settings);
    bed.until("it is asked when the term begins", || calls() > at_first).await;
    // The namespace may be read only now, which is news too.
    bed.settle().await;
    let before = calls();
    cluster_identity.lock("lock-1".into());
    bed.until("it is asked again", || calls() > before).await;
    bed.settle().await;
    let before = calls();
    cluster_identity.lock("lock-2".into());
    bed.settle().await;
    assert_eq!(calls(), before, "the first one stays");
    running.stop().await;
}

/// What a copy of another cluster's PV would do to that cluster's data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_another_cluster_recorded_is_reported_with_the_command_to_take_it_over() {
    let bed = Bed::new();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    running.stop().await;
    bed.memory.sign_as(&name(&volume), "blue");
    let mut settings = bed.settings().await;
    settings.backoff.slow = Duration::from_hours(1);
    let running = bed.start_with(settings);
    let command = format!("kubectl annotate --overwrite pv {volume} berth.storage/take-over=blue");
    let told = bed.event(&volume, "VolumeNotRecorded").await;
    assert!(told.ends_with(&command), "{told}");
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Register), 1, "it is told once");
    bed.delete_claim("data");
    let told = bed.event(&volume, "VolumeFailedDelete").await;
    assert!(told.ends_with(&command), "{told}");
    bed.settle().await;
    assert_eq!((bed.volumes(), bed.memory.trash().len()), (1, 0));
    let take_over = |owner: &str| {
        patch_volume(&bed, &volume, json!({"metadata": {"annotations": {names::TAKE_OVER: owner}}}));
    };
    let asked = bed.memory.calls(Operation::Remove);
    take_over("green");
    bed.until("it is asked again", || bed.memory.calls(Operation::Remove) > asked).await;
    bed.settle().await;
    assert_eq!(bed.volumes(), 1, "another owner");
    take_over("blue");
    bed.until("it is removed", || bed.volumes() == 0).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_volume_that_is_taken_over_is_recorded_at_once() {
    let bed = Bed::new();
    let running = bed.start().await;
    let volume = with_volume(&bed).await;
    running.stop().await;
    bed.memory.sign_as(&name(&volume), "blue");
    let running = bed.start().await;
    bed.event(&volume, "VolumeNotRecorded").await;
    let before = bed.memory.calls(Operation::Register);
    patch_volume(&bed, &volume, json!({"metadata": {"annotations": {names::TAKE_OVER: "blue"}}}));
    bed.until("it is recorded", || bed.memory.calls(Operation::Register) > before).await;
    running.stop().await;
    let running = bed.start().await;
    bed.until("the storage was listed", || bed.memory.calls(Operation::Unregistered) == 2).await;
    bed.settle().await;
    assert_eq!(bed.memory.calls(Operation::Register), before + 1, "it is ours now");
    running.stop().await;
}

/// A process that stood by since before the first volume was made knows what the store was then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_of_a_store_while_standing_by_is_reported_when_the_term_begins() {
    let bed = Bed::with(Options::default(), Memory::new(), full_rules());
    let leader = bed.start().await;
    // The second process shares the storage, not what the first one's backend was told.
    let told = Memory::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut settings = super::leading::elected(&bed, "second").await;
    settings.stop = stop.clone();
    let lock = Match::any().resource("leases").user(USER);
    let held = bed.server.faults().inject(lock, Fault::Code(500, None), Times::Always);
    let standby = Bed::start_on(super::bed::NAME, settings, Arc::new(told.clone()));
    bed.until("it has listed everything", || told.expected("default").is_some()).await;
    assert_eq!(told.expected("default").unwrap().identity, None);
    with_volume(&bed).await;
    leader.stop().await;
    bed.server.faults().remove(held);
    let learned = || {
        let Some(StoreExpectation { identity, places, .. }) = told.expected("default") else { return false };
        identity.as_deref() == Some("identity-of-default") && places.len() == 1
    };
    bed.until("it was told of the volume", learned).await;
    stop.cancel();
    standby.stop().await;
}

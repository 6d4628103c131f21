//! Programs that act late: started by a process that lost its right, or that was stopped, and carried out after the next one has done
//! its work. What they do by name can be undone, and what cannot be undone goes by the id of an image.

use super::{fake_cluster::Stop, *};
use crate::backend::conformance::removal;

async fn made(site: &Site) -> (VolumeRequest, Volume) {
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    (request, volume)
}

/// Begins `work`, and gives it up when a call that begins with `call` is held.
async fn begun<T: std::fmt::Debug>(site: &Site, call: &'static str, work: impl Future<Output = T>) {
    site.fake_cluster.state().hold = Some(call);
    tokio::select! {
        outcome = work => panic!("it is held: {outcome:?}"),
        () = async {
            while site.fake_cluster.held() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    site.fake_cluster.state().hold = None;
}

/// The image that was bound again went to the trash, and was purged.
#[tokio::test]
async fn a_late_move_to_the_trash_is_undone() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let mut site = Site::new();
        let (request, volume) = made(&site).await;
        let removal = removal(&request, &volume, disposal);
        site.vault.set_volume(&request.name, true);
        begun(&site, "trash mv", site.remove(&removal)).await;
        // The next process: the PV is rescued, and used again.
        site.restart();
        site.vault.set_volume(&request.name, false);
        assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace);
        site.fake_cluster.let_go();
        assert_eq!(site.fake_cluster.images(), [""; 0]);
        let fake_cluster = site.fake_cluster.clone();
        site.collect_until(move |_| !fake_cluster.images().is_empty()).await;
        let state = site.fake_cluster.state();
        let space = &state.spaces["rbd"];
        assert!(space.images["berth-uid-a"].content && space.trash.is_empty(), "{space:?}");
    }
}

/// The image of a PV that went with the policy Retain was moved to the trash by a late call, and was purged.
#[tokio::test]
async fn a_late_move_of_an_image_that_was_kept_is_undone_and_a_later_removal_is_not() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let delete = removal(&request, &volume, Disposal::Delete);
    begun(&site, "trash mv", site.remove(&delete)).await;
    site.restart();
    let retain = Removal { disposal: Disposal::Retain, ..delete.clone() };
    assert_eq!(site.remove(&retain).await.unwrap(), Removed::Kept);
    site.fake_cluster.let_go();
    assert_eq!(site.fake_cluster.images(), [""; 0]);
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| !fake_cluster.images().is_empty()).await;
    assert!(site.fake_cluster.state().spaces["rbd"].images["berth-uid-a"].content);
    // An administrator made a PV of it, with the policy Delete.
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
    site.collect_until(|store| store.purged == 1).await;
    assert_eq!((site.fake_cluster.images(), site.trash()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_late_move_after_the_volume_was_removed_does_nothing() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    begun(&site, "trash mv", site.remove(&removal)).await;
    site.restart();
    site.remove(&removal).await.unwrap();
    site.fake_cluster.let_go();
    assert_eq!(site.trash(), ["berth-uid-a"]);
    site.collect_until(|store| store.purged == 1).await;
    assert_eq!((site.fake_cluster.images(), site.trash()), (Vec::new(), Vec::new()));
}

/// What clears the rest of a interrupted creation away would have removed the volume that was made there after it.
#[tokio::test]
async fn a_late_clearing_of_what_was_begun_does_not_remove_the_volume_that_was_made() {
    let mut site = Site::new();
    let request = request("a", &[]);
    site.fake_cluster.state().stop = Stop::After(1);
    site.create(&request).await.unwrap_err();
    site.fake_cluster.state().stop = Stop::Never;
    let clearing = async {
        loop {
            let _ = site.create(&request).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    begun::<()>(&site, "rm", clearing).await;
    site.restart();
    let since = Instant::now();
    while let Err(error) = site.create(&request).await {
        assert!(since.elapsed() < Duration::from_mins(1), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.vault.set_volume(&request.name, false);
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    site.fake_cluster.let_go();
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| !fake_cluster.images().is_empty()).await;
    assert!(site.fake_cluster.state().spaces["rbd"].images["berth-uid-a"].content);
}

/// A purge goes by the id of an image, and not before its time.
#[tokio::test]
async fn a_late_purge_does_not_touch_an_image_that_left_the_trash() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.remove(&removal).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let permit = Permit::unlimited();
    begun(&site, "trash rm", site.rbd.collect_garbage(&permit)).await;
    // An administrator took it out of the trash, and made a PV of it.
    site.restart();
    site.vault.set_volume(&request.name, false);
    site.restore(&removal).await.unwrap();
    site.fake_cluster.let_go();
    assert!(site.fake_cluster.state().spaces["rbd"].images["berth-uid-a"].content);
    // The same where it was archived since.
    begun(&site, "trash mv", site.remove(&Removal { disposal: Disposal::Archive, ..removal.clone() })).await;
    site.fake_cluster.let_go();
    assert_eq!(site.trash(), ["berth-uid-a"]);
}

#[tokio::test]
async fn a_late_way_back_of_an_image_that_was_purged_does_nothing() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.remove(&removal).await.unwrap();
    begun(&site, "trash restore", site.restore(&removal)).await;
    site.restart();
    site.collect_until(|store| store.purged == 1).await;
    site.fake_cluster.let_go();
    assert_eq!((site.fake_cluster.images(), site.trash()), (Vec::new(), Vec::new()));
}

/// At worst a late mark says what was so before: then nothing is removed, and the way on is told.
#[tokio::test]
async fn a_late_mark_of_a_cluster_that_gave_the_volume_away_costs_a_refusal() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let unsigned = {
        let state = site.fake_cluster.state();
        let mark = state.spaces["rbd"].images["berth-uid-a"].metadata["berth.owner"].clone();
        mark.replace("\"installation\":\"here\"", "\"installation\":\"\"")
    };
    site.fake_cluster.change("berth-uid-a", |image| {
        image.metadata.insert("berth.owner".into(), unsigned);
    });
    let permit = Permit::unlimited();
    begun(&site, "image-meta set", site.rbd.register(&in_use(&request, &volume), &permit)).await;
    // Another cluster was given the volume.
    *site.vault.cluster_id.lock().unwrap() = Some("there".into());
    site.restart();
    let mut taken = in_use(&request, &volume);
    taken.pv_metadata.take_over = Some(crate::volume::UNRECORDED.into());
    taken.pv_metadata.uid = "its-object-there".into();
    site.rbd.register(&taken, &permit).await.unwrap();
    site.fake_cluster.let_go();
    let delete = Removal { pv_metadata: taken.pv_metadata, ..removal(&request, &volume, Disposal::Delete) };
    let error = site.remove(&delete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().ends_with("berth.storage/take-over=here"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

//! A pool, or a cluster, that takes no more: volumes can be deleted there, and it is not called lost.

use super::{
    older::{IMAGE, planted},
    *,
};
use crate::{backend::conformance::removal, volume::PvMetadata};

/// A volume in a pool that is full, whose PV is to be removed. Something was deleted there before.
async fn made(site: &Site) -> (VolumeRequest, Volume) {
    let before = request("before", &[]);
    let volume = site.create(&before).await.unwrap();
    site.remove(&removal(&before, &volume, Disposal::Delete)).await.unwrap();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    site.vault.set_volume(&request.name, true);
    set_full(site, true);
    (request, volume)
}

fn set_full(site: &Site, full: bool) {
    let mut state = site.fake_cluster.state();
    if full {
        state.full.insert("rbd".into())
    } else {
        state.full.remove("rbd")
    };
}

/// In a full pool nothing could be deleted.
#[tokio::test]
async fn a_volume_in_a_full_pool_is_moved_to_the_trash_and_purged_or_restored() {
    for rescued in [false, true] {
        let site = Site::new();
        let (request, volume) = made(&site).await;
        let delete = removal(&request, &volume, Disposal::Delete);
        assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
        assert!(site.trash().contains(&"berth-uid-a".to_owned()));
        if rescued {
            site.vault.set_volume(&request.name, false);
            let error = site.restore(&delete).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Exhausted, "there is no room for the way back");
            assert!(error.to_string().contains("pool rbd is full"), "{error}");
            set_full(&site, false);
            assert_eq!(site.restore(&delete).await.unwrap(), Restored::MovedBack);
            assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
        } else {
            site.vault.delete_volume(&request.name);
            // It is purged while the pool is full: that makes the room.
            site.collect_until(|store| store.purged == 2).await;
            assert_eq!((site.fake_cluster.images(), site.trash()), (Vec::new(), Vec::new()));
        }
        assert_eq!(site.rbd.stores()[0].ready, Ok(()), "it is full, and not lost");
    }
}

#[tokio::test]
async fn a_volume_in_a_full_pool_is_archived_for_as_long_as_elsewhere() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let archive = removal(&request, &volume, Disposal::Archive);
    assert!(matches!(site.remove(&archive).await.unwrap(), Removed::Archived(_)));
    let until = site.fake_cluster.state().spaces["rbd"].trash.last().unwrap().until;
    assert_eq!(until.to_string().get(..4), Some("2100"));
}

#[tokio::test]
async fn nothing_is_moved_in_a_full_pool_unless_its_pv_is_to_be_removed_at_that_moment() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let delete = removal(&request, &volume, Disposal::Delete);
    site.vault.set_volume(&request.name, false);
    let error = site.remove(&delete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    site.vault.volumes.lock().unwrap().insert(request.name.clone(), ("another-object".into(), true));
    assert_eq!(site.remove(&delete).await.unwrap_err().kind(), Kind::Unavailable);
    *site.vault.reachable.lock().unwrap() = false;
    assert_eq!(site.remove(&delete).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

/// `rbd rm` does what a pool is configured to, whatever the program is told.
#[tokio::test]
async fn a_pool_that_is_configured_to_keep_nothing_loses_nothing() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    site.fake_cluster.state().keeps_nothing = true;
    let error = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.to_string().contains("rbd config pool remove rbd rbd_move_to_trash_on_remove"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

/// Where nothing was ever deleted, a full pool has no room for the list of its trash, and the program says that there is no image.
#[tokio::test]
async fn an_image_is_not_gone_because_a_full_pool_has_no_trash_yet() {
    let mut site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.vault.set_volume(&request.name, true);
    let delete = removal(&request, &volume, Disposal::Delete);
    set_full(&site, true);
    let error = site.remove(&delete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.to_string().contains("pool rbd is full"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
    // So the list is made as long as there is room.
    set_full(&site, false);
    site.restart();
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| fake_cluster.state().spaces["rbd"].has_trash).await;
    set_full(&site, true);
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
}

/// The Event blamed the network, and the store was called lost.
#[tokio::test]
async fn what_cannot_be_done_in_a_full_pool_names_the_pool() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let permit = Permit::unlimited();
    let errors = [
        site.create(&super::request("b", &[])).await.unwrap_err(),
        site.rbd.expand(&expansion(&request, &volume, 2 << 30), &permit).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.to_string().contains("pool rbd is full: its quota is reached"), "{error}");
    }
    assert_eq!(site.rbd.stores()[0].ready, Ok(()));
}

#[tokio::test]
async fn an_image_that_cannot_be_marked_in_a_full_pool_is_removed_at_once_if_it_is_to_be_deleted() {
    let site = Site::new();
    site.fake_cluster.plant("rbd", IMAGE, planted());
    let delete = super::older::removal(IMAGE, Disposal::Delete);
    let mut delete = Removal {
        pv_metadata: PvMetadata { uid: "object-pvc-old".into(), ..delete.pv_metadata.clone() },
        ..delete
    };
    set_full(&site, true);
    site.fake_cluster.state().spaces.get_mut("rbd").unwrap().has_trash = true;
    let archive = Removal { disposal: Disposal::Archive, ..delete.clone() };
    assert_eq!(site.remove(&archive).await.unwrap_err().kind(), Kind::Exhausted);
    assert_eq!(site.remove(&delete).await.unwrap_err().kind(), Kind::Unavailable, "no PV is to be removed");
    site.vault.set_volume(&delete.name, true);
    site.fake_cluster.change(IMAGE, |image| image.size = 1 << 50);
    let error = site.remove(&delete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "it would take too long: {error}");
    assert_eq!(site.fake_cluster.images(), [IMAGE]);
    site.fake_cluster.change(IMAGE, |image| image.size = 1 << 30);
    // Broken off half way, it is gone on with.
    site.fake_cluster.state().may_remove = true;
    site.fake_cluster.state().stop = fake_cluster::Stop::After(0);
    site.remove(&delete).await.unwrap_err();
    assert_eq!(site.fake_cluster.images(), [""; 0]);
    delete.claim.uid = "another".into();
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
    assert_eq!(site.trash(), [""; 0]);
}

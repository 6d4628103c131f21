//! A removal can be undone until the PV is gone: by the provisioner, and by what looks after the trash.

use super::{
    fake_cluster::Stop,
    older::{IMAGE, planted},
    *,
};
use crate::backend::{conformance::removal, rbd::entry::State};

/// A move to the trash and a way back have so many steps.
const STEPS: usize = 4;

async fn made(site: &Site) -> (VolumeRequest, Volume) {
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    (request, volume)
}

fn stops() -> impl Iterator<Item = Stop> {
    (0..STEPS).flat_map(|step| [Stop::Before(step), Stop::After(step)])
}

/// That the image is in its place, with its content, and nothing is in the trash.
fn is_back(site: &Site, image: &str, row: &str) {
    let state = site.fake_cluster.state();
    let space = &state.spaces["rbd"];
    assert_eq!(space.images.keys().collect::<Vec<_>>(), [image], "{row}");
    let there = &space.images[image];
    assert!(there.content && !there.without_header && !there.unlisted, "{row}: {there:?}");
    assert!(space.trash.is_empty(), "{row}: {:?}", space.trash);
}

/// A rescue that the API accepted was lost: the next process purged after fifteen seconds while the PV existed.
#[tokio::test]
async fn an_image_whose_pv_was_rescued_while_nothing_led_is_put_back() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let mut site = Site::new();
        let (request, volume) = made(&site).await;
        site.vault.set_volume(&request.name, true);
        site.remove(&removal(&request, &volume, disposal)).await.unwrap();
        site.vault.set_volume(&request.name, false);
        // Long enough to be purged by the cluster's clock.
        tokio::time::sleep(Duration::from_millis(400)).await;
        site.restart();
        let fake_cluster = site.fake_cluster.clone();
        site.collect_until(move |_| !fake_cluster.images().is_empty()).await;
        is_back(&site, "berth-uid-a", &disposal.to_string());
        assert_eq!(site.rbd.stores()[0].purged, 0);
    }
}

#[tokio::test]
async fn nothing_is_purged_before_its_pv_is_gone_and_the_api_server_says_so() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    site.vault.set_volume(&request.name, true);
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    site.collect_for(Duration::from_millis(700)).await;
    assert_eq!(site.trash(), ["berth-uid-a"], "its PV is still being removed");
    site.vault.delete_volume(&request.name);
    *site.vault.reachable.lock().unwrap() = false;
    site.collect_until(|store| !store.stuck.is_empty()).await;
    assert_eq!(site.trash(), ["berth-uid-a"], "nothing says that its PV is gone");
    *site.vault.reachable.lock().unwrap() = true;
    site.collect_until(|store| store.purged == 1 && store.trash == 0).await;
}

#[tokio::test]
async fn what_is_deleted_stays_as_long_as_its_pv_or_the_administrator_says() {
    let rows = [(None, 75), (Some(Duration::from_hours(2)), 7_215), (Some(Duration::ZERO), 15)];
    for (of_pv, expected) in rows {
        let site = Site::new();
        *site.vault.retention.lock().unwrap() = Duration::from_mins(1);
        let (request, volume) = made(&site).await;
        let mut delete = removal(&request, &volume, Disposal::Delete);
        delete.pv_metadata.retention = of_pv;
        site.fake_cluster.calls();
        site.remove(&delete).await.unwrap();
        let calls = site.fake_cluster.calls();
        assert!(calls.last().unwrap().contains(&format!("--expires-at {expected} seconds")), "{calls:?}");
    }
}

/// A clock that was a month ahead destroyed archives that were to be kept for a month.
#[tokio::test]
async fn what_expires_expires_by_the_api_servers_clock_and_not_while_that_is_unknown() {
    let month = 24 * 3_600 * 30;
    for (disposal, class) in
        [(Disposal::Archive, [("archiveExpiry", "1m")]), (Disposal::Delete, [("pool", "rbd")])]
    {
        for wrong in [None, Some(-month)] {
            let site = Site::new();
            let request = request("a", &class);
            let volume = site.create(&request).await.unwrap();
            site.remove(&removal(&request, &volume, disposal)).await.unwrap();
            *site.vault.ahead.lock().unwrap() = wrong;
            // By the clock of this machine it is long over.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            site.collect_for(Duration::from_millis(400)).await;
            assert_eq!(site.trash(), ["berth-uid-a"], "{disposal} {wrong:?}");
            *site.vault.ahead.lock().unwrap() = Some(0);
            site.collect_until(|store| store.purged == 1).await;
        }
    }
}

#[tokio::test]
async fn what_is_to_be_kept_for_a_time_is_not_archived_while_the_time_is_unknown() {
    let site = Site::new();
    let bounded = request("a", &[("archiveExpiry", "30d")]);
    let volume = site.create(&bounded).await.unwrap();
    *site.vault.ahead.lock().unwrap() = None;
    let archive = removal(&bounded, &volume, Disposal::Archive);
    let error = site.remove(&archive).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("clock"), "{error}");
    *site.vault.ahead.lock().unwrap() = Some(0);
    site.remove(&archive).await.unwrap();
}

#[tokio::test]
async fn a_removal_that_was_interrupted_anywhere_is_undone_and_can_be_asked_for_again() {
    for older in [false, true] {
        for disposal in [Disposal::Delete, Disposal::Archive] {
            for stop in stops().chain([Stop::Never]) {
                let row = format!("older: {older} {disposal} {stop:?}");
                let mut site = Site::new();
                let (removal, image) = if older {
                    site.fake_cluster.plant("rbd", IMAGE, planted());
                    (super::older::removal(IMAGE, disposal), IMAGE)
                } else {
                    let (request, volume) = made(&site).await;
                    (removal(&request, &volume, disposal), "berth-uid-a")
                };
                site.fake_cluster.state().stop = stop;
                let _ = site.remove(&removal).await;
                site.fake_cluster.state().stop = Stop::Never;
                site.restart();
                site.restore(&removal).await.unwrap_or_else(|error| panic!("{row}: {error}"));
                is_back(&site, image, &row);
                assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace, "{row}");
                site.remove(&removal).await.unwrap();
                assert_eq!(site.trash(), [image], "{row}");
            }
        }
    }
}

#[tokio::test]
async fn a_way_back_that_was_interrupted_is_finished_by_the_next_call() {
    for stop in stops() {
        for by_itself in [false, true] {
            let row = format!("{stop:?} by itself: {by_itself}");
            let mut site = Site::new();
            let (request, volume) = made(&site).await;
            let removal = removal(&request, &volume, Disposal::Delete);
            site.remove(&removal).await.unwrap();
            site.vault.set_volume(&request.name, false);
            site.fake_cluster.state().stop = stop;
            site.restore(&removal).await.unwrap_err();
            site.fake_cluster.state().stop = Stop::Never;
            site.restart();
            if by_itself {
                let fake_cluster = site.fake_cluster.clone();
                site.collect_until(move |_| fake_cluster.state().spaces["rbd"].trash.is_empty()).await;
            } else {
                site.restore(&removal).await.unwrap();
            }
            is_back(&site, "berth-uid-a", &row);
        }
    }
}

/// A removal that hung was given up, and went on afterwards.
#[tokio::test]
async fn while_a_removal_is_at_work_it_cannot_be_undone() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.fake_cluster.state().hold = Some("trash mv");
    let permit = Permit::unlimited();
    let removing = site.rbd.remove(&removal, &permit);
    tokio::pin!(removing);
    while site.fake_cluster.held() == 0 {
        assert!(futures::poll!(&mut removing).is_pending(), "it is held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = site.restore(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
}

#[tokio::test]
async fn what_was_moved_by_hand_and_what_is_anothers_stays_in_the_trash() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.fake_cluster.move_to_trash("berth-uid-a", "0 seconds");
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace, "we began nothing");
    assert_eq!(site.trash(), ["berth-uid-a"]);
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = conformance::removal(&request, &volume, Disposal::Delete);
    site.remove(&removal).await.unwrap();
    *site.vault.cluster_id.lock().unwrap() = Some("there".into());
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace);
    assert_eq!(site.trash(), ["berth-uid-a"]);
}

#[tokio::test]
async fn an_image_whose_name_is_taken_is_not_restored_over_it_and_purged_when_it_is_due() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.remove(&removal).await.unwrap();
    // Its PV was made again, with a volume of its own.
    let new = site.create(&request).await.unwrap();
    assert_eq!(new, volume);
    site.vault.set_volume(&request.name, false);
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace);
    site.restart();
    site.collect_until(|store| store.purged == 1).await;
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn an_image_whose_purge_has_begun_is_not_restored_and_that_is_reported() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let removal = removal(&request, &volume, Disposal::Delete);
    site.remove(&removal).await.unwrap();
    site.fake_cluster.state().spaces.get_mut("rbd").unwrap().trash[0].state = State::Removing;
    site.vault.set_volume(&request.name, false);
    site.collect_until(|store| store.stuck.iter().any(|(_, why)| why.contains("purge had begun"))).await;
    assert_eq!(site.trash(), ["berth-uid-a"]);
    site.vault.delete_volume(&request.name);
    site.collect_until(|store| store.purged == 1).await;
}

//! What was deleted is purged and nothing else, also by a process that knows of nothing.

use super::{fake_cluster::Stop, *};
use crate::backend::{conformance::removal, rbd::entry::State};

async fn removed(site: &Site, name: &str, more: &[(&str, &str)], disposal: Disposal) -> Removed {
    let request = request(name, more);
    let volume = site.create(&request).await.unwrap();
    site.remove(&removal(&request, &volume, disposal)).await.unwrap()
}

#[tokio::test]
async fn what_is_archived_by_hand_or_by_others_survives_what_is_deleted() {
    let mut site = Site::new();
    removed(&site, "deleted", &[], Disposal::Delete).await;
    removed(&site, "archived", &[], Disposal::Archive).await;
    removed(&site, "kept", &[("archiveExpiry", "30d")], Disposal::Archive).await;
    for (image, until) in
        [("berth-uid-hand", "0 seconds"), ("csi-vol-1", "15 seconds"), ("pvc-1", "20 seconds")]
    {
        site.fake_cluster.plant("rbd", image, Image { size: 1 << 20, ..Image::default() });
        site.fake_cluster.move_to_trash(image, until);
    }
    site.restart();
    site.collect_until(|store| store.purged == 1).await;
    // Longer than any of them was given, by the cluster's clock.
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.collect_until(|store| store.trash == 0).await;
    assert_eq!(
        site.trash(),
        ["berth-uid-archived", "berth-uid-hand", "berth-uid-kept", "csi-vol-1", "pvc-1"]
    );
    assert_eq!(site.rbd.stores()[0].stuck, []);
}

#[tokio::test]
async fn what_was_archived_until_now_is_purged() {
    let mut site = Site::new();
    removed(&site, "a", &[("archiveExpiry", "1m")], Disposal::Archive).await;
    site.restart();
    site.collect_until(|store| store.purged == 1).await;
    assert_eq!(site.trash(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_purged_is_reported_and_tried_again() {
    let site = Site::new();
    removed(&site, "a", &[], Disposal::Delete).await;
    removed(&site, "b", &[], Disposal::Delete).await;
    // Somebody opened it in the trash.
    site.fake_cluster.change_in_trash("berth-uid-a", |image| image.watchers = vec!["10.0.0.7:0/1".into()]);
    site.collect_until(|store| store.purged == 1 && !store.stuck.is_empty()).await;
    let status = site.rbd.stores().remove(0);
    assert_eq!(status.trash, 1);
    assert!(status.stuck[0].0.starts_with("rbd/"), "{:?}", status.stuck);
    assert!(status.stuck[0].1.contains("berth-uid-a"), "{:?}", status.stuck);
    site.fake_cluster.change_in_trash("berth-uid-a", |image| image.watchers.clear());
    site.collect_until(|store| store.purged == 2).await;
    assert_eq!(site.rbd.stores()[0].trash, 0);
}

#[tokio::test]
async fn what_lies_in_the_trash_by_hand_stays_there() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.move_to_trash("berth-uid-a", "0 seconds");
    let removed = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    assert!(matches!(removed, Removed::Archived(_)), "{removed:?}");
    assert_eq!(site.trash(), ["berth-uid-a"]);
}

#[tokio::test]
async fn a_trash_that_cannot_be_listed_is_reported() {
    let site = Site::new();
    site.rbd.register_class(&parameters(&[]));
    site.fake_cluster.state().odd = Some(("listomapvals", "nonsense"));
    site.collect_until(|store| !store.stuck.is_empty()).await;
    let (what, why) = site.rbd.stores().remove(0).stuck.remove(0);
    assert_eq!(what, "rbd");
    assert!(why.contains("list the trash of rbd"), "{why}");
    site.fake_cluster.state().odd = None;
    site.collect_until(|store| store.stuck.is_empty()).await;
}

/// The trash of another pool was listed first, and for that time nothing seemed to wait.
#[tokio::test]
async fn what_was_deleted_is_counted_until_it_is_purged() {
    let site = Site::new();
    site.fake_cluster.state().spaces.insert("another".into(), fake_cluster::Space::default());
    site.rbd.register_class(&parameters(&[("pool", "another")]));
    removed(&site, "a", &[], Disposal::Delete).await;
    assert_eq!(site.rbd.stores()[0].trash, 1);
    let permit = Permit::unlimited();
    let counted = async {
        loop {
            // Read in this order, so that what is purged in between is not missed.
            let store = site.rbd.stores().remove(0);
            assert!(store.trash > 0 || store.purged > 0, "{store:?}");
            if store.purged > 0 && store.trash == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = site.rbd.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = counted => {}
    }
}

/// The trash of a pool in which another cluster deletes as well was never empty.
#[tokio::test]
async fn what_another_cluster_deleted_does_not_count_as_waiting_here() {
    let mut site = Site::new();
    removed(&site, "theirs", &[], Disposal::Delete).await;
    ownership::become_(&site, Some("there"));
    site.restart();
    removed(&site, "ours", &[], Disposal::Delete).await;
    site.collect_until(|store| store.purged == 1 && store.trash == 0).await;
    assert_eq!(site.trash(), ["berth-uid-theirs"]);
}

/// It was counted until it was due: its name, which the other cluster gives as well, tells no owner.
#[tokio::test]
async fn what_another_cluster_deleted_does_not_count_as_waiting_before_it_is_due_either() {
    let mut site = Site::new();
    *site.vault.retention.lock().unwrap() = Duration::from_hours(24 * 30);
    removed(&site, "theirs", &[], Disposal::Delete).await;
    ownership::become_(&site, Some("there"));
    site.restart();
    removed(&site, "ours", &[], Disposal::Delete).await;
    let fake_cluster = site.fake_cluster.clone();
    site.fake_cluster.calls();
    site.collect_until(move |store| {
        fake_cluster.state().calls.iter().any(|call| call.ends_with("listomapvals rbd_trash"))
            && store.trash == 1
    })
    .await;
    site.restart();
    site.collect_until(|store| store.trash == 1).await;
    assert_eq!(site.rbd.stores()[0].stuck, []);
    assert_eq!(site.trash(), ["berth-uid-ours", "berth-uid-theirs"]);
}

/// It was shown as stuck, and counted, in every cluster that uses the pool.
#[tokio::test]
async fn a_large_image_that_another_cluster_purges_is_not_counted_here() {
    let mut site = Site::new();
    thin(&site, "a", 1 << 40).await;
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| fake_cluster.state().calls.iter().any(|call| call.starts_with("rbd resize")))
        .await;
    ownership::become_(&site, Some("there"));
    site.restart();
    let fake_cluster = site.fake_cluster.clone();
    site.fake_cluster.calls();
    site.collect_until(move |store| {
        let looked = |call: &String| call.contains("rbd info") && call.contains("berth.purging-");
        fake_cluster.state().calls.iter().any(looked) && store.trash == 0
    })
    .await;
    assert_eq!(site.rbd.stores()[0].stuck, []);
    assert_eq!(site.fake_cluster.images().len(), 1, "it is there still");
}

/// The API server tells whole seconds. An image that was due, and a moment later was not, waited for ten minutes.
#[tokio::test]
async fn an_image_is_purged_when_it_is_due_also_where_the_clock_goes_back_at_that_moment() {
    let site = Site::patient();
    *site.vault.setbacks.lock().unwrap() = 1;
    removed(&site, "a", &[], Disposal::Delete).await;
    site.collect_until(|store| store.purged == 1).await;
    *site.vault.setbacks.lock().unwrap() = 2;
    thin(&site, "b", 1 << 40).await;
    site.collect_until(|store| store.purged == 2).await;
    assert_eq!(*site.vault.setbacks.lock().unwrap(), 0, "the clock went back");
}

#[tokio::test]
async fn what_has_no_header_in_the_trash_any_more_is_purged_like_the_rest() {
    let site = Site::new();
    removed(&site, "a", &[], Disposal::Delete).await;
    removed(&site, "b", &[], Disposal::Delete).await;
    // The purge of the last one was interrupted.
    site.fake_cluster.change_in_trash("berth-uid-b", |image| image.without_header = true);
    site.collect_until(|store| store.purged == 2).await;
    assert_eq!(site.trash(), [""; 0]);
}

#[tokio::test]
async fn a_move_that_was_interrupted_is_finished_before_the_purge_but_what_is_still_there_is_left_alone() {
    let site = Site::new();
    removed(&site, "a", &[], Disposal::Delete).await;
    removed(&site, "b", &[], Disposal::Delete).await;
    for entry in &mut site.fake_cluster.state().spaces.get_mut("rbd").unwrap().trash {
        entry.state = State::Moving;
    }
    // It was interrupted at its first step.
    let b = site.fake_cluster.state().spaces["rbd"].trash[1].image.clone();
    site.fake_cluster.state().spaces.get_mut("rbd").unwrap().images.insert("berth-uid-b".into(), b);
    site.collect_until(|store| store.purged == 1 && !store.stuck.is_empty()).await;
    let stuck = site.rbd.stores().remove(0).stuck;
    assert!(stuck[0].1.contains("rbd trash mv"), "{stuck:?}");
    assert_eq!(
        (site.fake_cluster.images(), site.trash()),
        (vec!["berth-uid-b".to_owned()], vec!["berth-uid-b".to_owned()])
    );
}

/// How often the trash was listed since the last time.
fn lists(site: &Site) -> usize {
    site.fake_cluster.calls().iter().filter(|call| call.ends_with("listomapvals rbd_trash")).count()
}

#[tokio::test]
async fn a_trash_is_not_listed_while_nothing_in_it_is_due() {
    let site = Site::new();
    removed(&site, "archived", &[], Disposal::Archive).await;
    for name in ["later", "sooner"] {
        let expiry = [("archiveExpiry", if name == "later" { "30d" } else { "1h" })];
        removed(&site, name, &expiry, Disposal::Archive).await;
    }
    let site = site.restarted_patient();
    site.rbd.register_class(&parameters(&[]));
    lists(&site);
    // Several times as long as the shortest time between two looks.
    let until = Instant::now() + QUICK.soon * 8;
    site.collect_until(move |_| Instant::now() > until).await;
    assert_eq!(lists(&site), 1, "once, to learn what is there");
    let permit = Permit::unlimited();
    tokio::select! {
        () = site.rbd.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = async {
            // Learnt once, and then only what is moved there is waited for.
            while lists(&site) == 0 { tokio::time::sleep(QUICK.soon).await; }
            removed(&site, "deleted", &[], Disposal::Delete).await;
            while site.rbd.stores()[0].purged == 0 { tokio::time::sleep(QUICK.soon).await; }
            tokio::time::sleep(QUICK.soon * 4).await;
            assert_eq!(lists(&site), 1, "when it is due");
        } => {}
    }
}

/// An image that was called `berth-test` and moved to the trash by hand, with a time, was purged.
#[tokio::test]
async fn an_image_that_is_only_called_like_ours_is_left_alone_and_told() {
    let mut site = Site::new();
    site.fake_cluster.plant("rbd", "berth-test", Image { size: 1 << 20, content: true, ..Image::default() });
    site.fake_cluster.move_to_trash("berth-test", "15 seconds");
    site.restart();
    site.collect_until(|store| store.stuck.iter().any(|(_, why)| why.contains("no owner"))).await;
    assert_eq!(site.trash(), ["berth-test"]);
    assert_eq!(site.rbd.stores()[0].purged, 0);
}

/// Removes a volume of so many bytes, most of which were never written.
async fn thin(site: &Site, name: &str, bytes: u64) {
    let request = request(name, &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.change(&format!("berth-uid-{name}"), |image| image.size = bytes);
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
}

/// Two thin images of 900 TiB occupied both places for purges, and nothing else was purged for days.
#[tokio::test]
async fn huge_images_keep_no_other_one_from_being_purged() {
    let mut site = Site::new();
    for name in ["a", "b", "c"] {
        thin(&site, name, 900 << 40).await;
    }
    for name in ["d", "e", "f"] {
        thin(&site, name, 1 << 30).await;
    }
    // Not one slice gets done.
    site.fake_cluster.state().hold = Some("resize");
    site.restart();
    site.collect_until(|store| store.purged == 3 && store.trash == 3).await;
    let state = site.fake_cluster.state();
    let space = &state.spaces["rbd"];
    assert_eq!(space.images.len() + space.trash.len(), 3, "the huge ones are there still");
}

/// A purge that was interrupted began with the first object again.
#[tokio::test]
async fn a_large_image_is_purged_in_slices_that_are_kept() {
    for stop in
        [Stop::Never, Stop::Before(1), Stop::After(5), Stop::Before(6), Stop::Before(9), Stop::After(12)]
    {
        let mut site = Site::new();
        thin(&site, "a", 1 << 40).await;
        site.fake_cluster.state().stop = stop;
        let permit = Permit::unlimited();
        let fake_cluster = site.fake_cluster.clone();
        let stopped = async {
            while stop != Stop::Never && !fake_cluster.state().stopped {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = site.rbd.collect_garbage(&permit) => {}
            () = stopped => {}
        }
        let left = |site: &Site| {
            let state = site.fake_cluster.state();
            let space = &state.spaces["rbd"];
            let mut all = space.images.values().chain(space.trash.iter().map(|entry| &entry.image));
            all.next().map(|image| image.size)
        };
        let before = left(&site);
        site.fake_cluster.calls();
        // Another process goes on.
        site.restart();
        let fake_cluster = site.fake_cluster.clone();
        site.collect_until(move |store| {
            let state = fake_cluster.state();
            let space = &state.spaces["rbd"];
            store.trash == 0 && space.images.is_empty() && space.trash.is_empty()
        })
        .await;
        for call in site.fake_cluster.calls().iter().filter(|call| call.starts_with("rbd resize")) {
            let size: u64 = call.split(' ').find_map(|word| word.strip_suffix('B')?.parse().ok()).unwrap();
            assert!(before.is_some_and(|before| size < before), "{stop:?}: {call} after {before:?}");
        }
    }
}

/// It was looked for once, and never again where the cluster was away at that moment.
#[tokio::test]
async fn a_large_image_that_an_earlier_process_left_is_found_also_where_the_first_look_failed() {
    let mut site = Site::new();
    thin(&site, "a", 1 << 40).await;
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| fake_cluster.state().calls.iter().any(|call| call.starts_with("rbd resize")))
        .await;
    site.fake_cluster.state().odd = Some(("ls", "nonsense"));
    site.restart();
    site.collect_until(|store| !store.stuck.is_empty()).await;
    site.fake_cluster.state().odd = None;
    site.collect_until(|store| store.purged == 1).await;
    assert_eq!(site.fake_cluster.images(), [""; 0]);
}

#[tokio::test]
async fn what_is_left_of_a_large_image_stays_while_its_pv_is_there_again() {
    let mut site = Site::new();
    thin(&site, "a", 1 << 40).await;
    let fake_cluster = site.fake_cluster.clone();
    site.collect_until(move |_| fake_cluster.state().calls.iter().any(|call| call.starts_with("rbd resize")))
        .await;
    let image = site.fake_cluster.images().remove(0);
    assert!(image.starts_with("berth.purging-"), "{image}");
    site.vault.set_volume(&"pvc-uid-a".parse().unwrap(), false);
    site.restart();
    site.collect_until(|store| store.stuck.iter().any(|(_, why)| why.contains("was made again"))).await;
    assert_eq!(site.fake_cluster.images(), [image]);
    site.vault.delete_volume(&"pvc-uid-a".parse().unwrap());
    site.collect_until(|store| store.purged == 1).await;
}

#[tokio::test]
async fn an_image_that_others_made_under_the_name_of_a_purge_is_left_alone() {
    let mut site = Site::new();
    site.fake_cluster.plant(
        "rbd",
        "berth.purging-1234",
        Image { size: 1 << 40, content: true, ..Image::default() },
    );
    site.restart();
    site.collect_until(|store| !store.stuck.is_empty()).await;
    assert_eq!(site.fake_cluster.images(), ["berth.purging-1234"]);
}

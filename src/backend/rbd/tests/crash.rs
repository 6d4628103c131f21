//! Whatever is interrupted at any of its steps is finished by a later call, and nothing is lost or left behind.

use super::{fake_cluster::Stop, *};
use crate::backend::{conformance::removal, rbd::entry::State};

/// A creation writes a name, what it stands for, a header, the mark, the size.
const STEPS: usize = 5;
/// A move to the trash writes an entry there, removes what the name stands for, the name, and completes the entry.
const MOVE: usize = 4;
/// An image that has no mark gets one first.
const MARK: usize = 1;

use super::older::IMAGE;

/// The UID of a claim as Kubernetes gives them.
const UID: &str = "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";

/// The request of a claim with this UID.
fn named(uid: &str) -> VolumeRequest {
    let mut request = request("a", &[]);
    request.name = VolumeName::for_claim(uid).unwrap();
    uid.clone_into(&mut request.claim.uid);
    request
}

/// Every point at which an operation that changes at most `steps` things can be stopped.
fn stops(steps: usize) -> impl Iterator<Item = Stop> {
    (0..steps).flat_map(|step| [Stop::Before(step), Stop::After(step)])
}

/// Tries again until it succeeds, as the loop does; at most a minute.
async fn until_done<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let since = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                assert!(error.kind().may_still_happen(), "it was given up: {error}");
                assert!(since.elapsed() < Duration::from_mins(1), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Breaks `first` off at `stop`; whether it got so far.
async fn broken_off<T: std::fmt::Debug>(
    site: &Site,
    stop: Stop,
    first: impl Future<Output = Result<T, Error>>,
) -> bool {
    site.fake_cluster.state().stop = stop;
    let result = first.await;
    let mut state = site.fake_cluster.state();
    state.stop = Stop::Never;
    let stopped = std::mem::take(&mut state.stopped);
    assert_eq!(result.is_err(), stopped, "{stop:?}: {result:?}");
    stopped
}

/// Proves: rbd 8
#[tokio::test]
async fn a_creation_that_was_interrupted_is_finished() {
    for restart in [false, true] {
        for stop in stops(STEPS) {
            let mut site = Site::new();
            let request = request("a", &[("imageFeatures", "layering")]);
            assert!(broken_off(&site, stop, site.create(&request)).await, "{stop:?}");
            if restart {
                site.restart();
            }
            let volume = until_done(async || site.create(&request).await).await;
            assert_eq!(volume.capacity, Some(request.capacity), "{stop:?}");
            assert_eq!(site.fake_cluster.images(), ["berth-uid-a"], "{stop:?}");
            let image = site.fake_cluster.state().spaces["rbd"].images["berth-uid-a"].clone();
            assert_eq!((image.size, image.features, image.without_header), (1 << 30, 1, false), "{stop:?}");
            assert!(image.metadata["berth.owner"].contains("uid-a"), "{stop:?}");
            // What could not be opened was cleared away into the trash.
            let trash = site.fake_cluster.state().spaces["rbd"].trash.clone();
            assert!(trash.iter().all(|entry| entry.image.without_header), "{stop:?}: {trash:?}");
            site.collect_until(|store| store.trash == 0).await;
            assert_eq!(site.trash(), [""; 0], "{stop:?}");
        }
    }
}

#[tokio::test]
async fn the_creation_has_no_more_steps_than_are_tried() {
    let site = Site::new();
    site.fake_cluster.state().stop = Stop::Before(STEPS);
    site.create(&request("a", &[])).await.unwrap();
    assert!(!site.fake_cluster.state().stopped);
}

/// Proves: rbd 21
#[tokio::test]
async fn a_creation_that_was_interrupted_for_good_is_swept() {
    for stop in stops(STEPS) {
        let mut site = Site::new();
        let request = named(UID);
        assert!(broken_off(&site, stop, site.create(&request)).await);
        site.restart();
        let since = Instant::now();
        loop {
            let found = site.rbd.list_uncommitted("main", &|_| false).await.unwrap();
            for uncommitted in &found {
                assert_eq!((uncommitted.id.name(), uncommitted.claim.uid.as_str()), (&request.name, UID));
                let _ = site.rbd.rollback(uncommitted, &Permit::unlimited()).await;
            }
            if found.is_empty() {
                break;
            }
            assert!(since.elapsed() < Duration::from_mins(1), "{stop:?}: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(site.fake_cluster.images(), Vec::<String>::new(), "{stop:?}");
        site.collect_until(|store| store.trash == 0).await;
        assert!(site.fake_cluster.state().spaces["rbd"].trash.is_empty(), "{stop:?}");
    }
}

#[tokio::test]
async fn an_adoption_that_was_interrupted_is_finished() {
    for first in [Stop::After(2), Stop::After(3)] {
        for stop in stops(2) {
            let site = Site::new();
            let request = request("a", &[]);
            assert!(broken_off(&site, first, site.create(&request)).await);
            broken_off(&site, stop, site.create(&request)).await;
            let volume = until_done(async || site.create(&request).await).await;
            assert_eq!(volume.capacity, Some(request.capacity));
            let image = site.fake_cluster.state().spaces["rbd"].images["berth-uid-a"].clone();
            assert_eq!((image.size, image.metadata.len()), (1 << 30, 1), "{first:?} {stop:?}");
        }
    }
}

#[tokio::test]
async fn a_removal_that_was_interrupted_is_finished() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        for older in [false, true] {
            let steps = if older { MARK + MOVE } else { MOVE };
            for stop in stops(steps) {
                let mut site = Site::new();
                let removal = if older {
                    site.fake_cluster.plant("rbd", IMAGE, super::older::planted());
                    super::older::removal(IMAGE, disposal)
                } else {
                    let request = request("a", &[]);
                    let volume = site.create(&request).await.unwrap();
                    removal(&request, &volume, disposal)
                };
                assert!(broken_off(&site, stop, site.remove(&removal)).await);
                site.restart();
                let removed = until_done(async || site.remove(&removal).await).await;
                let row = format!("{disposal} older: {older} {stop:?}");
                let listed = |site: &Site| {
                    let state = site.fake_cluster.state();
                    state.spaces["rbd"].images.values().filter(|image| !image.unlisted).count()
                };
                assert_eq!(listed(&site), 0, "{row}");
                match disposal {
                    Disposal::Delete => {
                        assert_eq!(removed, Removed::Trashed, "{row}");
                        site.restart();
                        site.collect_until(|store| store.purged == 1).await;
                        assert!(site.fake_cluster.state().spaces["rbd"].trash.is_empty(), "{row}");
                        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Absent, "{row}");
                    }
                    Disposal::Archive | Disposal::Retain => {
                        assert!(matches!(removed, Removed::Archived(_)), "{row}");
                        let state = site.fake_cluster.state();
                        let kept: Vec<_> = state.spaces["rbd"].trash.iter().collect();
                        assert!(kept.len() == 1 && kept[0].is_kept(), "{row}");
                        assert_eq!(kept[0].name, if older { IMAGE } else { "berth-uid-a" }, "its old name");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn an_archive_that_was_interrupted_survives_every_sweep() {
    for stop in stops(MOVE) {
        let mut site = Site::new();
        let request = named(UID);
        let image = format!("berth-{UID}");
        let volume = site.create(&request).await.unwrap();
        site.fake_cluster.change(&image, |image| image.content = true);
        let removal = removal(&request, &volume, Disposal::Archive);
        assert!(broken_off(&site, stop, site.remove(&removal)).await, "{stop:?}");
        site.restart();
        // Also with nobody who asks for the removal again.
        for again in [false, true] {
            if again {
                let removed = until_done(async || site.remove(&removal).await).await;
                assert!(matches!(removed, Removed::Archived(_)), "{stop:?}: {removed:?}");
            }
            for _ in 0..4 {
                for uncommitted in site.rbd.list_uncommitted("main", &|_| false).await.unwrap() {
                    let _ = site.rbd.rollback(&uncommitted, &Permit::unlimited()).await;
                }
                tokio::time::sleep(QUICK.making / 2).await;
            }
        }
        let state = site.fake_cluster.state();
        let trash = &state.spaces["rbd"].trash;
        assert_eq!(trash.len(), 1, "{stop:?}");
        let entry = &trash[0];
        assert!(
            entry.is_kept()
                && entry.state == State::Whole
                && entry.image.content
                && !entry.image.without_header,
            "{stop:?}: {entry:?}"
        );
        assert!(state.spaces["rbd"].images.is_empty(), "{stop:?}");
    }
}

#[tokio::test]
async fn a_creation_after_an_archive_that_was_interrupted_leaves_it_alone() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    let removal = removal(&request, &volume, Disposal::Archive);
    // The name alone is left of it.
    assert!(broken_off(&site, Stop::After(1), site.remove(&removal)).await);
    until_done(async || site.create(&request).await).await;
    let state = site.fake_cluster.state();
    let entry = &state.spaces["rbd"].trash[0];
    assert!(entry.is_kept() && entry.state == State::Whole && entry.image.content, "{entry:?}");
    assert_ne!(state.spaces["rbd"].images["berth-uid-a"].id, entry.image.id);
}

#[tokio::test]
async fn a_move_to_the_trash_that_was_interrupted_is_finished_before_the_volume_counts_as_removed() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let mut site = Site::new();
        let request = request("a", &[]);
        let volume = site.create(&request).await.unwrap();
        let removal = removal(&request, &volume, disposal);
        // Everything but the last step.
        assert!(broken_off(&site, Stop::Before(MOVE - 1), site.remove(&removal)).await);
        let state = |site: &Site| site.fake_cluster.state().spaces["rbd"].trash[0].state;
        assert_eq!(state(&site), State::Moving);
        site.restart();
        site.remove(&removal).await.unwrap();
        assert_eq!(state(&site), State::Whole, "{disposal}");
    }
}

/// Ceph keeps the expiry that a move began with: what was to be deleted at first, and then to be archived, was purged.
#[tokio::test]
async fn a_deletion_that_was_begun_becomes_the_archive_that_is_asked_for_now_and_the_other_way_round() {
    for (first, then) in [(Disposal::Delete, Disposal::Archive), (Disposal::Archive, Disposal::Delete)] {
        for stop in stops(MOVE) {
            let site = Site::new();
            let request = request("a", &[]);
            let volume = site.create(&request).await.unwrap();
            let begun = removal(&request, &volume, first);
            assert!(broken_off(&site, stop, site.remove(&begun)).await);
            let asked = Removal { disposal: then, ..begun };
            let removed = until_done(async || site.remove(&asked).await).await;
            assert_eq!(site.fake_cluster.images(), [""; 0]);
            let kept: Vec<bool> = site.fake_cluster.state().spaces["rbd"]
                .trash
                .iter()
                .map(super::fake_cluster::Trashed::is_kept)
                .collect();
            match then {
                Disposal::Archive => {
                    assert!(
                        matches!(removed, Removed::Archived(_)) && kept == [true],
                        "{stop:?}: {removed:?}"
                    );
                }
                // Where the entry alone was written, the move went on with its time: it stays for longer than was asked.
                _ => assert!(
                    removed == Removed::Trashed
                        && (kept == [false] || stop == Stop::After(0) || stop == Stop::Before(1)),
                    "{stop:?}: {kept:?}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_was_left_behind_goes_at_the_pace_of_the_sweep() {
    let mut site = Site::new();
    let request = named(UID);
    assert!(broken_off(&site, Stop::After(0), site.create(&request)).await);
    site.restart();
    // It is looked at, and rolled back once, when the grace is over.
    let found = site.rbd.list_uncommitted("main", &|_| false).await.unwrap();
    tokio::time::sleep(QUICK.making * 2).await;
    site.rbd.rollback(&found[0], &Permit::unlimited()).await.unwrap();
    assert_eq!(site.fake_cluster.images(), Vec::<String>::new());
}

#[tokio::test]
async fn an_expansion_that_was_interrupted_is_finished() {
    for stop in stops(1) {
        let site = Site::new();
        let request = request("a", &[]);
        let volume = site.create(&request).await.unwrap();
        let expansion = expansion(&request, &volume, 2 << 30);
        let permit = Permit::unlimited();
        assert!(broken_off(&site, stop, site.rbd.expand(&expansion, &permit)).await);
        let grown = until_done(async || site.rbd.expand(&expansion, &permit).await).await;
        assert_eq!(grown, Expanded { capacity: expansion.capacity, on_node: true });
    }
}

#[tokio::test]
async fn work_that_is_dropped_leaves_the_image_to_the_next() {
    let site = Site::new();
    let request = request("a", &[]);
    site.fake_cluster.state().hangs = true;
    let dropped = tokio::time::timeout(Duration::from_millis(200), site.create(&request)).await;
    assert!(dropped.is_err());
    site.fake_cluster.state().hangs = false;
    until_done(async || site.create(&request).await).await;
}

//! Who may lie where: the mirror of the used places, as several clusters use it at the same time.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    sync::{Mutex, atomic::Ordering},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    backend::nfs::{
        op_error::OpError,
        places::{self, Leaving, Occupant, Occupied, Relation},
        record::{self, INTENTS, Marker, VOLUMES},
        work::ExportOp,
    },
    volume::{ClaimKey, RelativePath},
};

fn marker(cluster: &str, name: &str, path: &str, shared: bool) -> Marker {
    Marker {
        id: format!("1/nfs/default/{name}").parse().unwrap(),
        path: path.parse().unwrap(),
        claim: ClaimKey { namespace: "team".into(), name: name.into(), uid: format!("uid-{name}") },
        origin: Origin::Created,
        since: "2026-03-01T10:00:00Z".parse().unwrap(),
        capacity: 1,
        shared,
        cluster: Some(cluster.into()),
        uid: None,
        inode: None,
        base: None,
        unarchived: false,
        archive: None,
        trash: None,
    }
}

/// Does `work` on the first export.
async fn on<T: Send + 'static>(
    nfs: &Nfs,
    work: impl FnOnce(&ExportOp<'_>) -> Result<T, OpError> + Send + 'static,
) -> Result<T, Error> {
    nfs.stores[0].run("test".into(), None, &Permit::unlimited(), work).await
}

/// Writes the intent of the volume, as its creation does, and asks for its place.
async fn occupy(nfs: &Nfs, marker: &Marker) -> Result<Occupied, Error> {
    let marker = marker.clone();
    on(nfs, move |work| {
        work.ensure_layout()?;
        let intent = record::file(INTENTS, marker.id.name());
        work.changes.write(&intent, &marker.to_json())?;
        let occupied = places::occupy(work, &marker, &intent, &marker.path, marker.shared)?;
        if matches!(occupied, Occupied::Taken(_)) {
            work.changes.remove_file(&intent)?;
        }
        Ok(occupied)
    })
    .await
}

async fn vacate(nfs: &Nfs, marker: &Marker) {
    let marker = marker.clone();
    on(nfs, move |work| {
        places::vacate(work, &marker, &marker.path)?;
        work.changes.remove_file(&record::file(INTENTS, marker.id.name()))?;
        Ok(())
    })
    .await
    .unwrap();
}

async fn leave(nfs: &Nfs, marker: &Marker) -> Result<Leaving, Error> {
    let marker = marker.clone();
    on(nfs, move |work| places::leave_shared(work, &marker, &marker.path)).await
}

fn told(occupied: &Occupied) -> String {
    match occupied {
        Occupied::Free => "free".into(),
        Occupied::Joined(other) => format!("joined {}", name_of(other)),
        Occupied::Taken(other) => format!("{:?} {} {}", other.relation, other.path.join("/"), name_of(other)),
    }
}

fn name_of(occupant: &Occupant) -> String {
    occupant.who.as_ref().map_or("?".into(), |who| who.id.name().to_string())
}

/// What is below `places`.
fn noted(site: &Site) -> Vec<String> {
    tree(&site.path(".berth/places"))
}

fn without_links(nfs: &Nfs, without: bool) {
    nfs.stores[0].without_links.store(without, Ordering::SeqCst);
}

#[tokio::test]
async fn a_place_that_another_cluster_has_at_above_or_below_is_not_free_and_the_message_says_whose_it_is() {
    for links in [true, false] {
        for shared in [false, true] {
            let site = Site::new();
            let theirs = site.of_cluster("cluster-2");
            without_links(&theirs, !links);
            assert_eq!(
                told(&occupy(&theirs, &marker("cluster-2", "v", "a/b", shared)).await.unwrap()),
                "free"
            );
            let rows = [
                ("a", "Below a/b v", "directory a overlaps with a/b below it"),
                (
                    "a/b",
                    "Same a/b v",
                    "directory a/b belongs to volume v of claim team/v of cluster cluster-2",
                ),
                ("a/b/c", "Above a/b v", "directory a/b/c lies within a/b"),
                ("a/b/c/d", "Above a/b v", "directory a/b/c/d lies within a/b"),
                ("a/c", "free", ""),
                ("a/bb", "free", ""),
                ("b", "free", ""),
            ];
            for (path, expected, message) in rows {
                // Who does not share is refused, and so is who shares with one that does not.
                for share in [false, true] {
                    if share && shared && path == "a/b" {
                        continue;
                    }
                    let why = format!("{path}, shared {shared} with {share}, links {links}");
                    let ours = marker("cluster-1", "w", path, share);
                    let occupied = occupy(&site.nfs, &ours).await.unwrap();
                    assert_eq!(told(&occupied), expected, "{why}");
                    if let Occupied::Taken(other) = &occupied {
                        assert!(other.explained(&path.parse().unwrap()).starts_with(message), "{why}");
                        let place = ours.path.clone();
                        let seen = on(&site.nfs, move |work| places::occupant(work, &place)).await.unwrap();
                        assert_eq!(seen.map(|other| other.relation), Some(other.relation), "{why}");
                        let asked = ours.clone();
                        let seen = on(&site.nfs, move |work| places::overlapping(work, &asked, &asked.path));
                        assert_eq!(seen.await.unwrap().map(|o| o.relation), Some(other.relation), "{why}");
                    }
                    let again = occupy(&site.nfs, &ours).await.unwrap();
                    assert_eq!(told(&again), expected, "again: {why}");
                    vacate(&site.nfs, &ours).await;
                }
            }
            vacate(&theirs, &marker("cluster-2", "v", "a/b", shared)).await;
            assert_eq!(noted(&site), [""; 0], "nothing is left, shared {shared}, links {links}");
            assert_eq!(site.records("staging").len(), 0);
        }
    }
}

#[tokio::test]
async fn a_volume_takes_one_link_and_its_place_is_given_up_by_none_but_itself() {
    let site = Site::new();
    let ours = marker("cluster-1", "v", "data", false);
    assert_eq!(told(&occupy(&site.nfs, &ours).await.unwrap()), "free");
    let inode = |path: &str| fs::metadata(site.path(path)).unwrap().ino();
    assert_eq!(inode(".berth/places/data"), inode(".berth/intents/v.json"));
    let others = [
        marker("cluster-2", "v", "data", false),
        marker("cluster-1", "w", "data", false),
        Marker { cluster: None, claim: ClaimKey { uid: "x".into(), ..ours.claim.clone() }, ..ours.clone() },
    ];
    for other in others {
        let what = format!("{other:?}");
        let held = on(&site.nfs, move |work| {
            places::vacate(work, &other, &other.path)?;
            places::holds(work, &other, &other.path)
        });
        assert!(!held.await.unwrap(), "{what}");
    }
    let kept = ours.clone();
    assert!(on(&site.nfs, move |work| places::holds(work, &kept, &kept.path)).await.unwrap());
    vacate(&site.nfs, &ours).await;
    assert_eq!(noted(&site), [""; 0]);
}

#[tokio::test]
async fn those_who_share_a_place_come_and_go_and_only_the_last_may_take_the_data() {
    for links in [true, false] {
        let site = Site::new();
        let theirs = site.of_cluster("cluster-2");
        for nfs in [&site.nfs, &theirs] {
            without_links(nfs, !links);
        }
        let (a, b) = (marker("cluster-1", "a", "x/data", true), marker("cluster-2", "b", "x/data", true));
        assert_eq!(told(&occupy(&site.nfs, &a).await.unwrap()), "free");
        assert_eq!(told(&occupy(&theirs, &b).await.unwrap()), "joined a");
        assert_eq!(told(&occupy(&theirs, &b).await.unwrap()), "joined a", "and so again");
        assert_eq!(told(&occupy(&site.nfs, &a).await.unwrap()), "joined b", "for the first one, too");
        let Leaving::Others(other) = leave(&site.nfs, &a).await.unwrap() else { panic!("b is there") };
        assert_eq!(name_of(&other), "b");
        let Leaving::Others(other) = leave(&site.nfs, &a).await.unwrap() else { panic!("b is there") };
        assert_eq!(name_of(&other), "b", "and so again");
        vacate(&site.nfs, &a).await;
        for _ in 0..2 {
            assert!(matches!(leave(&theirs, &b).await.unwrap(), Leaving::Last));
        }
        // While the last one takes the data, nobody comes, and it says what to do if the last one is lost.
        let error = occupy(&site.nfs, &a).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        let root = site.directory.path().display();
        let command = format!("mv {root}/.berth/places/x/data/.berth/closing-b.");
        assert!(error.chain().contains(&command), "{}", error.chain());
        // It stays after all.
        let stays = b.clone();
        on(&theirs, move |work| places::stay(work, &stays, &stays.path)).await.unwrap();
        assert_eq!(told(&occupy(&site.nfs, &a).await.unwrap()), "joined b");
        assert!(matches!(leave(&site.nfs, &a).await.unwrap(), Leaving::Others(_)));
        assert!(matches!(leave(&theirs, &b).await.unwrap(), Leaving::Last));
        vacate(&theirs, &b).await;
        assert!(matches!(leave(&theirs, &b).await.unwrap(), Leaving::NotThere));
        assert_eq!(noted(&site), [""; 0], "links {links}");
    }
}

/// Place, whether it is shared, and whose it is.
type Held = BTreeSet<(RelativePath, bool, usize)>;

/// Two clusters whose patterns overlap asked at once, in every order that the machine gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_ask_at_once_never_two_lie_within_one_another() {
    const PATHS: [&str; 6] = ["a", "a/b", "a/b/c", "a/d", "e", "a/b/f"];
    for links in [true, false] {
        let site = Site::new();
        site.make(&request("first", &[])).await;
        let before = noted(&site);
        let held: Arc<Mutex<Held>> = Arc::default();
        let won = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks = (0..6_usize).map(|number| {
            // One process works for a cluster at a time.
            let cluster = format!("cluster-{number}");
            let nfs = site.of_cluster(&cluster);
            without_links(&nfs, !links);
            let (held, won) = (Arc::clone(&held), Arc::clone(&won));
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(u64::try_from(number).unwrap());
                for _ in 0..60 {
                    let path = PATHS[random.random_range(0..PATHS.len())];
                    let shared = random.random_bool(0.5);
                    let ours = marker(&cluster, &format!("v{number}"), path, shared);
                    let occupied = match occupy(&nfs, &ours).await {
                        Ok(occupied) => occupied,
                        Err(error) => {
                            assert!(
                                matches!(error.kind(), Kind::Busy | Kind::Unavailable),
                                "{}",
                                error.chain()
                            );
                            vacate(&nfs, &ours).await;
                            continue;
                        }
                    };
                    if matches!(occupied, Occupied::Taken(_)) {
                        continue;
                    }
                    won.fetch_add(1, Ordering::Relaxed);
                    {
                        let mut held = held.lock().unwrap();
                        for (other, other_shared, whose) in held.iter() {
                            let overlap = other.overlaps(&ours.path);
                            let together = *other == ours.path && shared && *other_shared;
                            assert!(!overlap || together, "{ours:?} beside {other:?} of {whose}");
                        }
                        held.insert((ours.path.clone(), shared, number));
                    }
                    tokio::task::yield_now().await;
                    assert!(held.lock().unwrap().remove(&(ours.path.clone(), shared, number)));
                    loop {
                        if !shared {
                            break;
                        }
                        match leave(&nfs, &ours).await {
                            Ok(Leaving::Last) => {
                                let held = held.lock().unwrap();
                                let with = held.iter().find(|(other, ..)| *other == ours.path);
                                assert!(with.is_none(), "{ours:?} took the data of {with:?}");
                                break;
                            }
                            Ok(Leaving::Others(_)) => break,
                            Ok(Leaving::NotThere) => panic!("{ours:?} is there"),
                            Err(error) => assert_eq!(error.kind(), Kind::Busy, "{}", error.chain()),
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    vacate(&nfs, &ours).await;
                }
            })
        });
        for task in futures::future::join_all(tasks).await {
            task.unwrap();
        }
        println!("{} places were had, links {links}", won.load(Ordering::Relaxed));
        assert!(won.load(Ordering::Relaxed) > 10);
        assert_eq!(noted(&site), before, "nothing is left");
    }
}

#[tokio::test]
async fn a_place_that_was_being_taken_or_given_up_when_the_process_died_is_taken_or_free_afterwards() {
    for (path, shared, links) in
        [("data", false, true), ("a/b/data", false, true), ("a/data", true, true), ("a/data", false, false)]
    {
        for giving_up in [false, true] {
            for steps in 0.. {
                let site = Site::new();
                site.make(&request("first", &[])).await;
                let before = noted(&site);
                let theirs = site.of_cluster("cluster-2");
                without_links(&site.nfs, !links);
                let ours = marker("cluster-1", "v", path, shared);
                let interruption = &site.nfs.stores[0].interruption;
                if giving_up {
                    occupy(&site.nfs, &ours).await.unwrap();
                    if shared {
                        leave(&site.nfs, &ours).await.unwrap();
                    }
                }
                interruption.after(steps);
                let broken = {
                    let ours = ours.clone();
                    on(&site.nfs, move |work| {
                        if giving_up {
                            return places::vacate(work, &ours, &ours.path);
                        }
                        let intent = record::file(INTENTS, ours.id.name());
                        work.ensure_layout()?;
                        work.changes.write(&intent, &ours.to_json())?;
                        places::occupy(work, &ours, &intent, &ours.path, ours.shared).map(drop)
                    })
                    .await
                };
                interruption.never();
                let when =
                    format!("{path}, shared {shared}, links {links}, giving up {giving_up}, {steps} steps");
                // Whatever is left: nobody else comes into what may be ours, and the next attempt ends it.
                let inner = marker("cluster-2", "w", &format!("{path}/inner"), false);
                let beside = occupy(&theirs, &inner).await;
                let again = occupy(&site.nfs, &ours).await.unwrap();
                match beside.unwrap() {
                    Occupied::Free => assert_eq!(told(&again), format!("Below {path}/inner w"), "{when}"),
                    Occupied::Taken(_) => assert_eq!(told(&again), "free", "{when}"),
                    Occupied::Joined(_) => panic!("{when}"),
                }
                vacate(&theirs, &inner).await;
                vacate(&site.nfs, &ours).await;
                on(&site.nfs, places::clear_staging).await.unwrap();
                assert_eq!(noted(&site), before, "{when}");
                assert_eq!(site.records("staging").len(), 0, "{when}");
                if broken.is_ok() {
                    break;
                }
                assert!(steps < 60, "{when}: it never succeeds");
            }
        }
    }
}

/// A removal that hung while its place was given up, and went on when the place was that of another cluster's volume.
#[tokio::test]
async fn a_late_call_that_moves_the_note_of_another_volume_puts_it_back() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    let other = marker("cluster-2", "w", "a/data", false);
    occupy(&theirs, &other).await.unwrap();
    fs::rename(site.path(".berth/places/a/data"), site.path(".berth/staging/v.0123456789abcdef.leaving"))
        .unwrap();
    fs::remove_dir(site.path(".berth/places/a")).unwrap();
    on(&site.nfs, places::clear_staging).await.unwrap();
    let noted = occupy(&site.nfs, &marker("cluster-1", "v", "a/data", false)).await.unwrap();
    assert_eq!(told(&noted), "Same a/data w");
    assert_eq!(site.records("staging").len(), 0);
    // The volume itself may be there again; without a record it is only left over.
    for (shared, note) in [(false, ".berth/places/b"), (true, ".berth/places/c/.berth/open/v.json")] {
        let ours = marker("cluster-1", "v", if shared { "c" } else { "b" }, shared);
        occupy(&site.nfs, &ours).await.unwrap();
        for again in [true, false] {
            let aside = site.path(".berth/staging/v.0123456789abcdef.leaving");
            fs::rename(site.path(note), aside).unwrap();
            if !again {
                fs::remove_file(site.path(".berth/intents/v.json")).unwrap();
            }
            on(&site.nfs, places::clear_staging).await.unwrap();
            assert_eq!(site.has(note), again, "{note}");
        }
    }
    assert_eq!(site.records("staging").len(), 0);
}

/// A leader that hung before it removed its own file from a shared place, where the next one had put the volume again.
#[tokio::test]
async fn a_late_call_of_who_leaves_a_shared_place_does_not_take_the_volume_that_is_there_again() {
    let site = Site::new();
    let (ours, theirs) = (marker("cluster-1", "v", "data", true), marker("cluster-2", "w", "data", true));
    let next = site.next_leader();
    occupy(&site.of_cluster("cluster-2"), &theirs).await.unwrap();
    occupy(&site.nfs, &ours).await.unwrap();
    let name = "places/data/.berth/open/v.json";
    let late = site.nfs.stores[0].interruption.try_lock(move |step| step.path().ends_with(name));
    let (permit, leaves) = (Permit::unlimited(), ours.clone());
    let leaving = site.nfs.stores[0]
        .run("test".into(), None, &permit, move |work| places::vacate(work, &leaves, &leaves.path));
    let meanwhile = async {
        late.reached().await;
        permit.revoke();
        occupy(&next, &ours).await.unwrap();
        late.release();
    };
    let (left, ()) = tokio::join!(leaving, meanwhile);
    left.unwrap_err();
    on(&next, places::put_back_moved).await.unwrap();
    assert!(site.has(".berth/places/data/.berth/open/v.json"), "{:?}", tree(site.directory.path()));
}

/// It was looked for when the next term began, and until then another cluster could adopt the directory.
#[tokio::test]
async fn a_note_that_a_late_call_moved_away_is_put_back_within_a_term() {
    let site = Site::new();
    let other = marker("cluster-2", "w", "data", false);
    occupy(&site.of_cluster("cluster-2"), &other).await.unwrap();
    fs::rename(site.path(".berth/places/data"), site.path(".berth/staging/v.0123456789abcdef.leaving"))
        .unwrap();
    fs::write(site.path(".berth/staging/x.0123456789abcdef.coming"), "").unwrap();
    on(&site.nfs, places::put_back_moved).await.unwrap();
    assert!(site.has(".berth/places/data"));
    assert_eq!(site.records("staging"), ["x.0123456789abcdef.coming"], "another process may be making it");
}

#[tokio::test]
async fn a_note_without_a_record_is_removed_only_if_it_is_of_our_own_cluster() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    for (nfs, cluster) in [(&site.nfs, "cluster-1"), (&theirs, "cluster-2")] {
        for shared in [false, true] {
            let path = format!("{cluster}-{shared}/data");
            let lost = marker(cluster, &format!("lost-{cluster}-{shared}"), &path, shared);
            occupy(nfs, &lost).await.unwrap();
            let wanted = marker("cluster-1", "wanted", &path, false);
            let occupied = occupy(&site.nfs, &wanted).await.unwrap();
            assert!(matches!(occupied, Occupied::Taken(_)), "its intent is there: {path}");
            fs::remove_file(site.path(&format!(".berth/intents/{}.json", lost.id.name()))).unwrap();
            let occupied = occupy(&site.nfs, &wanted).await.unwrap();
            assert_eq!(matches!(occupied, Occupied::Free), cluster == "cluster-1", "{path}");
            vacate(&site.nfs, &wanted).await;
        }
    }
}

#[tokio::test]
async fn a_note_that_cannot_be_read_is_in_the_way_and_so_is_a_link() {
    let site = Site::new();
    site.make(&request("first", &[])).await;
    fs::write(site.path(".berth/places/damaged"), "{").unwrap();
    std::os::unix::fs::symlink("/", site.path(".berth/places/link")).unwrap();
    for path in ["damaged", "damaged/inner", "link", "link/inner"] {
        let occupied = occupy(&site.nfs, &marker("cluster-1", "v", path, false)).await;
        match occupied {
            Ok(Occupied::Taken(other)) => {
                assert!(
                    other.explained(&path.parse().unwrap()).contains("whose record cannot be read"),
                    "{path}"
                );
            }
            Ok(other) => panic!("{path}: {other:?}"),
            Err(error) => assert_eq!(error.kind(), Kind::Refused, "{path}: {}", error.chain()),
        }
    }
}

#[tokio::test]
async fn what_is_not_signed_is_known_by_the_record_that_was_signed_later() {
    let site = Site::new();
    let unsigned = Marker { cluster: None, ..marker("", "v", "data", false) };
    occupy(&site.nfs, &unsigned).await.unwrap();
    let (nfs, signed) = (site.of_cluster("cluster-2"), marker("cluster-1", "v", "data", false));
    let seen = async || {
        on(&nfs, |work| places::occupant(work, &"data/inner".parse().unwrap())).await.unwrap().unwrap()
    };
    assert!(seen().await.whose().ends_with("of an unknown cluster"));
    let record = signed.clone();
    on(&site.nfs, move |work| {
        Ok(work.changes.write(&record::file(VOLUMES, record.id.name()), &record.to_json())?)
    })
    .await
    .unwrap();
    let occupant = seen().await;
    assert!(occupant.whose().ends_with("of cluster cluster-1"), "{}", occupant.whose());
    assert_eq!(occupant.relation, Relation::Above);
}

/// On an export of an earlier version the records are asked as well, until all places are noted.
#[tokio::test]
async fn places_that_are_not_noted_yet_are_found_by_their_records() {
    let site = Site::new();
    site.make(&request("first", &[])).await;
    let old = Marker { cluster: None, ..marker("", "old", "a/b", false) };
    let shared = Marker { cluster: None, ..marker("", "shared", "together", true) };
    for record in [&old, &shared] {
        let path = site.path(&format!(".berth/volumes/{}.json", record.id.name()));
        fs::write(path, record.to_json()).unwrap();
    }
    let wanted = |path: &str| marker("cluster-1", "v", path, false);
    assert_eq!(told(&occupy(&site.nfs, &wanted("a/b/c")).await.unwrap()), "free", "all is said to be noted");
    vacate(&site.nfs, &wanted("a/b/c")).await;
    site.nfs.stores[0].opened("test").await.unwrap().mirrored.store(false, Ordering::SeqCst);
    for (path, expected) in
        [("a", "Below a/b old"), ("a/b", "Same a/b old"), ("a/b/c", "Above a/b old"), ("c", "free")]
    {
        assert_eq!(told(&occupy(&site.nfs, &wanted(path)).await.unwrap()), expected, "{path}");
        let asked = wanted(path);
        let seen = on(&site.nfs, move |work| places::overlapping(work, &asked, &asked.path)).await.unwrap();
        assert_eq!(seen.is_some(), expected != "free", "{path}");
        vacate(&site.nfs, &wanted(path)).await;
    }
    let joins = marker("cluster-1", "v", "together", true);
    assert_eq!(told(&occupy(&site.nfs, &joins).await.unwrap()), "joined shared");
    assert_eq!(told(&occupy(&site.nfs, &wanted("together")).await.unwrap()), "Same together shared");
}

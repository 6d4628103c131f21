//! Each operation is interrupted before each of its steps and then repeated, by the same process and by a new one.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_creation_in_a_shared_directory_that_was_interrupted_gives_it_its_rights_and_keeps_those_of_another()
 {
    let shared = |name| request(name, &[("pathPattern", "a/data"), ("existingDirectory", "share")]);
    let rights = |site: &Site| fs::metadata(site.path("a/data")).unwrap().permissions().mode() & 0o7777;
    for others in [false, true] {
        interrupted_everywhere(
            &format!("create in a shared directory, others there: {others}"),
            async |site| {
                if others {
                    site.make(&shared("other")).await;
                    fs::set_permissions(site.path("a/data"), fs::Permissions::from_mode(0o751)).unwrap();
                }
            },
            async |site, ()| site.create(&shared("x")).await,
            |site, (), volume, when| {
                assert_eq!(volume.origin, Origin::Created, "{when}");
                assert_eq!(rights(site), if others { 0o751 } else { 0o777 }, "{when}");
            },
        )
        .await;
    }
}

/// Where the volume lies, by the class's pattern.
const PLACES: [(&str, &str); 3] =
    [("flat", ""), ("nested", "a/b/${.PVC.name}"), ("shallow", "a/${.PVC.name}")];

fn asked(pattern: &str) -> VolumeRequest {
    patterned("x", pattern)
}

fn directory(site: &Site, request: &VolumeRequest) -> String {
    site.nfs.place(request).unwrap().location.path.to_string()
}

/// Runs `attempt` once for each number of steps that it may do, on a fresh export that `prepare` made ready, then lets it
/// be repeated without interruption, and shows the outcome to `check`.
async fn interrupted_everywhere<P, T: std::fmt::Debug>(
    what: &str,
    prepare: impl AsyncFn(&Site) -> P,
    attempt: impl AsyncFn(&Site, &P) -> Result<T, Error>,
    check: impl Fn(&Site, &P, T, &str),
) {
    for restarted in [false, true] {
        let mut steps = 0;
        loop {
            let mut site = Site::new();
            let prepared = prepare(&site).await;
            site.nfs.stores[0].interruption.after(steps);
            let first = attempt(&site, &prepared).await;
            let whole = first.is_ok();
            site.nfs.stores[0].interruption.never();
            if restarted {
                site.restart();
            }
            let when = format!("{what}, broken off after {steps} steps, restarted: {restarted}");
            let outcome =
                attempt(&site, &prepared).await.unwrap_or_else(|error| panic!("{when}: {}", error.chain()));
            check(&site, &prepared, outcome, &when);
            assert!(!(whole && site.has_temporary()), "{when}");
            if whole {
                println!("{what}: {steps} steps");
                break;
            }
            steps += 1;
            assert!(steps < 100, "{when}: it never succeeds");
        }
    }
}

#[tokio::test]
async fn a_creation_that_was_interrupted_is_finished_by_the_next_attempt() {
    for (what, pattern) in PLACES {
        interrupted_everywhere(
            &format!("create {what}"),
            async |_| asked(pattern),
            async |site, request| site.create(request).await,
            |site, request, volume, when| {
                assert_eq!(volume.origin, Origin::Created, "{when}");
                let mode = fs::metadata(site.path(&directory(site, request))).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o777, "{when}");
                assert_eq!(site.records("intents"), ["pvc-uid-x.json"], "{when}");
                assert_eq!(site.records("volumes").len(), 0, "{when}");
            },
        )
        .await;
    }
}

/// Proves: case 20
#[tokio::test]
async fn a_creation_that_was_interrupted_and_given_up_is_discarded_without_a_trace() {
    for (what, pattern) in PLACES {
        for steps in 0..60 {
            let mut site = Site::new();
            site.make(&patterned("other", "other")).await;
            let before = (site.tree(), tree(&site.path(".berth/places")));
            site.nfs.stores[0].interruption.after(steps);
            let created = site.create(&asked(pattern)).await;
            site.nfs.stores[0].interruption.never();
            site.restart();
            for uncommitted in site.nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap() {
                site.nfs.rollback(&uncommitted, &Permit::unlimited()).await.unwrap();
            }
            let after = (site.tree(), tree(&site.path(".berth/places")));
            assert_eq!(after, before, "{what} after {steps} steps");
            assert_eq!(site.records("intents").len(), 0);
            site.collect_until(|status| status.trash == 0 && !site.has_temporary()).await;
            if created.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_commit_that_was_interrupted_is_finished_by_the_next_attempt() {
    interrupted_everywhere(
        "commit",
        async |site| site.create(&asked("")).await.unwrap(),
        async |site, volume| {
            site.nfs.commit(&volume.id, &object_uid(volume.id.name()), &Permit::unlimited()).await
        },
        |site, _, (), when| {
            assert_eq!(site.records("intents").len(), 0, "{when}");
            assert_eq!(site.records("volumes"), ["pvc-uid-x.json"], "{when}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_removal_that_was_interrupted_is_finished_by_the_next_attempt() {
    for (what, pattern) in PLACES {
        for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
            for committed in [true, false] {
                interrupted_everywhere(
                    &format!("{disposal} {what}, committed: {committed}"),
                    async |site| {
                        let request = asked(pattern);
                        let volume = site.create(&request).await.unwrap();
                        if committed {
                            site.nfs
                                .commit(&volume.id, &object_uid(volume.id.name()), &Permit::unlimited())
                                .await
                                .unwrap();
                        }
                        fs::write(site.path(&directory(site, &request)).join("file"), "").unwrap();
                        conformance::removal(&request, &volume, disposal)
                    },
                    async |site, removal| site.remove(removal).await,
                    |site, _, removed, when| {
                        let path = directory(site, &asked(pattern));
                        let tree = site.tree();
                        match disposal {
                            Disposal::Delete => {
                                assert_eq!(removed, Removed::Trashed, "{when}");
                                assert_eq!(tree, [""; 0], "{when}: parents are gone as well");
                                assert_eq!(site.trash().len(), 1, "{when}");
                                assert!(
                                    site.has(&format!(".berth/trash/{}.json", site.trash()[0])),
                                    "{when}"
                                );
                            }
                            Disposal::Archive => {
                                assert_eq!(removed, Removed::Archived(format!("archived-{path}")), "{when}");
                                assert!(tree.contains(&format!("archived-{path}/file")), "{when}: {tree:?}");
                                assert!(
                                    tree.iter().all(|path| path.starts_with("archived-")),
                                    "{when}: {tree:?}"
                                );
                                assert_eq!(site.records("archived"), ["pvc-uid-x.json"], "{when}");
                            }
                            Disposal::Retain => {
                                assert_eq!(removed, Removed::Kept, "{when}");
                                assert!(tree.contains(&format!("{path}/file")), "{when}");
                            }
                        }
                        assert_eq!(
                            site.records("intents").len() + site.records("volumes").len(),
                            0,
                            "{when}"
                        );
                    },
                )
                .await;
            }
        }
    }
}

#[tokio::test]
async fn the_removal_of_an_older_provisioners_volume_that_was_interrupted_is_finished() {
    for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
        for directory in ["flat", "nested/in/here"] {
            interrupted_everywhere(
                &format!("{disposal} {directory} without a record"),
                async |site| {
                    site.plant(directory);
                    old_removal("old", &format!("/export/{directory}"), disposal)
                },
                async |site, removal| site.remove(removal).await,
                |site, _, removed, when| {
                    let expected = match disposal {
                        Disposal::Delete => Removed::Trashed,
                        Disposal::Archive => Removed::Archived(format!("archived-{directory}")),
                        Disposal::Retain => Removed::Kept,
                    };
                    assert_eq!(removed, expected, "{when}");
                    assert_eq!(site.has(directory), disposal == Disposal::Retain, "{when}");
                    assert_eq!(
                        site.has(&format!("archived-{directory}/file")),
                        disposal == Disposal::Archive,
                        "{when}"
                    );
                    assert_eq!(site.records("volumes").len(), 0, "{when}");
                    if directory != "flat" {
                        assert!(site.has("nested/in"), "{when}: parents that we did not make stay");
                    }
                },
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_discard_that_was_interrupted_is_finished_by_the_next_attempt() {
    for (what, pattern) in PLACES {
        interrupted_everywhere(
            &format!("discard {what}"),
            async |site| {
                site.create(&asked(pattern)).await.unwrap();
                site.nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap().remove(0)
            },
            async |site, uncommitted| site.nfs.rollback(uncommitted, &Permit::unlimited()).await,
            |site, _, (), when| {
                assert_eq!(site.tree(), [""; 0], "{when}");
                assert_eq!(site.records("intents").len(), 0, "{when}");
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_restore_that_was_interrupted_is_finished_by_the_next_attempt_or_by_the_purge() {
    for (what, pattern) in PLACES {
        for disposal in [Disposal::Delete, Disposal::Archive] {
            let prepare = async |site: &Site| {
                let request = asked(pattern);
                let volume = site.make(&request).await;
                fs::write(site.path(&directory(site, &request)).join("file"), "").unwrap();
                let removal = conformance::removal(&request, &volume, disposal);
                site.remove(&removal).await.unwrap();
                removal
            };
            let check = |site: &Site, removal: &Removal, when: &str| {
                let path = directory(site, &asked(pattern));
                assert!(site.has(&format!("{path}/file")), "{when}");
                assert_eq!(
                    site.tree().iter().filter(|path| path.starts_with("archived")).count(),
                    0,
                    "{when}"
                );
                assert_eq!(finished(site.records("trash")), [""; 0], "{when}");
                assert_eq!(finished(site.records("volumes")), [format!("{}.json", removal.name)], "{when}");
                assert_eq!(finished(site.records("archived")), [""; 0], "{when}");
            };
            interrupted_everywhere(
                &format!("restore from {disposal} {what}"),
                prepare,
                async |site, removal| site.restore(removal).await,
                |site, removal, _, when| check(site, removal, when),
            )
            .await;
            if disposal == Disposal::Archive {
                continue;
            }
            // Nobody asks again: the purge sees that the PV is to be kept.
            for steps in 0..40 {
                let mut site = Site::new();
                let removal = prepare(&site).await;
                site.nfs.stores[0].interruption.after(steps);
                let whole = site.restore(&removal).await.is_ok();
                site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, false);
                site.restart();
                let path = directory(&site, &asked(pattern));
                site.collect_until(|_| {
                    site.has(&format!("{path}/file")) && finished(site.records("trash")).is_empty()
                })
                .await;
                check(&site, &removal, &format!("purge after {steps} steps of a restore {what}"));
                let removed = site.remove(&removal).await.unwrap();
                assert_eq!(removed, Removed::Trashed, "{what} after {steps} steps");
                if whole {
                    break;
                }
            }
        }
    }
}

/// Proves: case 43
#[tokio::test]
async fn a_permit_that_ends_in_the_middle_stops_before_the_next_step() {
    let site = Site::new();
    let (request, permit) = (asked("a/b/c"), Permit::unlimited());
    site.make(&patterned("other", "z")).await;
    permit.revoke();
    let before = tree(site.directory.path());
    let error = site.nfs.create(&request, &permit).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("lease"), "{}", error.chain());
    assert_eq!(tree(site.directory.path()), before);
}

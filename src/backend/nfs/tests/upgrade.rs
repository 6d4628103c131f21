//! Exports that an earlier version wrote: without places, without clusters in the records.

use super::*;

/// An export as the earlier version left it, with a record for each of these volumes, and their directories.
fn old_site(volumes: &[(&str, &str, bool)]) -> Site {
    let site = Site::new();
    for folder in ["intents", "volumes", "archived", "trash", "parents"] {
        fs::create_dir_all(site.path(".berth").join(folder)).unwrap();
    }
    fs::write(site.path(".berth/export.json"), "{\"version\":1,\"id\":\"abc\"}\n").unwrap();
    for (name, path, shared) in volumes {
        site.plant(path);
        write_old(&site, "volumes", name, path, if *shared { ",\"shared\":true" } else { "" });
    }
    site
}

fn write_old(site: &Site, folder: &str, name: &str, path: &str, more: &str) {
    let directory = path.split('/').map(|segment| format!("\"{segment}\"")).collect::<Vec<_>>().join(",");
    let text = format!(
        "{{\"version\":1,\"id\":\"1/nfs/default/pvc-{name}\",\"directory\":[{directory}],\"claim\":{{\"namespace\":\"team\",\
         \"name\":\"{name}\",\"uid\":\"uid-{name}\"}},\"origin\":\"created\",\"since\":\"2026-03-01T10:00:00Z\",\
         \"capacity\":1024{more}}}\n"
    );
    fs::write(site.path(&format!(".berth/{folder}/pvc-{name}.json")), text).unwrap();
}

/// The same in a new process.
fn reopened(mut site: Site) -> Site {
    site.restart();
    site
}

fn is_mirrored(site: &Site) -> bool {
    fs::read_to_string(site.path(".berth/export.json")).unwrap()
        == "{\"version\":1,\"id\":\"abc\",\"places\":1}\n"
}

#[tokio::test]
async fn the_places_of_an_earlier_version_are_noted_in_the_first_term_and_count_before_that() {
    let volumes = [("a", "ns/a", false), ("b", "b", false), ("s", "together", true), ("t", "together", true)];
    let site = reopened(old_site(&volumes));
    write_old(
        &site,
        "archived",
        "old",
        "x",
        ",\"archive\":{\"directory\":[\"archived-x\"],\"at\":\"2026-03-01T10:00:00Z\"}",
    );
    write_old(&site, "intents", "begun", "begun/data", "");
    let theirs = site.of_cluster("cluster-2");
    for mirrored in [false, true] {
        if mirrored {
            site.collect_until(|_| is_mirrored(&site)).await;
        }
        for nfs in [&site.nfs, &theirs] {
            for (pattern, why) in [
                (
                    "ns",
                    "overlaps with ns/a below it, which belongs to volume pvc-a of claim team/a of an unknown cluster",
                ),
                ("b/${.PVC.name}", "lies within b, which belongs to volume pvc-b"),
                ("together", "belongs to volume pvc-"),
                ("begun/data/more", "lies within begun/data, which belongs to volume pvc-begun"),
            ] {
                let request = request("new", &[("pathPattern", pattern), ("existingDirectory", "adopt")]);
                let error = nfs.create(&request, &Permit::unlimited()).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Conflict, "{pattern}: {}", error.chain());
                assert!(error.chain().contains(why), "{pattern}: {}", error.chain());
            }
        }
    }
    assert_eq!(site.records("unsigned"), ["pvc-a.json", "pvc-b.json", "pvc-s.json", "pvc-t.json"]);
    let noted: Vec<_> = tree(&site.path(".berth/places"))
        .into_iter()
        .filter(|path| site.path(".berth/places").join(path).is_file())
        .collect();
    let expected = [
        "archived-x",
        "b",
        "begun/data",
        "ns/a",
        "together/.berth/open/pvc-s.json",
        "together/.berth/open/pvc-t.json",
    ];
    assert_eq!(noted, expected);
    assert_eq!(site.records("disputed").len(), 0);
}

#[tokio::test]
async fn volumes_of_an_earlier_version_that_lie_within_one_another_are_reported_and_do_not_stop_the_others() {
    let site =
        reopened(old_site(&[("inner", "ns/data", false), ("outer", "ns", false), ("other", "other", false)]));
    site.collect_until(|_| is_mirrored(&site)).await;
    assert_eq!(site.records("disputed").len(), 1);
    assert!(site.has(".berth/places/other"));
    for pattern in ["ns/data/new", "ns/new", "ns"] {
        let error = site.create(&patterned("new", pattern)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{pattern}: {}", error.chain());
    }
}

#[tokio::test]
async fn a_record_of_an_earlier_version_that_cannot_be_read_keeps_the_records_in_use_and_new_volumes_are_made()
 {
    let site = reopened(old_site(&[("a", "a", false), ("damaged", "damaged", false)]));
    fs::write(site.path(".berth/volumes/pvc-damaged.json"), "{").unwrap();
    site.collect_until(|_| site.has(".berth/places/a")).await;
    site.make(&patterned("new", "ns/new")).await;
    let adopts = request("thief", &[("pathPattern", "damaged"), ("existingDirectory", "adopt")]);
    let error = site.create(&adopts).await.unwrap_err();
    assert!(error.chain().contains("pvc-damaged.json"), "{}", error.chain());
    assert!(!is_mirrored(&site));
    fs::remove_file(site.path(".berth/volumes/pvc-damaged.json")).unwrap();
    site.collect_until(|_| is_mirrored(&site)).await;
}

#[tokio::test]
async fn the_first_term_on_an_empty_export_writes_nothing() {
    let site = Site::new();
    let permit = Permit::unlimited();
    tokio::select! {
        () = site.nfs.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert_eq!(tree(site.directory.path()), [""; 0]);
    site.make(&request("x", &[])).await;
    assert!(fs::read_to_string(site.path(".berth/export.json")).unwrap().contains("\"places\":1"));
}

#[tokio::test]
async fn noting_the_places_that_was_interrupted_goes_on_where_it_was() {
    for steps in (0..60).step_by(3) {
        let site = reopened(old_site(&[("a", "ns/a", false), ("b", "b", false), ("s", "s", true)]));
        site.nfs.stores[0].interruption.after(steps);
        let permit = Permit::unlimited();
        tokio::select! {
            () = site.nfs.collect_garbage(&permit) => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let site = reopened(site);
        site.collect_until(|_| is_mirrored(&site)).await;
        for path in ["ns/a", "b", "s/.berth/open/pvc-s.json"] {
            assert!(site.path(".berth/places").join(path).is_file(), "{path} after {steps} steps");
        }
    }
}

/// A cluster that is updated later, or a way back to the earlier version.
#[tokio::test]
async fn volumes_that_an_earlier_version_made_after_the_places_were_noted_get_theirs_from_the_next_process() {
    let site = reopened(old_site(&[("a", "ns/a", false)]));
    site.collect_until(|_| is_mirrored(&site)).await;
    site.plant("late/data");
    write_old(&site, "volumes", "late", "late/data", "");
    site.make(&patterned("signed", "signed")).await;
    let site = reopened(site);
    site.collect_until(|_| site.has(".berth/unsigned/pvc-late.json")).await;
    let error = site.create(&patterned("new", "late")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{}", error.chain());
    assert!(error.chain().contains("which belongs to volume pvc-late"), "{}", error.chain());
    assert_eq!(site.records("unsigned"), ["pvc-a.json", "pvc-late.json"]);
}

/// Until they were signed, no volume of an earlier version could be removed; and only those were found that a term before had
/// noted.
#[tokio::test]
async fn volumes_of_an_earlier_version_are_found_to_be_unsigned_in_the_first_term() {
    let site = reopened(old_site(&[("a", "ns/a", false), ("b", "b", false)]));
    let known = |name: &str| KnownVolume { name: name.parse().unwrap(), legacy: false };
    let volumes = [known("pvc-a"), known("pvc-b")];
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<VolumeName>>();
    assert_eq!(site.nfs.unregistered("default", &volumes).await.unwrap(), names(&["pvc-a", "pvc-b"]));
    let bound = InUse {
        name: "pvc-a".parse().unwrap(),
        id: Some("1/nfs/default/pvc-a".parse().unwrap()),
        source: Source::Nfs { server: "server".into(), path: "/export/ns/a".into() },
        claim: crate::volume::ClaimKey { namespace: "team".into(), name: "a".into(), uid: "uid-a".into() },
        origin: Origin::Created,
        capacity: crate::volume::Capacity::from_bytes(1024),
        pv_metadata: PvMetadata { uid: "object-a".into(), ..PvMetadata::default() },
    };
    site.nfs.register(&bound, &Permit::unlimited()).await.unwrap();
    assert_eq!(site.nfs.unregistered("default", &volumes).await.unwrap(), names(&["pvc-b"]));
    site.collect_until(|_| is_mirrored(&site)).await;
    assert_eq!(site.nfs.unregistered("default", &volumes).await.unwrap(), names(&["pvc-b"]));
}

//! What becomes of directories that exist already, and which rights new ones get.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn existing(name: &str, pattern: &str, policy: &str) -> VolumeRequest {
    request(name, &[("pathPattern", pattern), ("existingDirectory", policy)])
}

/// Proves: row 4.1, row 4.8
#[tokio::test]
async fn a_new_directory_gets_the_rights_of_its_class_and_parents_those_of_the_process() {
    let site = Site::new();
    site.make(&request("plain", &[])).await;
    assert_eq!(mode(&site.path("team-plain-pvc-uid-plain")), 0o777);
    let gid = fs::metadata(site.directory.path()).unwrap().gid().to_string();
    let narrow = [("pathPattern", "p/${.PVC.name}"), ("mode", "2750"), ("gid", gid.as_str())];
    site.make(&request("narrow", &narrow)).await;
    assert_eq!(mode(&site.path("p/narrow")), 0o2750);
    assert_eq!(mode(&site.path("p")) & 0o700, 0o700);
    assert_eq!(mode(&site.path(".berth")), 0o700, "our records are nobody else's");
}

#[tokio::test]
async fn a_new_directory_gets_the_owner_of_its_class() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_new_directory_gets_the_owner_of_its_class: only root may give directories away");
        return;
    }
    let site = Site::new();
    site.make(&request("owned", &[("uid", "1234"), ("gid", "0"), ("mode", "0700")])).await;
    let metadata = fs::metadata(site.path("team-owned-pvc-uid-owned")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1234, 0, 0o700));
}

/// Proves: row 4.8, statement 2, statement 16
#[tokio::test]
async fn a_directory_that_exists_is_used_only_if_the_class_says_so_and_keeps_its_rights() {
    let site = Site::new();
    site.plant("data");
    fs::set_permissions(site.path("data"), fs::Permissions::from_mode(0o751)).unwrap();
    let error = site.create(&existing("x", "data", "refuse")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("existingDirectory: adopt"), "{}", error.chain());
    let volume = site.make(&existing("x", "data", "adopt")).await;
    assert_eq!(volume.origin, Origin::Adopted);
    assert_eq!(mode(&site.path("data")), 0o751);
    let removal = conformance::removal(&existing("x", "data", "adopt"), &volume, Disposal::Delete);
    // The PV may have lost the note that it was adopted; the record has not.
    let forgetful = Removal { origin: Origin::Created, ..removal };
    assert_eq!(site.remove(&forgetful).await.unwrap(), Removed::Archived("archived-data".into()));
    assert!(site.has("archived-data/file"));
}

/// Proves: statement 11
#[tokio::test]
async fn an_adopted_directory_survives_when_the_volume_is_given_up() {
    let site = Site::new();
    fs::create_dir(site.path("empty")).unwrap();
    site.create(&existing("x", "empty", "adopt")).await.unwrap();
    let uncommitted = site.nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap().remove(0);
    site.nfs.rollback(&uncommitted, &Permit::unlimited()).await.unwrap();
    assert_eq!(site.tree(), ["empty"]);
    assert_eq!(site.records("intents").len(), 0);
}

#[tokio::test]
async fn an_empty_directory_of_the_default_name_was_left_by_an_older_provisioner_and_is_ours() {
    let site = Site::new();
    let directory = site.path("team-x-pvc-uid-x");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let volume = site.make(&request("x", &[])).await;
    assert_eq!(volume.origin, Origin::Created);
    assert_eq!(mode(&directory), 0o777);
    site.plant("team-y-pvc-uid-y");
    assert_eq!(site.create(&request("y", &[])).await.unwrap_err().kind(), Kind::Conflict);
    let adopted = site.make(&request("y", &[("existingDirectory", "adopt")])).await;
    assert_eq!(adopted.origin, Origin::Adopted);
}

#[tokio::test]
async fn an_empty_directory_of_any_other_name_is_not_ours() {
    let site = Site::new();
    fs::create_dir(site.path("data")).unwrap();
    assert_eq!(site.create(&patterned("x", "data")).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(site.records("intents").len(), 0, "nothing was begun");
}

#[tokio::test]
async fn content_in_an_uncommitted_directory_makes_it_another_owners() {
    let site = Site::new();
    site.create(&patterned("x", "data")).await.unwrap();
    fs::write(site.path("data/file"), "").unwrap();
    assert_eq!(site.create(&patterned("x", "data")).await.unwrap_err().kind(), Kind::Conflict);
    assert!(site.has("data/file"));
}

/// Proves: row 3.19
#[tokio::test]
async fn a_shared_directory_goes_with_its_last_user() {
    let site = Site::new();
    let (first, second) = (existing("a", "data", "share"), existing("b", "data", "share"));
    let one = site.make(&first).await;
    fs::write(site.path("data/file"), "").unwrap();
    let two = site.make(&second).await;
    assert_eq!(one.source, two.source);
    assert_eq!((one.origin, two.origin), (Origin::Created, Origin::Created));
    assert!(site.nfs.place(&first).unwrap().may_share);
    assert!(!site.nfs.place(&existing("a", "data", "adopt")).unwrap().may_share);
    let removal = conformance::removal(&first, &one, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Kept);
    assert!(site.has("data/file"));
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Kept, "and so again");
    let removal = conformance::removal(&second, &two, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    assert!(!site.has("data"));
}

#[tokio::test]
async fn an_adopted_directory_must_be_nobody_elses_unless_the_claim_is_the_same_again() {
    let site = Site::new();
    site.make(&patterned("owner", "data/of/owner")).await;
    fs::write(site.path("data/of/owner/file"), "").unwrap();
    for (place, why) in [
        ("data/of/owner", "share"),
        ("data/of", "overlaps"),
        ("data/of/owner/file2", "lies within data/of/owner"),
    ] {
        let _ = fs::create_dir(site.path(place));
        let error = site.create(&existing("thief", place, "adopt")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{place}");
        assert!(error.chain().contains(why), "{}", error.chain());
    }
    for place in ["data/of", "data/of/owner/file2"] {
        let error = site.create(&existing("thief", place, "share")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{place}");
    }
    let mut again = existing("owner", "data/of/owner", "adopt");
    again.name = VolumeName::for_claim("uid-again").unwrap();
    again.claim.uid = "uid-again".into();
    assert_eq!(site.create(&again).await.unwrap().origin, Origin::Adopted);
}

#[tokio::test]
async fn a_claim_that_changed_while_its_volume_was_begun_leaves_nothing_at_the_first_place() {
    let site = Site::new();
    site.create(&patterned("x", "one/place")).await.unwrap();
    site.make(&patterned("x", "another/place")).await;
    assert_eq!(site.tree(), ["another", "another/place"]);
    let error = site.create(&patterned("x", "third")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "a committed volume does not move");
    let mut other = patterned("x", "another/place");
    other.claim.name = "other".into();
    assert_eq!(site.create(&other).await.unwrap_err().kind(), Kind::Conflict);
}

/// Proves: row 3.20
#[tokio::test]
async fn links_and_files_on_the_way_are_refused_and_not_followed() {
    let site = Site::new();
    let outside = temporary();
    symlink(outside.path(), site.path("link")).unwrap();
    symlink("nowhere", site.path("dangling")).unwrap();
    fs::write(site.path("file"), "").unwrap();
    let rows = [
        ("link/below", Kind::Refused),
        ("link", Kind::Conflict),
        ("dangling/below", Kind::Refused),
        ("dangling", Kind::Conflict),
        ("file/below", Kind::Refused),
        ("file", Kind::Conflict),
    ];
    for (place, kind) in rows {
        for policy in ["refuse", "adopt", "share"] {
            let error = site.create(&existing("x", place, policy)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{place} {policy}: {}", error.chain());
        }
    }
    assert_eq!(tree(outside.path()), [""; 0]);
}

/// Its record told the inode of the lost directory, so that the one that was made again could not be removed.
#[tokio::test]
async fn a_volume_whose_directory_was_lost_and_made_again_can_be_removed() {
    for steps in 0.. {
        let mut site = Site::new();
        let volume = site.make(&patterned("x", "a/data")).await;
        fs::remove_dir_all(site.path("a")).unwrap();
        // So that the new one does not get the inode of the old one.
        fs::create_dir(site.path("other")).unwrap();
        site.nfs.stores[0].interruption.after(steps);
        let whole = site.create(&patterned("x", "a/data")).await.is_ok();
        site.nfs.stores[0].interruption.never();
        site.restart();
        assert_eq!(site.create(&patterned("x", "a/data")).await.unwrap(), volume);
        assert_eq!(site.records("intents").len(), 0, "{steps} steps");
        let removal = conformance::removal(&patterned("x", "a/data"), &volume, Disposal::Delete);
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed, "{steps} steps");
        if whole {
            return;
        }
        assert!(steps < 60, "it never succeeds");
    }
}

//! What is removed, where it goes, and what is never touched.

use std::os::unix::fs::symlink;

use super::*;

async fn removed(site: &Site, request: &VolumeRequest, disposal: Disposal) -> Removed {
    let volume = site.create(request).await.unwrap();
    site.remove(&conformance::removal(request, &volume, disposal)).await.unwrap()
}

/// Proves: row 4.2, row 4.4, statement 1, statement 3
#[tokio::test]
async fn nested_directories_are_removed_and_archived_with_their_tree_and_no_namesake_is_touched() {
    let site = Site::new();
    site.plant("data");
    let request = patterned("data", "${.PVC.namespace}/${.PVC.name}");
    assert_eq!(removed(&site, &request, Disposal::Delete).await, Removed::Trashed);
    assert_eq!(
        removed(&site, &request, Disposal::Archive).await,
        Removed::Archived("archived-team/data".into())
    );
    assert_eq!(site.tree(), ["archived-team", "archived-team/data", "data", "data/file"]);
}

/// Proves: row 4.6, row 4.9, row 4.10, statement 9
#[tokio::test]
async fn an_archive_never_replaces_or_joins_what_is_there() {
    let site = Site::new();
    let flat = patterned("x", "flat");
    fs::create_dir(site.path("archived-flat")).unwrap();
    let mut targets = Vec::new();
    for _ in 0..3 {
        let volume = site.create(&flat).await.unwrap();
        fs::write(site.path("flat/file"), "").unwrap();
        let removal = conformance::removal(&flat, &volume, Disposal::Archive);
        let Removed::Archived(target) = site.remove(&removal).await.unwrap() else {
            panic!("it is archived")
        };
        assert!(target.starts_with("archived-flat-2"), "{target}");
        assert!(site.has(&format!("{target}/file")), "{target}");
        targets.push(target);
    }
    targets.dedup();
    assert_eq!(targets.len(), 3);
    assert!(fs::read_dir(site.path("archived-flat")).unwrap().next().is_none());
    // The same last component, at the root and nested.
    for pattern in ["one/same", "two/same", "same"] {
        let target = format!("archived-{pattern}");
        assert_eq!(
            removed(&site, &patterned("x", pattern), Disposal::Archive).await,
            Removed::Archived(target)
        );
    }
}

/// Proves: row 4.11
#[tokio::test]
async fn an_archive_is_never_put_into_another_volume_or_a_foreign_directory() {
    let site = Site::new();
    site.plant("archived-team");
    let nested = patterned("x", "team/x");
    let Removed::Archived(target) = removed(&site, &nested, Disposal::Archive).await else {
        panic!("it is archived")
    };
    assert!(target.starts_with("archived-team-2") && target.ends_with("/x"), "{target}");
    assert_eq!(tree(&site.path("archived-team")), ["file"]);
    // A live volume of an older provisioner whose namespace is called like an archive.
    fs::create_dir_all(site.path("archived-other/live")).unwrap();
    let nested = patterned("y", "other/live/deeper");
    let Removed::Archived(target) = removed(&site, &nested, Disposal::Archive).await else {
        panic!("it is archived")
    };
    assert!(target.starts_with("archived-other-2") && target.ends_with("/live/deeper"), "{target}");
    assert_eq!(tree(&site.path("archived-other")), ["live"]);
}

/// Proves: row 6.13, statement 22
#[tokio::test]
async fn only_parents_that_we_made_are_removed_and_only_when_they_are_empty() {
    let site = Site::new();
    fs::create_dir(site.path("before")).unwrap();
    let a = patterned("a", "before/made/a");
    let b = patterned("b", "before/made/b");
    let (first, second) = (site.make(&a).await, site.make(&b).await);
    site.remove(&conformance::removal(&a, &first, Disposal::Delete)).await.unwrap();
    assert_eq!(site.tree(), ["before", "before/made", "before/made/b"]);
    fs::write(site.path("before/made/note"), "").unwrap();
    site.remove(&conformance::removal(&b, &second, Disposal::Delete)).await.unwrap();
    assert_eq!(site.tree(), ["before", "before/made", "before/made/note"]);
    fs::remove_file(site.path("before/made/note")).unwrap();
    assert_eq!(removed(&site, &a, Disposal::Delete).await, Removed::Trashed);
    assert_eq!(site.tree(), ["before"]);
    assert_eq!(tree(&site.path(".berth/parents")), [""; 0].to_vec(), "no note outlives its directory");
}

/// Proves: statement 8, row 6.11
#[tokio::test]
async fn what_is_not_provably_a_volume_below_the_export_is_refused() {
    let site = Site::with(|export| {
        export.aliases = vec!["alias".into()];
        export.former_paths = vec!["/former".into()];
    });
    let outside = temporary();
    fs::write(outside.path().join("file"), "").unwrap();
    site.plant("data");
    site.plant("nested/deep");
    site.make(&patterned("owner", "owned/by/us")).await;
    symlink(outside.path(), site.path("link")).unwrap();
    fs::write(site.path("plain"), "").unwrap();
    let before = site.tree();
    for path in [
        "/export",
        "/export/",
        "/",
        "/elsewhere/data",
        "/export/../data",
        "/export/.berth",
        "/export/.berth/volumes",
        "/export/.BERTH/volumes",
        "/former",
        "/export/link",
        "/export/link/file",
        "/export/plain",
        "/export/plain/below",
        "/export/owned",
        "/export/owned/by/us",
        "/export/owned/by/us/deeper",
    ] {
        for disposal in [Disposal::Delete, Disposal::Archive] {
            if path.ends_with("deeper") {
                fs::create_dir_all(site.path("owned/by/us/deeper")).unwrap();
            }
            let error = site.remove(&old_removal("x", path, disposal)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{path}: {}", error.chain());
            let _ = fs::remove_dir(site.path("owned/by/us/deeper"));
        }
    }
    assert_eq!(site.tree(), before);
    assert_eq!(tree(outside.path()), ["file"]);
    let renamed = Source::Nfs { server: "alias".into(), path: "/former/data".into() };
    let removal = Removal { source: renamed, ..old_removal("x", "/export/data", Disposal::Delete) };
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    assert!(!site.has("data"));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_protects_its_volume() {
    let site = Site::new();
    let request = patterned("x", "data");
    let volume = site.make(&request).await;
    fs::write(site.path("data/file"), "").unwrap();
    let record = site.path(".berth/volumes/pvc-uid-x.json");
    let whole = fs::read(&record).unwrap();
    for bytes in [&b""[..], &whole[..whole.len() / 2], b"{}"] {
        fs::write(&record, bytes).unwrap();
        for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
            let removal = conformance::removal(&request, &volume, disposal);
            let error = site.remove(&removal).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.chain().contains("pvc-uid-x.json"), "{}", error.chain());
            let old = Removal { id: None, ..removal };
            assert_eq!(site.remove(&old).await.unwrap_err().kind(), Kind::Refused);
        }
        // Its place is noted all the same.
        let error = site.remove(&old_removal("old", "/export/data", Disposal::Delete)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }
    assert!(site.has("data/file"));
    fs::remove_file(&record).unwrap();
    let error = site.remove(&conformance::removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.chain().contains("is missing"), "{}", error.chain());
    assert!(site.has("data/file"));
}

#[tokio::test]
async fn a_volume_whose_directory_is_gone_leaves_no_record() {
    let site = Site::new();
    let request = patterned("x", "a/data");
    let volume = site.make(&request).await;
    fs::remove_dir(site.path("a/data")).unwrap();
    let removal = conformance::removal(&request, &volume, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Absent);
    assert_eq!(site.tree(), [""; 0]);
    assert_eq!(site.records("volumes").len(), 0);
}

#[tokio::test]
async fn an_uncommitted_volume_whose_place_somebody_else_uses_now_leaves_only_its_intent_behind() {
    let site = Site::new();
    site.create(&request("a", &[("pathPattern", "data"), ("existingDirectory", "share")])).await.unwrap();
    site.make(&request("b", &[("pathPattern", "data"), ("existingDirectory", "share")])).await;
    let uncommitted = site.nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap().remove(0);
    site.nfs.rollback(&uncommitted, &Permit::unlimited()).await.unwrap();
    assert_eq!(site.tree(), ["data"]);
    assert_eq!(site.records("volumes"), ["pvc-uid-b.json"]);
}

/// Proves: statement 23
#[tokio::test]
async fn what_the_server_forbids_is_explained_with_path_errno_and_export_option() {
    use std::os::unix::fs::PermissionsExt;
    if nix::unistd::geteuid().is_root() {
        println!(
            "skipped: what_the_server_forbids_is_explained_with_path_errno_and_export_option: root may do everything here"
        );
        return;
    }
    let site = Site::new();
    site.make(&patterned("other", "other")).await;
    fs::create_dir(site.path("closed")).unwrap();
    fs::set_permissions(site.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let error = site.create(&patterned("x", "closed/x")).await.unwrap_err();
    let text = error.chain();
    for part in ["closed/x", "Permission denied", "no_root_squash", "make directory"] {
        assert!(text.contains(part), "{text}");
    }
    fs::set_permissions(site.path("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    site.create(&patterned("x", "closed/x")).await.unwrap();
}

#[test]
fn failures_are_explained_by_their_errno() {
    use crate::system::root::{Errno, Failure};
    let _site = Site::new();
    let rows = [
        (Errno::EACCES, Kind::Unavailable, "no_root_squash"),
        (Errno::EPERM, Kind::Unavailable, "no_root_squash"),
        (Errno::ENOSPC, Kind::Exhausted, "no space"),
        (Errno::EDQUOT, Kind::Exhausted, "quota"),
        (Errno::EROFS, Kind::Unavailable, "read-only"),
        (Errno::ENAMETOOLONG, Kind::Invalid, "longer"),
        (Errno::ESTALE, Kind::Unavailable, "stale"),
        (Errno::ELOOP, Kind::Refused, "symbolic link"),
        (Errno::EXDEV, Kind::Refused, "mounted"),
        (Errno::EIO, Kind::Unavailable, "unknown"),
        (Errno::EINVAL, Kind::Internal, "unexpected"),
    ];
    for (errno, kind, hint) in rows {
        let failure = Failure { step: "make directory", path: "/export/a/b".into(), cause: errno.into() };
        let error = op_error::explained("create volume pvc-1 on export default", failure.into());
        assert_eq!(error.kind(), kind, "{errno}");
        let text = error.chain();
        for part in [hint, "create volume pvc-1 on export default", "make directory /export/a/b", "os error"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}

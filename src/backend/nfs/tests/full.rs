//! An export on which nothing new can be made: no space, no quota, no inode.

use super::*;
use crate::system::root::{Errno, Step};

/// Lets whatever needs an inode fail: new files and directories, and with `moves` also moves into the trash.
fn fill_up(site: &Site, errno: Errno, moves: bool) {
    let root = site.directory.path().to_path_buf();
    let full = move |step: &Step<'_>| {
        matches!(step.what, "make directory" | "write" | "link")
            || moves && step.to().is_some_and(|to| to.starts_with(root.join(".berth/trash")))
    };
    site.nfs.stores[0].interruption.fail(errno, full);
}

fn at_top(site: &Site) -> Vec<String> {
    let mut names = site.tree_whole();
    names.retain(|path| path.starts_with(".berth-") && !path.contains('/'));
    names
}

impl Site {
    fn tree_whole(&self) -> Vec<String> {
        tree(self.directory.path())
    }
}

#[tokio::test]
async fn an_old_volume_of_a_full_export_without_our_directory_is_removed_purged_and_leaves_nothing() {
    for errno in [Errno::ENOSPC, Errno::EDQUOT] {
        let mut site = Site::new();
        site.plant("team-old-pvc-uid-old");
        fill_up(&site, errno, false);
        let removal = Removal {
            pv_metadata: PvMetadata { uid: "object".into(), ..PvMetadata::default() },
            ..old_removal("old", "/export/team-old-pvc-uid-old", Disposal::Delete)
        };
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
        assert!(!site.has("team-old-pvc-uid-old") && !site.has(".berth"));
        let top = at_top(&site);
        assert!(top[0].starts_with(".berth-trash-pvc-uid-old@"), "{top:?}");
        assert!(top[0].contains("@object@cluster-1@"), "{top:?}");
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed, "and so again");
        // The next process finds it, asks for its PV, and purges it though the export is still full.
        site.kube.set_volume(&removal.name, "object", true);
        site.restart();
        fill_up(&site, errno, false);
        site.collect_until(|status| status.trash == 1).await;
        site.kube.delete_volume(&removal.name);
        site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
        assert_eq!(site.tree_whole(), [""; 0]);
    }
}

#[tokio::test]
async fn an_old_volume_of_a_full_export_comes_back_when_its_pv_is_kept_after_all() {
    let site = Site::new();
    site.plant("team-old-pvc-uid-old");
    fill_up(&site, Errno::ENOSPC, false);
    let mut removal = old_removal("old", "/export/team-old-pvc-uid-old", Disposal::Delete);
    removal.pv_metadata.uid = "object".into();
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    // Its place cannot be noted yet, and another volume could get it.
    let error = site.restore(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{}", error.chain());
    assert!(error.chain().contains("free some space"), "{}", error.chain());
    site.nfs.stores[0].interruption.never();
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    assert!(site.has("team-old-pvc-uid-old/file"));
    assert_eq!(at_top(&site), [""; 0]);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    assert!(site.has("team-old-pvc-uid-old/file"));
}

#[tokio::test]
async fn a_recorded_volume_of_a_full_export_is_removed_and_purged_and_leaves_nothing() {
    for moves in [false, true] {
        let mut site = Site::new();
        let (request, other) = (patterned("x", "a/data"), patterned("y", "other"));
        site.make(&other).await;
        let volume = site.make(&request).await;
        fs::write(site.path("a/data/file"), "").unwrap();
        fill_up(&site, Errno::ENOSPC, moves);
        let removal = conformance::removal(&request, &volume, Disposal::Delete);
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed, "moves fail: {moves}");
        assert!(!site.has("a/data"));
        assert_eq!(at_top(&site).len(), usize::from(moves));
        site.restart();
        fill_up(&site, Errno::ENOSPC, moves);
        site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
        site.nfs.stores[0].interruption.never();
        site.restart();
        site.collect_until(|status| status.trash == 0).await;
        assert_eq!(site.tree(), ["other"]);
        assert_eq!(at_top(&site), [""; 0]);
        assert_eq!(site.records("volumes"), ["pvc-uid-y.json"]);
        assert_eq!(site.records("trash"), [""; 0]);
    }
}

#[tokio::test]
async fn a_recorded_volume_of_a_full_export_comes_back_when_it_is_rescued_while_nobody_leads() {
    let mut site = Site::new();
    let request = patterned("x", "data");
    let volume = site.make(&request).await;
    fs::write(site.path("data/file"), "").unwrap();
    fill_up(&site, Errno::ENOSPC, false);
    let removal = conformance::removal(&request, &volume, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, false);
    site.restart();
    site.collect_until(|status| status.trash == 0 && site.has("data/file")).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
}

#[tokio::test]
async fn a_volume_of_a_full_export_is_not_archived_and_the_error_says_what_to_do() {
    let site = Site::new();
    site.plant("team-old-pvc-uid-old");
    fill_up(&site, Errno::ENOSPC, false);
    let removal = old_removal("old", "/export/team-old-pvc-uid-old", Disposal::Archive);
    let error = site.remove(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    let command = "kubectl annotate pv pvc-uid-old berth.storage/on-delete=delete --overwrite";
    assert!(error.chain().contains(command), "{}", error.chain());
    assert!(site.has("team-old-pvc-uid-old/file"));
}

/// The name tells when it was removed. A clock that was a month behind, or a person, had written a time that was over long ago, and the
/// entry was purged when it was met.
#[tokio::test]
async fn an_entry_whose_name_tells_a_time_long_ago_is_purged_only_once_it_was_seen_for_its_retention() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::new();
    let now: std::time::SystemTime = "2026-03-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    site.kube.set_now(now);
    let plant = |name: &str, keep: u64| {
        site.plant("aside");
        let inode = fs::metadata(site.path("aside")).unwrap().ino();
        let top = format!(".berth-trash-pvc-{name}@20200101T000000Z@object@cluster-1@{inode}@{keep}");
        fs::rename(site.path("aside"), site.path(&top)).unwrap();
        top
    };
    let held = plant("held", 3600);
    let minutes = |minutes: u64| now + Duration::from_mins(minutes);
    // Whenever another one is gone that is due at once, this one was decided about as well.
    let mut due = vec![plant("due-1", 0)];
    let mut gone_at_last = false;
    site.collect_until(|status| {
        if due.iter().all(|entry| !site.has(entry)) && !gone_at_last {
            assert!(site.has(&held), "it was purged {} times too early", due.len());
            if due.len() == 1 {
                site.kube.set_now(minutes(59));
                let next = plant("due-2", 0);
                site.nfs.stores[0].trash.put_at_top(&next);
                due.push(next);
            } else {
                site.kube.set_now(minutes(60));
                gone_at_last = true;
            }
            site.nfs.stores[0].trash.look();
        }
        gone_at_last && !site.has(&held) && status.trash == 0
    })
    .await;
}

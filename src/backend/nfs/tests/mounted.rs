//! Volumes in a file system that is mounted below the export.

use super::{trash::Mount, *};

/// An export in which a file system is mounted at `ns`, with an old volume in it; `None` where nothing can be mounted.
fn site(test: &str) -> Option<(Site, Mount)> {
    let Some(mut mount) = Mount::try_new() else {
        println!("skipped: {test}: mounting is not allowed here");
        return None;
    };
    let site = Site::new();
    fs::create_dir(site.path("ns")).unwrap();
    mount.bind(&site.path("ns"));
    site.plant("ns/team-old-pvc-uid-old");
    Some((site, mount))
}

fn removal(path: &str, disposal: Disposal) -> Removal {
    let mut removal = old_removal("old", &format!("/export/{path}"), disposal);
    removal.pv_metadata.uid = "object".into();
    removal
}

#[tokio::test]
async fn an_old_volume_in_a_file_system_below_the_export_goes_to_the_trash_there_and_is_purged() {
    let Some((mut site, mut mount)) =
        site("an_old_volume_in_a_file_system_below_the_export_goes_to_the_trash_there_and_is_purged")
    else {
        return;
    };
    site.kube.set_retention(Duration::from_hours(1));
    let removal = removal("ns/team-old-pvc-uid-old", Disposal::Delete);
    for _ in 0..2 {
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    }
    assert!(!site.has("ns/team-old-pvc-uid-old"));
    assert_eq!(fs::read_dir(site.path("ns/.berth/trash")).unwrap().count(), 1);
    // Rescued: it goes back.
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    assert!(site.has("ns/team-old-pvc-uid-old/file"));
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.kube.set_volume(&removal.name, "object", false);
    site.restart();
    site.collect_until(|status| status.trash == 0 && site.has("ns/team-old-pvc-uid-old/file")).await;
    // Gone: it is purged.
    site.kube.delete_volume(&removal.name);
    site.kube.set_retention(Duration::ZERO);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.restart();
    site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
    assert_eq!(fs::read_dir(site.path("ns/.berth/trash")).unwrap().count(), 0);
    assert_eq!(finished(site.records("trash")), [""; 0]);
    assert!(site.has("ns/precious"));
    mount.unbind(&site.path("ns"));
}

#[tokio::test]
async fn a_rescued_volume_below_the_export_has_its_place_again() {
    let test = "a_rescued_volume_below_the_export_has_its_place_again";
    for steps in 0..60 {
        let Some((mut site, mut mount)) = site(test) else { return };
        let removal = removal("ns/team-old-pvc-uid-old", Disposal::Delete);
        site.nfs.stores[0].interruption.after(steps);
        let whole = site.remove(&removal).await.is_ok();
        site.restart();
        site.restore(&removal).await.unwrap();
        assert!(site.has("ns/team-old-pvc-uid-old/file"), "after {steps} steps");
        let recorded = !finished(site.records("volumes")).is_empty();
        let noted = site.has(".berth/places/ns/team-old-pvc-uid-old");
        assert!(noted || !recorded, "after {steps} steps: {:?}", tree(&site.path(".berth")));
        mount.unbind(&site.path("ns"));
        if whole {
            return;
        }
    }
    panic!("it never succeeds");
}

/// The data was never told of, and its record was forgotten.
#[tokio::test]
async fn what_a_late_call_moved_to_the_trash_below_the_export_is_reported_and_not_forgotten() {
    let test = "what_a_late_call_moved_to_the_trash_below_the_export_is_reported_and_not_forgotten";
    let Some((site, mut mount)) = site(test) else { return };
    let removal = removal("ns/team-old-pvc-uid-old", Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    let entry = fs::read_dir(site.path("ns/.berth/trash")).unwrap().next().unwrap().unwrap().file_name();
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    let late = site.path("ns/.berth/trash").join(entry);
    fs::rename(site.path("ns/team-old-pvc-uid-old"), &late).unwrap();
    let error = site.remove(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains(&format!("mv {}", late.display())), "{}", error.chain());
    assert!(late.join("file").exists());
    assert_eq!(finished(site.records("volumes")).len(), 1);
    mount.unbind(&site.path("ns"));
}

#[tokio::test]
async fn a_removal_below_the_export_that_was_interrupted_is_finished_by_the_next_attempt() {
    let test = "a_removal_below_the_export_that_was_interrupted_is_finished_by_the_next_attempt";
    for steps in 0..60 {
        let Some((mut site, mut mount)) = site(test) else { return };
        let removal = removal("ns/team-old-pvc-uid-old", Disposal::Delete);
        site.nfs.stores[0].interruption.after(steps);
        let whole = site.remove(&removal).await.is_ok();
        site.restart();
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed, "after {steps} steps");
        assert!(!site.has("ns/team-old-pvc-uid-old"), "after {steps} steps");
        assert_eq!(finished(site.records("volumes")), [""; 0], "after {steps} steps");
        site.collect_until(|status| status.trash == 0 && finished(site.records("trash")).is_empty()).await;
        mount.unbind(&site.path("ns"));
        if whole {
            return;
        }
    }
    panic!("it never succeeds");
}

#[tokio::test]
async fn what_cannot_be_removed_below_the_export_is_refused_with_what_to_do() {
    let Some((site, mut mount)) = site("what_cannot_be_removed_below_the_export_is_refused_with_what_to_do")
    else {
        return;
    };
    let before = site.tree();
    let rows = [
        ("ns", Disposal::Delete, "kubectl delete pv pvc-uid-old"),
        ("ns/team-old-pvc-uid-old", Disposal::Archive, "berth.storage/on-delete=delete"),
    ];
    for (path, disposal, part) in rows {
        let error = site.remove(&removal(path, disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{path}");
        assert!(
            error.chain().contains(part) && error.chain().contains("nothing was touched"),
            "{}",
            error.chain()
        );
        assert_eq!(finished(site.records("volumes")), [""; 0]);
    }
    // It is somebody's export: the trash there is not ours.
    site.plant("ns/.berth");
    fs::write(site.path("ns/.berth/export.json"), "{}").unwrap();
    let error = site.remove(&removal("ns/team-old-pvc-uid-old", Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.chain().contains("an export of its own"), "{}", error.chain());
    fs::remove_dir_all(site.path("ns/.berth")).unwrap();
    assert_eq!(site.tree(), before);
    mount.unbind(&site.path("ns"));
}

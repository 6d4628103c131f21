//! What must not be lost when calls come late, PVs are rescued, copied, rebound, restored from a backup.
//!
//! Where a rule keeps the data, the same is done without the rule, and the data is lost: so the rule is what keeps it.

use std::{os::unix::fs::MetadataExt as _, time::SystemTime};

use super::*;
use crate::{backend::nfs::work::Rule, volume::ClusterIds};

/// A volume `x` at `data` with content, and its removal.
async fn made(site: &Site) -> Removal {
    filled(site, "x", "data", "precious").await
}

async fn filled(site: &Site, name: &str, directory: &str, content: &str) -> Removal {
    let request = patterned(name, directory);
    let volume = site.make(&request).await;
    fs::write(site.path(directory).join("file"), content).unwrap();
    conformance::removal(&request, &volume, Disposal::Delete)
}

fn content(site: &Site, path: &str) -> Option<String> {
    fs::read_to_string(site.path(path)).ok()
}

fn switch_off(nfs: &Nfs, rule: Option<Rule>) {
    if let Some(rule) = rule {
        nfs.stores[0].rules.switch_off(rule);
    }
}

/// Holds the move of `data` to the trash.
fn hold_move(nfs: &Nfs) -> interruption::Late {
    nfs.stores[0].interruption.try_lock(|step| step.what == "move" && step.path().ends_with("data"))
}

/// A leader that hung in the move purged the data of the next volume, which was committed or not.
async fn late_move_after_the_place_was_taken_again(rule: Option<Rule>, committed: bool) -> Option<String> {
    let site = Site::new();
    let next = site.next_leader();
    for nfs in [&site.nfs, &next] {
        switch_off(nfs, rule);
    }
    let (removal, permit) = (made(&site).await, Permit::unlimited());
    let late = hold_move(&site.nfs);
    let hung = site.nfs.remove(&removal, &permit);
    let meanwhile = async {
        late.reached().await;
        permit.revoke();
        let permit = Permit::unlimited();
        assert_eq!(next.remove(&removal, &permit).await.unwrap(), Removed::Trashed);
        collect_until(&next, |status| status.trash == 0 && status.purged == 2).await;
        let request = patterned("y", "data");
        let volume = next.create(&request, &permit).await.unwrap();
        if committed {
            next.commit(&volume.id, "object-y", &permit).await.unwrap();
        }
        site.kube.set_volume(&request.name, "object-y", false);
        fs::write(site.path("data/file"), "of y").unwrap();
        late.release();
    };
    let (removed, ()) = tokio::join!(hung, meanwhile);
    assert!(removed.is_err() || rule.is_some(), "{removed:?}");
    assert!(!site.has("data"), "the late call has moved it");
    collect_until(&next, |status| site.has("data") || status.purged == 4).await;
    assert_eq!(next.stores()[0].stuck, []);
    content(&site, "data/file")
}

#[tokio::test]
async fn a_move_that_hangs_until_the_next_claim_fills_the_place_is_undone_by_the_next_leader() {
    for committed in [true, false] {
        let kept = late_move_after_the_place_was_taken_again(None, committed).await;
        assert_eq!(kept.as_deref(), Some("of y"));
    }
    assert_eq!(late_move_after_the_place_was_taken_again(Some(Rule::Inode), true).await, None);
}

/// How a volume that is being brought back, by a call that hangs, is removed after all.
#[derive(Debug, Clone, Copy)]
enum After {
    /// An administrator deletes its PV.
    PvDeleted,
    /// It is released again.
    Removed(Disposal),
}

/// What lies in the volume that has the place by then.
async fn late_return(rule: Option<Rule>, after: After) -> Option<String> {
    let site = Site::new();
    let next = site.next_leader();
    for nfs in [&site.nfs, &next] {
        switch_off(nfs, rule);
    }
    site.kube.set_retention(Duration::from_hours(1));
    let (mut removal, permit) = (made(&site).await, Permit::unlimited());
    if let After::Removed(disposal) = after {
        removal.disposal = disposal;
    }
    site.remove(&removal).await.unwrap();
    let home = site.path("data");
    let late = site.nfs.stores[0].interruption.try_lock(move |step| step.to().is_some_and(|to| to == home));
    let hung = site.nfs.restore(&removal, &permit);
    let meanwhile = async {
        late.reached().await;
        permit.revoke();
        match after {
            After::PvDeleted => {
                collect_until(&next, |_| site.records("volumes").is_empty()).await;
            }
            After::Removed(_) => drop(next.remove(&removal, &Permit::unlimited()).await.unwrap()),
        }
        let request = patterned("y", "data");
        let volume = next.create(&request, &Permit::unlimited()).await.unwrap();
        next.commit(&volume.id, "object-y", &Permit::unlimited()).await.unwrap();
        late.release();
    };
    let (restored, ()) = tokio::join!(hung, meanwhile);
    assert!(restored.is_err() || rule.is_some(), "{restored:?}");
    assert!(site.has("data"));
    let kept = tree(site.directory.path()).into_iter().find(|path| path.ends_with("/file")).unwrap();
    assert_eq!(content(&site, &kept).as_deref(), Some("precious"), "it is not lost");
    content(&site, "data/file")
}

#[tokio::test]
async fn a_return_that_hangs_until_another_volume_has_the_place_puts_no_old_data_there() {
    for after in [After::PvDeleted, After::Removed(Disposal::Delete), After::Removed(Disposal::Archive)] {
        assert_eq!(late_return(None, after).await, None, "{after:?}");
        assert_eq!(late_return(Some(Rule::Inode), after).await.as_deref(), Some("precious"), "{after:?}");
    }
}

#[tokio::test]
async fn a_removal_that_is_interrupted_while_the_entry_gets_another_name_goes_on() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        for steps in 0..60 {
            let mut site = Site::new();
            let removal = Removal { disposal, ..made(&site).await };
            let removed = site.remove(&removal).await.unwrap();
            // Brought back half way: its record is among the volumes again, and its data is not.
            let home = site.path("data");
            let fails = move |step: &crate::system::root::Step<'_>| step.to().is_some_and(|to| to == home);
            site.nfs.stores[0].interruption.fail(crate::system::root::Errno::EIO, fails);
            site.restore(&removal).await.unwrap_err();
            assert_eq!(site.records("volumes").len(), 1);
            site.nfs.stores[0].interruption.never();
            site.nfs.stores[0].interruption.after(steps);
            let whole = site.remove(&removal).await.is_ok();
            site.restart();
            let again = site.remove(&removal).await.unwrap();
            assert_eq!(
                matches!(again, Removed::Archived(_)),
                matches!(removed, Removed::Archived(_)),
                "after {steps} steps"
            );
            assert!(!site.has("data"));
            assert_eq!(site.records("volumes").len(), 0, "after {steps} steps");
            assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack, "after {steps} steps");
            assert_eq!(content(&site, "data/file").as_deref(), Some("precious"));
            if whole {
                break;
            }
            assert!(steps < 59, "it never succeeds");
        }
    }
}

#[tokio::test]
async fn a_move_that_took_another_directory_is_undone_at_once_by_who_made_it() {
    let site = Site::new();
    let removal = made(&site).await;
    let late = hold_move(&site.nfs);
    let meanwhile = async {
        late.reached().await;
        fs::rename(site.path("data"), site.path("aside")).unwrap();
        site.plant("data");
        late.release();
    };
    let (removed, ()) = tokio::join!(site.remove(&removal), meanwhile);
    let error = removed.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
    assert_eq!(content(&site, "data/file").as_deref(), Some("data"));
    let error = site.remove(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error
            .chain()
            .ends_with("kubectl annotate --overwrite pv pvc-uid-x berth.storage/take-over=cluster-1"),
        "{error}"
    );
    let mut accepted = removal;
    accepted.pv_metadata.take_over = Some("cluster-1".into());
    assert_eq!(site.remove(&accepted).await.unwrap(), Removed::Trashed);
    assert_eq!(content(&site, "aside/file").as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_move_that_hangs_while_the_policy_goes_to_retain_is_undone_when_it_comes() {
    let site = Site::new();
    let next = site.next_leader();
    let (removal, permit) = (made(&site).await, Permit::unlimited());
    let late = hold_move(&site.nfs);
    let hung = site.nfs.remove(&removal, &permit);
    let meanwhile = async {
        late.reached().await;
        // The finalizer stays as long as the thread holds the volume.
        assert_eq!(site.restore(&removal).await.unwrap_err().kind(), Kind::Busy);
        permit.revoke();
        assert_eq!(next.restore(&removal, &Permit::unlimited()).await.unwrap(), Restored::InPlace);
        site.kube.set_volume(&removal.name, "object-pvc-uid-x", false);
        late.release();
    };
    let (removed, ()) = tokio::join!(hung, meanwhile);
    removed.unwrap_err();
    assert!(!site.has("data"), "the late call has moved it");
    collect_until(&next, |status| status.trash == 0 && site.has("data")).await;
    assert_eq!(content(&site, "data/file").as_deref(), Some("precious"));
}

/// What is left after a rescue between the move and the deletion of the PV, that no leader saw.
async fn rescued(rule: Option<Rule>) -> Option<String> {
    let mut site = Site::new();
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, false);
    site.restart();
    switch_off(&site.nfs, rule);
    site.collect_until(|status| status.trash == 0 && site.trash().is_empty()).await;
    content(&site, "data/file")
}

#[tokio::test]
async fn a_volume_that_is_rescued_between_the_move_and_the_deletion_of_its_pv_goes_back() {
    assert_eq!(rescued(None).await.as_deref(), Some("precious"));
    assert_eq!(rescued(Some(Rule::PvState)).await, None);
}

#[tokio::test]
async fn a_removal_that_was_interrupted_and_whose_pv_was_rescued_while_nobody_led_is_undone() {
    // Before, between and after the steps of the removal.
    for steps in 0..20 {
        let mut site = Site::new();
        let removal = made(&site).await;
        site.nfs.stores[0].interruption.after(steps);
        let whole = site.remove(&removal).await.is_ok();
        site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, false);
        site.restart();
        site.collect_until(|_| site.trash().is_empty() && site.has("data/file")).await;
        assert_eq!(site.records("volumes").iter().filter(|name| name.starts_with("pvc")).count(), 1);
        assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace, "after {steps} steps");
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed, "after {steps} steps");
        if whole {
            return;
        }
    }
    panic!("it never succeeds");
}

#[tokio::test]
async fn a_volume_waits_in_the_trash_while_its_pv_is_still_to_be_deleted_or_nobody_answers() {
    let site = Site::new();
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, true);
    let asked = |times| move |status: &StoreStatus| status.trash == 1 && times <= 1;
    site.collect_until(asked(1)).await;
    site.kube.set_reachable(false);
    site.kube.delete_volume(&removal.name);
    site.collect_until(asked(1)).await;
    assert_eq!(site.trash().len(), 1);
    site.kube.set_reachable(true);
    site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
    assert!(site.records("trash").is_empty(), "its record is gone as well");
}

#[tokio::test]
async fn what_is_in_the_trash_stays_there_for_the_retention_by_the_api_servers_clock() {
    let mut site = Site::new();
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    site.kube.set_now(now);
    site.kube.set_retention(Duration::from_mins(10));
    let (first, mut second) = (made(&site).await, filled(&site, "y", "other", "").await);
    second.pv_metadata.retention = Some(Duration::from_hours(1));
    assert_eq!(site.remove(&first).await.unwrap(), Removed::Trashed);
    assert_eq!(site.remove(&second).await.unwrap(), Removed::Trashed);
    for (minutes, left) in [(0, 2), (9, 2), (11, 1), (59, 1), (61, 0)] {
        site.kube.set_now(now + Duration::from_mins(minutes));
        site.restart();
        site.collect_until(|status| status.trash == left && site.trash().len() == left).await;
    }
}

#[tokio::test]
async fn an_accidental_delete_is_undone_by_a_pv_of_the_same_name_while_the_trash_holds_it() {
    let mut site = Site::new();
    site.kube.set_retention(Duration::from_hours(1));
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.kube.set_volume(&removal.name, "made-again", false);
    site.restart();
    site.collect_until(|status| status.trash == 0 && site.has("data/file")).await;
    // The PV that was made again is the volume's from now on.
    let mut again = removal;
    again.pv_metadata.uid = "made-again".into();
    site.kube.set_cluster(None);
    assert_eq!(site.remove(&again).await.unwrap(), Removed::Trashed);
}

#[tokio::test]
async fn a_volume_that_was_made_again_under_the_same_name_does_not_bring_the_old_data_back() {
    let mut site = Site::new();
    let removal = made(&site).await;
    site.kube.set_retention(Duration::from_hours(1));
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    let again = site.create(&patterned("x", "elsewhere")).await.unwrap();
    site.nfs.commit(&again.id, "made-again", &Permit::unlimited()).await.unwrap();
    site.kube.set_volume(&removal.name, "made-again", false);
    site.restart();
    site.kube.set_now(SystemTime::now() + Duration::from_hours(2));
    site.collect_until(|status| status.trash == 0 && site.trash().is_empty()).await;
    assert!(site.has("elsewhere") && !site.has("data"));
}

#[tokio::test]
async fn a_volume_whose_pv_was_bound_to_another_claim_is_removed() {
    let site = Site::new();
    let mut removal = made(&site).await;
    removal.claim = conformance::key(&request("someone-else", &[]));
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    let entry = site.trash().remove(0);
    let record = fs::read_to_string(site.path(&format!(".berth/trash/{entry}.json"))).unwrap();
    assert!(record.contains("someone-else"), "it says whose it was last: {record}");
}

/// What the copy of a PV in a second cluster makes of the data.
async fn copied(rule: Option<Rule>) -> (Option<Kind>, Option<String>) {
    let site = Site::new();
    let second = site.of_cluster("cluster-2");
    switch_off(&second, rule);
    let mut removal = made(&site).await;
    removal.pv_metadata.uid = "the-copy".into();
    let error = second.remove(&removal, &Permit::unlimited()).await.err();
    if let Some(error) = &error {
        let command = "kubectl annotate --overwrite pv pvc-uid-x berth.storage/take-over=cluster-1";
        assert!(error.to_string().ends_with(command), "{error}");
    } else {
        collect_until(&second, |status| status.trash == 0).await;
    }
    (error.map(|error| error.kind()), content(&site, "data/file"))
}

#[tokio::test]
async fn the_copy_of_a_pv_in_a_second_cluster_removes_nothing_until_an_administrator_hands_the_volume_over() {
    assert_eq!(copied(None).await, (Some(Kind::Refused), Some("precious".into())));
    assert_eq!(copied(Some(Rule::Cluster)).await, (None, None));
    let site = Site::new();
    let second = site.of_cluster("cluster-2");
    let mut removal = made(&site).await;
    removal.pv_metadata.uid = "the-copy".into();
    removal.pv_metadata.take_over = Some("cluster-1".into());
    assert_eq!(second.remove(&removal, &Permit::unlimited()).await.unwrap(), Removed::Trashed);
    // The first cluster leaves it alone from now on, and the second one purges it.
    collect_until(&site.nfs, |status| status.trash == 0).await;
    assert_eq!(site.trash().len(), 1);
    collect_until(&second, |status| status.trash == 0 && status.purged == 2).await;
}

#[tokio::test]
async fn a_pv_of_a_rebuilt_cluster_is_proved_by_a_former_id_and_one_of_an_unknown_cluster_by_its_object_only()
{
    let site = Site::new();
    let (first, mut second) = (made(&site).await, filled(&site, "y", "other", "").await);
    second.pv_metadata.uid = "restored-from-a-backup".into();
    site.kube.set_cluster(None);
    let error = site.remove(&second).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.chain().contains("kube-system"), "{}", error.chain());
    assert!(site.has("other/file"));
    site.kube.set_cluster(Some(ClusterIds::only("rebuilt").also(["cluster-1".to_owned()])));
    assert_eq!(site.remove(&second).await.unwrap(), Removed::Trashed);
    site.kube.set_cluster(None);
    assert_eq!(site.restore(&first).await.unwrap(), Restored::InPlace);
}

#[tokio::test]
async fn a_volume_that_was_archived_comes_back_to_its_place_when_its_pv_is_kept_after_all() {
    for nested in ["flat", "a/b/c"] {
        let site = Site::new();
        let removal = Removal { disposal: Disposal::Archive, ..filled(&site, "x", nested, "precious").await };
        let Removed::Archived(target) = site.remove(&removal).await.unwrap() else {
            panic!("it is archived")
        };
        assert!(site.has(&format!("{target}/file")));
        assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
        assert_eq!(site.restore(&removal).await.unwrap(), Restored::InPlace);
        assert_eq!(content(&site, &format!("{nested}/file")).as_deref(), Some("precious"));
        assert_eq!(site.tree().iter().filter(|path| path.starts_with("archived")).count(), 0);
        assert_eq!(site.records("archived").len(), 0);
        assert_eq!(tree(&site.path(".berth/places")).iter().filter(|p| p.starts_with("archived")).count(), 0);
        // Another archive than before: a call that was to bring the volume back, and comes late, finds nothing there.
        let Removed::Archived(again) = site.remove(&removal).await.unwrap() else { panic!("it is archived") };
        assert_ne!(again, target);
        assert!(site.has(&format!("{again}/file")));
    }
}

#[tokio::test]
async fn what_cannot_go_back_since_its_place_is_taken_waits_in_the_trash_and_is_reported() {
    let mut site = Site::new();
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    filled(&site, "y", "data", "of y").await;
    let error = site.restore(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{}", error.chain());
    site.kube.set_volume(&removal.name, &removal.pv_metadata.uid, false);
    site.restart();
    site.collect_until(|status| !status.stuck.is_empty()).await;
    let stuck = site.nfs.stores().remove(0).stuck;
    assert!(stuck[0].0.starts_with(".berth/trash/pvc-uid-x@"), "{stuck:?}");
    assert!(stuck[0].1.contains("cannot be moved back"), "{stuck:?}");
    assert_eq!(content(&site, "data/file").as_deref(), Some("of y"));
    fs::remove_dir_all(site.path("data")).unwrap();
    let other = conformance::removal(
        &patterned("y", "data"),
        &site.create(&patterned("y", "data")).await.unwrap(),
        Disposal::Delete,
    );
    site.remove(&other).await.unwrap();
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    assert_eq!(content(&site, "data/file").as_deref(), Some("precious"));
}

#[tokio::test]
async fn what_no_record_tells_the_owner_of_is_never_purged_and_is_reported() {
    let site = Site::new();
    made(&site).await;
    site.plant(".berth/trash/pvc-uid-z@20260101T000000Z-0123abcd");
    site.plant(".berth/trash/by-hand");
    fs::write(site.path(".berth/trash/plain"), "").unwrap();
    site.collect_until(|status| status.stuck.len() == 3).await;
    assert!(site.has(".berth/trash/by-hand/file"));
    let stuck = site.nfs.stores().remove(0).stuck;
    assert!(
        stuck.iter().any(|(path, why)| path.ends_with("by-hand") && why.contains("no record")),
        "{stuck:?}"
    );
    assert!(stuck.iter().any(|(path, why)| path.ends_with("plain") && why.contains("not a directory")));
    assert_eq!(site.nfs.stores()[0].trash, 3);
}

/// The purge of `x` was interrupted before it removed the record, `y` got the place and the inode, and a call that hung since
/// the removal of `x` moves it.
#[tokio::test]
async fn a_volume_that_got_place_and_inode_of_a_purged_one_is_moved_back_and_not_purged() {
    let mut site = Site::new();
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    let entry = site.trash()[0].clone();
    let (record, data) =
        (site.path(&format!(".berth/trash/{entry}.json")), site.path(&format!(".berth/trash/{entry}")));
    let of_x = fs::metadata(&data).unwrap().ino();
    fs::remove_dir_all(&data).unwrap();
    filled(&site, "y", "data", "of y").await;
    let of_y = fs::metadata(site.path("data")).unwrap().ino();
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace(&of_x.to_string(), &of_y.to_string())).unwrap();
    fs::rename(site.path("data"), &data).unwrap();
    site.restart();
    site.collect_until(|status| site.has("data") || status.purged > 0).await;
    assert_eq!(content(&site, "data/file").as_deref(), Some("of y"));
}

#[tokio::test]
async fn what_another_cluster_removed_is_left_to_it() {
    let site = Site::new();
    let second = site.of_cluster("cluster-2");
    let removal = made(&site).await;
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    let permit = Permit::unlimited();
    let collecting = second.collect_garbage(&permit);
    let looked = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    tokio::select! { () = collecting => unreachable!(), () = looked => {} }
    let status = second.stores().remove(0);
    assert_eq!((status.trash, status.stuck), (0, vec![]));
    assert!(site.has(&format!(".berth/trash/{}/file", site.trash()[0])));
}

/// An export that was copied has other inodes than its records say.
#[tokio::test]
async fn volumes_of_an_export_that_was_copied_with_its_records_are_removed() {
    let site = Site::new();
    let removal = made(&site).await;
    let second = filled(&site, "y", "other", "").await;
    site.remove(&second).await.unwrap();
    let copy = Site::new();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", site.directory.path().display()))
        .arg(copy.directory.path())
        .status();
    assert!(copied.unwrap().success());
    let copy = Site { nfs: copy.next_leader(), ..copy };
    assert_eq!(copy.remove(&removal).await.unwrap(), Removed::Trashed);
    copy.collect_until(|status| status.trash == 0 && copy.trash().is_empty()).await;
    assert_eq!(copy.nfs.stores()[0].stuck, []);
}

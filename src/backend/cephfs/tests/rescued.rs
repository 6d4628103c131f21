//! A volume that a PV uses again, although its subvolume is marked as archived or deleted: no mark of before counts against it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    changed_world::request_for,
    conformance::{Keys, World, removal},
    crash::old,
    fake::{KEY, Mgr},
};
use crate::{
    backend::{
        Backend, Janitor, Kind, KnownVolume, PvState, Removed, Restored, Stores, cephfs::Cephfs,
        cephfs::sweep,
    },
    volume::{Disposal, InUse, Permit, Removal, SecretName, Source, Volume, VolumeName, VolumeRequest},
};

const DAY: Duration = Duration::from_hours(24);
const DATA: &str = "/volumes/berth/berth-uid-data";

/// A volume on a file system of its own.
pub(super) struct Site {
    pub(super) mgr: Mgr,
    pub(super) keys: Arc<Keys>,
    pub(super) backend: Arc<Cephfs>,
    pub(super) request: VolumeRequest,
    pub(super) volume: Volume,
}

impl Site {
    pub(super) async fn new(more: &[(&str, &str)]) -> Self {
        let (mgr, keys) = (Mgr::new(), Keys::new("i-1", KEY));
        let backend = mgr.backend(keys.clone());
        let request = request_for("data", more);
        let volume = backend.create(&request, &Permit::unlimited()).await.unwrap();
        Self { mgr, keys, backend, request, volume }
    }

    /// The next leader.
    pub(super) fn take_over(&mut self) {
        self.backend = self.mgr.backend(self.keys.clone());
        self.backend.register_class(&self.request.parameters);
    }

    pub(super) fn removal(&self, disposal: Disposal) -> Removal {
        removal(&self.request, &self.volume, disposal)
    }

    pub(super) fn in_use(&self) -> InUse {
        let Removal { name, id, source, claim, origin, pv_metadata, .. } = self.removal(Disposal::Retain);
        InUse { name, id, source, claim, origin, capacity: self.request.capacity, pv_metadata }
    }

    pub(super) async fn remove(&self, disposal: Disposal) -> Removed {
        self.backend.remove(&self.removal(disposal), &Permit::unlimited()).await.unwrap()
    }

    /// There is a PV of this UID.
    pub(super) fn pv(&self, uid: &str, removing: bool) {
        self.keys.set_pv(&self.request.name, PvState::Present { uid: uid.into(), removing });
    }

    pub(super) fn pv_is_gone(&self) {
        self.keys.set_pv(&self.request.name, PvState::Absent);
    }

    /// Which volumes in use are to be registered.
    pub(super) async fn unregistered(&self) -> Vec<VolumeName> {
        let known = [KnownVolume { name: self.request.name.clone(), legacy: false }];
        self.backend.unregistered(self.volume.id.store(), &known).await.unwrap()
    }

    /// Purges what is due by then.
    pub(super) async fn collect(&self, after: Duration) {
        let work = self.backend.work_on(self.volume.id.store()).await.unwrap().unwrap();
        sweep::collect_garbage(&work, SystemTime::now() + after, &Permit::unlimited()).await.unwrap();
    }

    pub(super) fn exists(&self) -> bool {
        self.mgr.exists(DATA)
    }

    pub(super) fn meta(&self, key: &str) -> Option<String> {
        let file = self.mgr.path().join("tree").join(&DATA[1..]).join(".sub/meta").join(key);
        std::fs::read_to_string(file).ok()
    }
}

/// The PV was made again while berth was stopped, and the mark stayed: the data of a volume whose PV went to `Retain` was deleted on
/// the day on which its archive of before would have expired.
#[tokio::test]
async fn an_archive_whose_persistent_volume_was_made_again_while_nothing_led_is_no_archive_any_more() {
    let shared = SecretName { namespace: "team".into(), name: "shared".into() };
    let (expiring, user) = (("archiveExpiry", "30d"), ("userSecretName", "shared"));
    let rows = [(&[expiring, user][..], false), (&[expiring], false), (&[expiring], true), (&[], false)];
    for (more, secret_is_back) in rows {
        let mut site = Site::new(more).await;
        site.keys.put(&shared, &[("key", KEY)]);
        let row = format!("{more:?} {secret_is_back}");
        site.remove(Disposal::Archive).await;
        if secret_is_back {
            // Applied from a backup.
            site.keys.put(&site.backend.kept_secret(&site.volume.record).unwrap(), &[("key", KEY)]);
        }
        site.pv("again", false);
        site.take_over();
        assert_eq!(site.unregistered().await, [site.request.name.clone()], "{row}");
        if secret_is_back {
            site.backend.register(&site.in_use(), &Permit::unlimited()).await.unwrap_err();
            site.keys.delete(&site.backend.kept_secret(&site.volume.record).unwrap());
        }
        site.backend.register(&site.in_use(), &Permit::unlimited()).await.unwrap();
        assert_eq!(site.meta("berth.archived"), None, "{row}");
        assert_eq!(site.unregistered().await, [], "{row}");
        // With the policy `Retain` berth has no part in its end.
        site.pv_is_gone();
        site.take_over();
        site.collect(31 * DAY).await;
        assert!(site.exists(), "{row}");
    }
}

/// The archive got the expiry of the one before, and was deleted five days after its claim.
#[tokio::test]
async fn an_archive_whose_persistent_volume_was_made_again_is_kept_for_its_whole_time() {
    // The PV that is archived now is another one than before, or the time of before is over.
    for (uid, after) in [("again", Duration::ZERO), ("object", 31 * DAY)] {
        let mut site = Site::new(&[("archiveExpiry", "30d")]).await;
        let mut removal = site.removal(Disposal::Archive);
        removal.pv_metadata.uid = "object".into();
        site.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
        let before = site.meta("berth.archived").unwrap();
        site.take_over();
        site.keys.later(after);
        site.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
        assert_eq!(site.meta("berth.archived").unwrap() == before, after.is_zero(), "the same removal again");
        site.keys.later(after + 25 * DAY);
        removal.pv_metadata.uid = uid.into();
        site.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
        site.collect(after + 54 * DAY).await;
        assert_eq!(site.exists(), uid == "again", "{uid}");
    }
}

const SNAPSHOT: [&str; 9] =
    ["fs", "subvolume", "snapshot", "create", "cephfs", "berth-uid-data", "one", "--group_name", "berth"];

/// Writes metadata as an administrator, or a call that comes late, would.
fn set(site: &Site, key: &str, value: &str) {
    let set = ["fs", "subvolume", "metadata", "set", "cephfs", "berth-uid-data", key, value];
    site.mgr.ceph(&[&set[..], &["--group_name", "berth"]].concat()).unwrap();
}

/// Its purge had begun, and could not go on before the snapshots were removed, weeks later: then it took what was written since.
#[tokio::test]
async fn what_cannot_be_purged_since_it_has_snapshots_can_be_restored_and_is_not_purged_later() {
    let site = Site::new(&[]).await;
    site.remove(Disposal::Delete).await;
    site.mgr.ceph(&SNAPSHOT).unwrap();
    site.collect(DAY).await;
    assert!(site.exists() && site.backend.stores()[0].stuck[0].1.contains("snapshot"));
    site.pv("again", false);
    let restored = site.backend.restore(&site.removal(Disposal::Delete), &Permit::unlimited()).await.unwrap();
    assert_eq!(restored, Restored::MovedBack);
    assert_eq!(site.keys.kept().len(), 1, "the user keeps its access");
    site.mgr.ceph(&SNAPSHOT.map(|word| if word == "create" { "rm" } else { word })).unwrap();
    site.collect(2 * DAY).await;
    assert!(site.exists());
    // Where the call that removes it may be on its way, it is told for as long as its PV is there.
    site.remove(Disposal::Delete).await;
    let begun = site.meta("berth.deleted").unwrap().replace('}', r#","purging":true}"#);
    set(&site, "berth.deleted", &begun);
    site.collect(3 * DAY).await;
    assert!(site.exists() && site.backend.stores()[0].stuck[0].1.contains("save its data"));
    site.pv_is_gone();
    site.collect(4 * DAY).await;
    assert!(!site.exists());
}

/// The API server was asked minutes before the data was deleted, and another task restored it in between.
#[tokio::test]
async fn a_volume_whose_persistent_volume_comes_back_while_it_is_being_purged_stays() {
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let mut site = Site::new(&[("archiveExpiry", "30d")]).await;
        site.remove(disposal).await;
        site.keys.set_pv_soon(&site.request.name, PvState::Present { uid: "again".into(), removing: false });
        site.collect(31 * DAY).await;
        assert!(site.exists(), "{disposal}");
        let permit = Permit::unlimited();
        site.backend.restore(&site.removal(disposal), &permit).await.unwrap();
        assert_eq!(site.keys.kept().len(), 1, "{disposal}: its user is let in again");
        assert_eq!((site.meta("berth.deleted"), site.meta("berth.archived")), (None, None), "{disposal}");
        site.take_over();
        site.collect(60 * DAY).await;
        assert!(site.exists(), "{disposal}");

        site.pv_is_gone();
        site.remove(disposal).await;
        let held = site.backend.locks.try_lock(&site.request.name).unwrap();
        site.collect(62 * DAY).await;
        assert!(site.exists(), "{disposal}: it is being worked on");
        drop(held);
        site.collect(63 * DAY).await;
        assert!(!site.exists(), "{disposal}");
    }
}

/// The key of the volume was written into a namespace that may be anybody's by now, or that an edited PV named.
#[tokio::test]
async fn giving_up_a_removal_gives_the_key_to_no_namespace_that_the_mark_does_not_allow() {
    for edited in [false, true] {
        let mut site = Site::new(&[("archiveExpiry", "30d")]).await;
        site.remove(Disposal::Archive).await;
        site.mgr.take_log();
        let mut removal = site.removal(Disposal::Archive);
        if edited {
            removal.pv_metadata.record.insert("secretNamespace".into(), "elsewhere".into());
        } else {
            removal.claim.namespace = "elsewhere".into();
        }
        let refused = site.backend.restore(&removal, &Permit::unlimited()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Refused, "{edited}: {refused}");
        assert_eq!(site.keys.kept(), [], "{edited}");
        assert!(!site.mgr.take_log().iter().any(|call| call.contains("subvolume authorize ")), "{edited}");
        site.take_over();
        site.collect(31 * DAY).await;
        assert!(site.exists(), "{edited}: it is kept all the same");
    }
}

/// Both Events were wrong: the administrator was told to make a Secret, and then to delete it.
#[tokio::test]
async fn the_secret_that_an_administrator_made_where_berth_may_not_is_taken_as_it_is() {
    let site = Site::new(&[]).await;
    let permit = Permit::unlimited();
    let secret = site.backend.kept_secret(&site.volume.record).unwrap();
    site.keys.delete(&secret);
    let mut in_use = site.in_use();
    in_use.claim.namespace = "elsewhere".into();
    in_use.claim.uid = "another".into();
    let told = site.backend.register(&in_use, &permit).await.unwrap_err();
    assert!(told.to_string().contains("ceph auth get-key client.berth-uid-data"), "{told}");
    site.keys.put(&secret, &[("key", KEY)]);
    site.backend.register(&in_use, &permit).await.unwrap();

    site.keys.delete(&secret);
    let mut removal = site.removal(Disposal::Archive);
    removal.claim = in_use.claim.clone();
    site.backend.remove(&removal, &permit).await.unwrap();
    site.pv("again", false);
    let told = site.backend.register(&in_use, &permit).await.unwrap_err();
    assert!(told.to_string().contains("ceph auth get-key client.berth-uid-data"), "{told}");
    assert_eq!((site.meta("berth.archived"), site.keys.kept()), (None, Vec::new()));
    assert!(site.mgr.path().join("users/berth-uid-data").exists(), "there is such a key");
}

/// A clock that was behind by more than the retention purged at once what was deleted.
#[tokio::test]
async fn what_is_deleted_while_the_time_is_unknown_stays_for_its_whole_time_from_when_it_is_known() {
    let site = Site::new(&[]).await;
    site.keys.lose_the_time(true);
    let mut removal = site.removal(Disposal::Delete);
    let hour = Duration::from_hours(1);
    removal.pv_metadata.retention = Some(hour);
    site.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
    for (after, there) in [(2 * hour, true), (Duration::from_mins(179), true), (4 * hour, false)] {
        site.collect(after).await;
        assert_eq!(site.exists(), there, "{after:?}");
    }
}

/// A call of an earlier leader was done after the removal was given up, and the volume went with its retained PV.
#[tokio::test]
async fn a_late_mark_on_a_volume_that_was_kept_removes_nothing() {
    for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
        let mut site = Site::new(&[("archiveExpiry", "30d")]).await;
        let permit = Permit::unlimited();
        let key = if disposal == Disposal::Archive { "berth.archived" } else { "berth.deleted" };
        let late = if disposal == Disposal::Retain {
            r#"{"since":"","until":"2026-01-01T00:00:00Z","object":""}"#.to_owned()
        } else {
            site.remove(disposal).await;
            site.meta(key).unwrap()
        };
        site.backend.restore(&site.removal(disposal), &permit).await.unwrap();
        assert_eq!(site.meta(key), None);
        set(&site, key, &late);
        site.take_over();
        site.collect(31 * DAY).await;
        assert!(site.exists(), "{disposal}");
        // Which is not for ever.
        site.remove(Disposal::Delete).await;
        site.collect(32 * DAY).await;
        assert!(!site.exists(), "{disposal}");
    }
}

#[tokio::test]
async fn a_volume_that_was_taken_over_without_a_mark_leaves_no_user_and_no_secret() {
    for registered in [false, true] {
        let site = Site::new(&[]).await;
        let remove = ["fs", "subvolume", "metadata", "rm", "cephfs", "berth-uid-data", "berth.owner"];
        site.mgr.ceph(&[&remove[..], &["--group_name", "berth"]].concat()).unwrap();
        let permit = Permit::unlimited();
        let (mut removal, mut in_use) = (site.removal(Disposal::Delete), site.in_use());
        removal.pv_metadata.take_over = Some("unrecorded".into());
        in_use.pv_metadata.take_over = Some("unrecorded".into());
        if registered {
            site.backend.register(&in_use, &permit).await.unwrap();
        }
        site.backend.remove(&removal, &permit).await.unwrap();
        site.collect(DAY).await;
        assert!(!site.exists());
        assert_eq!(site.keys.kept(), [], "{registered}");
        assert!(!site.mgr.path().join("users/berth-uid-data").exists(), "{registered}");
    }
}

/// With the documented caps Ceph tells nothing of users: each user that was gone counted as one that may be left.
#[tokio::test]
async fn only_a_user_that_may_still_reach_its_volume_is_reported() {
    let site = Site::new(&[]).await;
    let permit = Permit::unlimited();
    let file = |name: &str| site.mgr.path().join(name);
    std::fs::write(file("discreet"), "").unwrap();
    for _ in 0..2 {
        site.remove(Disposal::Archive).await;
        assert_eq!(site.backend.stores()[0].stuck, []);
    }
    let site = Site::new(&[]).await;
    let file = |name: &str| site.mgr.path().join(name);
    std::fs::write(file("discreet"), "").unwrap();
    set(&site, "berth.archived", "{\"since\":\"\"}");
    std::fs::write(file("full"), "").unwrap();
    for _ in 0..2 {
        let error = site.backend.remove(&site.removal(Disposal::Archive), &permit).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "its key still opens the archive: {error}");
        let stuck = site.backend.stores().remove(0).stuck;
        assert!(matches!(&stuck[..], [(user, _)] if user.contains("client.berth-uid-data")), "{stuck:?}");
    }
    std::fs::remove_file(file("full")).unwrap();
    std::fs::remove_file(file("discreet")).unwrap();
    site.remove(Disposal::Archive).await;
    assert_eq!(site.backend.stores()[0].stuck, [], "it was removed");
    assert!(!file("users/berth-uid-data").exists());
}

/// The volume could neither be archived nor deleted, and no node could mount it any more.
#[tokio::test]
async fn an_old_volume_that_cannot_go_keeps_its_user() {
    for disposal in [Disposal::Archive, Disposal::Delete] {
        let site = Site::new(&[]).await;
        let mut removal = old();
        removal.disposal = disposal;
        let Source::Cephfs(source) = &removal.source else { unreachable!() };
        site.mgr.plant(&source.path);
        site.mgr.add_user(&source.user, &format!("allow r,allow rw path={}", source.path));
        let group = source.path.trim_start_matches("/volumes/").trim_end_matches("/data");
        let look = ["fs", "subvolume", "metadata", "ls", "cephfs", "data", "--group_name", group];
        site.mgr.ceph(&look).unwrap();
        if disposal == Disposal::Archive {
            std::fs::write(site.mgr.path().join("full"), "").unwrap();
        } else {
            let sub = site.mgr.path().join("tree").join(source.path.trim_start_matches('/')).join(".sub");
            std::fs::write(sub.join("snapshots"), "").unwrap();
        }
        let permit = Permit::unlimited();
        site.backend.remove(&removal, &permit).await.unwrap_err();
        let user = site.mgr.path().join("users").join(&source.user);
        assert!(user.exists(), "{disposal}");
        std::fs::remove_dir_all(&user).unwrap();
        site.backend.restore(&removal, &permit).await.unwrap();
        let stuck = site.backend.stores().remove(0).stuck;
        assert!(stuck.iter().any(|(_, why)| why.contains("make the user and its Secret again")), "{stuck:?}");
    }
}

/// A clone that failed stopped the purge of all others, and everything was listed every two seconds.
#[tokio::test]
async fn a_clone_or_a_subvolume_that_ceph_never_answers_about_stops_no_other_one_from_being_purged() {
    for state in ["cloning", "silent"] {
        let mut site = Site::new(&[]).await;
        let permit = Permit::unlimited();
        // It comes before the other one.
        let first = request_for("a", &[]);
        let volume = site.backend.create(&first, &permit).await.unwrap();
        for (request, volume) in [(&first, &volume), (&site.request, &site.volume)] {
            let removal = removal(request, volume, Disposal::Delete);
            site.backend.remove(&removal, &permit).await.unwrap();
        }
        let sub = site.mgr.path().join("tree/volumes/berth/berth-uid-a/.sub");
        std::fs::write(sub.join(state), "").unwrap();
        for met in [false, true] {
            if met {
                site.take_over();
            }
            let work = site.backend.work_on(site.volume.id.store()).await.unwrap().unwrap();
            site.mgr.take_log();
            let _ = sweep::collect_garbage(&work, SystemTime::now() + DAY, &permit).await;
            assert!(!site.exists(), "{state}");
            let calls = site.mgr.take_log();
            assert!(calls.len() < 20, "{calls:?}");
            let _ = sweep::collect_garbage(&work, SystemTime::now() + DAY, &permit).await;
            assert_eq!(site.mgr.take_log(), [""; 0], "{state}");
        }
    }
}

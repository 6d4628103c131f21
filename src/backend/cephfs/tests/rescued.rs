//! A volume that a PV uses again, although its subvolume is marked as archived or deleted: no mark of before counts against it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    changed_world::request_for,
    conformance::{Keys, World, removal},
    fake::{KEY, Mgr},
};
use crate::{
    backend::{Backend, Janitor, KnownVolume, PvState, Removed, Stores, cephfs::Cephfs, cephfs::sweep},
    volume::{Disposal, InUse, Permit, Removal, SecretName, Volume, VolumeName, VolumeRequest},
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

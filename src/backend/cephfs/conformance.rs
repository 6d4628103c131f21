//! The behaviours that this backend must show, on a stand-in and on a real cluster alike: [`run`] tries them one after the
//! other, those of every backend ([`every`]) first. For tests only.
//!
//! Each behaviour uses subvolume groups of its own, and leaves users behind; a cluster is for tests alone. [`real`] brings a real
//! one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

mod every;
mod legacy;
pub mod real;
mod safety;
mod volumes;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Cephfs, Settings};
use crate::{
    backend::{
        ClusterInfo, Error, Kind, PvState, Removed, SecretStore, StorageSystem, StoreExpectation,
        Uncommitted,
        ceph::{Admin, Cluster, Clusters, Tools},
        conformance::{key, object_uid, request},
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, ExpandRequest, Mode, Origin, Permit, PvMetadata, Removal,
        SecretName, Secrets, Source, Volume, VolumeName, VolumeRequest,
    },
};

/// The storage, seen and changed behind the backend's back.
pub trait World: Send + Sync {
    /// Calls `ceph` as an administrator would; what it printed, if it succeeded.
    fn ceph(&self, args: &[&str]) -> Option<String>;
    /// Whether there is anything at this path of the file system.
    fn exists(&self, path: &str) -> bool;
    /// Puts the file `file` into that directory, as a pod would.
    fn fill(&self, path: &str);
    /// Makes that directory with all above it, and puts the file `file` into it, as an older provisioner would.
    fn plant(&self, path: &str);
    /// Makes a user with these rights to metadata servers.
    fn add_user(&self, user: &str, mds: &str);
    /// Removes the subvolume groups whose names begin so, with all that is in them: whoever looks for what was begun looks into
    /// every group that there is. A file system of one behaviour alone needs no clearing.
    fn clear(&self, _beginning: &str) {}
}

/// The Secrets of a cluster that exists in memory alone.
#[derive(Debug, Default)]
pub struct Keys {
    secrets: Mutex<BTreeMap<SecretName, (Secrets, Option<VolumeName>)>>,
    cluster_id: Mutex<Option<String>>,
    objects: Mutex<BTreeMap<VolumeName, PvState>>,
    coming: Mutex<Option<(VolumeName, PvState)>>,
    later: Mutex<Duration>,
    timeless: AtomicBool,
}

impl Keys {
    /// A cluster with this identity, and an admin's Secret `admin/ceph-admin` with this key.
    pub fn new(cluster_id: &str, key: &str) -> Arc<Self> {
        let keys = Self::default();
        *keys.cluster_id.lock() = Some(cluster_id.to_owned());
        keys.put(&admin_secret(), &[("key", key)]);
        Arc::new(keys)
    }

    /// Writes a Secret as an administrator would.
    pub fn put(&self, name: &SecretName, values: &[(&str, &str)]) {
        let secrets =
            values.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        self.map().insert(name.clone(), (secrets, None));
    }

    /// Deletes a Secret, as a tenant of its namespace may.
    pub fn delete(&self, name: &SecretName) {
        self.map().remove(name);
    }

    /// What the Secret of this name holds.
    pub fn stored(&self, name: &SecretName) -> Option<Secrets> {
        self.map().get(name).map(|(secrets, _)| secrets.clone())
    }

    /// The names of the Secrets that a backend keeps here.
    pub fn kept(&self) -> Vec<SecretName> {
        self.map().iter().filter(|(_, (_, owner))| owner.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Forgets, or learns, which cluster this is.
    pub fn identify(&self, cluster_id: Option<&str>) {
        *self.cluster_id.lock() = cluster_id.map(str::to_owned);
    }

    /// What there is as the PV of this name; none, if nothing is said.
    pub fn set_pv(&self, name: &VolumeName, state: PvState) {
        self.objects.lock().insert(name.clone(), state);
    }

    /// The PV of this name comes right after it was asked for once more.
    pub fn set_pv_soon(&self, name: &VolumeName, state: PvState) {
        *self.coming.lock() = Some((name.clone(), state));
    }

    /// By the API server it is so much later than here.
    pub fn later(&self, by: Duration) {
        *self.later.lock() = by;
    }

    /// From now on the time by the API server is unknown, or known again.
    pub fn lose_the_time(&self, lost: bool) {
        self.timeless.store(lost, Ordering::Relaxed);
    }

    fn map(&self) -> parking_lot::MutexGuard<'_, BTreeMap<SecretName, (Secrets, Option<VolumeName>)>> {
        self.secrets.lock()
    }
}

/// Where the admin's key is.
pub fn admin_secret() -> SecretName {
    SecretName { namespace: "admin".into(), name: "ceph-admin".into() }
}

#[async_trait]
impl SecretStore for Keys {
    async fn get(&self, name: &SecretName, _: bool) -> Result<Secrets, Error> {
        let found = self.map().get(name).map(|(secrets, _)| secrets.clone());
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("Secret {name} does not exist")))
    }

    async fn put(&self, name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Result<(), Error> {
        let mut map = self.map();
        match map.get(name) {
            Some((_, kept_for)) if kept_for.as_ref() != Some(owner) => {
                Err(Error::new(Kind::Conflict, format!("Secret {name} is somebody else's")))
            }
            Some(_) | None => {
                map.insert(name.clone(), (secrets.clone(), Some(owner.clone())));
                Ok(())
            }
        }
    }

    async fn exists(&self, name: &SecretName, owner: &VolumeName) -> Result<bool, Error> {
        match self.map().get(name) {
            None => Ok(false),
            Some((_, kept_for)) if kept_for.as_ref() == Some(owner) => Ok(true),
            Some(_) => Err(Error::new(Kind::Conflict, format!("Secret {name} is another one's"))),
        }
    }

    async fn delete(&self, name: &SecretName, owner: &VolumeName) -> Result<(), Error> {
        let mut map = self.map();
        match map.get(name) {
            // The Secrets of cephfs-provisioner are recognised by their names, as those of its volumes.
            Some((_, kept_for)) if kept_for.as_ref() == Some(owner) || name.name.starts_with("ceph-k") => {
                map.remove(name);
                Ok(())
            }
            Some(_) => Err(Error::new(Kind::Refused, format!("Secret {name} is somebody else's"))),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ClusterInfo for Keys {
    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error> {
        let mut objects = self.objects.lock();
        let state = objects.get(name).cloned().unwrap_or(PvState::Absent);
        objects.extend(self.coming.lock().take());
        Ok(state)
    }

    fn now(&self) -> Option<SystemTime> {
        let later = *self.later.lock();
        (!self.timeless.load(Ordering::Relaxed)).then(|| SystemTime::now() + later)
    }

    fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().clone()
    }
}

/// A cluster and backends on it.
pub struct Bench {
    /// The Secrets.
    pub keys: Arc<Keys>,
    /// The programs.
    pub tools: Tools,
    /// The storage itself.
    pub world: Box<dyn World>,
    /// The monitors, as a class writes them.
    pub monitors: String,
    /// Begins the names of groups, so that several runs can share a cluster.
    pub prefix: String,
}

/// A backend over these Secrets, as a new process would see it. Where no cluster is configured, classes describe theirs.
pub fn backend(tools: Tools, keys: Arc<Keys>, configured: Option<Cluster>) -> Arc<Cephfs> {
    let admin = Admin { user: "admin".into(), secret: admin_secret() };
    let admins = configured.iter().map(|cluster| (cluster.name().to_owned(), admin.clone())).collect();
    let settings = Settings { driver: "cephfs.berth.storage".into(), admins, secret_namespace: None };
    let clusters = Clusters::new(configured.into_iter().collect(), tools);
    Arc::new(Cephfs::new(clusters, keys, settings).unwrap())
}

impl Bench {
    fn start(&self) -> Arc<dyn StorageSystem> {
        self.open(Arc::clone(&self.keys))
    }

    /// A backend over other Secrets.
    fn open(&self, keys: Arc<Keys>) -> Arc<dyn StorageSystem> {
        backend(self.tools.clone(), keys, None)
    }

    /// A claim `team/<name>` of a class with a group of its own.
    fn request(&self, name: &str, more: &[(&str, &str)]) -> VolumeRequest {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.in_group(&format!("{}-{number}", self.prefix), name, more)
    }

    fn in_group(&self, group: &str, name: &str, more: &[(&str, &str)]) -> VolumeRequest {
        let mut request = request(&format!("{group}-{name}"));
        name.clone_into(&mut request.claim.name);
        let common = [
            ("monitors", self.monitors.as_str()),
            ("adminSecretName", "ceph-admin"),
            ("adminSecretNamespace", "admin"),
            ("group", group),
        ];
        let all = common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        request.parameters = all.collect();
        request
    }

    /// The path of a volume's data.
    fn data(volume: &Volume) -> String {
        match &volume.source {
            Source::Csi(csi) => csi.attributes["path"].clone(),
            Source::Cephfs(source) => source.path.clone(),
            other => unreachable!("{other}"),
        }
    }

    fn user_exists(&self, user: &str) -> bool {
        self.world.ceph(&["auth", "get", &format!("client.{user}")]).is_some()
    }

    /// What `user` may do to daemons of this kind.
    fn rights(&self, user: &str, daemons: &str) -> String {
        let entity = self.world.ceph(&["auth", "get", &format!("client.{user}")]).unwrap();
        let entity: serde_json::Value = serde_json::from_str(&entity).unwrap();
        entity[0]["caps"][daemons].as_str().unwrap_or_default().to_owned()
    }

    fn metadata(&self, volume: &Volume, key: &str) -> Option<String> {
        let record = &volume.record;
        let args = [
            "fs",
            "subvolume",
            "metadata",
            "ls",
            &record["fsName"],
            &record["subvolume"],
            "--group_name",
            &record["group"],
        ];
        let all: BTreeMap<String, String> = serde_json::from_str(&self.world.ceph(&args)?).unwrap();
        all.get(key).cloned()
    }
}

fn permit() -> Permit {
    Permit::unlimited()
}

/// The removal of `volume`, which was made for `request`.
pub fn removal(request: &VolumeRequest, volume: &Volume, disposal: Disposal) -> Removal {
    Removal {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: key(request),
        origin: Origin::Created,
        disposal,
        pv_metadata: pv_metadata(volume),
    }
}

fn pv_metadata(volume: &Volume) -> PvMetadata {
    PvMetadata {
        record: volume.record.clone(),
        store_identity: Some(volume.store_identity.clone()),
        uid: object_uid(volume.id.name()),
        ..PvMetadata::default()
    }
}

fn expansion(request: &VolumeRequest, volume: &Volume, bytes: u64) -> ExpandRequest {
    ExpandRequest {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: key(request),
        mode: Mode::Filesystem,
        capacity: Capacity::from_bytes(bytes),
        pv_metadata: pv_metadata(volume),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

async fn made(backend: &Arc<dyn StorageSystem>, request: &VolumeRequest) -> Volume {
    backend.create(request, &permit()).await.unwrap_or_else(|error| unreachable!("{}", error.chain()))
}

/// Removes it, and lets what was deleted be purged.
async fn removed(backend: &Arc<dyn StorageSystem>, removal: &Removal) -> Removed {
    let removed =
        backend.remove(removal, &permit()).await.unwrap_or_else(|error| unreachable!("{}", error.chain()));
    purged(&**backend).await;
    removed
}

/// Lets a term of leadership begin, and last until the trash is empty.
pub async fn purged(backend: &(impl StorageSystem + ?Sized)) {
    let permit = permit();
    let emptied = async {
        let since = Instant::now();
        while backend.stores().iter().any(|store| store.trash > 0) {
            assert!(since.elapsed() < Duration::from_mins(2), "{:?}", backend.stores());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = emptied => {}
        () = backend.collect_garbage(&permit) => unreachable!("the permit has not ended"),
    }
}

/// Shows every behaviour on a bench of its own; panics at the first that is missing, after its name. Benches may share a
/// cluster, if their prefixes differ.
pub async fn run(bench: impl Fn() -> Bench) {
    every::run(&bench).await;
    macro_rules! behaviours {
        ($($name:path),* $(,)?) => { $(
            println!("behaviour: {}", stringify!($name));
            let own = bench();
            $name(&own).await;
            own.world.clear(&format!("{}-", own.prefix));
        )* };
    }
    behaviours!(
        volumes::creating_again_gives_the_same_volume_and_key,
        volumes::an_in_tree_volume_names_monitors_path_user_and_secret,
        volumes::quotas_are_rounded_up_grow_and_never_shrink,
        volumes::a_deleted_volume_is_gone_with_user_and_secret,
        volumes::an_archived_volume_keeps_its_data_and_loses_its_users,
        volumes::a_kept_volume_stays_and_is_not_swept,
        volumes::the_next_claim_of_a_deterministic_name_never_sees_old_data,
        safety::what_is_not_proven_is_not_removed,
        safety::a_missing_group_is_no_proof_of_removal,
        safety::snapshots_keep_a_volume_and_are_named,
        safety::an_unused_volume_is_rolled_back_and_a_used_one_stays,
        safety::another_installations_volume_is_left_alone,
        safety::what_somebody_else_put_there_is_not_taken,
        safety::the_trace_of_a_crash_is_adopted,
        safety::nothing_is_kept_or_grows_after_the_permit_has_ended,
        legacy::old_volumes_are_removed_with_user_and_secret,
        legacy::old_volumes_that_do_not_fit_are_refused,
        volumes::archives_expire,
        volumes::a_shared_user_is_left_alone,
        volumes::a_user_that_was_lost_is_made_again,
        safety::the_user_of_a_volume_reaches_no_other_data,
    );
}

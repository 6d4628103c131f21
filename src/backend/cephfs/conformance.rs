//! The behaviours that this backend must show, on a stand-in and on a real cluster alike: [`run`] tries them one after the
//! other. For tests only.
//!
//! Each behaviour uses a subvolume group of its own and leaves it behind; a cluster is for these tests alone. [`real`] brings a
//! real one. What every backend must show is in `backend::conformance`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

pub mod real;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    backend::{
        Backend, Error, Host, Kind, Past, Removed, Unfinished,
        conformance::{key, request},
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, Growth, Mode, Origin, Permit, Provenance, Removal,
        SecretName, Secrets, Source, Volume, VolumeName, VolumeRequest,
    },
};

/// The storage, seen and changed behind the backend's back.
pub trait World: Send + Sync {
    /// Calls `ceph` as an administrator would; what it printed, if it succeeded.
    fn ceph(&self, args: &[&str]) -> Option<String>;
    /// Whether there is a directory at this path of the file system.
    fn exists(&self, path: &str) -> bool;
    /// Puts a file into that directory, as a pod would.
    fn fill(&self, path: &str);
    /// Makes that directory with all above it, and puts a file into it, as an older provisioner would.
    fn plant(&self, path: &str);
    /// Makes a user with these rights to metadata servers.
    fn add_user(&self, user: &str, mds: &str);
}

/// The Secrets of a cluster that exists in memory alone.
#[derive(Debug, Default)]
pub struct Keys {
    secrets: Mutex<BTreeMap<SecretName, (Secrets, Option<VolumeName>)>>,
    installation: Mutex<Option<String>>,
}

impl Keys {
    /// A cluster with this identity, and an admin's Secret `admin/ceph-admin` with this key.
    pub fn new(installation: &str, key: &str) -> Arc<Self> {
        let keys = Self::default();
        *keys.installation.lock().unwrap_or_else(PoisonError::into_inner) = Some(installation.to_owned());
        keys.put(&admin_secret(), &[("key", key)]);
        Arc::new(keys)
    }

    /// Writes a Secret as an administrator would.
    pub fn put(&self, name: &SecretName, values: &[(&str, &str)]) {
        let secrets =
            values.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        self.map().insert(name.clone(), (secrets, None));
    }

    /// The names of the Secrets that a backend keeps here.
    pub fn kept(&self) -> Vec<SecretName> {
        self.map().iter().filter(|(_, (_, owner))| owner.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Forgets, or learns, which cluster this is.
    pub fn identify(&self, installation: Option<&str>) {
        *self.installation.lock().unwrap_or_else(PoisonError::into_inner) = installation.map(str::to_owned);
    }

    fn map(&self) -> std::sync::MutexGuard<'_, BTreeMap<SecretName, (Secrets, Option<VolumeName>)>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the admin's key is.
pub fn admin_secret() -> SecretName {
    SecretName { namespace: "admin".into(), name: "ceph-admin".into() }
}

#[async_trait]
impl Host for Keys {
    async fn secrets(&self, name: &SecretName, _: bool) -> Result<Secrets, Error> {
        let found = self.map().get(name).map(|(secrets, _)| secrets.clone());
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("Secret {name} does not exist")))
    }

    async fn keep(&self, name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Result<(), Error> {
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

    async fn forget(&self, name: &SecretName, owner: &VolumeName) -> Result<(), Error> {
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

    fn installation(&self) -> Option<String> {
        self.installation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A cluster and backends on it.
pub struct Bench {
    /// The Secrets.
    pub keys: Arc<Keys>,
    /// Gives a backend on the cluster, as a new process would see it, over these Secrets.
    pub open: Box<dyn Fn(Arc<Keys>) -> Arc<dyn Backend> + Send + Sync>,
    /// The storage itself.
    pub world: Box<dyn World>,
    /// The monitors, as a class writes them.
    pub monitors: String,
    /// Begins the names of groups, so that several runs can share a cluster.
    pub prefix: String,
}

impl Bench {
    fn start(&self) -> Arc<dyn Backend> {
        (self.open)(Arc::clone(&self.keys))
    }

    /// A claim `team/<name>` of a class with a group of its own.
    fn request(&self, name: &str, more: &[(&str, &str)]) -> VolumeRequest {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.in_group(&format!("{}-{number}", self.prefix), name, more)
    }

    fn in_group(&self, group: &str, name: &str, more: &[(&str, &str)]) -> VolumeRequest {
        let mut request = request(&format!("{group}-{name}"));
        request.claim.name = name.to_owned();
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
    fn data(&self, volume: &Volume) -> String {
        match &volume.source {
            Source::Csi(csi) => csi.attributes["path"].clone(),
            Source::Cephfs(source) => source.path.clone(),
            other => unreachable!("{other}"),
        }
    }

    fn user_exists(&self, user: &str) -> bool {
        self.world.ceph(&["auth", "get", &format!("client.{user}")]).is_some()
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
        provenance: provenance(volume),
    }
}

fn provenance(volume: &Volume) -> Provenance {
    Provenance {
        record: volume.record.clone(),
        store_identity: Some(volume.store_identity.clone()),
        ..Provenance::default()
    }
}

fn growth(request: &VolumeRequest, volume: &Volume, bytes: u64) -> Growth {
    Growth {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: key(request),
        mode: Mode::Filesystem,
        capacity: Capacity::from_bytes(bytes),
        provenance: provenance(volume),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

async fn made(backend: &Arc<dyn Backend>, request: &VolumeRequest) -> Volume {
    backend.create(request, &permit()).await.unwrap_or_else(|error| unreachable!("{}", error.chain()))
}

async fn removed(backend: &Arc<dyn Backend>, removal: &Removal) -> Removed {
    backend.remove(removal, &permit()).await.unwrap_or_else(|error| unreachable!("{}", error.chain()))
}

/// Shows every behaviour on a bench of its own; panics at the first that is missing, after its name. Benches may share a
/// cluster, if their prefixes differ.
pub async fn run(bench: impl Fn() -> Bench) {
    macro_rules! behaviours {
        ($($name:ident),* $(,)?) => { $(
            println!("behaviour: {}", stringify!($name));
            $name(&bench()).await;
        )* };
    }
    behaviours!(
        creating_again_gives_the_same_volume_and_key,
        an_in_tree_volume_names_monitors_path_user_and_secret,
        a_volume_lies_where_place_and_locate_say,
        quotas_are_rounded_up_grow_and_never_shrink,
        a_deleted_volume_is_gone_with_user_and_secret,
        an_archived_volume_keeps_its_data_and_loses_its_users,
        a_kept_volume_stays_and_is_not_swept,
        the_next_claim_of_a_deterministic_name_never_sees_old_data,
        what_is_not_proven_is_not_removed,
        a_missing_group_is_no_proof_of_removal,
        snapshots_keep_a_volume_and_are_named,
        an_unused_volume_is_taken_back_and_a_used_one_stays,
        another_installations_volume_is_left_alone,
        what_somebody_else_put_there_is_not_taken,
        the_trace_of_a_crash_is_adopted,
        nothing_changes_after_the_permit_has_ended,
        work_on_the_same_volume_does_not_overlap,
        old_volumes_are_removed_with_user_and_secret,
        old_volumes_that_do_not_fit_are_refused,
        archives_expire,
        a_shared_user_is_left_alone,
        a_volume_grows_back_from_a_subvolume_that_lost_its_user,
    );
}

async fn creating_again_gives_the_same_volume_and_key(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let first = made(&backend, &request).await;
    assert_eq!(first.origin, Origin::Created);
    assert!(bench.world.exists(&bench.data(&first)));
    let user = format!("berth-{}", request.claim.uid);
    let name = SecretName { namespace: "team".into(), name: format!("ceph-{user}-secret") };
    let secrets = bench.keys.secrets(&name, false).await.unwrap();
    assert_eq!(secrets.get("userID"), Some(user.as_bytes()));
    assert_eq!(secrets.get("key"), secrets.get("userKey"));
    assert!(bench.user_exists(&user));
    for backend in [backend, bench.start()] {
        assert_eq!(made(&backend, &request).await, first);
    }
    assert_eq!(bench.keys.secrets(&name, false).await.unwrap(), secrets);
    let Source::Csi(csi) = &first.source else { unreachable!("{:?}", first.source) };
    assert_eq!(csi.handle, first.id.to_string());
    assert_eq!(csi.stage_secret, Some(name));
    assert_eq!(csi.attributes["userId"], user);
    assert_eq!(csi.attributes["monitors"], bench.monitors);
}

async fn an_in_tree_volume_names_monitors_path_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[("pvSource", "in-tree"), ("userSecretNamespace", "keys")]);
    let volume = made(&backend, &request).await;
    let Source::Cephfs(source) = &volume.source else { unreachable!("{:?}", volume.source) };
    assert_eq!(source.monitors.join(","), bench.monitors);
    assert!(
        source.path.starts_with(&format!("/volumes/{}/berth-", request.parameters["group"])),
        "{}",
        source.path
    );
    assert!(bench.world.exists(&source.path));
    assert_eq!(source.user, format!("berth-{}", request.claim.uid));
    assert_eq!(source.secret.as_ref().unwrap().namespace, "keys");
    assert_eq!(backend.locate(&volume.source), Some(backend.place(&request).unwrap()));
    assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
}

async fn a_volume_lies_where_place_and_locate_say(bench: &Bench) {
    let backend = bench.start();
    for more in [&[][..], &[("deterministicNames", "true")]] {
        let request = bench.request("a", more);
        let place = backend.place(&request).unwrap();
        assert!(!bench.world.exists(&format!("/{}", place.segments.join("/"))), "place() touches nothing");
        let volume = made(&backend, &request).await;
        assert_eq!(backend.locate(&volume.source), Some(place.clone()));
        assert_eq!((volume.id.store(), volume.id.backend()), (place.store.as_str(), "cephfs"));
        assert!(bench.world.exists(&format!("/{}", place.segments.join("/"))));
    }
}

async fn quotas_are_rounded_up_grow_and_never_shrink(bench: &Bench) {
    const MIB: u64 = 1 << 20;
    let backend = bench.start();
    let mut request = bench.request("a", &[]);
    request.capacity = Capacity::from_bytes(5 * MIB);
    let volume = made(&backend, &request).await;
    assert_eq!(volume.capacity, Some(Capacity::from_bytes(8 * MIB)));
    for (asked, has) in [(9 * MIB, 12 * MIB), (MIB, 12 * MIB), (12 * MIB, 12 * MIB), (13 * MIB, 16 * MIB)] {
        let grown = backend.expand(&growth(&request, &volume, asked), &permit()).await.unwrap();
        assert_eq!((grown.capacity.bytes(), grown.on_node), (has, false), "asked for {asked}");
    }
    let again = made(&backend, &request).await;
    assert_eq!(again.capacity, Some(Capacity::from_bytes(16 * MIB)), "another attempt shrinks nothing");
    for absurd in [0, u64::MAX] {
        let grown = backend.expand(&growth(&request, &volume, absurd), &permit()).await;
        assert_eq!(kind(grown), Kind::Invalid);
    }
    let other =
        Growth { claim: ClaimKey { uid: "other".into(), ..key(&request) }, ..growth(&request, &volume, MIB) };
    assert_eq!(kind(backend.expand(&other, &permit()).await), Kind::Refused);
}

async fn a_deleted_volume_is_gone_with_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    bench.world.fill(&bench.data(&volume));
    let secret = SecretName { namespace: "team".into(), name: volume.record["secretName"].clone() };
    assert!(bench.keys.kept().contains(&secret));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &removal).await, Removed::Trashed);
    assert!(!bench.world.exists(&bench.data(&volume)));
    assert!(!bench.user_exists(&volume.record["user"]));
    assert!(!bench.keys.kept().contains(&secret));
    assert_eq!(removed(&backend, &removal).await, Removed::Absent);
    let again = made(&backend, &request).await;
    assert_eq!(again.id, volume.id);
    assert_ne!(bench.data(&again), bench.data(&volume), "the data of before is not there");
}

async fn an_archived_volume_keeps_its_data_and_loses_its_users(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let data = bench.data(&volume);
    bench.world.fill(&data);
    let record = &volume.record;
    let mut guest = vec!["fs", "subvolume", "authorize", &record["fsName"], &record["subvolume"]];
    let user = format!("guest-{}", request.claim.uid);
    guest.extend([
        user.as_str(),
        "--access_level",
        "rw",
        "--tenant_id",
        "t",
        "--group_name",
        &record["group"],
    ]);
    bench.world.ceph(&guest).unwrap();
    let removal = removal(&request, &volume, Disposal::Archive);
    let archived = removed(&backend, &removal).await;
    assert_eq!(archived, Removed::Archived(backend.place(&request).unwrap().segments.join("/")));
    assert!(bench.world.exists(&data));
    assert!(!bench.user_exists(&record["user"]) && !bench.user_exists(&user), "nobody can reach it any more");
    assert!(!bench.keys.kept().iter().any(|kept| kept.name == record["secretName"]));
    let mark = bench.metadata(&volume, "berth.archived").unwrap();
    assert!(mark.contains("since") && !mark.contains("expires"), "{mark}");
    assert_eq!(removed(&backend, &removal).await, archived, "again");
    assert_eq!(bench.metadata(&volume, "berth.archived"), Some(mark));
    let group = &record["group"];
    let nobody = |_: &VolumeName| false;
    let unfinished = backend.unfinished(volume.id.store(), &nobody).await.unwrap();
    assert!(!unfinished.iter().any(|unfinished| unfinished.id == volume.id), "it is not swept");
    assert_eq!(kind(backend.create(&request, &permit()).await), Kind::Conflict, "nor given to anybody");
    // As documented: without the mark it is a volume again.
    let args = [
        "fs",
        "subvolume",
        "metadata",
        "rm",
        &record["fsName"],
        &record["subvolume"],
        "berth.archived",
        "--group_name",
        group,
    ];
    bench.world.ceph(&args).unwrap();
    assert_eq!(bench.data(&made(&backend, &request).await), data);
    assert!(bench.user_exists(&record["user"]));
}

async fn a_kept_volume_stays_and_is_not_swept(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let removal = removal(&request, &volume, Disposal::Keep);
    for _ in 0..2 {
        assert_eq!(removed(&backend, &removal).await, Removed::Kept);
    }
    assert!(bench.world.exists(&bench.data(&volume)));
    let nobody = |_: &VolumeName| false;
    let unfinished = backend.unfinished(volume.id.store(), &nobody).await.unwrap();
    assert!(!unfinished.iter().any(|unfinished| unfinished.id == volume.id));
}

async fn the_next_claim_of_a_deterministic_name_never_sees_old_data(bench: &Bench) {
    let backend = bench.start();
    let fixed = [("deterministicNames", "true")];
    let first = bench.request("data", &fixed);
    let group = first.parameters["group"].clone();
    let next = |uid: &str| {
        let mut next = bench.in_group(&group, "data", &fixed);
        next.claim.uid = uid.to_owned();
        next.name = VolumeName::for_claim(uid).unwrap();
        next
    };
    let volume = made(&backend, &first).await;
    assert_eq!(volume.record["subvolume"], "team.data");
    bench.world.fill(&bench.data(&volume));
    let second = next(&format!("{group}-second"));
    let error = backend.create(&second, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(
        error.to_string().contains(&first.claim.uid) && error.to_string().contains("subvolume rm"),
        "{error}"
    );

    // Deleted, the name is free, and what lay there is gone.
    let removal_of_first = removal(&first, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &removal_of_first).await, Removed::Trashed);
    let volume_of_second = made(&backend, &second).await;
    assert_eq!(volume_of_second.record["subvolume"], "team.data");
    assert_ne!(bench.data(&volume_of_second), bench.data(&volume));
    assert_eq!(
        removed(&backend, &removal_of_first).await,
        Removed::Absent,
        "the first PV does not get stuck"
    );
    assert!(bench.world.exists(&bench.data(&volume_of_second)), "nor does it take the second's data");

    // Archived, it keeps the name, and the next one gets another.
    bench.world.fill(&bench.data(&volume_of_second));
    let archive = removal(&second, &volume_of_second, Disposal::Archive);
    assert!(matches!(removed(&backend, &archive).await, Removed::Archived(_)));
    let third = next(&format!("{group}-third"));
    let volume_of_third = made(&backend, &third).await;
    assert_eq!(volume_of_third.record["subvolume"], format!("team.data_{}", third.claim.uid));
    assert_eq!(made(&backend, &third).await, volume_of_third);
    assert!(backend.locate(&volume_of_third.source).is_some());
    assert!(bench.world.exists(&bench.data(&volume_of_second)));
    let delete = removal(&third, &volume_of_third, Disposal::Delete);
    assert_eq!(removed(&backend, &delete).await, Removed::Trashed);
    assert!(bench.world.exists(&bench.data(&volume_of_second)));

    // A volume that was kept blocks the name until somebody decides.
    let other = bench.request("other", &fixed);
    let kept = made(&backend, &other).await;
    assert_eq!(removed(&backend, &removal(&other, &kept, Disposal::Keep)).await, Removed::Kept);
    let mut after = other.clone();
    after.claim.uid = format!("{}-after", other.claim.uid);
    after.name = VolumeName::for_claim(&after.claim.uid).unwrap();
    assert_eq!(kind(backend.create(&after, &permit()).await), Kind::Conflict);
}

async fn what_is_not_proven_is_not_removed(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let other = bench.in_group(&request.parameters["group"], "b", &[]);
    let (volume, others) = (made(&backend, &request).await, made(&backend, &other).await);
    let right = removal(&request, &volume, Disposal::Delete);
    let with = |edit: &dyn Fn(&mut Removal)| {
        let mut wrong = right.clone();
        edit(&mut wrong);
        wrong
    };
    let rows = [
        ("another claim's UID", with(&|r| r.claim.uid = "other".into())),
        ("another claim's name", with(&|r| r.claim.name = "other".into())),
        ("another volume's id", with(&|r| r.id = Some(others.id.clone()))),
        ("another volume's source", with(&|r| r.source = others.source.clone())),
        ("another volume's record", with(&|r| r.provenance.record = others.record.clone())),
        (
            "another volume's record and source",
            with(&|r| {
                r.source = others.source.clone();
                r.provenance.record = others.record.clone();
            }),
        ),
        ("another cluster", with(&|r| r.provenance.store_identity = Some("another".into()))),
        ("no cluster", with(&|r| r.provenance.store_identity = None)),
        ("no record", with(&|r| r.provenance.record.clear())),
        ("no id", with(&|r| r.id = None)),
    ];
    for (why, wrong) in rows {
        assert_eq!(kind(backend.remove(&wrong, &permit()).await), Kind::Refused, "{why}");
        assert!(
            bench.world.exists(&bench.data(&volume)) && bench.world.exists(&bench.data(&others)),
            "{why}"
        );
        assert!(
            bench.user_exists(&volume.record["user"]) && bench.user_exists(&others.record["user"]),
            "{why}"
        );
    }
    let record = &volume.record;
    let args = [
        "fs",
        "subvolume",
        "metadata",
        "rm",
        &record["fsName"],
        &record["subvolume"],
        "berth.owner",
        "--group_name",
        &record["group"],
    ];
    bench.world.ceph(&args).unwrap();
    assert_eq!(kind(backend.remove(&right, &permit()).await), Kind::Refused, "without a mark");
    assert!(bench.world.exists(&bench.data(&volume)));
}

async fn a_missing_group_is_no_proof_of_removal(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    // Somebody removes the subvolume by hand, which leaves its user.
    bench
        .world
        .ceph(&[
            "fs",
            "subvolume",
            "rm",
            &record["fsName"],
            &record["subvolume"],
            "--group_name",
            &record["group"],
        ])
        .unwrap();
    assert!(bench.user_exists(&record["user"]));
    let gone = removal(&request, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &gone).await, Removed::Absent);
    assert!(!bench.user_exists(&record["user"]), "what belonged to it is gone too");
    assert!(!bench.keys.kept().iter().any(|kept| kept.name == record["secretName"]));
    let mut elsewhere = gone.clone();
    elsewhere.provenance.record.insert("group".into(), "no-such-group".into());
    if let Source::Csi(csi) = &mut elsewhere.source {
        csi.attributes.insert("group".into(), "no-such-group".into());
    }
    assert_eq!(kind(backend.remove(&elsewhere, &permit()).await), Kind::Refused);
    let mut elsewhere = gone;
    elsewhere.provenance.record.insert("fsName".into(), "no-such-fs".into());
    assert_eq!(kind(backend.remove(&elsewhere, &permit()).await), Kind::NotFound);
}

async fn snapshots_keep_a_volume_and_are_named(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    let snapshot = |verb| {
        let args = [
            "fs",
            "subvolume",
            "snapshot",
            verb,
            &record["fsName"],
            &record["subvolume"],
            "one",
            "--group_name",
            &record["group"],
        ];
        bench.world.ceph(&args).unwrap();
    };
    snapshot("create");
    let removal = removal(&request, &volume, Disposal::Delete);
    let error = backend.remove(&removal, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    assert!(error.to_string().contains("snapshot rm"), "{error}");
    assert!(bench.world.exists(&bench.data(&volume)));
    snapshot("rm");
    assert_eq!(removed(&backend, &removal).await, Removed::Trashed);
}

async fn an_unused_volume_is_taken_back_and_a_used_one_stays(bench: &Bench) {
    let backend = bench.start();
    let store = backend.place(&bench.request("x", &[])).unwrap().store;
    for more in [&[][..], &[("deterministicNames", "true")]] {
        let unused = bench.request("unused", more);
        let used = bench.in_group(&unused.parameters["group"], "used", more);
        let (volume, filled) = (made(&backend, &unused).await, made(&backend, &used).await);
        bench.world.fill(&bench.data(&filled));
        let nobody = |_: &VolumeName| false;
        let ours = [&volume.id, &filled.id];
        let list = |all: Vec<Unfinished>| {
            all.into_iter().filter(|unfinished| ours.contains(&&unfinished.id)).collect::<Vec<_>>()
        };
        let found = list(backend.unfinished(&store, &nobody).await.unwrap());
        let claims: Vec<_> = found.iter().map(|unfinished| unfinished.claim.clone()).collect();
        assert_eq!(claims.len(), 2, "{found:?}");
        assert!(claims.contains(&key(&unused)) && claims.contains(&key(&used)));
        for _ in 0..2 {
            let known = |name: &VolumeName| *name == used.name;
            let found = list(backend.unfinished(&store, &known).await.unwrap());
            assert_eq!(found.len(), 1, "what has a PV is finished");
        }
        let of =
            |volume: &Volume| found.iter().find(|unfinished| unfinished.id == volume.id).unwrap().clone();
        let error = backend.discard(&of(&filled), &permit()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(bench.world.exists(&bench.data(&filled)) && bench.user_exists(&filled.record["user"]));
        assert!(
            backend.stores().iter().any(|status| status
                .stuck
                .iter()
                .any(|(what, _)| what.contains(&filled.record["subvolume"])))
        );
        let other = Unfinished { claim: ClaimKey { uid: "other".into(), ..key(&unused) }, ..of(&volume) };
        assert_eq!(kind(backend.discard(&other, &permit()).await), Kind::Refused);
        for _ in 0..2 {
            backend.discard(&of(&volume), &permit()).await.unwrap();
        }
        assert!(!bench.world.exists(&bench.data(&volume)) && !bench.user_exists(&volume.record["user"]));
        assert!(!bench.keys.kept().iter().any(|kept| kept.name == volume.record["secretName"]));
    }
}

async fn another_installations_volume_is_left_alone(bench: &Bench) {
    let theirs = bench.start();
    let request = bench.request("a", &[("deterministicNames", "true")]);
    let volume = made(&theirs, &request).await;
    let admin = bench.keys.secrets(&admin_secret(), false).await.unwrap();
    let admin = std::str::from_utf8(admin.get("key").unwrap()).unwrap().to_owned();
    let keys = Keys::new("another-installation", &admin);
    let ours = (bench.open)(Arc::clone(&keys));
    assert_eq!(kind(ours.create(&request, &permit()).await), Kind::Conflict, "not even for the same claim");
    let nobody = |_: &VolumeName| false;
    ours.remember(Past {
        store: volume.id.store().into(),
        identity: None,
        places: vec![ours.place(&request).unwrap()],
    });
    let found = ours.unfinished(volume.id.store(), &nobody).await.unwrap();
    assert!(!found.iter().any(|unfinished| unfinished.id == volume.id));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(kind(ours.remove(&removal, &permit()).await), Kind::Refused);
    keys.identify(None);
    assert_eq!(
        ours.unfinished(volume.id.store(), &nobody).await.unwrap(),
        [],
        "who does not know himself sweeps nothing"
    );
    assert!(bench.world.exists(&bench.data(&volume)));
}

async fn what_somebody_else_put_there_is_not_taken(bench: &Bench) {
    let backend = bench.start();
    let plain = bench.request("plain", &[]);
    let group = plain.parameters["group"].clone();
    let path = format!("/volumes/{group}/berth-{}", plain.claim.uid);
    bench.world.plant(&path);
    let error = backend.create(&plain, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(bench.world.exists(&path));

    let used = bench.in_group(&group, "used", &[("deterministicNames", "true")]);
    let fs = "cephfs";
    bench
        .world
        .ceph(&["fs", "subvolume", "create", fs, "team.used", "--size", "4194304", "--group_name", &group])
        .unwrap();
    let data =
        bench.world.ceph(&["fs", "subvolume", "getpath", fs, "team.used", "--group_name", &group]).unwrap();
    bench.world.fill(data.trim());
    let error = backend.create(&used, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.to_string().contains("nobody marked it"), "{error}");
    let nobody = |_: &VolumeName| false;
    let store = backend.place(&plain).unwrap().store;
    for unfinished in backend.unfinished(&store, &nobody).await.unwrap() {
        if unfinished.claim.uid == plain.claim.uid {
            assert_eq!(kind(backend.discard(&unfinished, &permit()).await), Kind::Refused);
        }
        assert_ne!(unfinished.claim.uid, used.claim.uid);
    }
    assert!(bench.world.exists(&path) && bench.world.exists(data.trim()));
}

async fn the_trace_of_a_crash_is_adopted(bench: &Bench) {
    let backend = bench.start();
    for (more, name) in [(&[][..], None), (&[("deterministicNames", "true")], Some("team.a"))] {
        let request = bench.request("a", more);
        let group = request.parameters["group"].clone();
        let own = format!("berth-{}", request.claim.uid);
        let name = name.unwrap_or(&own);
        let fs = "cephfs";
        bench.world.ceph(&["fs", "subvolumegroup", "create", fs, &group]).unwrap();
        bench
            .world
            .ceph(&["fs", "subvolume", "create", fs, name, "--size", "4194304", "--group_name", &group])
            .unwrap();
        let path =
            bench.world.ceph(&["fs", "subvolume", "getpath", fs, name, "--group_name", &group]).unwrap();
        let volume = made(&backend, &request).await;
        assert_eq!(bench.data(&volume), path.trim());
        assert_eq!(volume.capacity, Some(Capacity::from_bytes(1 << 30)), "with the quota that was asked for");
        assert!(bench.metadata(&volume, "berth.owner").unwrap().contains(&request.claim.uid));
        assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
    }
}

async fn nothing_changes_after_the_permit_has_ended(bench: &Bench) {
    let backend = bench.start();
    let ended = Permit::unlimited();
    ended.revoke();
    let request = bench.request("a", &[]);
    let place = backend.place(&request).unwrap();
    assert_eq!(kind(backend.create(&request, &ended).await), Kind::Unavailable);
    assert!(!bench.world.exists(&format!("/{}", place.segments.join("/"))));
    let volume = made(&backend, &request).await;
    let nobody = |_: &VolumeName| false;
    let unfinished = backend.unfinished(volume.id.store(), &nobody).await.unwrap();
    let unfinished = unfinished.iter().find(|unfinished| unfinished.id == volume.id).unwrap();
    assert_eq!(kind(backend.discard(unfinished, &ended).await), Kind::Unavailable);
    for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Keep] {
        assert_eq!(
            kind(backend.remove(&removal(&request, &volume, disposal), &ended).await),
            Kind::Unavailable
        );
    }
    assert_eq!(kind(backend.expand(&growth(&request, &volume, 1 << 40), &ended).await), Kind::Unavailable);
    assert_eq!(made(&backend, &request).await, volume);
    assert_eq!(bench.metadata(&volume, "berth.archived"), None);
}

async fn work_on_the_same_volume_does_not_overlap(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let permit = permit();
    let results = futures::future::join_all((0..8).map(|_| backend.create(&request, &permit))).await;
    let succeeded: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert!(!succeeded.is_empty());
    assert!(succeeded.iter().all(|volume| *volume == succeeded[0]));
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), Kind::Busy, "{error}");
    }
}

/// A volume as cephfs-provisioner made it: directory, user, Secret, PV.
fn old(bench: &Bench, root: &str, group: &str, share: &str, user: &str, claim: &ClaimKey) -> Removal {
    let path = format!("{root}/{group}/{share}");
    bench.world.plant(&path);
    bench.world.add_user(user, &format!("allow r,allow rw path={path}"));
    let secret = SecretName { namespace: claim.namespace.clone(), name: format!("ceph-{user}-secret") };
    bench.keys.put(&secret, &[("key", "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==")]);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let parameters = [
        pair("monitors", &bench.monitors),
        pair("adminSecretName", "ceph-admin"),
        pair("adminSecretNamespace", "admin"),
        pair("claimRoot", root),
    ];
    let annotations = [pair("cephFSProvisionerIdentity", "cephfs-provisioner-1"), pair("cephShare", share)];
    Removal {
        name: VolumeName::for_claim(&claim.uid).unwrap(),
        id: None,
        source: Source::Cephfs(CephfsSource {
            monitors: bench.monitors.split(',').map(str::to_owned).collect(),
            path,
            user: user.to_owned(),
            secret: Some(secret),
        }),
        claim: claim.clone(),
        origin: Origin::Created,
        disposal: Disposal::Delete,
        provenance: Provenance {
            annotations: annotations.into(),
            parameters: parameters.into(),
            ..Provenance::default()
        },
    }
}

fn uuid(number: usize) -> String {
    format!("01234567-89ab-cdef-0123-{number:012x}")
}

async fn old_volumes_are_removed_with_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let prefix = &bench.prefix;
    let roots =
        [format!("/volumes/{prefix}-old"), format!("/{prefix}-elsewhere/deep"), "/volumes".to_owned()];
    let claim = |name: &str| ClaimKey {
        namespace: format!("{prefix}-ns"),
        name: name.into(),
        uid: format!("{prefix}-old-{name}"),
    };
    for (index, root) in roots.iter().enumerate() {
        for (number, disposal) in
            [Disposal::Delete, Disposal::Archive, Disposal::Keep].into_iter().enumerate()
        {
            let number = index * 3 + number;
            let id = uuid(number);
            let user = format!("kubernetes-dynamic-user-{id}");
            let named = claim(&format!("claim-{number}"));
            let volumes = [
                old(
                    bench,
                    root,
                    &format!("{prefix}-kubernetes"),
                    &format!("kubernetes-dynamic-pvc-{id}"),
                    &user,
                    &claim("random"),
                ),
                old(
                    bench,
                    root,
                    &named.namespace,
                    &named.name,
                    &format!("k8s.{}.{}", named.namespace, named.name),
                    &named,
                ),
            ];
            for volume in volumes {
                let Source::Cephfs(source) = &volume.source else { unreachable!() };
                let secret = source.secret.clone().unwrap();
                let (path, user) = (&source.path, &source.user);
                let volume = Removal { disposal, ..volume.clone() };
                for again in [false, true] {
                    let expected = match disposal {
                        Disposal::Delete if again => Removed::Absent,
                        Disposal::Delete => Removed::Trashed,
                        Disposal::Archive => Removed::Archived(path.trim_start_matches('/').to_owned()),
                        Disposal::Keep => Removed::Kept,
                    };
                    assert_eq!(removed(&backend, &volume).await, expected, "{path}");
                }
                assert_eq!(bench.world.exists(path), disposal != Disposal::Delete, "{path} {disposal}");
                assert_eq!(bench.user_exists(user), disposal == Disposal::Keep, "{user} {disposal}");
                assert_eq!(
                    bench.keys.secrets(&secret, true).await.is_ok(),
                    disposal == Disposal::Keep,
                    "{secret} {disposal}"
                );
                assert_eq!(
                    backend.locate(&volume.source).unwrap().segments.join("/"),
                    path.trim_start_matches('/')
                );
            }
        }
    }
}

async fn old_volumes_that_do_not_fit_are_refused(bench: &Bench) {
    let backend = bench.start();
    let root = format!("/volumes/{}-odd", bench.prefix);
    let claim =
        ClaimKey { namespace: "team".into(), name: "data".into(), uid: format!("{}-odd", bench.prefix) };
    let (share, user) =
        (format!("kubernetes-dynamic-pvc-{}", uuid(99)), format!("kubernetes-dynamic-user-{}", uuid(99)));
    let right = old(bench, &root, "kubernetes", &share, &user, &claim);
    let Source::Cephfs(source) = right.source.clone() else { unreachable!() };
    let with = |edit: &dyn Fn(&mut CephfsSource)| {
        let mut source = source.clone();
        edit(&mut source);
        Removal { source: Source::Cephfs(source), ..right.clone() }
    };
    let mut annotated = right.clone();
    annotated.provenance.annotations.insert("cephShare".into(), "other".into());
    let mut classless = right.clone();
    classless.provenance.parameters.clear();
    let rows = [
        ("the directory of all volumes", with(&|s| s.path = format!("{root}/kubernetes"))),
        ("a path that climbs", with(&|s| s.path = format!("{root}/kubernetes/x/../{share}"))),
        ("the root", with(&|s| s.path = "/".into())),
        ("another user", with(&|s| s.user = "admin".into())),
        (
            "another claim's directory",
            with(&|s| {
                s.path = format!("{root}/team/other");
                s.user = "k8s.team.other".into();
            }),
        ),
        ("an annotation that says otherwise", annotated),
        ("no class and no configuration", classless),
    ];
    for (why, wrong) in rows {
        let error = backend.remove(&wrong, &permit()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{why}: {error}");
        assert!(bench.world.exists(&source.path) && bench.user_exists(&user), "{why}");
    }
    // Somebody looked at the directory above, and so made a subvolume of it.
    let group = format!("{}-odd", bench.prefix);
    bench
        .world
        .ceph(&["fs", "subvolume", "getpath", "cephfs", "kubernetes", "--group_name", &group])
        .unwrap();
    let error = backend.remove(&right, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("setfattr"), "{error}");
    assert!(bench.world.exists(&source.path) && bench.user_exists(&user));
}

async fn archives_expire(bench: &Bench) {
    let backend = bench.start();
    let soon = bench.request("soon", &[("archiveExpiry", "1s")]);
    let late = bench.in_group(&soon.parameters["group"], "late", &[("archiveExpiry", "30d")]);
    let live = bench.in_group(&soon.parameters["group"], "live", &[]);
    let never = bench.in_group(&soon.parameters["group"], "never", &[]);
    let mut volumes = Vec::new();
    for request in [&soon, &late, &never] {
        let volume = made(&backend, request).await;
        removed(&backend, &removal(request, &volume, Disposal::Archive)).await;
        volumes.push(volume);
    }
    volumes.push(made(&backend, &live).await);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let permit = permit();
    let expired = async {
        while bench.world.exists(&bench.data(&volumes[0])) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Whatever else it would take, it takes in the same round.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = backend.tend(&permit) => unreachable!("the permit has not ended"),
        () = expired => {}
    }
    for volume in &volumes[1..] {
        assert!(bench.world.exists(&bench.data(volume)), "{:?}", volume.record);
    }
}

async fn a_shared_user_is_left_alone(bench: &Bench) {
    let backend = bench.start();
    let user = format!("{}-shared", bench.prefix);
    bench.world.add_user(&user, "allow rw path=/volumes");
    let secret = SecretName { namespace: "keys".into(), name: "shared".into() };
    bench.keys.put(&secret, &[("key", "x")]);
    let more = [("userId", user.as_str()), ("userSecretName", "shared"), ("userSecretNamespace", "keys")];
    let request = bench.request("a", &more);
    let kept = bench.keys.kept();
    let volume = made(&backend, &request).await;
    let Source::Csi(csi) = &volume.source else { unreachable!() };
    assert_eq!(
        (csi.stage_secret.as_ref(), csi.attributes["userId"].as_str()),
        (Some(&secret), user.as_str())
    );
    assert_eq!(bench.keys.kept(), kept);
    for disposal in [Disposal::Archive, Disposal::Delete] {
        removed(&backend, &removal(&request, &volume, disposal)).await;
        assert!(bench.user_exists(&user));
        assert!(bench.keys.secrets(&secret, true).await.is_ok());
    }
    assert!(!bench.world.exists(&bench.data(&volume)));
}

async fn a_volume_grows_back_from_a_subvolume_that_lost_its_user(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    bench
        .world
        .ceph(&[
            "fs",
            "subvolume",
            "deauthorize",
            &record["fsName"],
            &record["subvolume"],
            &record["user"],
            "--group_name",
            &record["group"],
        ])
        .unwrap();
    assert!(!bench.user_exists(&record["user"]));
    assert_eq!(made(&backend, &request).await, volume);
    assert!(bench.user_exists(&record["user"]));
    assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
    assert!(!bench.user_exists(&record["user"]));
}

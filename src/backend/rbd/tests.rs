//! Tests of the RBD backend on a small RBD: what `conformance` cannot ask of every backend.

mod calls;
mod crash;
mod fake_cluster;
mod full;
mod late;
mod older;
mod ownership;
mod removal;
mod restore;
mod stores;
mod sweep;
mod trash;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use fake_cluster::{FakeCluster, Image};

use super::*;
use crate::{
    backend::{
        ClusterInfo, Kubernetes, PvState, SecretStore,
        ceph::fake::KEY,
        conformance::{self, Bench, Storage, Ways},
    },
    volume::{Capacity, ClusterIds, Mode, RbdSource, SecretName, Secrets},
};

pub(super) const MONITORS: &str = "10.0.0.1:6789,10.0.0.2:6789";

/// The cluster of Kubernetes, in memory.
#[derive(Debug)]
pub(super) struct Vault {
    /// What is handed out where nothing newer is asked for, and what is.
    pub(super) keys: Mutex<Vec<String>>,
    pub(super) cluster_id: Mutex<Option<String>>,
    pub(super) former: Mutex<Vec<String>>,
    /// The PVs: UID, and whether each is to be removed.
    pub(super) volumes: Mutex<BTreeMap<VolumeName, (String, bool)>>,
    pub(super) retention: Mutex<Duration>,
    /// By how many seconds the API server's clock is ahead of the one by which images are moved; `None`: it is not known.
    pub(super) ahead: Mutex<Option<i64>>,
    /// Whether the API server answers.
    pub(super) reachable: Mutex<bool>,
    /// How often its clock goes back for a moment, each time after a PV was asked for.
    pub(super) setbacks: Mutex<usize>,
    set_back: Mutex<bool>,
    fake_cluster: FakeCluster,
}

impl Vault {
    pub(super) fn new(fake_cluster: &FakeCluster) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::new(vec![KEY.to_owned()]),
            cluster_id: Mutex::new(Some("here".to_owned())),
            former: Mutex::default(),
            volumes: Mutex::default(),
            retention: Mutex::default(),
            ahead: Mutex::new(Some(0)),
            reachable: Mutex::new(true),
            setbacks: Mutex::default(),
            set_back: Mutex::default(),
            fake_cluster: fake_cluster.clone(),
        })
    }

    /// There is a PV of this volume, as an object with the UID that `conformance::object_uid` tells.
    pub(super) fn set_volume(&self, name: &VolumeName, removing: bool) {
        self.volumes.lock().unwrap().insert(name.clone(), (conformance::object_uid(name), removing));
    }

    pub(super) fn delete_volume(&self, name: &VolumeName) {
        self.volumes.lock().unwrap().remove(name);
    }
}

#[async_trait]
impl SecretStore for Vault {
    async fn get(&self, name: &SecretName, fresh: bool) -> Result<Secrets, Error> {
        if name.name != "ceph-admin" {
            return Err(Error::new(Kind::NotFound, format!("Secret {name} does not exist")));
        }
        let keys = self.keys.lock().unwrap();
        let key = if fresh { keys.last() } else { keys.first() };
        Ok(key.map(|key| ("key".to_owned(), key.as_bytes().to_vec())).into_iter().collect())
    }

    async fn put(&self, name: &SecretName, _: &Secrets, _: &VolumeName) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks to keep {name}")))
    }

    async fn exists(&self, name: &SecretName, _: &VolumeName) -> Result<bool, Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks whether {name} is kept")))
    }

    async fn delete(&self, name: &SecretName, _: &VolumeName) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks to forget {name}")))
    }
}

#[async_trait]
impl ClusterInfo for Vault {
    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error> {
        if !*self.reachable.lock().unwrap() {
            return Err(Error::new(Kind::Unavailable, "the API server does not answer"));
        }
        let mut setbacks = self.setbacks.lock().unwrap();
        *self.set_back.lock().unwrap() = *setbacks > 0;
        *setbacks = setbacks.saturating_sub(1);
        Ok(match self.volumes.lock().unwrap().get(name) {
            None => PvState::Absent,
            Some((uid, removing)) => PvState::Present { uid: uid.clone(), removing: *removing },
        })
    }

    fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap().clone()
    }

    fn cluster_ids(&self) -> Option<ClusterIds> {
        let former = self.former.lock().unwrap().clone();
        Some(ClusterIds::only(self.cluster_id()?).also(former))
    }

    fn now(&self) -> Option<SystemTime> {
        let (mut now, ahead) = (self.fake_cluster.now(), (*self.ahead.lock().unwrap())?);
        if std::mem::take(&mut *self.set_back.lock().unwrap()) {
            now -= Duration::from_mins(1);
        }
        let by = Duration::from_secs(ahead.unsigned_abs());
        Some(if ahead < 0 { now - by } else { now + by })
    }

    fn trash_retention(&self) -> Duration {
        *self.retention.lock().unwrap()
    }

    fn node_at(&self, address: IpAddr) -> Option<String> {
        (address.to_string() == "10.0.0.7").then(|| "worker-7".to_owned())
    }
}

pub(super) fn admin() -> Admin {
    Admin {
        user: "admin".into(),
        secret: SecretName { namespace: "default".into(), name: "ceph-admin".into() },
    }
}

/// Fast enough for tests, in which the cluster's time runs fast too.
pub(super) const QUICK: Timing = Timing {
    soon: Duration::from_millis(50),
    later: Duration::from_millis(50),
    look: Duration::from_secs(10),
    making: Duration::from_millis(300),
    first_pause: Duration::from_millis(50),
    slice: Duration::from_secs(15),
};

/// The cluster `main`, configured with an admin, and a backend that knows of no volumes.
pub(super) struct Site {
    pub(super) fake_cluster: FakeCluster,
    pub(super) vault: Arc<Vault>,
    pub(super) rbd: Rbd,
}

impl Site {
    pub(super) fn new() -> Self {
        let fake_cluster = FakeCluster::new();
        let vault = Vault::new(&fake_cluster);
        let rbd = backend(&fake_cluster, &vault);
        Self { fake_cluster, vault, rbd }
    }

    /// In which a trash is not looked at but when something in it is due.
    pub(super) fn patient() -> Self {
        Self::new().restarted_patient()
    }

    /// The same cluster in a new process, which looks at no trash but when something in it is due.
    pub(super) fn restarted_patient(self) -> Self {
        let timing = Timing { look: Duration::from_hours(24 * 365), ..QUICK };
        Self { rbd: backend_at(&self.fake_cluster, &self.vault, timing), ..self }
    }

    /// The same cluster in a new process, which knows of no volumes.
    pub(super) fn restart(&mut self) {
        self.rbd = backend(&self.fake_cluster, &self.vault);
        self.rbd.register_class(&parameters(&[]));
    }

    pub(super) async fn create(&self, request: &VolumeRequest) -> Result<Volume, Error> {
        self.rbd.create(request, &Permit::unlimited()).await
    }

    pub(super) async fn remove(&self, removal: &Removal) -> Result<Removed, Error> {
        self.rbd.remove(removal, &Permit::unlimited()).await
    }

    pub(super) async fn restore(&self, removal: &Removal) -> Result<Restored, Error> {
        self.rbd.restore(removal, &Permit::unlimited()).await
    }

    /// The names in the trash of pool `rbd`.
    pub(super) fn trash(&self) -> Vec<String> {
        let state = self.fake_cluster.state();
        let mut names: Vec<String> =
            state.spaces["rbd"].trash.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        names
    }

    /// Collects garbage for so long, by our clock.
    pub(super) async fn collect_for(&self, time: Duration) {
        let until = Instant::now() + time;
        self.collect_until(|_| Instant::now() > until).await;
    }

    /// Collects garbage until `done`, at most a minute.
    pub(super) async fn collect_until(&self, mut done: impl FnMut(&StoreStatus) -> bool) {
        let permit = Permit::unlimited();
        let since = Instant::now();
        let watch = async {
            while !done(&self.rbd.stores()[0]) {
                assert!(since.elapsed() < Duration::from_mins(1), "{:?}", self.rbd.stores());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = self.rbd.collect_garbage(&permit) => unreachable!("the permit has not ended"),
            () = watch => {}
        }
    }
}

fn backend(fake_cluster: &FakeCluster, vault: &Arc<Vault>) -> Rbd {
    backend_at(fake_cluster, vault, QUICK)
}

fn backend_at(fake_cluster: &FakeCluster, vault: &Arc<Vault>, timing: Timing) -> Rbd {
    let clusters = Clusters::new(vec![fake_cluster.cluster("main", MONITORS)], fake_cluster.tools());
    let admins = BTreeMap::from([("main".to_owned(), admin())]);
    let settings = Settings { driver: "rbd.berth.storage".into(), admins };
    let kube: Arc<dyn Kubernetes> = Arc::<Vault>::clone(vault);
    Rbd::with_timing(clusters, kube, settings, timing).unwrap()
}

/// The parameters of a class of the cluster `main`, with these besides.
pub(super) fn parameters(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let least = [("clusterID", "main"), ("userSecretName", "ceph-user")];
    least.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn request(name: &str, more: &[(&str, &str)]) -> VolumeRequest {
    VolumeRequest { parameters: parameters(more), ..conformance::request(name) }
}

/// What a PV of this volume that is bound tells.
pub(super) fn in_use(request: &VolumeRequest, volume: &Volume) -> InUse {
    InUse {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: conformance::key(request),
        origin: volume.origin,
        capacity: request.capacity,
        pv_metadata: conformance::pv_metadata(volume),
    }
}

/// The growth of a volume to so many bytes.
pub(super) fn expansion(request: &VolumeRequest, volume: &Volume, bytes: u64) -> ExpandRequest {
    ExpandRequest {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: conformance::key(request),
        mode: Mode::Filesystem,
        capacity: Capacity::from_bytes(bytes),
        pv_metadata: conformance::pv_metadata(volume),
    }
}

/// An image of an older provisioner in a PV.
pub(super) fn older(image: &str) -> Source {
    Source::Rbd(RbdSource {
        monitors: vec!["10.0.0.1:6789".into()],
        pool: "rbd".into(),
        image: image.into(),
        user: "kube".into(),
        secret: Some(SecretName { namespace: String::new(), name: "ceph-user".into() }),
        fs_type: Some("ext4".into()),
    })
}

struct Behind(FakeCluster);

impl Behind {
    fn pool_namespace(place: &Location) -> (String, String) {
        let (image, pool_namespace) = place.path.split_last().unwrap();
        (pool_namespace.join("/"), image.clone())
    }
}

impl Storage for Behind {
    fn exists(&self, place: &Location) -> bool {
        let (space, image) = Self::pool_namespace(place);
        self.0.state().spaces[&space].images.contains_key(&image)
    }

    fn fill(&self, place: &Location) {
        let (space, image) = Self::pool_namespace(place);
        let mut state = self.0.state();
        state.spaces.get_mut(&space).unwrap().images.get_mut(&image).unwrap().content = true;
    }

    fn plant(&self, place: &Location) {
        let (space, image) = Self::pool_namespace(place);
        self.0.plant(&space, &image, Image { size: 1 << 20, content: true, ..Image::default() });
    }

    fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume {
        super::conformance::volume_of(request, other)
    }

    fn older(&self, _: &Source, name: &str) -> Source {
        older(&super::conformance::older_image("", name))
    }

    fn elsewhere(&self, source: &Source) -> Vec<Source> {
        let Source::Csi(csi) = source else { panic!("not a CSI source") };
        let with = |key: &str, value: &str| {
            let mut csi = csi.clone();
            csi.attributes.insert(key.to_owned(), value.to_owned());
            Source::Csi(csi)
        };
        vec![
            Source::Csi(crate::volume::CsiSource { driver: "rbd.csi.ceph.com".into(), ..csi.clone() }),
            Source::Csi(crate::volume::CsiSource { handle: "0001-0005-main-1".into(), ..csi.clone() }),
            with("clusterID", "elsewhere"),
            with("image", "other/berth-uid-a"),
            with("pool", "-m"),
            older("rbd/kubernetes-dynamic-pvc-1"),
            older("kubernetes-dynamic-pvc-1@first"),
            Source::Nfs { server: "server".into(), path: "/export".into() },
        ]
    }

    fn is_archived(&self, place: &Location, told: &str) -> bool {
        let (space, image) = Self::pool_namespace(place);
        let state = self.0.state();
        let mut trash = state.spaces[&space].trash.iter();
        trash.any(|entry| entry.name == image && told.ends_with(&entry.image.id) && entry.is_kept())
    }
}

#[tokio::test]
async fn the_rbd_backend_shows_every_behaviour() {
    conformance::run(|| {
        let fake_cluster = FakeCluster::new();
        let vault = Vault::new(&fake_cluster);
        let behind = fake_cluster.clone();
        Bench {
            store: "main".into(),
            parameters: parameters(&[]),
            claims: String::new(),
            ways: Ways { commits: false, ..Ways::default() },
            open: Box::new(move || Arc::new(backend(&fake_cluster, &vault))),
            storage: Box::new(Behind(behind)),
        }
    })
    .await;
}

/// The same against a real cluster, whose configuration file `BERTH_TEST_CEPH_CONF` names; without it the test says that it was
/// skipped. The cluster is one to be filled with rubbish, such as `e2e/ceph up` makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rbd_backend_shows_every_behaviour_on_a_real_cluster() {
    let Some(conf) = std::env::var_os("BERTH_TEST_CEPH_CONF") else {
        eprintln!(
            "skipped: the_rbd_backend_shows_every_behaviour_on_a_real_cluster: BERTH_TEST_CEPH_CONF names no configuration of a \
             running Ceph cluster"
        );
        return;
    };
    super::conformance::run(&super::conformance::Real::read(conf.as_ref(), "rbd")).await;
}

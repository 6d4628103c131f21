//! One cluster: [`Store`], what is remembered of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::{account::Trash, names::PoolNamespace};
use crate::{
    backend::{
        Error, Kind, Kubernetes, StoreExpectation, StoreStatus, UNKNOWN_CLUSTER,
        ceph::{Admin, Cluster, ClusterStore, ExpectedIdentity},
    },
    system::keyed_lock::{KeyedLock, KeyedLocks},
    volume::VolumeName,
};

/// How long things are left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Between two looks at the trash, at least.
    pub(super) soon: Duration,
    /// Between two looks at the clock, at most.
    pub(super) later: Duration,
    /// Between two looks at a trash in which nothing is due, for what came there otherwise: by the clock.
    pub(super) look: Duration,
    /// How long one slice of the purge of a large image should take.
    pub(super) slice: Duration,
    /// Before an image without a header is cleared away: its maker has finished or given up by then, since
    /// every step of the `rbd` program is bounded (`--rados-osd-op-timeout`).
    pub(super) making: Duration,
    /// Before something that could not be purged is tried again, the first time.
    pub(super) first_pause: Duration,
}

impl Timing {
    /// For clusters as they are.
    pub(super) const USUAL: Self = Self {
        soon: Duration::from_secs(5),
        later: Duration::from_mins(5),
        look: Duration::from_mins(10),
        making: Duration::from_secs(45),
        first_pause: Duration::from_secs(30),
        slice: Duration::from_secs(15),
    };
}

/// The longest pause before something that was stuck is tried again.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// How long a full pool is remembered.
const FULL_REMEMBERED: Duration = Duration::from_mins(5);
/// How long an image without a header is remembered.
const REMEMBERED: Duration = Duration::from_hours(24 * 7);

/// One cluster.
pub(super) struct Store {
    pub(super) cluster: Cluster,
    pub(super) trash: Trash,
    pub(super) identity: ExpectedIdentity,
    pub(super) timing: Timing,
    /// Cancelled when no class and no volume names it any more.
    pub(super) gone: CancellationToken,
    images: KeyedLocks<String>,
    memory: Mutex<StoreState>,
}

/// What is remembered of a cluster.
#[derive(Default)]
struct StoreState {
    /// Where our images may lie, and as whom to look there.
    pool_namespaces: BTreeMap<PoolNamespace, Admin>,
    /// Images without a header, and since when they are known.
    without_header: HashMap<String, Instant>,
    /// Volumes in a pool or namespace that are to be looked at once, whether their marks are signed.
    unseen: HashMap<PoolNamespace, BTreeSet<VolumeName>>,
    /// Pools that were full, and when that was seen last.
    full: HashMap<String, Instant>,
}

impl ClusterStore for Store {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn expect(&self, expected: &StoreExpectation, admin: Option<&Admin>) {
        self.identity.set(expected);
        let Some(admin) = admin else { return };
        let mut memory = self.memory();
        for pool_namespace in expected.places.iter().filter_map(PoolNamespace::of) {
            memory.pool_namespaces.entry(pool_namespace).or_insert_with(|| admin.clone());
        }
    }

    fn has_trash(&self) -> bool {
        self.trash.waiting() > 0
    }

    fn end(&self) {
        self.gone.cancel();
    }
}

impl Store {
    pub(super) fn new(cluster: Cluster, timing: Timing) -> Self {
        let (images, memory) = (KeyedLocks::default(), Mutex::default());
        let gone = CancellationToken::new();
        Self {
            cluster,
            trash: Trash::default(),
            identity: ExpectedIdentity::default(),
            timing,
            gone,
            images,
            memory,
        }
    }

    fn memory(&self) -> MutexGuard<'_, StoreState> {
        self.memory.lock()
    }

    /// Locks the image: nothing else works on it until the value is dropped.
    pub(super) fn try_lock(&self, spec: &str) -> Result<KeyedLock<String>, Error> {
        self.images.try_lock(&spec.to_owned()).ok_or_else(|| {
            let message = format!("image {spec} on cluster {} is being worked on", self.cluster.name());
            Error::new(Kind::Busy, message)
        })
    }

    /// Remembers that images lie there, and who may look at them. The last one to say so is right.
    pub(super) fn learn(&self, pool_namespace: &PoolNamespace, admin: &Admin) {
        let mut memory = self.memory();
        if memory.pool_namespaces.get(pool_namespace) != Some(admin) {
            memory.pool_namespaces.insert(pool_namespace.clone(), admin.clone());
            drop(memory);
            self.trash.wake();
        }
    }

    /// Remembers that images may lie there, unless more is known of it.
    pub(super) fn suppose(&self, pool_namespace: PoolNamespace, admin: &Admin) {
        let mut memory = self.memory();
        if let Entry::Vacant(vacant) = memory.pool_namespaces.entry(pool_namespace) {
            vacant.insert(admin.clone());
            drop(memory);
            self.trash.wake();
        }
    }

    /// Where our images may lie, and who may look at them.
    pub(super) fn pool_namespaces(&self) -> Vec<(PoolNamespace, Admin)> {
        self.memory()
            .pool_namespaces
            .iter()
            .map(|(pool_namespace, admin)| (pool_namespace.clone(), admin.clone()))
            .collect()
    }

    /// Whether an image without a header has been seen for so long that it cannot still be in the making. The first sight
    /// is noted.
    pub(super) fn is_abandoned(&self, spec: &str) -> bool {
        let now = Instant::now();
        let mut memory = self.memory();
        // What was seen so long ago is another story. Longer than a sweep waits before it looks again.
        memory.without_header.retain(|_, since| now.duration_since(*since) < REMEMBERED);
        now.duration_since(*memory.without_header.entry(spec.to_owned()).or_insert(now)) >= self.timing.making
    }

    /// Forgets that an image had no header.
    pub(super) fn is_whole(&self, spec: &str) {
        self.memory().without_header.remove(spec);
    }

    /// Notes that a pool is full.
    pub(super) fn set_full(&self, pool: &str) {
        self.memory().full.insert(pool.to_owned(), Instant::now());
    }

    /// Whether a pool was full a moment ago.
    pub(super) fn was_full(&self, pool: &str) -> bool {
        let mut memory = self.memory();
        memory.full.retain(|_, seen| seen.elapsed() < FULL_REMEMBERED);
        memory.full.contains_key(pool)
    }

    /// Notes which volumes in a pool or namespace are to be looked at once.
    pub(super) fn to_be_seen(&self, pool_namespace: PoolNamespace, volumes: BTreeSet<VolumeName>) {
        self.memory().unseen.insert(pool_namespace, volumes);
    }

    /// Notes that the mark of a volume was looked at; whether those of all were by now.
    pub(super) fn seen(&self, pool_namespace: &PoolNamespace, volume: &VolumeName) -> bool {
        let mut memory = self.memory();
        let Some(unseen) = memory.unseen.get_mut(pool_namespace) else { return false };
        unseen.remove(volume);
        let all = unseen.is_empty();
        if all {
            memory.unseen.remove(pool_namespace);
        }
        all
    }

    /// The state as readiness and metrics show it.
    pub(super) fn status(&self, kube: &dyn Kubernetes) -> StoreStatus {
        let known = kube.cluster_ids().map(drop).ok_or_else(|| UNKNOWN_CLUSTER.to_owned());
        StoreStatus {
            trash: self.trash.waiting(),
            stuck: self.trash.stuck(self.timing.look),
            purged: self.trash.purged(),
            ..self.cluster.status(self.identity.mismatch(&self.cluster).map_or(known, Err))
        }
    }
}

//! One cluster at work: [`Store`], what is remembered of it, and [`Work`], with which an operation goes about it.
//!
//! A store is remembered from the moment that somebody names it: in the configuration, a class, a PV. Whether it answers is
//! asked in the background until it does; afterwards every call tells. What the operations do is in `create`, `remove`,
//! `sweep` and `trash`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Admin,
    account::Trash,
    header::Header,
    names::PoolNamespace,
    proof::{Asker, Verdict, judge},
};
use crate::{
    backend::{
        Error, Kind, Kubernetes, PvState, StoreExpectation, StoreStatus, UNKNOWN_CLUSTER,
        ceph::{Ceph, Cluster, Failed, Reason, open},
    },
    system::guard::{Guards, Held},
    volume::{Expired, Invalid, VolumeName},
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
    /// Before an image without a header is cleared away: whoever was making it has finished or given up by then, since
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

/// How long a full pool is remembered.
const FULL_REMEMBERED: Duration = Duration::from_mins(5);
/// How long an image without a header is remembered.
const REMEMBERED: Duration = Duration::from_hours(24 * 7);

/// One cluster.
pub(super) struct Store {
    pub(super) cluster: Cluster,
    pub(super) trash: Trash,
    pub(super) timing: Timing,
    /// Cancelled when no class and no volume names it any more.
    pub(super) gone: CancellationToken,
    images: Guards<String>,
    memory: Mutex<Memory>,
}

/// What is remembered of a cluster.
#[derive(Default)]
struct Memory {
    /// The identity that it had when the newest volume was made.
    past: Option<String>,
    /// Where our images may lie, and as whom to look there.
    pool_namespaces: BTreeMap<PoolNamespace, Admin>,
    /// Images without a header, and since when they are known.
    without_header: HashMap<String, Instant>,
    /// Volumes in a spot that are to be looked at once, whether their marks are signed.
    unseen: HashMap<PoolNamespace, BTreeSet<VolumeName>>,
    /// Pools that were full, and when that was seen last.
    full: HashMap<String, Instant>,
}

/// Why an operation stopped.
#[derive(Debug)]
pub(super) enum OpError {
    /// A call failed.
    Call(Failed),
    /// The operation itself says so.
    Other(Error),
}

impl OpError {
    /// Whether another key may help.
    pub(super) fn is_about_the_key(&self) -> bool {
        matches!(self, Self::Call(failed) if matches!(failed.reason, Reason::WrongKey | Reason::BadKey))
    }

    /// Whether it is only a matter of seconds.
    pub(super) fn is_too_early(&self) -> bool {
        matches!(self, Self::Call(failed) if failed.reason == Reason::NotExpired)
    }

    /// Whether a safety check said no.
    pub(super) fn is_a_refusal(&self) -> bool {
        matches!(self, Self::Other(error) if error.kind() == Kind::Refused)
    }

    /// Whether nothing of ours can lie where the call looked.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Call(failed)
            if matches!(failed.reason, Reason::NoPool | Reason::NoNamespace | Reason::NotPermitted))
    }
}

impl From<Failed> for OpError {
    fn from(failed: Failed) -> Self {
        Self::Call(failed)
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Invalid> for OpError {
    fn from(invalid: Invalid) -> Self {
        Self::Other(invalid.into())
    }
}

impl From<Expired> for OpError {
    fn from(expired: Expired) -> Self {
        Self::Other(expired.into())
    }
}

impl From<OpError> for Error {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Call(failed) => failed.into(),
            OpError::Other(error) => error,
        }
    }
}

/// An error that the operation itself reports.
pub(super) fn fail<T>(kind: Kind, message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Other(Error::new(kind, message)))
}

/// What an operation works with: a store, a handle for one user, and the list of images that it is about.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) store: Arc<Store>,
    pub(super) host: Arc<dyn Kubernetes>,
    pub(super) ceph: Ceph,
    pub(super) pool_namespace: PoolNamespace,
}

impl Work {
    /// With the key that the host has for `admin`.
    pub(super) async fn new(
        store: &Arc<Store>,
        host: &Arc<dyn Kubernetes>,
        pool_namespace: &PoolNamespace,
        admin: &Admin,
        fresh: bool,
    ) -> Result<Self, Error> {
        let ceph = open(&store.cluster, &**host, admin, fresh).await?;
        Ok(Self {
            store: Arc::clone(store),
            host: Arc::clone(host),
            ceph,
            pool_namespace: pool_namespace.clone(),
        })
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, OpError> {
        let identity = self.ceph.fsid().await?;
        match self.store.swapped() {
            Some(why) => fail(Kind::Refused, format!("cluster {}: {why}", self.store.cluster.name())),
            None => Ok(identity),
        }
    }

    /// Whether the image `spec` with this header is the volume of the PV: refused where nothing proves it, or where it belongs
    /// to another PV that exists.
    pub(super) async fn prove(
        &self,
        spec: &str,
        header: &Header,
        asker: Asker<'_>,
    ) -> Result<Verdict, OpError> {
        let mark = header.metadata.mark(spec)?;
        let verdict = judge(spec, mark.as_ref(), asker, self.host.cluster_ids().as_ref())?;
        if let Verdict::Sign { instead_of: Some(other) } = &verdict
            && self.host.pv_state(other).await? != PvState::Absent
        {
            let message = format!(
                "image {spec} belongs to PersistentVolume {other}, which exists; nothing was touched. Delete that one first (with \
                 the reclaim policy Retain), or correct this one"
            );
            return fail(Kind::Refused, message);
        }
        Ok(verdict)
    }
}

impl Store {
    /// Why the cluster is not the one that the existing volumes lie in.
    fn swapped(&self) -> Option<String> {
        match (&self.memory().past, self.cluster.identity()) {
            (Some(past), Some(identity)) if *past != identity => Some(format!(
                "it is not what it was: its identity (fsid) is {identity}, the volumes' is {past}. Correct the monitors, or \
                 name the new cluster otherwise"
            )),
            (Some(_) | None, Some(_) | None) => None,
        }
    }
}

impl Store {
    pub(super) fn new(cluster: Cluster, timing: Timing) -> Arc<Self> {
        let (images, memory) = (Guards::default(), Mutex::default());
        let gone = CancellationToken::new();
        Arc::new(Self { cluster, trash: Trash::default(), timing, gone, images, memory })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody else work on the image.
    pub(super) fn hold(&self, spec: &str) -> Result<Held<String>, Error> {
        self.images.take(&spec.to_owned()).ok_or_else(|| {
            let message = format!("image {spec} on cluster {} is being worked on", self.cluster.name());
            Error::new(Kind::Busy, message)
        })
    }

    /// Takes what the existing volumes say.
    pub(super) fn expect_store(&self, past: StoreExpectation, admin: Option<&Admin>) {
        let mut memory = self.memory();
        memory.past = past.identity;
        let Some(admin) = admin else { return };
        for pool_namespace in past.places.iter().filter_map(PoolNamespace::of) {
            memory.pool_namespaces.entry(pool_namespace).or_insert_with(|| admin.clone());
        }
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

    /// Whether an image without a header has been seen for so long that nobody can be making it still. The first sight
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

    /// Notes which volumes in a spot are to be looked at once.
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
    pub(super) fn status(&self, host: &dyn Kubernetes) -> StoreStatus {
        let health = self.cluster.health();
        let swapped = || self.swapped().map_or(Ok(()), Err);
        let known = || host.cluster_ids().map(drop).ok_or_else(|| UNKNOWN_CLUSTER.to_owned());
        StoreStatus {
            name: self.cluster.name().to_owned(),
            problems: if health.ready.is_ok() { health.problems } else { Vec::new() },
            ready: health.ready.and_then(|()| swapped()).and_then(|()| known()),
            running: health.running,
            oldest: health.oldest,
            trash: self.trash.waiting(),
            stuck: self.trash.stuck(self.timing.look),
            purged: self.trash.purged(),
        }
    }
}

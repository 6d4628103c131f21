//! Which cluster: [`Cluster`], and [`Clusters`], which finds one by name or by the address of a monitor.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;

use super::{
    admin::Admin,
    breaker::CircuitBreaker,
    call::Failed,
    monitors::{Monitors, Protocol},
    programs::Programs,
    reason::Reachability,
    session_pool::SessionPool,
    users::Users,
};
use crate::{
    backend::{Error, Kind, StoreStatus},
    volume::Invalid,
};

/// The programs and their limits, the same for every cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The `rbd` program: its name, or its path.
    pub rbd: String,
    /// The `ceph` program: its name, or its path.
    pub ceph: String,
    /// The `rados` program: its name, or its path.
    pub rados: String,
    /// How long a program may look for a monitor that answers (`--client-mount-timeout`).
    pub connect: Duration,
    /// How long one question to a monitor, a manager or an OSD may take (`--rados-mon-op-timeout`, `--rados-osd-op-timeout`).
    pub operation: Duration,
    /// How long a whole call may take, above all of that.
    pub deadline: Duration,
    /// How many programs that end by themselves run at once for each cluster.
    pub concurrency: usize,
    /// How many `ceph` programs stay and wait for the next command, at most, for each cluster; 0 for a new program for each.
    pub sessions: usize,
    /// How long a cluster that did not answer is left alone, the first time; zero for not at all.
    pub pause: Duration,
    /// How often a cluster is looked at of which it is not known whether it can be used.
    pub recheck: Duration,
    /// The places for programs, which all clusters share.
    pub programs: Programs,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            rbd: "rbd".into(),
            ceph: "ceph".into(),
            rados: "rados".into(),
            connect: Duration::from_secs(5),
            operation: Duration::from_secs(20),
            deadline: Duration::from_mins(1),
            concurrency: 8,
            sessions: 2,
            pause: Duration::from_secs(1),
            recheck: Duration::from_secs(10),
            programs: Programs::default(),
        }
    }
}

/// How many programs may run at once for a cluster that did not answer the last time.
const FEW: usize = 2;

/// One cluster. Copies share the limit on programs and what is known of the cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) monitors: Monitors,
    pub(super) tools: Tools,
    pub(super) slots: Semaphore,
    /// For a cluster that is in trouble: what hangs there must not keep programs from other clusters.
    pub(super) few: Semaphore,
    pub(super) sessions: SessionPool,
    identity: Mutex<Identity>,
    users: Mutex<Users>,
    /// Why the last attempt to reach the cluster failed.
    unreachable: Mutex<Option<String>>,
    breaker: Mutex<CircuitBreaker>,
    /// The protocols that monitors speak whose addresses do not say one, as they said themselves.
    msgr_protocols: Mutex<BTreeMap<SocketAddr, Protocol>>,
    running: Mutex<Running>,
}

/// The identity that a cluster gave itself.
#[derive(Debug, Default)]
struct Identity {
    /// As it is now; `None` while that is not known, since what answers next may be another cluster.
    now: Option<String>,
    /// As it was the last time that it was known.
    last: Option<String>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    calls: BTreeMap<u64, (String, Instant)>,
}

/// How a cluster is now, as far as calls have shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it answers, and one of its users can be used; else why not, as a sentence for an administrator.
    pub ready: Result<(), String>,
    /// What is wrong with single users of it.
    pub problems: Vec<String>,
    /// Calls that run now, those that wait for their turn included.
    pub running: usize,
    /// The call that has run longest, and since when.
    pub oldest: Option<(String, Duration)>,
}

impl Cluster {
    /// The cluster called `name` (lower case letters, digits and `-`), reached by `monitors`.
    pub fn new(name: &str, monitors: Monitors, tools: Tools) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
            return Err(Invalid::new(
                "cluster name",
                name,
                "must be 1 to 40 lower case letters, digits and '-'",
            ));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                monitors,
                slots: Semaphore::new(tools.concurrency.max(1)),
                few: Semaphore::new(FEW),
                sessions: SessionPool::new(tools.sessions, &tools.programs),
                breaker: Mutex::new(CircuitBreaker::new(tools.pause)),
                msgr_protocols: Mutex::default(),
                tools,
                identity: Mutex::default(),
                users: Mutex::default(),
                unreachable: Mutex::default(),
                running: Mutex::default(),
            }),
        })
    }

    /// Its name in volume ids, messages and metrics.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its monitors, as they were written.
    pub fn monitors(&self) -> &Monitors {
        &self.shared.monitors
    }

    /// The programs and limits.
    pub fn tools(&self) -> &Tools {
        &self.shared.tools
    }

    /// How it is, from memory.
    pub fn health(&self) -> Health {
        let unreachable = self.shared.unreachable.lock().clone();
        let (unusable, problems, watched) = {
            let users = self.users();
            (users.none_serves(), users.problems(), users.is_watched())
        };
        let silent = || (watched && self.identity().is_none()).then(|| "it has not answered yet".to_owned());
        let ready = unreachable.or(unusable).or_else(silent).map_or(Ok(()), Err);
        let running = self.shared.running.lock();
        // Numbers are given in the order of time.
        let oldest = running.calls.values().next().map(|(what, since)| (what.clone(), since.elapsed()));
        Health { ready, problems, running: running.calls.len(), oldest }
    }

    /// The same as readiness and metrics show it, with an empty trash. `usable`: why it cannot be used although it answers.
    pub fn status(&self, usable: Result<(), String>) -> StoreStatus {
        let Health { ready, problems, running, oldest } = self.health();
        StoreStatus {
            name: self.name().to_owned(),
            problems: if ready.is_ok() { problems } else { Vec::new() },
            ready: ready.and(usable),
            running,
            oldest,
            trash: 0,
            stuck: Vec::new(),
            purged: 0,
        }
    }

    /// Whether the last attempt to reach it failed.
    pub(super) fn is_unreachable(&self) -> bool {
        self.shared.unreachable.lock().is_some()
    }

    /// Whether and how long it is left alone, since it did not answer.
    pub(super) fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.shared.breaker.lock()
    }

    /// The protocols that are spoken at addresses that do not say one.
    pub(super) fn msgr_protocols(&self) -> BTreeMap<SocketAddr, Protocol> {
        self.shared.msgr_protocols.lock().clone()
    }

    /// Takes notice of the protocols that are spoken; whether there is news.
    pub(super) fn set_msgr_protocols(&self, msgr_protocols: BTreeMap<SocketAddr, Protocol>) -> bool {
        let mut known = self.shared.msgr_protocols.lock();
        let news = !msgr_protocols.is_empty() && *known != msgr_protocols;
        *known = msgr_protocols;
        news
    }

    /// The identity that it had the last time that it was known.
    pub fn identity(&self) -> Option<String> {
        self.identities().last.clone()
    }

    /// The identity that it has, as far as that is known.
    pub(super) fn identity_now(&self) -> Option<String> {
        self.identities().now.clone()
    }

    pub(super) fn set_identity(&self, identity: String) {
        *self.identities() = Identity { now: Some(identity.clone()), last: Some(identity) };
    }

    fn identities(&self) -> MutexGuard<'_, Identity> {
        self.shared.identity.lock()
    }

    pub(super) fn users(&self) -> MutexGuard<'_, Users> {
        self.shared.users.lock()
    }

    /// Passes on what came of reading the key of `admin`, and notes where it was in vain.
    pub(super) fn opened<T>(&self, admin: &Admin, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            // Whether there is a key is not known.
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Busy) => {}
            Err(error) => self.note_user(admin, Err(error.chain())),
            Ok(_) => {}
        }
        outcome
    }

    /// Notes whether a user can be used.
    pub(super) fn note_user(&self, admin: &Admin, state: Result<(), String>) {
        let (cluster, user, secret) = (self.name(), admin.user.as_str(), &admin.secret);
        let why = state.as_ref().err().cloned();
        if self.users().note(admin, state) {
            if let Some(why) = why {
                tracing::warn!(cluster, user, %secret, why, "a user of the cluster cannot be used");
            } else {
                tracing::info!(cluster, user, %secret, "a user of the cluster can be used again");
            }
        }
    }

    /// Forgets what is wrong with users that are not `named`.
    pub fn retain_users(&self, named: impl Fn(&Admin) -> bool) {
        self.users().retain(named);
    }

    /// Notes what a call showed of the cluster.
    pub(super) fn learn<T>(&self, outcome: &Result<T, Failed>) {
        let shown = match outcome {
            Ok(_) => Reachability::Reachable,
            Err(failed) => failed.reason.shows(),
        };
        let unreachable = match (shown, outcome) {
            (Reachability::Unreachable, Err(failed)) => Some(failed.to_string()),
            (Reachability::Unknown, _) => return,
            (Reachability::Reachable | Reachability::AuthRejected | Reachability::Unreachable, _) => None,
        };
        *self.shared.unreachable.lock() = unreachable;
        if matches!(shown, Reachability::Unreachable | Reachability::AuthRejected) {
            // What answers next may be another cluster.
            self.identities().now = None;
        }
    }

    /// Counts a call as running until the value is dropped.
    pub(super) fn begun(&self, what: &str) -> Begun {
        let mut running = self.shared.running.lock();
        running.next += 1;
        let number = running.next;
        running.calls.insert(number, (what.to_owned(), Instant::now()));
        Begun { cluster: self.clone(), number }
    }
}

/// A call that is running.
pub(super) struct Begun {
    cluster: Cluster,
    number: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let running = &self.cluster.shared.running;
        running.lock().calls.remove(&self.number);
    }
}

/// All clusters of the process: the configured ones, and those that a class or an old PV describes by its monitors. Of these there
/// are as many as are held: what needs one holds it, and one that is not held is dropped.
#[derive(Debug, Clone)]
pub struct Clusters {
    configured: Arc<[Cluster]>,
    described: Arc<Mutex<BTreeMap<String, Weak<Shared>>>>,
    tools: Tools,
}

impl Clusters {
    /// The configured clusters; `tools` serves those that are not.
    pub fn new(configured: Vec<Cluster>, tools: Tools) -> Self {
        Self { configured: configured.into(), described: Arc::default(), tools }
    }

    /// The cluster of this name, configured or held.
    pub fn named(&self, name: &str) -> Option<Cluster> {
        let configured = self.configured.iter().find(|cluster| cluster.name() == name).cloned();
        configured.or_else(|| Some(Cluster { shared: self.described().get(name)?.upgrade()? }))
    }

    fn described(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Shared>>> {
        self.described.lock()
    }

    /// Whether a configured cluster has this name; that of others follows from their monitors.
    pub fn is_configured(&self, name: &str) -> bool {
        self.configured.iter().any(|cluster| cluster.name() == name)
    }

    /// The cluster that these monitors mean: a configured one that has one of them, else one that follows from them alone.
    pub fn reached_by(&self, monitors: &Monitors) -> Result<Cluster, Invalid> {
        if let Some(cluster) = self.configured.iter().find(|cluster| cluster.monitors().share_one(monitors)) {
            return Ok(cluster.clone());
        }
        let name = monitors.store_name();
        let mut described = self.described();
        described.retain(|_, shared| shared.strong_count() > 0);
        if let Some(shared) = described.get(&name).and_then(Weak::upgrade) {
            return Ok(Cluster { shared });
        }
        let cluster = Cluster::new(&name, monitors.clone(), self.tools.clone())?;
        described.insert(name, Arc::downgrade(&cluster.shared));
        Ok(cluster)
    }

    /// The configured ones, as configured.
    pub fn configured(&self) -> Vec<Cluster> {
        self.configured.to_vec()
    }

    /// All of them: configured ones first, as configured, then those that are held, by name.
    pub fn all(&self) -> Vec<Cluster> {
        let described = self.described();
        let held = described.values().filter_map(|shared| Some(Cluster { shared: shared.upgrade()? }));
        self.configured.iter().cloned().chain(held).collect()
    }
}

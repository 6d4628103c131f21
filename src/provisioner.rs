//! The Kubernetes loop: claims become volumes, released volumes are removed. Entered through [`run`].
//!
//! It watches claims, `PersistentVolume`s and classes, keeps of them only what decisions need (`records`), and while it
//! leads works through one queue (`term`). Every decision is a pure function that returns a plan (`provision`, `reclaim`,
//! `expand`); what happens then is in the `reconcile` beside it.
//!
//! It knows no storage system (a [`Backend`](crate::backend::Backend) does the work) and no CSI.

mod bounds;
mod class;
mod clock;
mod cluster;
pub mod events;
mod expand;
mod facts;
#[cfg(test)]
mod fixtures;
pub mod host;
mod kept_secrets;
pub mod lease;
mod names;
mod objects;
mod persistent_volume;
mod provision;
pub mod queue;
mod reclaim;
mod records;
mod register;
pub mod rights;
mod secret_waits;
#[cfg(test)]
mod stub;
mod sweep;
mod term;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use class::PARAMETERS;
#[cfg(test)]
pub(crate) use class::terms_of;
pub use facts::ClusterFacts;
pub use host::KubernetesHost;
use kube::{Client, client::ClientBuilder};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::{
    class::Class,
    clock::ReadDate,
    cluster::Cluster,
    events::{Event, Events, Regarding, Reporter, Type},
    objects::{ClaimObject, VolumeObject, annotation},
    provision::Attempt,
    records::{Claim, Records, Watched},
    rights::{Monitor, Right},
    secret_waits::SecretWaits,
    term::Term,
};
use crate::{
    backend::Backends,
    observe::{CountApiRequests, EventCounts, Leadership, Metrics, QueueDepth},
    volume::Clock,
};

/// Everything the loop is told; whoever builds it has checked it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the API server is and who we are to it.
    pub cluster: kube::Config,
    /// The name of this machine or pod, for the source of our events.
    pub hostname: String,
    /// The namespace this process lives in, where it needs the rights for the leader lock.
    pub namespace: String,
    /// The lock to hold while working; `None`: without leader election.
    pub lease: Option<lease::Settings>,
    /// What leadership and the permits that come of it are measured by.
    pub clock: Clock,
    /// What is learned of the cluster, for the [`ClusterInfo`](crate::backend::ClusterInfo) of the backends.
    pub facts: ClusterFacts,
    /// What the backends need of the API server besides, through their [`Kubernetes`](crate::backend::Kubernetes).
    pub host_rights: &'static [Right],
    /// How many PVs, of all stores together, are on their way to the API server at a time. Of each store half as many again are
    /// worked on, so that the next volumes are made meanwhile.
    pub workers: usize,
    /// How long to wait for an answer of the API server (watches are not meant).
    pub api_timeout: Duration,
    /// How long what failed waits.
    pub pace: queue::Backoff,
    /// How often to look for volumes that were begun and never used.
    pub sweep_interval: Duration,
    /// How long such a volume must stay without a claim before it is taken back.
    pub sweep_grace: Duration,
    /// How long running work may take to end once `stop` is cancelled.
    pub shutdown_grace: Duration,
    /// Cancelled when the process shall end: nothing new is begun, what runs may end, the lock is handed over.
    pub stop: CancellationToken,
}

/// Why the loop could not start. It never ends by an error once it runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the API client cannot be used.
    #[error("cannot create a client for the API server at {url}")]
    Client {
        /// The server's address.
        url: String,
        /// Why.
        source: kube::Error,
    },
}

/// How long to wait for what the API server lets us do, before it is taken to let us do everything.
const RIGHTS_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection may be silent while an answer is waited for: longer than any watch lasts.
const WATCH_LIMIT: Duration = Duration::from_mins(6);
/// How often the state is told and the heart beats.
const TICK: Duration = Duration::from_secs(2);
/// How many explained requests for growth are remembered.
const EXPLAINED: usize = 1000;
/// How long the last events may take at shutdown.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Provisions, expands and removes volumes with `backends` until [`Settings::stop`] is cancelled, then ends what runs.
///
/// The state of the loop (synced, leading, queues, missing rights, stores) is told to `metrics`, which makes the probes
/// and the metrics of it.
pub async fn run(settings: Settings, backends: Backends, metrics: Metrics) -> Result<(), Error> {
    let failed = |source| Error::Client { url: settings.cluster.cluster_url.to_string(), source };
    let client =
        client(&settings.cluster, settings.api_timeout, &metrics, &settings.facts).map_err(failed)?;
    let lease_client =
        settings.lease.as_ref().map(|lease| lease::client(&settings.cluster, lease, &metrics)).transpose();
    let election = settings.lease.clone().zip(lease_client.map_err(failed)?);
    serve(&settings, backends, metrics, client, election).await;
    Ok(())
}

/// A client that repeats nothing by itself (the queue does), whose requests are counted and whose answers tell the time.
fn client(
    config: &kube::Config,
    timeout: Duration,
    metrics: &Metrics,
    facts: &ClusterFacts,
) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    let server = config.cluster_url.to_string();
    config.default_retry = false;
    // A watch that is alive is closed by the server earlier; without this, one that is never answered hangs for ever.
    config.read_timeout = Some(WATCH_LIMIT);
    config.reset_reader_on_write = true;
    config.connect_timeout = Some(config.connect_timeout.unwrap_or(timeout).min(timeout));
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&CountApiRequests::new(metrics.clone(), &server))
        .with_layer(&ReadDate::new(facts.clock.clone()))
        .build())
}

/// The loop, over a client of any make.
async fn serve(
    settings: &Settings,
    backends: Backends,
    metrics: Metrics,
    client: Client,
    election: Option<(lease::Settings, Client)>,
) {
    let stop = &settings.stop;
    metrics.watch_stores(
        backends.distinct().into_iter().map(|ports| (ports.name(), Arc::clone(&ports.stores))).collect(),
    );
    let mut wanted = [rights::VOLUMES, settings.host_rights].concat();
    if election.is_some() {
        wanted.extend_from_slice(rights::ELECTION);
    }
    let monitor = Monitor::start(client.clone(), &settings.namespace, wanted, RIGHTS_LIMIT);
    let Some(monitor) = stop.run_until_cancelled(monitor).await else { return };
    let shared = Shared::new(settings, backends, metrics, &client, monitor);
    let mut watches = JoinSet::new();
    watches.spawn(watch::follow_all(Arc::clone(&shared), client));
    if stop.run_until_cancelled(synced(&shared)).await.is_none() {
        return;
    }
    let elector = match election {
        Some((lease, client)) => {
            let (_, volumes) = shared.records().sizes();
            lease::Elector::start(client, lease, settings.clock.clone(), volumes > 0)
        }
        None => lease::Elector::off(),
    };
    lead(settings, &shared, &elector).await;
    tokio::join!(shared.flush(LAST_EVENTS), elector.release());
    shared.metrics.leadership(Leadership::Standby);
    watches.shutdown().await;
}

/// Waits for the first complete lists, and tells the backends what the volumes say of their stores.
async fn synced(shared: &Shared) {
    let mut synced = shared.synced.subscribe();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            // The sender is in `shared`: waiting cannot fail.
            _ = synced.wait_for(|synced| *synced) => break,
            _ = tick.tick() => shared.metrics.heartbeat(),
        }
    }
    // A store that only classes describe is known by them when its past is told.
    shared.listed.store(true, Ordering::SeqCst);
    shared.introduce_classes();
    shared.tell_past();
    let (claims, volumes) = shared.records().sizes();
    shared.metrics.synced(true);
    tracing::info!(claims, volumes, "all informers have synced");
}

/// Works whenever this process leads, until it shall stop; then ends what runs.
async fn lead(settings: &Settings, shared: &Arc<Shared>, elector: &lease::Elector) {
    let mut states = elector.states();
    states.mark_changed();
    let mut rights = shared.rights.rights();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut term: Option<Term> = None;
    loop {
        let ended = term.as_ref().map(|term| term.lease.ended.clone());
        tokio::select! {
            () = settings.stop.cancelled() => break,
            () = lost(ended.as_ref()) => {
                tracing::warn!("lost the leader lock; dropping all running operations");
                if let Some(term) = term.take() {
                    term.end().await;
                }
                shared.metrics.leadership(Leadership::Standby);
                states.mark_changed();
            }
            Ok(()) = states.changed() => {
                let state = states.borrow_and_update().clone();
                learn(elector, &settings.facts);
                match state {
                    lease::State::Leading(lease) if term.is_none() && !lease.ended.is_cancelled() => {
                        tracing::info!(lock = elector.status().lock, "leading");
                        shared.metrics.leadership(Leadership::Leading);
                        term = Some(Term::begin(shared, lease, settings));
                    }
                    lease::State::Standby if term.is_none() => {
                        shared.metrics.leadership(Leadership::Standby);
                    }
                    // What a running term has to do at its end begins with its token.
                    lease::State::Leading(_) | lease::State::Standby => {}
                }
            }
            Ok(()) = rights.changed() => shared.adapt(&rights.borrow_and_update()),
            _ = tick.tick() => {
                learn(elector, &settings.facts);
                shared.tell(term.as_ref());
            }
            () = work(term.as_mut()) => {}
        }
    }
    tracing::info!("shutting down: no new operations start");
    if let Some(term) = term {
        term.drain(settings.shutdown_grace).await;
    }
}

/// What the lock tells of the cluster is known before a term begins, and to whoever stands by.
fn learn(elector: &lease::Elector, facts: &ClusterFacts) {
    if let Some(uid) = elector.lock_uid() {
        facts.lock(uid);
    }
}

/// Resolves when the term is over; never without one.
async fn lost(ended: Option<&CancellationToken>) {
    match ended {
        Some(ended) => ended.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Does the next thing there is to do in this term; nothing without one.
async fn work(term: Option<&mut Term>) {
    match term {
        Some(term) => term.step().await,
        None => std::future::pending().await,
    }
}

/// What became of the events of all reporters.
fn counts(events: &[Events]) -> EventCounts {
    events.iter().map(Events::counts).fold(EventCounts::default(), |sum, one| EventCounts {
        pending: sum.pending + one.pending,
        created: sum.created + one.created,
        repeated: sum.repeated + one.repeated,
        suppressed: sum.suppressed + one.suppressed,
        dropped: sum.dropped + one.dropped,
    })
}

/// What all parts of the loop share.
struct Shared {
    cluster: Cluster,
    backends: Backends,
    metrics: Metrics,
    rights: Monitor,
    facts: ClusterFacts,
    /// By provisioner name: the source of an event names it.
    events: BTreeMap<String, Events>,
    synced: tokio::sync::watch::Sender<bool>,
    /// Whether all classes were listed once: what is kept of a claim depends on its class.
    classes_listed: tokio::sync::watch::Sender<bool>,
    records: Mutex<Records>,
    /// What was begun for a claim and is not ended, by the claim's UID.
    attempts: Mutex<HashMap<Arc<str>, Attempt>>,
    secret_waits: SecretWaits,
    /// Editions of classes that were warned about: the last version, by UID.
    warned: Mutex<HashMap<String, String>>,
    /// Requests for growth that were explained, by UID and size; at most [`EXPLAINED`].
    explained: Mutex<HashSet<(String, String)>>,
    /// So many PVs may be on their way to the API server at a time, of whatever stores: no storage is waited for meanwhile.
    storing: Semaphore,
    /// Whether everything was listed once: from then on the backends hear of classes as they come.
    listed: AtomicBool,
    /// How many objects are being worked on or wait for a free worker.
    foreground: Arc<AtomicUsize>,
    /// How much there is to do, as of the last tick.
    depth: Arc<Mutex<QueueDepth>>,
}

impl Shared {
    fn new(
        settings: &Settings,
        backends: Backends,
        metrics: Metrics,
        client: &Client,
        rights: Monitor,
    ) -> Arc<Self> {
        let foreground = Arc::<AtomicUsize>::default();
        let events: BTreeMap<_, _> = backends
            .provisioners()
            .map(|name| {
                let reporter = Reporter::new(name, &settings.hostname);
                let foreground = Arc::clone(&foreground);
                let busy = move || foreground.load(Ordering::Relaxed);
                (name.to_owned(), Events::start(client.clone(), reporter, busy))
            })
            .collect();
        let guarding = rights.rights().borrow().allow(Right::PatchVolumes);
        let shared = Self {
            cluster: Cluster::new(client.clone(), settings.api_timeout),
            records: Mutex::new(Records::new(backends.clone(), guarding)),
            backends,
            metrics,
            rights,
            facts: settings.facts.clone(),
            events,
            synced: tokio::sync::watch::Sender::new(false),
            classes_listed: tokio::sync::watch::Sender::new(false),
            attempts: Mutex::default(),
            secret_waits: SecretWaits::default(),
            warned: Mutex::default(),
            explained: Mutex::default(),
            storing: Semaphore::new(settings.workers.max(1)),
            listed: AtomicBool::new(false),
            foreground,
            depth: Arc::default(),
        };
        shared.adapt(&shared.rights.rights().borrow());
        let clock = shared.facts.clock.clone();
        shared.metrics.watch_clock(move || clock.skew());
        let depth = Arc::clone(&shared.depth);
        let depth = move || *depth.lock().unwrap_or_else(PoisonError::into_inner);
        shared.metrics.watch_queue("objects", depth);
        let events: Vec<_> = shared.events.values().cloned().collect();
        shared.metrics.watch_events(move || counts(&events));
        Arc::new(shared)
    }

    /// Each lock is held for a moment, never across an await; what it guards is whole whenever it is free.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self, uid: &str) -> Option<Attempt> {
        self.attempts().get(uid).cloned()
    }

    fn set_attempt(&self, uid: &Arc<str>, attempt: Attempt) {
        self.attempts().insert(Arc::clone(uid), attempt);
    }

    /// A class is there, or has changed.
    fn see_class(&self, class: &Class) {
        if self.backends.get(&class.provisioner).is_some() {
            self.metrics.class_exists(&class.name);
        } else {
            self.metrics.foreign_class_exists(&class.name);
        }
        self.records().see_class(class.clone());
        if self.listed.load(Ordering::SeqCst) {
            self.introduce(class);
        }
    }

    /// The class of this name is gone.
    fn forget_class(&self, name: &str) {
        self.records().forget_class(name);
        self.wake_attempts_of(name);
        self.metrics.class_gone(name);
    }

    /// The complete list of this kind has come.
    fn complete(&self, kind: Watched) {
        let synced = self.records().complete(kind);
        match kind {
            Watched::Classes => {
                self.metrics.only_classes(self.records().classes().iter().map(|class| class.name.clone()));
                self.classes_listed.send_replace(true);
            }
            Watched::Claims | Watched::Volumes => {}
        }
        if synced {
            self.synced.send_replace(true);
        }
    }

    /// Tells the backends all classes: a store that only a class describes may hold what was begun for a claim that is gone.
    fn introduce_classes(&self) {
        let classes = self.records().classes();
        for class in classes {
            self.introduce(&class);
        }
    }

    fn introduce(&self, class: &Class) {
        let Some(ports) = self.backends.ports(&class.provisioner) else { return };
        ports.stores.register_class(&class.parameters_of(ports.backend.capabilities()));
    }

    /// Tells the backends which classes and volumes there are, where some have gone: a store that none of them names is forgotten.
    fn retain_stores(&self) {
        if !self.listed.load(Ordering::SeqCst) || !self.records().take_stores_changed() {
            return;
        }
        let classes = self.records().classes();
        for ports in self.backends.distinct() {
            let of_backend = classes.iter().filter(|class| {
                let by = self.backends.get(&class.provisioner);
                by.is_some_and(|by| Arc::ptr_eq(by, &ports.backend))
            });
            let parameters: Vec<_> =
                of_backend.map(|class| class.parameters_of(ports.backend.capabilities())).collect();
            let used = self.records().stores_in_use(ports.name());
            ports.stores.retain_stores(&parameters, &used);
        }
    }

    /// Tells the backends what the volumes say of their stores.
    fn tell_past(&self) {
        for ports in self.backends.distinct() {
            let past = self.records().past(ports.name(), &*ports.stores);
            for past in past {
                ports.stores.expect_store(past);
            }
        }
    }

    /// Whether nobody was warned about this edition of the class yet.
    fn first_use(&self, class: &Class) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let before = warned.insert(class.uid.clone(), class.version.clone());
        before.is_none_or(|version| version != class.version)
    }

    /// Whether nobody was told yet why this claim cannot have so much.
    fn first_explained(&self, uid: &str, request: &str) -> bool {
        let mut explained = self.explained.lock().unwrap_or_else(PoisonError::into_inner);
        // Claims come and go, and their authors write what they like: explaining again is better than remembering for ever.
        if explained.len() >= EXPLAINED {
            explained.clear();
        }
        explained.insert((uid.to_owned(), request.to_owned()))
    }

    /// The rights have changed: so does what is done.
    fn adapt(&self, rights: &rights::Rights) {
        self.metrics.rights_missing(rights.missing().iter().map(Right::to_string).collect());
        self.explained.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut records = self.records();
        records.guard(rights.allow(Right::PatchVolumes));
        records.wake_growing();
    }

    /// Tells the metrics how things are.
    fn tell(&self, term: Option<&Term>) {
        self.metrics.heartbeat();
        self.retain_stores();
        *self.depth.lock().unwrap_or_else(PoisonError::into_inner) = term.map(Term::load).unwrap_or_default();
    }

    async fn flush(&self, limit: Duration) {
        futures::future::join_all(self.events.values().map(|events| events.flush(limit))).await;
    }

    fn publish(
        &self,
        provisioner: &str,
        regarding: Regarding,
        kind: Type,
        reason: &'static str,
        note: String,
    ) {
        let events = self.events.get(provisioner).or_else(|| self.events.values().next());
        if let Some(events) = events {
            events.publish(Event { regarding, kind, reason, note });
        }
    }

    /// Tells the claim's author something.
    fn tell_claim(&self, claim: &Claim, kind: Type, reason: &'static str, note: String) {
        let regarding =
            Regarding::claim(&claim.namespace, &claim.name, &claim.uid, Some(&claim.resource_version));
        self.publish(&claim.provisioner, regarding, kind, reason, note);
    }

    /// Tells the claim's author something about a claim as the API server has it.
    fn tell_object(
        &self,
        provisioner: &str,
        claim: &ClaimObject,
        kind: Type,
        reason: &'static str,
        note: String,
    ) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let metadata = &claim.metadata;
        let regarding = Regarding::claim(
            &text(&metadata.namespace),
            &text(&metadata.name),
            &text(&metadata.uid),
            metadata.resource_version.as_deref(),
        );
        self.publish(provisioner, regarding, kind, reason, note);
    }

    /// Tells the administrator something about a volume.
    fn tell_volume(&self, volume: &VolumeObject, kind: Type, reason: &'static str, note: String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let metadata = &volume.metadata;
        let regarding = Regarding::volume(
            &text(&metadata.name),
            &text(&metadata.uid),
            metadata.resource_version.as_deref(),
        );
        let provisioner = annotation(metadata, names::PROVISIONED_BY).unwrap_or_default();
        self.publish(provisioner, regarding, kind, reason, note);
    }
}

#[cfg(test)]
mod tests;

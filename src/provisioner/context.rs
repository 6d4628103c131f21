//! What all flows of the loop share: [`Context`], with the cache, the API server, the Events and the metrics.
//!
//! It decides nothing; the flows import it, and it imports none of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kube::Client;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;

use super::{
    cache::{Attachments, Cache, Claim, ResourceKind},
    class::Class,
    cluster::Cluster,
    cluster_identity::ClusterIdentity,
    events::{Event, Events, Regarding, Reporter, Type},
    key::Key,
    names,
    objects::{ClaimObject, VolumeObject, annotation},
    provision::progress::{Attempt, Progress},
    queue::Outcome,
    rights::{self, Monitor, Right},
    secret_waits::wanted::SecretWaits,
    settings::Settings,
};
use crate::{
    backend::{Backends, Error, Kind},
    observe::{EventCounts, Metrics, QueueDepth},
};

/// How many explained requests for growth are kept.
const EXPLAINED: usize = 1000;
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
pub(super) struct Context {
    pub(super) cluster: Cluster,
    pub(super) backends: Backends,
    pub(super) metrics: Metrics,
    pub(super) rights: Monitor,
    pub(super) cluster_identity: ClusterIdentity,
    /// By provisioner name: the source of an event names it.
    pub(super) events: BTreeMap<String, Events>,
    pub(super) synced: tokio::sync::watch::Sender<bool>,
    /// Whether all classes were listed once: what is kept of a claim depends on its class.
    pub(super) classes_listed: tokio::sync::watch::Sender<bool>,
    pub(super) cache: Mutex<Cache>,
    /// What was begun for a claim and is not ended, by the claim's UID.
    pub(super) attempts: Mutex<HashMap<Arc<str>, Attempt>>,
    pub(super) secret_waits: SecretWaits,
    /// Editions of classes that were warned about: the last version, by UID.
    pub(super) warned: Mutex<HashMap<String, String>>,
    /// Requests for growth that were explained, by UID and size; at most [`EXPLAINED`].
    pub(super) explained: Mutex<HashSet<(String, String)>>,
    /// So many PVs may be on their way to the API server at a time, of whatever stores: no storage is waited for in between.
    pub(super) storing: Semaphore,
    /// Whether everything was listed once: from then on the backends hear of classes as they come.
    pub(super) listed: AtomicBool,
    /// How many objects are being worked on or wait for a free worker.
    pub(super) foreground: Arc<AtomicUsize>,
    /// How much there is to do, as of the last tick.
    pub(super) depth: Arc<Mutex<QueueDepth>>,
}

impl Context {
    pub(super) fn new(
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
        let uses_finalizers = rights.rights().borrow().allow(Right::PatchVolumes);
        let mut cache = Cache::new(backends.clone(), uses_finalizers);
        cache.attachments = Attachments::of(settings.attachers.clone());
        let ctx = Self {
            cluster: Cluster::new(client.clone(), settings.api_timeout),
            cache: Mutex::new(cache),
            backends,
            metrics,
            rights,
            cluster_identity: settings.cluster_identity.clone(),
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
        ctx.adapt(&ctx.rights.rights().borrow());
        let clock = ctx.cluster_identity.clock.clone();
        ctx.metrics.watch_clock(move || clock.skew());
        let depth = Arc::clone(&ctx.depth);
        let depth = move || *depth.lock();
        ctx.metrics.watch_queue("objects", depth);
        let events: Vec<_> = ctx.events.values().cloned().collect();
        ctx.metrics.watch_events(move || counts(&events));
        Arc::new(ctx)
    }

    /// Each lock is held for a moment, never across an await; what it guards is whole whenever it is free.
    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock()
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Attempt>> {
        self.attempts.lock()
    }

    pub(super) fn attempt(&self, uid: &str) -> Option<Attempt> {
        self.attempts().get(uid).cloned()
    }

    pub(super) fn set_attempt(&self, uid: &Arc<str>, attempt: Attempt) {
        self.attempts().insert(Arc::clone(uid), attempt);
    }

    /// A class is there, or has changed.
    pub(super) fn upsert_class(&self, class: &Class) {
        if self.backends.get(&class.provisioner).is_some() {
            self.metrics.class_exists(&class.name);
        } else {
            self.metrics.foreign_class_exists(&class.name);
        }
        self.cache().upsert_class(class.clone());
        if self.listed.load(Ordering::SeqCst) {
            self.register_class(class);
        }
    }

    /// The class of this name is gone.
    pub(super) fn remove_class(&self, name: &str) {
        self.cache().remove_class(name);
        self.wake_attempts_of(name);
        self.metrics.class_gone(name);
    }

    /// The complete list of this kind has come.
    pub(super) fn complete(&self, kind: ResourceKind) {
        let synced = self.cache().complete(kind);
        match kind {
            ResourceKind::Classes => {
                self.metrics.only_classes(self.cache().classes().iter().map(|class| class.name.clone()));
                self.classes_listed.send_replace(true);
            }
            ResourceKind::Claims | ResourceKind::Volumes | ResourceKind::Attachments => {}
        }
        if synced {
            self.synced.send_replace(true);
        }
    }

    /// Tells the backends all classes: a store that only a class describes may hold what was begun for a claim that is gone.
    pub(super) fn register_classes(&self) {
        let classes = self.cache().classes();
        for class in classes {
            self.register_class(&class);
        }
    }

    pub(super) fn register_class(&self, class: &Class) {
        let Some(ports) = self.backends.ports(&class.provisioner) else { return };
        ports.stores.register_class(&class.parameters_of(ports.backend.capabilities()));
    }

    /// Tells the backends which classes and volumes there are, where some have gone: a store that none of them names is forgotten.
    pub(super) fn retain_stores(&self) {
        if !self.listed.load(Ordering::SeqCst) || !self.cache().take_stores_changed() {
            return;
        }
        let classes = self.cache().classes();
        for ports in self.backends.distinct() {
            let of_backend = classes.iter().filter(|class| {
                let by = self.backends.get(&class.provisioner);
                by.is_some_and(|by| Arc::ptr_eq(by, &ports.backend))
            });
            let parameters: Vec<_> =
                of_backend.map(|class| class.parameters_of(ports.backend.capabilities())).collect();
            let used = self.cache().occupancy.stores(ports.name());
            ports.stores.retain_stores(&parameters, &used);
        }
    }

    /// Tells the backends what the volumes say of their stores.
    pub(super) fn expect_stores(&self) {
        for ports in self.backends.distinct() {
            let past = self.cache().expectations(ports.name(), &*ports.stores);
            for past in past {
                ports.stores.expect_store(past);
            }
        }
    }

    /// Whether no warning was given about this edition of the class yet.
    pub(super) fn first_use(&self, class: &Class) -> bool {
        let mut warned = self.warned.lock();
        let before = warned.insert(class.uid.clone(), class.version.clone());
        before.is_none_or(|version| version != class.version)
    }

    /// Whether it was not told yet why this claim cannot have so much.
    pub(super) fn first_explained(&self, uid: &str, request: &str) -> bool {
        let mut explained = self.explained.lock();
        // Claims come and go, and their authors write what they like: explaining again is better than keeping them for ever.
        if explained.len() >= EXPLAINED {
            explained.clear();
        }
        explained.insert((uid.to_owned(), request.to_owned()))
    }

    /// The rights have changed: so does what is done.
    pub(super) fn adapt(&self, rights: &rights::Rights) {
        self.metrics.rights_missing(rights.missing().iter().map(Right::to_string).collect());
        self.explained.lock().clear();
        let cache = &mut *self.cache();
        cache.guard(rights.allow(Right::PatchVolumes));
        let readable = [Right::ListAttachments, Right::WatchAttachments].iter().all(|one| rights.allow(*one));
        cache.attachments.read(readable, &mut cache.wakeups);
        cache.wake_pending_expansions();
    }

    /// Tells the metrics how things are.
    pub(super) fn tell(&self, depth: QueueDepth) {
        self.metrics.heartbeat();
        self.retain_stores();
        *self.depth.lock() = depth;
    }

    pub(super) async fn flush(&self, limit: Duration) {
        futures::future::join_all(self.events.values().map(|events| events.flush(limit))).await;
    }

    pub(super) fn publish(
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
    pub(super) fn claim_event(&self, claim: &Claim, kind: Type, reason: &'static str, note: String) {
        let regarding =
            Regarding::claim(&claim.namespace, &claim.name, &claim.uid, Some(&claim.resource_version));
        self.publish(&claim.provisioner, regarding, kind, reason, note);
    }

    /// Tells the claim's author something about a claim as the API server has it.
    pub(super) fn live_claim_event(
        &self,
        provisioner: &str,
        claim: &ClaimObject,
        kind: Type,
        reason: &'static str,
        note: String,
    ) {
        let regarding = Regarding::object("PersistentVolumeClaim", &claim.metadata);
        self.publish(provisioner, regarding, kind, reason, note);
    }

    /// Tells the administrator something about a volume.
    pub(super) fn volume_event(&self, volume: &VolumeObject, kind: Type, reason: &'static str, note: String) {
        let provisioner = annotation(&volume.metadata, names::PROVISIONED_BY).unwrap_or_default();
        let regarding = Regarding::object("PersistentVolume", &volume.metadata);
        self.publish(provisioner, regarding, kind, reason, note);
    }

    /// The volume as the API server has it; `None` where it is gone. `which` says what of it, for the log.
    pub(super) async fn live_volume(&self, name: &str, which: &str) -> Result<Option<VolumeObject>, Outcome> {
        self.cluster.volume(name).await.map_err(|failure| {
            tracing::warn!(volume = name, error = %failure, "cannot read a volume {which}");
            failure.outcome()
        })
    }

    /// Another operation on the volume is running: that is no failure, and needs no Event.
    pub(super) fn busy(name: &str, error: &Error) -> Outcome {
        tracing::debug!(volume = name, error = error.chain(), "another operation on the volume is running");
        Kind::Busy.into()
    }

    pub(super) fn posted(&self, uid: &str) -> bool {
        self.attempt(uid).is_some_and(|attempt| matches!(attempt.progress, Progress::Posted(_)))
    }

    pub(super) fn progress(&self, uid: &str, change: impl FnOnce(&mut Progress)) {
        if let Some(attempt) = self.attempts().get_mut(uid) {
            change(&mut attempt.progress);
        }
    }

    /// Works on what was begun for claims of the class of this name, which is gone.
    pub(super) fn wake_attempts_of(&self, class: &str) {
        let uids: Vec<Arc<str>> = {
            let attempts = self.attempts();
            let of_class = attempts.iter().filter(|(_, attempt)| *attempt.order.claim.class == *class);
            of_class.map(|(uid, _)| Arc::clone(uid)).collect()
        };
        let cache = self.cache();
        for uid in uids {
            cache.wakeups.wake(Key::Claim(uid));
        }
    }

    /// The attempt is over: nothing is left to find out.
    pub(super) fn end_attempt(&self, uid: &str) {
        self.attempts().remove(uid);
        self.cache().release(uid);
    }

    pub(super) fn end_attempt_if(&self, uid: &str, over: impl FnOnce(&Progress) -> bool) {
        let ended = {
            let mut attempts = self.attempts();
            let ended = attempts.get(uid).is_some_and(|attempt| over(&attempt.progress));
            if ended {
                attempts.remove(uid);
            }
            ended
        };
        if ended {
            self.cache().release(uid);
        }
    }
}

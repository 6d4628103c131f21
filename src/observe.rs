//! What the process tells of itself: logs, metrics, and the probes `/livez`, `/readyz`, `/metrics`.
//!
//! [`Metrics`] is the one handle: cheap to clone, passed in, no globals. Each part of the process records there what it does; the
//! server ([`serve`]) and the collectors read it. Nothing here waits for storage or for the API server: the state of the
//! stores comes from [`Stores::stores`], which answers from memory.
//!
//! It decides nothing for the provisioner and knows no Kubernetes object.

mod exposition;
mod fields;
mod health;
mod listen;
mod logs;
mod metered;
mod outage;
mod process;
mod requests;
mod server;
mod state;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};

pub use listen::{Address, listen};
pub use logs::{Filter, Format, log_panics, start as start_logs};
pub use metered::Metered;
pub use outage::causes;
pub use requests::{ApiRequests, CountApiRequests};
pub use server::serve;
pub use state::{EventCounts, Leadership, QueueDepth};

use crate::backend::Stores;
use outage::Outage;
use state::State;

/// The buckets of the Go library's histograms, which dashboards of the old provisioners know.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What safety checks can say no to.
const GUARDED: [&str; 5] = ["provision", "delete", "expand", "sweep", "register"];

/// Storage can take as long as its deadline allows, which is 30 s unless configured otherwise.
const BACKEND_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// All that is counted and measured, and the state behind the probes. Copies share everything.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    outage: Outage,
    state: Arc<State>,
    /// The names of classes that exist: no others become labels, since the author of a claim may write any.
    classes: Mutex<HashSet<String>>,
    provisioned: Family<ClassAndSource, Counter>,
    provision_failed: Family<ClassAndSource, Counter>,
    provision_seconds: Family<ClassAndSource, Histogram, Buckets>,
    deleted: Family<Class, Counter>,
    delete_failed: Family<Class, Counter>,
    delete_seconds: Family<Class, Histogram, Buckets>,
    api_requests: Family<ApiRequest, Counter>,
    operation_seconds: Family<BackendOperation, Histogram, Buckets>,
    /// Of which of them there is a series.
    operations: Mutex<HashSet<BackendOperation>>,
    refused: Family<Operation, Counter>,
    swept: Family<Store, Counter>,
    committed: Family<Store, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassAndSource {
    class: String,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiRequest {
    verb: &'static str,
    resource: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendOperation {
    backend: &'static str,
    store: String,
    operation: &'static str,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Store {
    store: String,
}

/// Makes a histogram with these upper bounds.
#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero: not synced, leadership not yet known, no stores.
    pub fn new() -> Self {
        let state = Arc::new(State::new());
        let seconds = || Buckets(&BUCKETS);
        let mut inner = Inner {
            registry: Registry::default(),
            outage: Outage::default(),
            state: Arc::clone(&state),
            classes: Mutex::default(),
            provisioned: Family::default(),
            provision_failed: Family::default(),
            provision_seconds: Family::new_with_constructor(seconds()),
            deleted: Family::default(),
            delete_failed: Family::default(),
            delete_seconds: Family::new_with_constructor(seconds()),
            api_requests: Family::default(),
            operation_seconds: Family::new_with_constructor(Buckets(&BACKEND_BUCKETS)),
            operations: Mutex::default(),
            refused: Family::default(),
            swept: Family::default(),
            committed: Family::default(),
        };
        inner.register();
        // A rate over a series that begins with its first event says nothing of that event.
        for operation in GUARDED {
            drop(inner.refused.get_or_create(&Operation { operation }));
        }
        Self(Arc::new(inner))
    }

    /// There is a class of this name whose claims are served: it becomes a label, and what happens to its volumes is counted
    /// from zero.
    pub fn class_exists(&self, name: &str) {
        self.foreign_class_exists(name);
        let labels = ClassAndSource { class: name.into(), source: "" };
        drop(self.0.provisioned.get_or_create(&labels));
        drop(self.0.provision_failed.get_or_create(&labels));
        let labels = Class { class: name.into() };
        drop(self.0.deleted.get_or_create(&labels));
        drop(self.0.delete_failed.get_or_create(&labels));
    }

    /// There is a class of this name, of another provisioner: it becomes a label where a volume names it.
    pub fn foreign_class_exists(&self, name: &str) {
        let mut classes = self.classes();
        if !classes.contains(name) {
            classes.insert(name.to_owned());
        }
    }

    /// There is no class of this name any more. What was counted under it stays.
    pub fn class_gone(&self, name: &str) {
        self.classes().remove(name);
    }

    /// There are these classes and no others.
    pub fn only_classes(&self, names: impl Iterator<Item = String>) {
        *self.classes() = names.collect();
    }

    fn classes(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.classes.lock()
    }

    /// The label for a class: its name if it exists, else nothing.
    fn class(&self, name: &str) -> String {
        self.classes().get(name).cloned().unwrap_or_default()
    }

    /// A PV was made and stored. `class` is the claim's `spec.storageClassName`, `source` the kind of its data source or
    /// empty, `took` the time since the attempt began.
    pub fn provisioned(&self, class: &str, source: &'static str, took: Duration) {
        let labels = ClassAndSource { class: self.class(class), source };
        self.0.provisioned.get_or_create(&labels).inc();
        self.0.provision_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An attempt to make a volume failed. Skipped work is not counted.
    pub fn provision_failed(&self, class: &str, source: &'static str) {
        let labels = ClassAndSource { class: self.class(class), source };
        self.0.provision_failed.get_or_create(&labels).inc();
    }

    /// A released PV was deleted with its volume deleted, archived or kept; `class` is the PV's `spec.storageClassName`.
    pub fn deleted(&self, class: &str, took: Duration) {
        let labels = Class { class: self.class(class) };
        self.0.deleted.get_or_create(&labels).inc();
        self.0.delete_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An attempt to delete a released PV failed. Skipped work is not counted.
    pub fn delete_failed(&self, class: &str) {
        self.0.delete_failed.get_or_create(&Class { class: self.class(class) }).inc();
    }

    /// The API server answered `code` (0: it did not answer) to `verb` on `resource`.
    pub fn api_request(&self, verb: &'static str, resource: &str, code: u16) {
        let code = if code == 0 { "error".to_owned() } else { code.to_string() };
        self.0.api_requests.get_or_create(&ApiRequest { verb, resource: resource.into(), code }).inc();
    }

    /// A backend finished an operation; `outcome` is `ok` or the error's kind. [`Metered`] records this.
    fn backend_operation(
        &self,
        backend: &'static str,
        store: &str,
        operation: &'static str,
        outcome: String,
        took: Duration,
    ) {
        let labels = BackendOperation { backend, store: store.into(), operation, outcome };
        self.0.operation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        self.operations().insert(labels);
    }

    fn operations(&self) -> MutexGuard<'_, HashSet<BackendOperation>> {
        self.0.operations.lock()
    }

    /// Ends the series of stores of this backend that are not `known` any more: there is no end to names of stores that come and
    /// go with classes.
    fn retain_stores(&self, backend: &'static str, known: impl Fn(&str) -> bool) {
        self.operations().retain(|labels| {
            let kept = labels.backend != backend || labels.store.is_empty() || known(&labels.store);
            if !kept {
                self.0.operation_seconds.remove(labels);
                let store = Store { store: labels.store.clone() };
                self.0.swept.remove(&store);
                self.0.committed.remove(&store);
            }
            kept
        });
    }

    /// A safety check said no to `operation`, which is one of `GUARDED`. Worth an alert.
    pub fn refused(&self, operation: &'static str) {
        self.0.refused.get_or_create(&Operation { operation }).inc();
    }

    /// A volume that was begun and never used was rolled back from `store`.
    pub fn swept(&self, store: &str) {
        self.0.swept.get_or_create(&Store { store: store.into() }).inc();
    }

    /// A volume on `store` that was begun was found in use and committed by the sweep.
    pub fn committed(&self, store: &str) {
        self.0.committed.get_or_create(&Store { store: store.into() }).inc();
    }

    /// Whether this process leads. `/readyz` is not ready until this is known.
    pub fn leadership(&self, leadership: Leadership) {
        self.0.state.set_leadership(leadership);
    }

    /// Whether the watches have delivered their first lists. `/readyz` is not ready until they have.
    pub fn synced(&self, synced: bool) {
        self.0.state.set_synced(synced);
    }

    /// The loop is alive. Once called, it must be called again within a minute, or `/livez` fails; call it every few
    /// seconds from the task that dispatches work, also when there is none and on a standby.
    pub fn heartbeat(&self) {
        self.0.state.beat(Instant::now());
    }

    /// Lets the metrics tell how many seconds the API server's clock is ahead of ours; `skew` must answer at once.
    pub fn watch_clock(&self, skew: impl Fn() -> Option<i64> + Send + Sync + 'static) {
        self.0.state.set_skew(Arc::new(skew));
    }

    /// Lets the metrics tell of the queue called `name`; `depth` must answer at once.
    pub fn watch_queue(&self, name: &'static str, depth: impl Fn() -> QueueDepth + Send + Sync + 'static) {
        self.0.state.set_queue(name, Arc::new(depth));
    }

    /// Lets the metrics tell what became of the Events; `counts` must answer at once.
    pub fn watch_events(&self, counts: impl Fn() -> EventCounts + Send + Sync + 'static) {
        self.0.state.set_events(Arc::new(counts));
    }

    /// The rights that are missing, each as `<verb> <resource>`; replaces what was said before.
    pub fn rights_missing(&self, missing: Vec<String>) {
        self.0.state.set_rights_missing(missing);
    }

    /// Lets the metrics and `/readyz` tell of the stores of these backends.
    pub fn watch_stores(&self, stores: Vec<(&'static str, Arc<dyn Stores>)>) {
        self.0.state.set_stores(stores);
    }
}

impl Inner {
    /// Names every metric. prometheus-client appends `_total` to the names of counters.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "controller_persistentvolumeclaim_provision",
            "Claims for which a volume was provisioned",
            self.provisioned.clone(),
        );
        registry.register(
            "controller_persistentvolumeclaim_provision_failed",
            "Failed attempts to provision a volume",
            self.provision_failed.clone(),
        );
        registry.register(
            "controller_persistentvolumeclaim_provision_duration_seconds",
            "Duration of a successful provisioning",
            self.provision_seconds.clone(),
        );
        registry.register(
            "controller_persistentvolume_delete",
            "Released persistent volumes that were deleted",
            self.deleted.clone(),
        );
        registry.register(
            "controller_persistentvolume_delete_failed",
            "Failed attempts to delete a released persistent volume",
            self.delete_failed.clone(),
        );
        registry.register(
            "controller_persistentvolume_delete_duration_seconds",
            "Duration of a successful deletion",
            self.delete_seconds.clone(),
        );
        registry.register(
            "berth_api_requests",
            "Requests to the API server by verb, resource and response code",
            self.api_requests.clone(),
        );
        registry.register(
            "berth_backend_operation_duration_seconds",
            "Duration of operations on storage, by outcome: ok or the kind of the error",
            self.operation_seconds.clone(),
        );
        registry.register(
            "berth_refused",
            "Operations that a safety check refused; nothing was changed",
            self.refused.clone(),
        );
        registry.register("berth_swept_volumes", "Half-made volumes that were removed", self.swept.clone());
        registry.register(
            "berth_confirmed_volumes",
            "Half-made volumes that turned out to be in use and were kept",
            self.committed.clone(),
        );
        registry.register(
            "berth_build",
            "Version of the running berth",
            Info::new([("version", crate::VERSION)]),
        );
        registry.register_collector(Box::new(Arc::clone(&self.state)));
        registry.register_collector(Box::new(process::Process::new()));
    }
}

#[cfg(test)]
pub(crate) mod tests;

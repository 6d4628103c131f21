//! The present state behind the probes and the gauges: [`State`], read at every scrape.
//!
//! It keeps what was last said and when; it judges nothing (`health` does).

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
};

use crate::backend::{StoreStatus, Stores};

/// Whether this process does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It holds the lease, or runs without leader election.
    Leading,
    /// Another process holds the lease.
    Standby,
}

/// How many objects a queue knows, by what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Would be worked on now if a worker were free.
    pub ready: usize,
    /// Wait for their moment: the next attempt, or a delay.
    pub waiting: usize,
    /// Are being worked on.
    pub in_flight: usize,
    /// Since when the oldest object that is ready or being worked on waits to be done.
    pub oldest: Option<Instant>,
}

/// What became of the Events so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventCounts {
    /// Wait to be posted.
    pub pending: usize,
    /// Created on the server.
    pub created: u64,
    /// Added to an Event that the server has.
    pub repeated: u64,
    /// Left out because the object had too many.
    pub suppressed: u64,
    /// Lost: too many at once, or the server refused them.
    pub dropped: u64,
}

type Ask<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// What was last reported by the parts of the process.
#[derive(Default)]
pub(super) struct Reported {
    pub(super) leadership: Option<Leadership>,
    pub(super) synced: bool,
    pub(super) heartbeat: Option<Instant>,
    queues: BTreeMap<&'static str, Ask<QueueDepth>>,
    events: Option<Ask<EventCounts>>,
    skew: Option<Ask<Option<i64>>>,
    pub(super) rights_missing: Vec<String>,
    stores: Vec<(&'static str, Arc<dyn Stores>)>,
}

/// [`Reported`] that are shared.
pub(super) struct State(Mutex<Reported>);

impl State {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Reported::default()))
    }

    /// The lock is held only to copy values, so that no panic leaves it half-written.
    pub(super) fn reported(&self) -> MutexGuard<'_, Reported> {
        self.0.lock()
    }

    pub(super) fn set_leadership(&self, leadership: Leadership) {
        self.reported().leadership = Some(leadership);
    }

    pub(super) fn set_synced(&self, synced: bool) {
        self.reported().synced = synced;
    }

    pub(super) fn beat(&self, now: Instant) {
        self.reported().heartbeat = Some(now);
    }

    pub(super) fn set_queue(&self, name: &'static str, depth: Ask<QueueDepth>) {
        self.reported().queues.insert(name, depth);
    }

    pub(super) fn set_skew(&self, skew: Ask<Option<i64>>) {
        self.reported().skew = Some(skew);
    }

    pub(super) fn set_events(&self, counts: Ask<EventCounts>) {
        self.reported().events = Some(counts);
    }

    pub(super) fn set_rights_missing(&self, missing: Vec<String>) {
        self.reported().rights_missing = missing;
    }

    pub(super) fn set_stores(&self, stores: Vec<(&'static str, Arc<dyn Stores>)>) {
        self.reported().stores = stores;
    }

    /// The stores of all backends, each with its backend's name.
    pub(super) fn stores(&self) -> Vec<(&'static str, StoreStatus)> {
        // Copied first: a backend is not asked while the lock is held.
        let backends = self.reported().stores.clone();
        backends
            .iter()
            .flat_map(|(name, stores)| stores.stores().into_iter().map(|store| (*name, store)))
            .collect()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

type StoreGauge = (&'static str, &'static str, fn(&StoreStatus) -> f64);
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// One metric, its help, and its samples with their labels.
struct Samples<'a> {
    name: &'static str,
    help: &'static str,
    values: Vec<(Labels<'a>, f64)>,
}

impl Samples<'_> {
    fn encode(self, encoder: &mut DescriptorEncoder<'_>, kind: MetricType) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in self.values {
            if labels.is_empty() {
                write(&mut metric, kind, value)?;
            } else {
                write(&mut metric.encode_family(&labels)?, kind, value)?;
            }
        }
        Ok(())
    }
}

fn write(sample: &mut MetricEncoder<'_>, kind: MetricType, value: f64) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Counter => sample.encode_counter::<[(&str, &str); 0], f64, f64>(&value, None),
        MetricType::Gauge | MetricType::Histogram | MetricType::Info | MetricType::Unknown => {
            sample.encode_gauge(&value)
        }
    }
}

/// Counts become floating-point samples; beyond 2^53 their last digits no longer matter.
#[allow(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = Instant::now();
        self.encode_loop(&mut encoder, now)?;
        self.encode_stores(&mut encoder)
    }
}

impl State {
    fn encode_loop(&self, encoder: &mut DescriptorEncoder<'_>, now: Instant) -> Result<(), std::fmt::Error> {
        self.encode_clock(encoder)?;
        let (leading, synced, queues, events, missing) = {
            let reported = self.reported();
            let leading = reported.leadership == Some(Leadership::Leading);
            let missing = reported.rights_missing.clone();
            (leading, reported.synced, reported.queues.clone(), reported.events.clone(), missing)
        };
        // Asked after the lock is given back: the answer may take locks of its own.
        let queues: Vec<(&str, QueueDepth)> = queues.iter().map(|(name, ask)| (*name, ask())).collect();
        let events = events.map(|ask| ask()).unwrap_or_default();
        let flag = |on: bool| vec![(Vec::new(), if on { 1.0 } else { 0.0 })];
        Samples { name: "berth_leader", help: "Whether this process is the leader", values: flag(leading) }
            .encode(encoder, MetricType::Gauge)?;
        Samples { name: "berth_synced", help: "Whether all informers have synced", values: flag(synced) }
            .encode(encoder, MetricType::Gauge)?;

        let per_queue = |value: fn(&QueueDepth, Instant) -> f64| {
            queues.iter().map(|(name, queue)| (vec![("queue", *name)], value(queue, now))).collect::<Vec<_>>()
        };
        Samples {
            name: "berth_queue_depth",
            help: "Objects waiting for a worker",
            values: per_queue(|queue, _| number(queue.ready)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Samples {
            name: "berth_queue_waiting",
            help: "Objects waiting for a retry or a scheduled time",
            values: per_queue(|queue, _| number(queue.waiting)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Samples {
            name: "berth_queue_in_flight",
            help: "Objects being processed",
            values: per_queue(|queue, _| number(queue.in_flight)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Samples {
            name: "berth_queue_oldest_seconds",
            help: "Time since the oldest queued or processed object became ready",
            values: per_queue(|queue, now| {
                queue.oldest.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64())
            }),
        }
        .encode(encoder, MetricType::Gauge)?;
        let outcomes = [
            ("created", events.created),
            ("repeated", events.repeated),
            ("suppressed", events.suppressed),
            ("dropped", events.dropped),
        ];
        Samples {
            name: "berth_events",
            help: "Kubernetes Events by result",
            #[allow(clippy::cast_precision_loss)] // as in `number`
            values: outcomes.iter().map(|(name, count)| (vec![("outcome", *name)], *count as f64)).collect(),
        }
        .encode(encoder, MetricType::Counter)?;
        Samples {
            name: "berth_events_pending",
            help: "Kubernetes Events waiting to be posted",
            values: vec![(Vec::new(), number(events.pending))],
        }
        .encode(encoder, MetricType::Gauge)?;
        Samples {
            name: "berth_rights_missing",
            help: "Rights that the service account lacks",
            values: missing.iter().map(|right| (vec![("right", right.as_str())], 1.0)).collect(),
        }
        .encode(encoder, MetricType::Gauge)
    }

    fn encode_clock(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let skew = self.reported().skew.clone();
        Samples {
            name: "berth_api_clock_skew_seconds",
            help: "How far the API server's clock is ahead of the local clock; absent while unknown",
            #[allow(clippy::cast_precision_loss)] // as in `number`
            values: skew.and_then(|ask| ask()).map(|seconds| (Vec::new(), seconds as f64)).into_iter().collect(),
        }
        .encode(encoder, MetricType::Gauge)
    }

    fn encode_stores(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stores = self.stores();
        let per_store = |value: fn(&StoreStatus) -> f64| {
            stores
                .iter()
                .map(|(backend, store)| {
                    (vec![("backend", *backend), ("store", store.name.as_str())], value(store))
                })
                .collect::<Vec<_>>()
        };
        let gauges: [StoreGauge; 5] = [
            (
                "berth_store_ready",
                "Whether the store is usable",
                |store| {
                    if store.ready.is_ok() { 1.0 } else { 0.0 }
                },
            ),
            ("berth_store_operations", "Running operations on storage", |store| number(store.running)),
            (
                "berth_store_oldest_operation_seconds",
                "Age of the oldest running operation on storage",
                |store| {
                    store.oldest.as_ref().map_or(0.0, |(_, since): &(String, Duration)| since.as_secs_f64())
                },
            ),
            ("berth_trash_entries", "Removed volumes waiting to be purged", |store| number(store.trash)),
            (
                "berth_stuck_purges",
                "Leftovers of removed volumes (in the trash, users, Secrets) that could not be purged",
                |store| number(store.stuck.len()),
            ),
        ];
        for (name, help, value) in gauges {
            Samples { name, help, values: per_store(value) }.encode(encoder, MetricType::Gauge)?;
        }
        Samples {
            name: "berth_purged_objects",
            help: "File system objects purged from the trash",
            #[allow(clippy::cast_precision_loss)] // as in `number`
            values: per_store(|store| store.purged as f64),
        }
        .encode(encoder, MetricType::Counter)
    }
}

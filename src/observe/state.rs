//! The present state behind the probes and the gauges: [`State`], read at every scrape.
//!
//! It keeps what was last said and when; it judges nothing (`health` does).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::MetricType,
};

use crate::backend::{Backend, StoreStatus};

/// Whether this process does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It holds the lease, or runs without leader election.
    Leading,
    /// Another process holds the lease.
    Standby,
}

/// The state of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queue {
    /// Objects that wait for a worker.
    pub waiting: usize,
    /// Objects that wait for their next attempt.
    pub delayed: usize,
    /// Objects that are being worked on.
    pub running: usize,
    /// Since when the oldest object that is ready or running waits to be done.
    pub oldest: Option<Instant>,
}

/// What was last said by whoever works.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) leadership: Option<Leadership>,
    pub(super) synced: bool,
    pub(super) heartbeat: Option<Instant>,
    pub(super) queues: BTreeMap<&'static str, Queue>,
    pub(super) rights_missing: Vec<String>,
    backends: Vec<Arc<dyn Backend>>,
}

/// [`Facts`] that are shared.
pub(super) struct State(Mutex<Facts>);

impl State {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Facts::default()))
    }

    /// The lock is held only to copy values, so nobody can panic while holding it half-written.
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_leadership(&self, leadership: Leadership) {
        self.facts().leadership = Some(leadership);
    }

    pub(super) fn set_synced(&self, synced: bool) {
        self.facts().synced = synced;
    }

    pub(super) fn beat(&self, now: Instant) {
        self.facts().heartbeat = Some(now);
    }

    pub(super) fn set_queue(&self, name: &'static str, queue: Queue) {
        self.facts().queues.insert(name, queue);
    }

    pub(super) fn set_rights_missing(&self, missing: Vec<String>) {
        self.facts().rights_missing = missing;
    }

    pub(super) fn set_backends(&self, backends: Vec<Arc<dyn Backend>>) {
        self.facts().backends = backends;
    }

    /// The stores of all backends, each with its backend's name.
    pub(super) fn stores(&self) -> Vec<(&'static str, StoreStatus)> {
        // Copied first: a backend is not asked while the lock is held.
        let backends = self.facts().backends.clone();
        backends
            .iter()
            .flat_map(|backend| {
                let name = backend.capabilities().name;
                backend.stores().into_iter().map(move |store| (name, store))
            })
            .collect()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// One metric, its help, and its samples with their labels.
struct Gauges<'a, L> {
    name: &'a str,
    help: &'a str,
    samples: Vec<(L, f64)>,
}

impl<L: EncodeLabelSet> Gauges<'_, L> {
    fn encode(self, encoder: &mut DescriptorEncoder<'_>, kind: MetricType) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in self.samples {
            let mut sample = metric.encode_family(&labels)?;
            match kind {
                MetricType::Counter => sample.encode_counter::<[(&str, &str); 0], f64, f64>(&value, None)?,
                MetricType::Gauge | MetricType::Histogram | MetricType::Info | MetricType::Unknown => {
                    sample.encode_gauge(&value)?
                }
            }
        }
        Ok(())
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
        let (leading, synced, queues, missing) = {
            let facts = self.facts();
            let leading = facts.leadership == Some(Leadership::Leading);
            (leading, facts.synced, facts.queues.clone(), facts.rights_missing.clone())
        };
        let flag = |on: bool| vec![([] as [(&str, &str); 0], if on { 1.0 } else { 0.0 })];
        Gauges { name: "berth_leader", help: "Whether this process leads", samples: flag(leading) }
            .encode(encoder, MetricType::Gauge)?;
        Gauges {
            name: "berth_synced",
            help: "Whether the watches have delivered their first lists",
            samples: flag(synced),
        }
        .encode(encoder, MetricType::Gauge)?;

        let per_queue = |value: fn(&Queue, Instant) -> f64| {
            queues.iter().map(|(name, queue)| ([("queue", *name)], value(queue, now))).collect::<Vec<_>>()
        };
        Gauges {
            name: "berth_queue_depth",
            help: "Objects that wait for a worker",
            samples: per_queue(|queue, _| number(queue.waiting)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Gauges {
            name: "berth_queue_delayed",
            help: "Objects that wait for their next attempt",
            samples: per_queue(|queue, _| number(queue.delayed)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Gauges {
            name: "berth_queue_in_flight",
            help: "Objects that are being worked on",
            samples: per_queue(|queue, _| number(queue.running)),
        }
        .encode(encoder, MetricType::Gauge)?;
        Gauges {
            name: "berth_queue_oldest_seconds",
            help: "How long the oldest object that is ready or worked on has waited",
            samples: per_queue(|queue, now| {
                queue.oldest.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64())
            }),
        }
        .encode(encoder, MetricType::Gauge)?;
        Gauges {
            name: "berth_rights_missing",
            help: "Rights that the service account lacks",
            samples: missing.iter().map(|right| ([("right", right.as_str())], 1.0)).collect(),
        }
        .encode(encoder, MetricType::Gauge)
    }

    fn encode_stores(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stores = self.stores();
        let per_store = |value: fn(&StoreStatus) -> f64| {
            stores
                .iter()
                .map(|(backend, store)| {
                    ([("backend", *backend), ("store", store.name.as_str())], value(store))
                })
                .collect::<Vec<_>>()
        };
        let gauges: [(&str, &str, fn(&StoreStatus) -> f64); 5] = [
            ("berth_store_ready", "Whether the store can be used", |store| {
                if store.ready.is_ok() { 1.0 } else { 0.0 }
            }),
            ("berth_store_operations", "Operations on storage that run now", |store| number(store.running)),
            (
                "berth_store_oldest_operation_seconds",
                "How long the longest operation on storage runs",
                |store| {
                    store.oldest.as_ref().map_or(0.0, |(_, since): &(String, Duration)| since.as_secs_f64())
                },
            ),
            ("berth_trash_entries", "Removed volumes that wait to be purged", |store| number(store.trash)),
            ("berth_stuck_purges", "Paths in the trash that could not be purged", |store| {
                number(store.stuck.len())
            }),
        ];
        for (name, help, value) in gauges {
            Gauges { name, help, samples: per_store(value) }.encode(encoder, MetricType::Gauge)?;
        }
        Gauges {
            name: "berth_purged_objects",
            help: "File system objects purged from the trash",
            #[allow(clippy::cast_precision_loss)] // as in `number`
            samples: per_store(|store| store.purged as f64),
        }
        .encode(encoder, MetricType::Counter)
    }
}

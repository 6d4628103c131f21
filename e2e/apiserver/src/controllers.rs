//! The parts of the control plane that a claim needs around it, working on the store.
//!
//! Entry points: [`start`]; each controller implements [`Controller`]. They are stand-ins: what they write, and in
//! which order, is what kube-controller-manager, kube-scheduler and kubelet write for the same objects, but there is
//! one node, no resources are counted and no container runs. Deliberately not here: the provisioner.

mod collector;
mod events;
mod glance;
mod matching;
mod namespaces;
mod pods;
mod protection;
mod scheduler;
mod stateful_sets;
mod volumes;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    http::Server,
    registry::Registry,
    resource::Kind,
    server::Controllers,
    store::{Change, Verb},
};

/// How many objects a controller works on before it looks for changes and lets others run.
const BATCH: usize = 32;

/// An object to work on.
pub(crate) type Key = (Kind, Arc<str>);

/// One controller: which changes concern which objects, and what it does about an object.
pub(crate) trait Controller: Send + 'static {
    /// The kinds whose changes it looks at.
    fn watches(&self) -> Vec<Kind>;

    /// Takes note of a change and adds the objects that it concerns.
    fn note(&mut self, registry: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>);

    /// Brings one object to where it should be.
    fn reconcile(&mut self, registry: &Registry, key: &Key);
}

/// Starts the controllers that are switched on.
pub(crate) fn start(runtime: &Handle, server: &Arc<Server>, wanted: &Controllers, stop: &CancellationToken) {
    let run = |controller: Box<dyn Controller>| {
        let (server, stop) = (Arc::clone(server), stop.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run(server, controller) => {}
            }
        });
    };
    if wanted.annotator || wanted.binder {
        run(Box::new(volumes::Volumes::new(wanted.binder, wanted.annotator)));
    }
    if wanted.protection {
        run(Box::new(protection::Protection));
    }
    if wanted.stateful_sets {
        run(Box::new(stateful_sets::StatefulSets));
    }
    if wanted.garbage_collector {
        run(Box::<collector::Collector>::default());
    }
    if wanted.scheduler {
        scheduler::add_node(&server.registry);
        run(Box::new(scheduler::Scheduler));
    }
    if wanted.pods {
        run(Box::new(pods::Pods));
    }
    if wanted.namespaces {
        run(Box::<namespaces::Namespaces>::default());
    }
}

struct Source {
    kind: Kind,
    cursor: u64,
    written: watch::Receiver<u64>,
}

/// Work to do, each object once, in the order in which it came.
#[derive(Default)]
struct Queue {
    order: VecDeque<Key>,
    waiting: HashSet<Key>,
}

impl Queue {
    fn push(&mut self, key: Key) {
        if self.waiting.insert(key.clone()) {
            self.order.push_back(key);
        }
    }

    fn pop(&mut self) -> Option<Key> {
        let key = self.order.pop_front()?;
        self.waiting.remove(&key);
        Some(key)
    }
}

async fn run(server: Arc<Server>, mut controller: Box<dyn Controller>) {
    let registry = &server.registry;
    let mut sources: Vec<Source> = controller
        .watches()
        .into_iter()
        .map(|kind| Source { kind, cursor: 0, written: registry.store.written(kind) })
        .collect();
    let mut queue = Queue::default();
    let mut work = Vec::new();
    for source in &mut sources {
        relist(registry, controller.as_mut(), source, &mut work);
    }
    loop {
        for source in &mut sources {
            source.written.mark_unchanged();
            loop {
                match registry.store.changes_since(source.kind, source.cursor, 1024) {
                    Ok((changes, upto)) => {
                        source.cursor = upto.max(source.cursor);
                        for change in &changes {
                            controller.note(registry, source.kind, change, &mut work);
                        }
                        if changes.is_empty() {
                            break;
                        }
                    }
                    Err(_) => relist(registry, controller.as_mut(), source, &mut work),
                }
            }
        }
        for key in work.drain(..) {
            queue.push(key);
        }
        let mut done = 0;
        while done < BATCH
            && let Some(key) = queue.pop()
        {
            controller.reconcile(registry, &key);
            done += 1;
        }
        if done > 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let changes = sources.iter_mut().map(|source| Box::pin(source.written.changed()));
        let (ended, _, _) = futures::future::select_all(changes).await;
        if ended.is_err() {
            return;
        }
    }
}

/// Takes all objects of a kind as new ones.
fn relist(registry: &Registry, controller: &mut dyn Controller, source: &mut Source, work: &mut Vec<Key>) {
    let snapshot = registry.store.snapshot(source.kind);
    source.cursor = snapshot.rv;
    for object in snapshot.range("", None) {
        let change = Change { rv: object.rv, verb: Verb::Added, object: Arc::clone(object), before: None };
        controller.note(registry, source.kind, &change, work);
    }
}

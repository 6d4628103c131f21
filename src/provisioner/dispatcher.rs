//! The work while this process leads: [`Dispatcher`] takes keys from the queue and has them worked on, until leadership ends.
//!
//! Work is sorted into lanes, one for each store, each with its own limit: what hangs in one store leaves the others
//! alone. Everything a term has begun ends with it: dropped at once when the lock is lost, given some time at shutdown.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    attach,
    context::Context,
    expand, kept_secrets,
    key::Key,
    lease,
    provision::{self, Order},
    queue::{Queue, Work},
    reclaim, register, secret_waits,
    settings::Settings,
    sweep,
};
use crate::{backend::Ports, observe::QueueDepth};

/// Finalizers are set on volumes that exist already at this pace, so that a first start in an old cluster is no storm.
const FINALIZER_PAUSE: Duration = Duration::from_millis(20);
/// How many of them at a time.
const FINALIZERS: usize = 2;

/// Volumes of older provisioners are recorded at this pace, one of each store at a time.
const REGISTER_PAUSE: Duration = Duration::from_millis(20);

/// One in so many workers' worth of commits runs beside the workers of a store: enough to keep up with them, too
/// few to keep claims waiting.
const COMMIT_SHARE: usize = 8;

/// What shares a limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneId {
    /// Work on one store of one backend.
    Store(&'static str, Box<str>),
    /// Noting on one store of one backend which volumes are in use.
    Commit(&'static str, Box<str>),
    /// Noting on one store of one backend which volumes of others are in use.
    Register(&'static str, Box<str>),
    Finalizers,
    /// What needs no store, or none that is known.
    Rest,
}

#[derive(Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<Routed>,
}

/// A piece of work, with what was parsed of a claim and its class to find its lane.
struct Routed {
    work: Work<Key>,
    order: Option<Arc<Order>>,
}

/// A place in a lane, free again when dropped.
struct Slot {
    lane: LaneId,
    freed: mpsc::UnboundedSender<LaneId>,
    ctx: Arc<Context>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ctx.foreground.fetch_sub(1, Ordering::Relaxed);
        // Nothing listens any more when leadership has ended.
        let _ = self.freed.send(self.lane.clone());
    }
}

/// What works while this process leads.
pub(super) struct Dispatcher {
    pub(super) leadership: lease::Leadership,
    ctx: Arc<Context>,
    queue: Queue<Key>,
    workers: usize,
    lanes: HashMap<LaneId, Lane>,
    tasks: JoinSet<()>,
    /// Sweeping, looking for volumes that are not recorded or whose Secrets are gone, and what backends do by themselves.
    background: JoinSet<()>,
    freed: (mpsc::UnboundedSender<LaneId>, mpsc::UnboundedReceiver<LaneId>),
    /// When the work in hand began, by its key.
    began: HashMap<Key, Instant>,
    ended: (mpsc::UnboundedSender<Key>, mpsc::UnboundedReceiver<Key>),
}

impl Dispatcher {
    /// Begins to work: everything that waits is queued, the stores are swept and their garbage is collected.
    pub(super) fn begin(ctx: &Arc<Context>, leadership: lease::Leadership, settings: &Settings) -> Self {
        // Others led until now: what they made counts before anything is worked on.
        ctx.expect_stores();
        let queue = Queue::new(settings.backoff);
        let mut background = JoinSet::new();
        for ports in ctx.backends.distinct() {
            let (janitor, permit) = (Arc::clone(&ports.janitor), leadership.permit.clone());
            background.spawn(async move { janitor.collect_garbage(&permit).await });
        }
        background.spawn(sweep::run(
            Arc::clone(ctx),
            leadership.permit.clone(),
            settings.sweep_interval,
            settings.sweep_grace,
        ));
        background.spawn(secret_waits::run(Arc::clone(ctx)));
        ctx.cache().work(queue.clone());
        // They queue what they find.
        background.spawn(register::run(Arc::clone(ctx)));
        background.spawn(kept_secrets::run(Arc::clone(ctx)));
        Self {
            leadership,
            ctx: Arc::clone(ctx),
            queue,
            workers: settings.workers.max(1),
            lanes: HashMap::new(),
            tasks: JoinSet::new(),
            background,
            freed: mpsc::unbounded_channel(),
            began: HashMap::new(),
            ended: mpsc::unbounded_channel(),
        }
    }

    /// Does the next thing there is to do: begins one piece of work, or notes that one has ended. May be dropped.
    pub(super) async fn step(&mut self) {
        tokio::select! {
            Some(lane) = self.freed.1.recv() => self.refill(&lane),
            Some(key) = self.ended.1.recv() => { self.began.remove(&key); }
            Some(ended) = self.tasks.join_next() => report(ended),
            Some(work) = self.queue.next() => self.admit(work),
            else => std::future::pending().await,
        }
    }

    fn admit(&mut self, work: Work<Key>) {
        self.ctx.foreground.fetch_add(1, Ordering::Relaxed);
        self.began.insert(work.key().clone(), Instant::now());
        let (lane, order) = route(&self.ctx, work.key());
        let work = Routed { work, order };
        let limit = self.limit(&lane);
        let state = self.lanes.entry(lane.clone()).or_default();
        if state.running < limit {
            state.running += 1;
            self.start(work, lane);
        } else {
            state.waiting.push_back(work);
        }
    }

    /// A slot of this lane is free.
    fn refill(&mut self, lane: &LaneId) {
        let limit = self.limit(lane);
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.running = state.running.saturating_sub(1);
        if state.running < limit
            && let Some(work) = state.waiting.pop_front()
        {
            state.running += 1;
            self.start(work, lane.clone());
        } else if state.running == 0 && state.waiting.is_empty() {
            self.lanes.remove(lane);
        }
    }

    fn limit(&self, lane: &LaneId) -> usize {
        match lane {
            LaneId::Store(name, _) => {
                let useful = self.ctx.backends.distinct().into_iter().find(|ports| ports.name() == *name);
                let useful = useful.map_or(self.workers, |ports| {
                    self.workers.min(ports.backend.capabilities().concurrency.max(1))
                });
                // While so many PVs are on their way to the API server, the storage makes the next volumes.
                useful + useful / 2
            }
            LaneId::Commit(..) => (self.workers / COMMIT_SHARE).max(1),
            LaneId::Register(..) => 1,
            LaneId::Finalizers => FINALIZERS,
            LaneId::Rest => self.workers,
        }
    }

    fn start(&mut self, Routed { work, order }: Routed, lane: LaneId) {
        let slot = Slot { lane, freed: self.freed.0.clone(), ctx: Arc::clone(&self.ctx) };
        let permit = self.leadership.permit.clone();
        let ctx = Arc::clone(&self.ctx);
        let ended = Ended { key: work.key().clone(), sender: self.ended.0.clone() };
        self.tasks.spawn(async move {
            let (_slot, _ended) = (slot, ended);
            let outcome = match work.key() {
                Key::Claim(uid) => {
                    provision::reconcile(&ctx, uid, work.attempt(), order.as_deref(), &permit).await
                }
                Key::Commit(uid) => provision::commit(&ctx, uid, &permit).await,
                Key::Volume(name) => reclaim::reconcile(&ctx, name, work.attempt(), &permit).await,
                Key::Expand(uid) => expand::reconcile(&ctx, uid, &permit).await,
                Key::Attachment(name) => attach::reconcile(&ctx, name, &permit).await,
                Key::AddFinalizer(name) => {
                    let outcome = reclaim::reconcile_finalizer(&ctx, name, &permit).await;
                    tokio::time::sleep(FINALIZER_PAUSE).await;
                    outcome
                }
                Key::Register(name) => {
                    let outcome = register::reconcile(&ctx, name, &permit).await;
                    tokio::time::sleep(REGISTER_PAUSE).await;
                    outcome
                }
            };
            work.finish(outcome);
        });
    }

    /// How much there is to do.
    pub(super) fn load(&self) -> QueueDepth {
        let depth = self.queue.depth();
        let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        QueueDepth {
            ready: depth.ready + waiting,
            waiting: depth.waiting,
            in_flight: depth.in_flight.saturating_sub(waiting),
            oldest: self.began.values().min().copied(),
        }
    }

    /// Begins nothing new and lets what runs end, for at most `grace` or until the lock is lost.
    pub(super) async fn drain(mut self, grace: Duration) {
        self.queue.close();
        self.background.abort_all();
        for lane in self.lanes.values_mut() {
            let dropped = std::mem::take(&mut lane.waiting).len();
            self.ctx.foreground.fetch_sub(dropped, Ordering::Relaxed);
        }
        let running = self.tasks.len();
        let ended = self.leadership.ended.clone();
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                report(task);
            }
            provision::commit_all(&self.ctx, &self.leadership.permit).await;
        };
        tokio::select! {
            () = all => {}
            () = ended.cancelled() => tracing::warn!("lost the leader lock during shutdown; dropping running \
                operations"),
            () = tokio::time::sleep(grace) => tracing::warn!(running, "running operations did not finish in time; \
                dropping them"),
        }
        self.end().await;
    }

    /// Drops everything at once. What was begun and not ended is found again by the sweep of the next leader.
    pub(super) async fn end(mut self) {
        self.queue.close();
        self.ctx.cache().rest();
        self.lanes.clear();
        self.tasks.shutdown().await;
        self.background.shutdown().await;
        self.ctx.attempts().clear();
        self.ctx.foreground.store(0, Ordering::Relaxed);
    }
}

/// Tells that the work on a key is over, also when it was dropped or panicked.
struct Ended {
    key: Key,
    sender: mpsc::UnboundedSender<Key>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Nothing listens any more when leadership has ended.
        let _ = self.sender.send(self.key.clone());
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = %error, "an operation panicked; retrying it");
    }
}

/// Which lane the work on `key` belongs to, and what was parsed to find it.
fn route(ctx: &Context, key: &Key) -> (LaneId, Option<Arc<Order>>) {
    let lane = match key {
        Key::Claim(uid) => {
            let order = ctx.attempt(uid).map(|attempt| attempt.order).or_else(|| {
                let cache = ctx.cache();
                let claim = cache.claim(uid)?;
                provision::parse(claim, &cache, &ctx.backends).map(Arc::new)
            });
            let lane = order.as_ref().map_or(LaneId::Rest, |order| {
                let (backend, store) = order.store();
                LaneId::Store(backend, store)
            });
            return (lane, order);
        }
        Key::Commit(uid) => ctx.attempt(uid).map_or(LaneId::Rest, |attempt| {
            let (backend, store) = attempt.order.store();
            LaneId::Commit(backend, store)
        }),
        Key::Volume(name) => volume_lane(ctx, name),
        Key::Expand(uid) => {
            let volume =
                ctx.cache().pending_expansion(uid).map(|pending_expansion| pending_expansion.volume.clone());
            volume.map_or(LaneId::Rest, |volume| volume_lane(ctx, &volume))
        }
        Key::Register(name) => match volume_lane(ctx, name) {
            LaneId::Store(backend, store) => LaneId::Register(backend, store),
            other => other,
        },
        Key::AddFinalizer(_) => LaneId::Finalizers,
        Key::Attachment(_) => LaneId::Rest,
    };
    (lane, None)
}

fn volume_lane(ctx: &Context, name: &str) -> LaneId {
    let cache = ctx.cache();
    let location = cache.volume(name).and_then(|volume| volume.location.as_ref());
    let backend = location.and_then(|location| {
        ctx.backends.distinct().into_iter().map(Ports::name).find(|name| *name == location.backend())
    });
    match (backend, location) {
        (Some(backend), Some(location)) => LaneId::Store(backend, location.store().into()),
        (None, _) | (_, None) => LaneId::Rest,
    }
}

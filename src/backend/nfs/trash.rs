//! What was moved to the trash is purged from here: [`Trash`] is the account of it, [`tend`] the loop.
//!
//! The loop sleeps until something is removed. What could not be purged is tried again later and later, and shown.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    record::{self, TRASH},
    store::{Opened, Store},
};
use crate::{
    system::root::{Failure, Gate, Purge, Step, Stuck, Tree},
    volume::Permit,
};

/// Threads that purge one export.
const THREADS: usize = 8;

/// The first and the longest pause before something that was stuck is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What is in the trash of one export.
#[derive(Debug, Default)]
pub(super) struct Trash {
    waiting: AtomicUsize,
    purged: Arc<AtomicU64>,
    stuck: Mutex<Vec<(String, String)>>,
    wake: Notify,
}

impl Trash {
    /// Notes that something was moved to the trash.
    pub(super) fn added(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    pub(super) fn stuck(&self) -> Vec<(String, String)> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_stuck(&self, stuck: Vec<(String, String)>) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }
}

/// When an entry is tried again, and how long the pause was.
struct Pause {
    until: Instant,
    length: Duration,
    why: Vec<Stuck>,
}

/// Purges the trash of `store` until the permit ends.
pub(super) async fn tend(store: &Arc<Store>, permit: &Permit) {
    // While we did not lead, somebody else may have changed what is recorded.
    store.index.reset();
    let ending = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let mut paused: HashMap<String, Pause> = HashMap::new();
    let mut first = true;
    while permit.check().is_ok() {
        let Ok(opened) = store.opened("purge").await else {
            tokio::time::sleep(FIRST_PAUSE).await;
            continue;
        };
        let now = Instant::now();
        let skip: Vec<String> =
            paused.iter().filter(|(_, p)| p.until > now).map(|(name, _)| name.clone()).collect();
        let round = Round {
            store: Arc::clone(store),
            opened: Arc::clone(&opened),
            permit: permit.clone(),
            ended: Arc::clone(&ending.0),
            skip,
            first,
        };
        match round.start().await {
            Some(Ok(outcome)) => {
                first = false;
                settle(store, &mut paused, outcome);
            }
            Some(Err(failure)) => {
                if permit.check().is_err() {
                    return;
                }
                let reason = store.explain("purge", failure.into()).chain();
                tracing::warn!(export = store.export.name, reason, "purging the trash failed");
                store.doubt(&opened);
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
            None => tokio::time::sleep(LONGEST_PAUSE).await,
        }
        let next = paused.values().map(|pause| pause.until).min();
        match next {
            Some(next) => {
                tokio::select! {
                    () = store.trash.wake.notified() => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                }
            }
            None => store.trash.wake.notified().await,
        }
    }
}

/// Takes the outcome of a round over into what is shown and when the next one is due.
fn settle(store: &Store, paused: &mut HashMap<String, Pause>, outcome: Outcome) {
    let mut why: HashMap<String, Vec<Stuck>> = HashMap::new();
    for stuck in outcome.stuck {
        why.entry(stuck.entry.clone()).or_default().push(stuck);
    }
    paused.retain(|name, _| outcome.left.contains(name));
    for name in outcome.tried.iter().filter(|name| outcome.left.contains(name)) {
        let length = paused.get(name).map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        let why = why.remove(name).unwrap_or_default();
        if length == FIRST_PAUSE {
            for Stuck { path, why, .. } in &why {
                let path = format!("{}/{TRASH}/{path}", record::BASE);
                tracing::warn!(export = store.export.name, path, reason = why, "cannot be purged");
            }
        }
        paused.insert(name.clone(), Pause { until: Instant::now() + length, length, why });
    }
    let shown = paused.values().flat_map(|pause| &pause.why);
    let mut shown: Vec<_> =
        shown.map(|s| (format!("{}/{TRASH}/{}", record::BASE, s.path), s.why.clone())).collect();
    shown.sort();
    store.trash.set_stuck(shown);
}

/// One look at the trash, on a thread that may hang.
struct Round {
    store: Arc<Store>,
    opened: Arc<Opened>,
    permit: Permit,
    ended: Arc<AtomicBool>,
    skip: Vec<String>,
    first: bool,
}

struct Outcome {
    tried: Vec<String>,
    stuck: Vec<Stuck>,
    left: Vec<String>,
}

impl Round {
    /// Runs it; `None` where there is no thread for it or it broke off.
    async fn start(self) -> Option<Result<Outcome, Failure>> {
        let (send, receive) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("purge-{}", self.store.export.name));
        thread
            .spawn(move || {
                let _ = send.send(self.run());
            })
            .ok()?;
        receive.await.ok()
    }

    fn run(&self) -> Result<Outcome, Failure> {
        let gate = |step: &Step<'_>| {
            if self.ended.load(Ordering::SeqCst) {
                return Err(io::Error::other("stopped"));
            }
            self.store.gate(&self.permit, step)
        };
        let (root, trash) = (&self.opened.root, [record::BASE, TRASH]);
        if self.first {
            self.clear_temporary(&gate)?;
        }
        let all = root.names(&trash)?;
        self.store.trash.waiting.store(all.len(), Ordering::SeqCst);
        let tried: Vec<String> = all.into_iter().filter(|name| !self.skip.contains(name)).collect();
        if tried.is_empty() {
            return Ok(Outcome { tried, stuck: Vec::new(), left: self.skip.clone() });
        }
        let purge = Purge { threads: THREADS, slice: Duration::MAX, purged: &self.store.trash.purged };
        let trees: Vec<Tree> = tried.iter().map(|name| Tree { name: name.clone(), inode: None }).collect();
        let stuck = purge.run(root, &trash, &trees, &gate)?.stuck;
        let left = root.names(&trash)?;
        self.store.trash.waiting.store(left.len(), Ordering::SeqCst);
        Ok(Outcome { tried, stuck, left })
    }

    /// Removes what was left where the writing of a record was broken off.
    fn clear_temporary(&self, gate: Gate<'_>) -> Result<(), Failure> {
        let root = &self.opened.root;
        for folder in [record::INTENTS, record::VOLUMES, record::ARCHIVED] {
            for file in root.names(&[record::BASE, folder])? {
                // Whoever works on the volume now may be writing it.
                if let Some(_held) =
                    record::volume_of_temporary(&file).and_then(|name| self.store.hold(&name).ok())
                {
                    root.changing(gate).remove_file(&[record::BASE, folder, &file])?;
                }
            }
        }
        Ok(())
    }
}

/// Ends the round that runs when nobody tends any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

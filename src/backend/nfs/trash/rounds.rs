//! One round after the other: [`Rounds`] remembers what was found, what the API server said, and what waits for when.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream};
use tokio::sync::oneshot;

use super::{
    super::{
        op_error::{OpError, explained, is_storage_failure},
        places,
        record::{self, ARCHIVED, BASE, INTENTS, TRASH, VOLUMES},
        store::Store,
        work::{ExportOp, Opened, Rule},
    },
    act::{self, Done},
    item::{Item, LONGEST_PAUSE, keep_purging},
    plan::{self, Found, Next, Progress},
    scan::{self, Depth, Key},
};
use crate::{
    backend::PvState,
    system::root::{Left, Purge, Step},
    volume::Permit,
};

/// Threads that purge one export.
const THREADS: usize = 8;

/// How long one entry is purged in a row before the others get their turn.
const SLICE: Duration = Duration::from_secs(10);

/// So often the trash is looked at for what calls that come late moved there, and for PVs that came back.
const LOOK: Duration = Duration::from_mins(1);

/// The longest pause before the volume is looked for again that something is of: all records are read for it.
const LONGEST_SEARCH: Duration = Duration::from_hours(1);

/// So many PVs are asked for in one such look; those that were not asked for come next.
const ASKED: usize = 256;

/// So many questions are asked at a time.
const QUESTIONS: usize = 8;

/// With what a round works.
pub(super) struct Purger<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) opened: &'a Arc<Opened>,
    pub(super) permit: &'a Permit,
    pub(super) ended: &'a Arc<AtomicBool>,
}

impl Purger<'_> {
    /// Does `work` on a thread that may hang; `None` where there is none, or it broke off.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ExportOp<'_>) -> Result<T, OpError> + Send + 'static,
    ) -> Option<Result<T, OpError>> {
        let (send, receive) = oneshot::channel();
        let (store, opened) = (Arc::clone(self.store), Arc::clone(self.opened));
        let (permit, ended) = (self.permit.clone(), Arc::clone(self.ended));
        let thread = thread::Builder::new().name(format!("purge-{}", store.export.name));
        thread
            .spawn(move || {
                let gate = |step: &Step<'_>| {
                    if ended.load(Ordering::SeqCst) {
                        return Err(io::Error::other("stopped"));
                    }
                    store.gate(&permit, step)
                };
                let _ = send.send(store.work(&opened, &gate, work));
            })
            .ok()?;
        receive.await.ok()
    }
}

/// What the rounds of a term remember.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    items: BTreeMap<Key, Item>,
    /// When everything was last looked at.
    looked: Option<Instant>,
    /// How long the last look took.
    pub(super) took: Duration,
    /// Whether the next round follows at once.
    at_once: bool,
}

impl Rounds {
    /// One round; `None` where its thread broke off.
    pub(super) async fn run(&mut self, purger: &Purger<'_>) -> Option<Result<(), OpError>> {
        self.at_once = false;
        let depth = match self.looked {
            None => Depth::Everything,
            Some(at) if at.elapsed() >= LOOK => Depth::Changed,
            Some(_) => Depth::New,
        };
        let began = Instant::now();
        let looked = self.look(purger, depth).await?;
        self.took = began.elapsed();
        if let Err(error) = looked {
            return Some(Err(error));
        }
        self.ask(purger.store, depth).await;
        let todo = self.decide(purger.store);
        self.show(purger.store);
        if todo.is_empty() {
            return Some(Ok(()));
        }
        let done = purger.on_thread(move |work| do_all(work, todo)).await?;
        let outcome = done.map(|done| self.settle(purger.store, done));
        self.show(purger.store);
        Some(outcome)
    }

    /// When the next round is due.
    pub(super) fn next(&self, store: &Store) -> Instant {
        let now = Instant::now();
        if self.at_once {
            return now;
        }
        let look = self.looked.map_or(now, |looked| looked + LOOK);
        let (clock, retention) = (store.kube.now(), store.kube.trash_retention());
        let pauses = self.items.values().filter_map(|item| item.pause).map(|(until, _)| until);
        let pauses = pauses.filter(|until| *until > now);
        let due = self.items.values().filter_map(|item| {
            let left = item.due(retention)?.duration_since(clock?).ok()?;
            now.checked_add(left).filter(|due| *due > now)
        });
        pauses.chain(due).fold(look, Instant::min)
    }

    async fn look(&mut self, purger: &Purger<'_>, depth: Depth) -> Option<Result<(), OpError>> {
        let searched = |item: &Item| matches!(*item.found, Found::Misplaced { .. } | Found::OtherCluster);
        let known: BTreeMap<Key, Arc<Found>> = self
            .items
            .iter()
            .filter(|(_, item)| !item.stale && (!searched(item) || item.is_paused()))
            .map(|(key, item)| (key.clone(), Arc::clone(&item.found)))
            .collect();
        let found = purger
            .on_thread(move |work| {
                if depth == Depth::Everything {
                    clear_temporary(work)?;
                    places::clear_staging(work)?;
                } else if depth == Depth::Changed {
                    places::put_back_moved(work)?;
                }
                scan::scan(work, &known, depth)
            })
            .await?;
        Some(found.map(|found| {
            if depth != Depth::New {
                self.looked = Some(Instant::now());
            }
            self.take(found, purger.store.kube.now());
        }))
    }

    /// Takes over what was found.
    fn take(&mut self, found: BTreeMap<Key, Arc<Found>>, now: Option<SystemTime>) {
        let mut before = mem::take(&mut self.items);
        for (key, found) in found {
            let item = match before.remove(&key) {
                Some(item) if mem::discriminant(&*item.found) == mem::discriminant(&*found) => {
                    Item { found, stale: false, pv: None, ..item }
                }
                Some(item) => Item { purging: item.purging, ..Item::new(found, item.seen.or(now)) },
                None => Item::new(found, now),
            };
            let item = Item { seen: item.seen.or(now), ..item };
            self.items.insert(key, item);
        }
    }

    /// Asks the API server for the PVs of what is due, of what was begun, and of some of the others.
    async fn ask(&mut self, store: &Store, depth: Depth) {
        let (now, retention) = (store.kube.now(), store.kube.trash_retention());
        let mut asked = Vec::new();
        let mut others = Vec::new();
        for (key, item) in &self.items {
            let Some((volume, _)) = item.found.volume() else { continue };
            if item.is_paused() {
                continue;
            }
            let begun = matches!(*item.found, Found::Begun { .. });
            if begun || item.is_due(retention, now) || depth == Depth::Everything {
                asked.push((key.clone(), volume.clone()));
            } else if depth == Depth::Changed {
                others.push((item.asked, key.clone(), volume.clone()));
            }
        }
        others.sort();
        asked.extend(others.into_iter().take(ASKED).map(|(_, key, volume)| (key, volume)));
        let answers: Vec<_> = stream::iter(asked)
            .map(async |(key, volume)| {
                if !store.enforces(Rule::PvState) {
                    return (key, Ok(PvState::Absent));
                }
                let answer = store.kube.pv_state(&volume).await;
                (key, answer)
            })
            .buffer_unordered(QUESTIONS)
            .collect()
            .await;
        for (key, answer) in answers {
            let Some(item) = self.items.get_mut(&key) else { continue };
            item.asked = Some(Instant::now());
            item.pv = answer
                .inspect_err(|error| {
                    let (export, reason) = (&store.export.name, error.chain());
                    tracing::debug!(
                        export,
                        entry = key.name,
                        reason,
                        "cannot ask the API server for a PersistentVolume"
                    );
                })
                .ok();
        }
    }

    /// Decides about every entry, and returns what is to be done.
    fn decide(&mut self, store: &Store) -> Vec<(Key, Arc<Found>, Next)> {
        let (now, retention) = (store.kube.now(), store.kube.trash_retention());
        let mut todo = Vec::new();
        for (key, item) in &mut self.items {
            if item.is_paused() {
                continue;
            }
            let due = item.is_due(retention, now);
            let progress = Progress { purging: key.purging(), due, superseded: item.superseded };
            match plan::next(&item.found, item.pv.as_ref(), progress) {
                Next::Wait => {
                    let begun = matches!(*item.found, Found::Begun { .. });
                    if matches!(*item.found, Found::OtherCluster) {
                        item.wait(LONGEST_SEARCH);
                    } else if due || begun {
                        item.wait(LOOK);
                    } else {
                        item.pause = None;
                    }
                    item.why.clear();
                }
                Next::Tell(why) => {
                    item.tell(&store.export.name, key.shown(), why);
                    let searched = matches!(*item.found, Found::Misplaced { .. });
                    item.wait(if searched { LONGEST_SEARCH } else { LOOK });
                }
                next @ (Next::Purge
                | Next::Restore(_)
                | Next::Finish
                | Next::GiveBack(_)
                | Next::Drop
                | Next::PutRecordBack) => todo.push((key.clone(), Arc::clone(&item.found), next)),
            }
        }
        todo
    }

    /// Takes over what was done.
    fn settle(&mut self, store: &Store, done: Vec<(Key, Outcome)>) {
        for (key, outcome) in done {
            let Some(item) = self.items.get_mut(&key) else { continue };
            match outcome {
                Outcome::Done(Done::Changed) => {
                    item.stale = true;
                    item.wait(LONGEST_PAUSE);
                    self.at_once = true;
                }
                Outcome::Done(Done::Superseded) => {
                    item.superseded = true;
                    self.at_once = true;
                }
                Outcome::Done(Done::Busy) => item.wait(LOOK),
                // The purge says what became of it.
                Outcome::Done(Done::Ready(_)) => {}
                Outcome::Failed(error) => {
                    let why = explained(&store.on("purge"), error).chain();
                    item.tell(&store.export.name, key.shown(), why);
                    item.wait(LONGEST_PAUSE);
                }
                Outcome::Purged { key: at, left, gone } => {
                    if gone {
                        self.items.remove(&key);
                        continue;
                    }
                    self.at_once |= keep_purging(&store.export.name, item, &at, left);
                    if at != key
                        && let Some(item) = self.items.remove(&key)
                    {
                        self.items.insert(at, item);
                    }
                }
            }
        }
    }

    /// Shows how much there is and what is stuck.
    fn show(&self, store: &Store) {
        let counted = |item: &&Item| !matches!(*item.found, Found::OtherCluster | Found::OrphanRecord { .. });
        store.trash.show(
            self.items.values().filter(counted).count(),
            self.items.values().flat_map(|item| item.why.clone()).collect(),
        );
    }
}

/// What became of an entry.
enum Outcome {
    Done(Done),
    Failed(OpError),
    Purged { key: Key, left: Left, gone: bool },
}

/// Does everything that was decided, the purge last.
fn do_all(work: &ExportOp<'_>, todo: Vec<(Key, Arc<Found>, Next)>) -> Result<Vec<(Key, Outcome)>, OpError> {
    let mut done = Vec::new();
    let mut ready = BTreeMap::new();
    let mut was = BTreeMap::new();
    for (key, found, next) in todo {
        match act::act(work, &key, &found, &next) {
            Ok(Done::Ready(at)) => {
                ready.insert(at.clone(), found);
                was.insert(at, key);
            }
            Ok(other) => done.push((key, Outcome::Done(other))),
            Err(error) if !is_storage_failure(&error) => return Err(error),
            Err(error) => done.push((key, Outcome::Failed(error))),
        }
    }
    if ready.is_empty() {
        return Ok(done);
    }
    let purge_job = Purge { threads: THREADS, slice: SLICE, purged: work.context.trash.counter() };
    for (at, left) in act::purge(work, &ready, &purge_job)? {
        let gone = left.is_none();
        let left = left.unwrap_or_default();
        let key = was.remove(&at).unwrap_or_else(|| at.clone());
        done.push((key, Outcome::Purged { key: at, left, gone }));
    }
    Ok(done)
}

/// Removes what was left where the writing of a record was interrupted.
fn clear_temporary(work: &ExportOp<'_>) -> Result<(), OpError> {
    for folder in [INTENTS, VOLUMES, ARCHIVED, TRASH] {
        for file in work.root.names(&[BASE, folder])? {
            // Whoever works on the volume now may be writing it.
            let volume = record::volume_of_temporary(&file);
            if let Some(_held) = volume.and_then(|name| work.context.try_lock(&name).ok()) {
                work.changes.remove_file(&[BASE, folder, &file])?;
            }
        }
    }
    Ok(())
}

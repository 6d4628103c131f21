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
        op_error::{OpError, explained, is_permitted},
        places,
        record::{self, ARCHIVED, BASE, INTENTS, TRASH, VOLUMES},
        store::Store,
        work::{Opened, Rule, Work},
    },
    act::{self, Done},
    plan::{self, Found, Next, Progress},
    scan::{self, Key, Look},
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

/// The first and the longest pause before something that was stuck is tried again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// An entry whose purge takes longer than this is shown.
const LONG: Duration = Duration::from_mins(5);

/// The first pause before an entry is looked at again: a volume is moved to the trash a moment before its PV is deleted.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// So often the trash is looked at for what calls that come late moved there, and for PVs that came back.
const LOOK: Duration = Duration::from_mins(1);

/// The longest pause before the volume is looked for again that something is of: all records are read for it.
const LONGEST_SEARCH: Duration = Duration::from_hours(1);

/// So many PVs are asked for in one such look; those that were not asked for come next.
const ASKED: usize = 256;

/// So many questions are asked at a time.
const QUESTIONS: usize = 8;

/// What the version before removed is kept for at least so long: nothing says which cluster may want it back.
const LEGACY_KEPT: Duration = Duration::from_hours(24);

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
        work: impl FnOnce(&Work<'_>) -> Result<T, OpError> + Send + 'static,
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

/// What is remembered of an entry.
#[derive(Debug)]
struct Item {
    found: Arc<Found>,
    /// When it was first seen, by the API server's clock.
    seen: Option<SystemTime>,
    /// When the API server was asked for its PV.
    asked: Option<Instant>,
    /// What it said in this round.
    pv: Option<PvState>,
    superseded: bool,
    /// Since when it is being purged.
    purging: Option<Instant>,
    /// Until when it is not touched, and how long that pause is.
    pause: Option<(Instant, Duration)>,
    /// Something was done: it is to be looked at again.
    stale: bool,
    /// What is shown of it.
    why: Vec<(String, String)>,
}

impl Item {
    fn new(found: Arc<Found>, now: Option<SystemTime>) -> Self {
        Self {
            found,
            seen: now,
            asked: None,
            pv: None,
            superseded: false,
            purging: None,
            pause: None,
            stale: false,
            why: Vec::new(),
        }
    }

    fn is_paused(&self) -> bool {
        self.pause.is_some_and(|(until, _)| until > Instant::now())
    }

    fn wait(&mut self, longest: Duration) {
        let length = self.pause.map_or(FIRST_WAIT, |(_, length)| (length * 2).min(longest));
        self.pause = Some((Instant::now() + length, length));
    }

    /// From when on it may be purged; `None` while that is not known.
    fn due(&self, retention: Duration) -> Option<SystemTime> {
        match &*self.found {
            Found::Removed { marker, .. } | Found::Leftover { marker, .. } => match &marker.trash {
                Some(trash) => match trash.until {
                    Some(until) => Some(until.into()),
                    None => self.seen?.checked_add(Duration::from_secs(trash.keep)),
                },
                None => self.seen?.checked_add(retention),
            },
            // Its name may tell any time: a clock was wrong, or a person gave it.
            Found::Named { whole, .. } => {
                let since = self.seen?.max(SystemTime::from(whole.at));
                since.checked_add(Duration::from_secs(whole.keep))
            }
            Found::Legacy { at, .. } => {
                let at = SystemTime::from(*at);
                let since = self.seen.map_or(at, |seen| seen.min(at));
                since.checked_add(retention.max(LEGACY_KEPT))
            }
            Found::Begun { .. } | Found::Stray { .. } | Found::OfOthers | Found::Odd(_) => None,
        }
    }

    fn is_due(&self, retention: Duration, now: Option<SystemTime>) -> bool {
        self.due(retention).zip(now).is_some_and(|(due, now)| due <= now)
    }

    /// Shows why it stays where it is; the log says it once.
    fn tell(&mut self, export: &str, path: String, why: String) {
        if !self.why.iter().any(|(_, known)| *known == why) {
            tracing::warn!(export, path, reason = why, "an entry of the trash is held");
        }
        self.why = vec![(path, why)];
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
        let look = match self.looked {
            None => Look::Whole,
            Some(at) if at.elapsed() >= LOOK => Look::Again,
            Some(_) => Look::New,
        };
        let began = Instant::now();
        let looked = self.look(purger, look).await?;
        self.took = began.elapsed();
        if let Err(trouble) = looked {
            return Some(Err(trouble));
        }
        self.ask(purger.store, look).await;
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
        let (clock, retention) = (store.host.now(), store.host.trash_retention());
        let pauses = self.items.values().filter_map(|item| item.pause).map(|(until, _)| until);
        let pauses = pauses.filter(|until| *until > now);
        let due = self.items.values().filter_map(|item| {
            let left = item.due(retention)?.duration_since(clock?).ok()?;
            now.checked_add(left).filter(|due| *due > now)
        });
        pauses.chain(due).fold(look, Instant::min)
    }

    async fn look(&mut self, purger: &Purger<'_>, look: Look) -> Option<Result<(), OpError>> {
        let searched = |item: &Item| matches!(*item.found, Found::Stray { .. } | Found::OfOthers);
        let known: BTreeMap<Key, Arc<Found>> = self
            .items
            .iter()
            .filter(|(_, item)| !item.stale && (!searched(item) || item.is_paused()))
            .map(|(key, item)| (key.clone(), Arc::clone(&item.found)))
            .collect();
        let found = purger
            .on_thread(move |work| {
                if look == Look::Whole {
                    clear_temporary(work)?;
                    places::clear_staging(work)?;
                } else if look == Look::Again {
                    places::put_back_moved(work)?;
                }
                scan::scan(work, &known, look)
            })
            .await?;
        Some(found.map(|found| {
            if look != Look::New {
                self.looked = Some(Instant::now());
            }
            self.take(found, purger.store.host.now());
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
    async fn ask(&mut self, store: &Store, look: Look) {
        let (now, retention) = (store.host.now(), store.host.trash_retention());
        let mut asked = Vec::new();
        let mut others = Vec::new();
        for (key, item) in &self.items {
            let Some((volume, _)) = item.found.volume() else { continue };
            if item.is_paused() {
                continue;
            }
            let begun = matches!(*item.found, Found::Begun { .. });
            if begun || item.is_due(retention, now) || look == Look::Whole {
                asked.push((key.clone(), volume.clone()));
            } else if look == Look::Again {
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
                let answer = store.host.pv_state(&volume).await;
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
        let (now, retention) = (store.host.now(), store.host.trash_retention());
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
                    if matches!(*item.found, Found::OfOthers) {
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
                    let searched = matches!(*item.found, Found::Stray { .. });
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
                    self.at_once |= keep_purging(store, item, &at, left);
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
        let counted = |item: &&Item| !matches!(*item.found, Found::OfOthers | Found::Leftover { .. });
        store.trash.show(
            self.items.values().filter(counted).count(),
            self.items.values().flat_map(|item| item.why.clone()).collect(),
        );
    }
}

/// What remains of an entry after its slice of time; whether the next slice follows at once.
fn keep_purging(store: &Store, item: &mut Item, at: &Key, left: Left) -> bool {
    let since = *item.purging.get_or_insert_with(Instant::now);
    let shown = at.shown();
    let folder = shown.rsplit_once('/').map_or("", |(folder, _)| folder);
    let export = &store.export.name;
    let mut why: Vec<(String, String)> =
        left.stuck.into_iter().map(|stuck| (joined(folder, &stuck.path), stuck.why)).collect();
    let mut at_once = false;
    for unfinished in left.unfinished {
        let path = joined(folder, &unfinished.entry);
        if unfinished.refilled {
            let still = "something still writes there; stop the pods or nodes that have it mounted";
            why.push((path, still.into()));
        } else {
            at_once = why.is_empty();
            if since.elapsed() >= LONG {
                let minutes = since.elapsed().as_secs() / 60;
                why.push((path, format!("its purge takes {minutes} minutes already, and goes on")));
            }
        }
    }
    for (path, reason) in &why {
        if !item.why.iter().any(|(known, _)| known == path) {
            tracing::warn!(export, path, reason, "cannot be purged");
        }
    }
    item.why = why;
    if at_once {
        item.pause = None;
    } else {
        item.wait(LONGEST_PAUSE);
    }
    at_once
}

fn joined(folder: &str, below: &str) -> String {
    if folder.is_empty() { below.to_owned() } else { format!("{folder}/{below}") }
}

/// What became of an entry.
enum Outcome {
    Done(Done),
    Failed(OpError),
    Purged { key: Key, left: Left, gone: bool },
}

/// Does everything that was decided, the purge last.
fn do_all(work: &Work<'_>, todo: Vec<(Key, Arc<Found>, Next)>) -> Result<Vec<(Key, Outcome)>, OpError> {
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
            Err(trouble) if !is_permitted(&trouble) => return Err(trouble),
            Err(trouble) => done.push((key, Outcome::Failed(trouble))),
        }
    }
    if ready.is_empty() {
        return Ok(done);
    }
    let crew = Purge { threads: THREADS, slice: SLICE, purged: work.context.trash.counter() };
    for (at, left) in act::purge(work, &ready, &crew)? {
        let gone = left.is_none();
        let left = left.unwrap_or_default();
        let key = was.remove(&at).unwrap_or_else(|| at.clone());
        done.push((key, Outcome::Purged { key: at, left, gone }));
    }
    Ok(done)
}

/// Removes what was left where the writing of a record was broken off.
fn clear_temporary(work: &Work<'_>) -> Result<(), OpError> {
    for folder in [INTENTS, VOLUMES, ARCHIVED, TRASH] {
        for file in work.root.names(&[BASE, folder])? {
            // Whoever works on the volume now may be writing it.
            let volume = record::volume_of_temporary(&file);
            if let Some(_held) = volume.and_then(|name| work.context.hold(&name).ok()) {
                work.changes.remove_file(&[BASE, folder, &file])?;
            }
        }
    }
    Ok(())
}

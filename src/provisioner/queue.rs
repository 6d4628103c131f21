//! Which object is worked on next: a keyed work queue, entered through [`Queue`].
//!
//! A key is in it at most once and is handed to one worker at a time. A key that failed waits with growing delays and
//! is never given up; news about it ([`Queue::push`]) ends the wait at once. What is done leaves nothing behind.
//!
//! It does not know what a key means, does not run the workers, and does not survive the process.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rand::Rng;
use tokio::{sync::Notify, time::Instant};

use crate::backend::{Kind, Retry};

/// What can be a key: small, cheap to clone.
pub trait Key: Clone + Hash + Eq + Ord + Send + fmt::Debug + 'static {}

impl<K: Clone + Hash + Eq + Ord + Send + fmt::Debug + 'static> Key for K {}

/// How long failed keys wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The shortest wait after a failure; it doubles with every further one.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The longest wait of what cannot succeed before something else changes ([`Outcome::Slow`]).
    pub slow: Duration,
}

impl Backoff {
    /// The wait after `failures` earlier failures: doubling from `min`, at most `max`, and spread over half as much again,
    /// so that what failed together does not come back together.
    fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        spread(doubled, self.max, chance)
    }
}

/// `wait` times one to one and a half, by `chance` (0 to 1), and never more than `longest`.
fn spread(wait: Duration, longest: Duration, chance: f64) -> Duration {
    wait.min(longest.div_f64(1.5)).mul_f64(1.0 + chance / 2.0).min(longest)
}

/// `now + wait`; a century where the clock cannot express it.
fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(Duration::from_hours(24 * 36_500))
}

impl Default for Backoff {
    /// One second doubling to five minutes; five minutes.
    fn default() -> Self {
        let longest = Duration::from_mins(5);
        Self { min: Duration::from_secs(1), max: longest, slow: longest }
    }
}

/// How the work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do; the key and its history are forgotten.
    Done,
    /// Failed: once more at the normal pace.
    Retry,
    /// The server said when to come back: not earlier, but at the longest wait at most.
    RetryAfter(Duration),
    /// Cannot succeed before something else changes: once more at the slow pace, which [`Queue::push`] ends like any wait;
    /// the normal pace starts again after it.
    Slow,
}

impl From<Kind> for Outcome {
    /// What follows from the failure of a backend. What is in the way may go without the object changing, so that even a
    /// refusal is tried again, slowly.
    fn from(kind: Kind) -> Self {
        match kind.retry() {
            Retry::OnChange => Self::Slow,
            Retry::Backoff => Self::Retry,
        }
    }
}

/// How many keys the queue knows, by what becomes of them; for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Would be worked on now if a worker were free.
    pub ready: usize,
    /// Wait for their moment.
    pub waiting: usize,
    /// Are being worked on.
    pub in_flight: usize,
}

/// A queue of keys; clones are the same queue.
pub struct Queue<K: Key> {
    shared: Arc<Shared<K>>,
}

impl<K: Key> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Key> fmt::Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.depth().fmt(f)
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            backoff,
            entries: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// There is news about `key`: it is worked on as soon as a worker is free, whatever it was waiting for. If it is being
    /// worked on just now, it comes once more afterwards.
    pub fn push(&self, key: K) {
        let wake = self.shared.state().push(key);
        self.shared.wake(wake);
    }

    /// The next key to work on; `None` once the queue is closed. May be dropped at any moment.
    pub async fn next(&self) -> Option<Work<K>> {
        loop {
            // Made before the look at the state: what happens between the two is not missed.
            let woken = self.shared.wake.notified();
            let taken = self.shared.state().take(Instant::now());
            match taken {
                Taken::Closed => return None,
                Taken::Key { key, attempt, more } => {
                    // Two pushes before either of two workers began to wait leave a single wake-up behind.
                    if more {
                        self.shared.wake.notify_one();
                    }
                    return Some(Work { queue: self.clone(), key, attempt, settled: false });
                }
                Taken::Nothing { until: Some(moment) } => {
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep_until(moment) => {}
                    }
                }
                Taken::Nothing { until: None } => woken.await,
            }
        }
    }

    /// Hands out nothing any more and forgets what is queued. What is being worked on may be finished.
    pub fn close(&self) {
        self.shared.state().close();
        self.shared.wake(Wake::All);
    }

    /// How much there is to do.
    pub fn depth(&self) -> Depth {
        let mut state = self.shared.state();
        state.promote_due(Instant::now());
        let (ready, waiting) = (state.ready.len(), state.waiting.len());
        Depth { ready, waiting, in_flight: state.entries.len() - ready - waiting }
    }
}

/// One key held by one worker. Dropped without [`finish`](Work::finish) (cancelled, panicked), it counts as
/// [`Outcome::Retry`].
#[must_use = "dropping it counts as a failure"]
pub struct Work<K: Key> {
    queue: Queue<K>,
    key: K,
    attempt: u32,
    settled: bool,
}

impl<K: Key> Work<K> {
    /// What to work on.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Which try this is since the key was last done; the first is 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says how it ended.
    pub fn finish(mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.settled, true) {
            let chance = rand::rng().random_range(0.0..1.0);
            let wake = self.queue.shared.state().settle(self.key.clone(), outcome, Instant::now(), chance);
            self.queue.shared.wake(wake);
        }
    }
}

impl<K: Key> fmt::Debug for Work<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("key", &self.key).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl<K: Key> Drop for Work<K> {
    fn drop(&mut self) {
        self.settle(Outcome::Retry);
    }
}

struct Shared<K: Key> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: Key> Shared<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::Nothing => {}
            Wake::One => self.wake.notify_one(),
            Wake::All => self.wake.notify_waiters(),
        }
    }
}

/// Which waiting workers have to look again after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Nothing,
    /// A key became ready.
    One,
    /// The first of the waiting keys is due earlier than the workers think. All of them, since the one that is woken may
    /// be dropped while it sleeps.
    All,
}

/// What a worker finds.
enum Taken<K> {
    Key { key: K, attempt: u32, more: bool },
    Nothing { until: Option<Instant> },
    Closed,
}

/// Where a key is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Ready,
    Waiting(Instant),
    /// `again`: there was news about it since it was handed out.
    InFlight {
        again: bool,
    },
}

struct Entry {
    stage: Stage,
    /// How often it was handed out since it was last done.
    attempts: u32,
    /// How often the normal wait has doubled.
    failures: u32,
}

/// The queue without its workers. `ready` and `waiting` hold exactly the keys whose entries say so.
struct State<K: Key> {
    backoff: Backoff,
    entries: HashMap<K, Entry>,
    ready: VecDeque<K>,
    waiting: BTreeSet<(Instant, K)>,
    closed: bool,
}

impl<K: Key> State<K> {
    fn push(&mut self, key: K) -> Wake {
        if self.closed {
            return Wake::Nothing;
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key.clone(), Entry { stage: Stage::Ready, attempts: 0, failures: 0 });
            self.ready.push_back(key);
            return Wake::One;
        };
        match entry.stage {
            Stage::Ready => Wake::Nothing,
            Stage::Waiting(until) => {
                entry.stage = Stage::Ready;
                self.waiting.remove(&(until, key.clone()));
                self.ready.push_back(key);
                Wake::One
            }
            Stage::InFlight { again: _ } => {
                entry.stage = Stage::InFlight { again: true };
                Wake::Nothing
            }
        }
    }

    /// Puts a key that has an entry, and is nowhere yet, among the waiting.
    fn wait(&mut self, key: K, until: Instant) -> Wake {
        let first = self.waiting.first().is_none_or(|(moment, _)| until < *moment);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.stage = Stage::Waiting(until);
            self.waiting.insert((until, key));
        }
        if first { Wake::All } else { Wake::Nothing }
    }

    /// Moves what is due from the waiting to the ready.
    fn promote_due(&mut self, now: Instant) {
        while self.waiting.first().is_some_and(|(moment, _)| *moment <= now) {
            let Some((_, key)) = self.waiting.pop_first() else { return };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.stage = Stage::Ready;
                self.ready.push_back(key);
            }
        }
    }

    fn take(&mut self, now: Instant) -> Taken<K> {
        if self.closed {
            return Taken::Closed;
        }
        self.promote_due(now);
        let next = self.ready.pop_front();
        match next.as_ref().and_then(|key| self.entries.get_mut(key)).zip(next.clone()) {
            None => Taken::Nothing { until: self.waiting.first().map(|(moment, _)| *moment) },
            Some((entry, key)) => {
                entry.stage = Stage::InFlight { again: false };
                entry.attempts = entry.attempts.saturating_add(1);
                let attempt = entry.attempts;
                give_back(&mut self.ready);
                Taken::Key { key, attempt, more: !self.ready.is_empty() }
            }
        }
    }

    fn settle(&mut self, key: K, outcome: Outcome, now: Instant, chance: f64) -> Wake {
        let backoff = self.backoff;
        let Some(entry) = self.entries.get_mut(&key) else { return Wake::Nothing };
        let Stage::InFlight { again } = entry.stage else { return Wake::Nothing };
        if self.closed {
            self.entries.remove(&key);
            return Wake::Nothing;
        }
        let wait = match outcome {
            Outcome::Done => {
                (entry.attempts, entry.failures) = (0, 0);
                None
            }
            Outcome::Retry => {
                let wait = backoff.after(entry.failures, chance);
                entry.failures = entry.failures.saturating_add(1);
                Some(wait)
            }
            Outcome::RetryAfter(asked) => {
                let asked = asked.max(backoff.min).min(backoff.max);
                Some(asked.mul_f64(1.0 + chance / 10.0).min(backoff.max))
            }
            Outcome::Slow => {
                entry.failures = 0;
                Some(spread(backoff.slow, backoff.slow, chance))
            }
        };
        if again {
            entry.stage = Stage::Ready;
            self.ready.push_back(key);
            return Wake::One;
        }
        if let Some(wait) = wait {
            return self.wait(key, later(now, wait));
        }
        self.entries.remove(&key);
        if self.entries.capacity() > SPARE && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        Wake::Nothing
    }

    fn close(&mut self) {
        self.closed = true;
        self.ready = VecDeque::new();
        self.waiting = BTreeSet::new();
        self.entries.retain(|_, entry| matches!(entry.stage, Stage::InFlight { .. }));
    }
}

/// How much unused room is not worth giving back.
const SPARE: usize = 1024;

/// Gives back the memory of a burst; amortised, each element is moved a constant number of times.
fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > SPARE && queue.len() < queue.capacity() / 8 {
        queue.shrink_to(queue.len() * 2);
    }
}

#[cfg(test)]
mod tests;

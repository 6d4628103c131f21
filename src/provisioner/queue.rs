//! Which object is worked on next: a keyed work queue, entered through [`Queue`].
//!
//! A key stands in it at most once and is handed to one worker at a time. A key that failed waits with growing delays and
//! is never given up; news about it ([`Queue::push`]) ends the wait at once. What is done leaves nothing behind.
//!
//! It does not know what a key means, does not run the workers, and does not survive the process.

use std::{fmt, hash::Hash, time::Duration};

/// What can be a key: small, cheap to clone.
pub trait Key: Clone + Hash + Eq + Ord + Send + fmt::Debug + 'static {}

impl<K: Clone + Hash + Eq + Ord + Send + fmt::Debug + 'static> Key for K {}

/// How long failed keys wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The shortest wait after a failure; it doubles with every further one.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The longest wait of what cannot succeed before something else changes ([`Outcome::Slow`]).
    pub slow: Duration,
}

impl Default for Pace {
    /// One second doubling to five minutes; five minutes.
    fn default() -> Self {
        let longest = Duration::from_secs(300);
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
    /// The server said when to come back.
    RetryAfter(Duration),
    /// Cannot succeed before something else changes: once more at the slow pace. [`Queue::push`] ends it.
    Slow,
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
    _k: std::marker::PhantomData<K>,
}

impl<K: Key> Clone for Queue<K> {
    fn clone(&self) -> Self {
        unimplemented!()
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue.
    pub fn new(_pace: Pace) -> Self {
        unimplemented!()
    }

    /// There is news about `key`: it is worked on as soon as a worker is free, whatever it was waiting for. If it is being
    /// worked on just now, it comes once more afterwards.
    pub fn push(&self, _key: K) {
        unimplemented!()
    }

    /// Works on `key` in `delay` at the latest. A key waits for one moment only: the earliest asked for.
    pub fn push_after(&self, _key: K, _delay: Duration) {
        unimplemented!()
    }

    /// The next key to work on; `None` once the queue is closed. May be dropped at any moment.
    pub async fn next(&self) -> Option<Work<K>> {
        unimplemented!()
    }

    /// Hands out nothing any more and forgets what is queued. What is being worked on may be finished.
    pub fn close(&self) {
        unimplemented!()
    }

    /// How much there is to do.
    pub fn depth(&self) -> Depth {
        unimplemented!()
    }
}

/// One key in the hands of one worker. Dropped without [`finish`](Work::finish) (cancelled, panicked), it counts as
/// [`Outcome::Retry`].
#[must_use = "dropping it counts as a failure"]
pub struct Work<K: Key> {
    _k: std::marker::PhantomData<K>,
}

impl<K: Key> Work<K> {
    /// What to work on.
    pub fn key(&self) -> &K {
        unimplemented!()
    }

    /// The how manieth try this is since the key was last done; the first is 1.
    pub fn attempt(&self) -> u32 {
        unimplemented!()
    }

    /// Says how it ended.
    pub fn finish(self, _outcome: Outcome) {
        unimplemented!()
    }
}

//! File-system work on a few threads of its own, with a deadline: [`Pool`].
//!
//! A call into a dead NFS server never returns and cannot be cancelled. So every export has its own threads: what hangs
//! takes one of them and nothing else, the caller gets an answer at its deadline, and the process can exit, since nobody
//! ever joins these threads (which is why they are not the runtime's blocking threads). Nothing here retries.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// Enough for path handling and JSON, and a small share of the process's memory.
const STACK_BYTES: usize = 512 * 1024;

/// Why a piece of work gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It had begun and did not return in time. It may still have its effect.
    #[error("{what} has not returned after {after:?}")]
    Late {
        /// The work.
        what: String,
        /// The deadline.
        after: Duration,
    },
    /// It never began, since all threads were taken. It has no effect.
    #[error("{what} did not begin: all {threads} threads are taken, the longest by {oldest}")]
    Saturated {
        /// The work.
        what: String,
        /// How many threads there are.
        threads: usize,
        /// What has run for the longest time.
        oldest: String,
    },
    /// It panicked, or there was no thread for it: a defect, or a machine without resources.
    #[error("{what} broke off")]
    Panicked {
        /// The work.
        what: String,
    },
}

/// What runs in a pool now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// How many pieces of work.
    pub count: usize,
    /// The one that has run longest, and how long.
    pub oldest: Option<(String, Duration)>,
}

/// Threads for one export.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    threads: usize,
    deadline: Duration,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    running: BTreeMap<u64, (String, Instant)>,
    next: u64,
    threads: usize,
    idle: usize,
}

type Handover = Box<dyn FnOnce() + Send>;

/// Does the work, and returns what hands over the result.
type Work = Box<dyn FnOnce() -> Handover + Send>;

struct Job {
    what: String,
    work: Arc<Pending>,
}

/// Work that has not begun: either a thread takes it to do it, or its caller takes it back. What the work holds (a guard)
/// goes with it.
struct Pending(Mutex<Option<Work>>);

impl Pending {
    /// The work; `None` where the other side has it already.
    fn take(&self) -> Option<Work> {
        self.0.lock().take()
    }
}

impl Pool {
    /// A pool of at most `threads` threads, which come as they are needed and go when they are not.
    pub fn new(name: impl Into<String>, threads: usize, deadline: Duration) -> Self {
        let shared = Shared {
            name: name.into(),
            threads: threads.max(1),
            deadline,
            state: Mutex::default(),
            work: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `work` on a thread of the pool and waits for it, at most until the deadline.
    ///
    /// Work that began is never interrupted: what it holds (a guard) is held until it returns. Work that has not begun
    /// when the deadline passes or the future is dropped never begins, and what it holds is released at that moment, though
    /// every thread hangs.
    pub async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let what = what.into();
        let (send, receive) = oneshot::channel();
        let pending = Arc::new(Pending(Mutex::new(Some(Box::new(move || {
            let result = work();
            Box::new(move || {
                let _ = send.send(result);
            })
        })))));
        let pending = CancelOnDrop(pending);
        self.submit(Job { what: what.clone(), work: Arc::clone(&pending.0) })?;
        match tokio::time::timeout(self.shared.deadline, receive).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(PoolError::Panicked { what }),
            Err(_) if pending.0.take().is_some() => Err(self.crowded(what)),
            Err(_) => Err(PoolError::Late { what, after: self.shared.deadline }),
        }
    }

    /// What runs now. Answers at once.
    pub fn running(&self) -> Running {
        let state = self.shared.state();
        let oldest = state.running.values().next().map(|(what, since)| (what.clone(), since.elapsed()));
        Running { count: state.running.len(), oldest }
    }

    fn submit(&self, job: Job) -> Result<(), PoolError> {
        let mut state = self.shared.state();
        let stuck =
            state.running.values().filter(|(_, since)| since.elapsed() >= self.shared.deadline).count();
        if stuck >= self.shared.threads {
            drop(state);
            return Err(self.crowded(job.what));
        }
        let what = job.what.clone();
        state.queue.push_back(job);
        if state.idle >= state.queue.len() || state.threads >= self.shared.threads {
            self.shared.work.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(self.shared.name.clone()).stack_size(STACK_BYTES);
        if thread.spawn(move || shared.serve()).is_err() {
            let mut state = self.shared.state();
            state.threads -= 1;
            if state.threads == 0 {
                // Their callers hear at once that nobody will do it.
                let given_up: Vec<_> = state.queue.drain(..).map(|job| job.work.take()).collect();
                drop(state);
                drop(given_up);
                return Err(PoolError::Panicked { what });
            }
        }
        Ok(())
    }

    fn crowded(&self, what: String) -> PoolError {
        let oldest = self.running().oldest;
        let oldest = oldest.map_or_else(|| "nothing".into(), |(what, age)| format!("{what}, since {age:?}"));
        PoolError::Saturated { what, threads: self.shared.threads, oldest }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What a thread does until there has been nothing to do for a while.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            let Some(job) = state.queue.pop_front() else {
                state.idle += 1;
                let timeout = self.work.wait_for(&mut state, IDLE);
                state.idle -= 1;
                if timeout.timed_out() && state.queue.is_empty() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            // Its caller has taken it back.
            let Some(work) = job.work.take() else { continue };
            let number = state.next;
            state.next += 1;
            state.running.insert(number, (job.what, Instant::now()));
            drop(state);
            // The sender is dropped by the panic, which tells the caller.
            let handover = panic::catch_unwind(AssertUnwindSafe(work));
            self.state().running.remove(&number);
            // Whoever has the result sees that the work is over.
            if let Ok(handover) = handover {
                handover();
            }
            state = self.state();
        }
    }
}

/// Takes work back that has not begun when its caller goes.
struct CancelOnDrop(Arc<Pending>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;
    use crate::system::keyed_lock::KeyedLocks;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn work_gives_its_result_and_the_threads_are_bounded() {
        let pool = Pool::new("test", 3, LONG);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = (0..50).map(|i| {
            let (pool, now, most) = (pool.clone(), Arc::clone(&now), Arc::clone(&most));
            async move {
                let work = move || {
                    let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(running, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                    now.fetch_sub(1, Ordering::SeqCst);
                    i
                };
                pool.run("count", work).await
            }
        });
        let results = futures::future::join_all(all).await;
        assert_eq!(results, (0..50).map(Ok).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert_eq!(pool.running().count, 0);
    }

    #[tokio::test]
    async fn work_that_hangs_is_given_up_at_the_deadline_and_named_until_it_returns() {
        let pool = Pool::new("test", 2, SHORT);
        let (release, hang) = mpsc::channel::<()>();
        let late = pool.run("stat /dead", move || hang.recv()).await.unwrap_err();
        assert_eq!(late, PoolError::Late { what: "stat /dead".into(), after: SHORT });
        assert_eq!(pool.running().oldest.unwrap().0, "stat /dead");
        assert_eq!(pool.run("other", || 1).await, Ok(1), "the other thread goes on");
        release.send(()).unwrap();
        while pool.running().count > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn when_all_threads_are_stuck_new_work_fails_at_once_and_never_begins() {
        let pool = Pool::new("test", 1, SHORT);
        let (release, hang) = mpsc::channel::<()>();
        pool.run("hang", move || hang.recv()).await.unwrap_err();
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        let crowded = pool.run("next", move || flag.store(true, Ordering::SeqCst)).await.unwrap_err();
        assert!(
            matches!(&crowded, PoolError::Saturated { oldest, .. } if oldest.starts_with("hang")),
            "{crowded}"
        );
        release.send(()).unwrap();
        while pool.running().count > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run("again", || 2).await, Ok(2));
        assert!(!begun.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn work_whose_caller_is_gone_before_it_began_never_begins() {
        let pool = Pool::new("test", 1, LONG);
        let (release, hang) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run("first", move || hang.recv()).await }
        });
        while pool.running().count == 0 {
            tokio::task::yield_now().await;
        }
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        let second =
            tokio::time::timeout(SHORT, pool.run("second", move || flag.store(true, Ordering::SeqCst)));
        second.await.unwrap_err();
        release.send(()).unwrap();
        first.await.unwrap().unwrap().unwrap();
        pool.run("third", || ()).await.unwrap();
        assert!(!begun.load(Ordering::SeqCst));
    }

    /// A volume whose work was dropped in the queue of an export that hangs stayed busy until the server came back.
    #[tokio::test]
    async fn work_that_never_began_releases_its_hold_at_once_though_every_thread_hangs() {
        let pool = Pool::new("test", 1, LONG);
        let locks = KeyedLocks::default();
        let (release, hang) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run("hang", move || hang.recv()).await }
        });
        while pool.running().count == 0 {
            tokio::task::yield_now().await;
        }
        let held = locks.try_lock(&"volume").unwrap();
        let second = tokio::time::timeout(SHORT, pool.run("second", move || drop(held)));
        second.await.unwrap_err();
        assert!(locks.try_lock(&"volume").is_some(), "dropped by its caller");
        release.send(()).unwrap();
        first.await.unwrap().unwrap().unwrap();

        let pool = Pool::new("test", 1, SHORT);
        let (release, hang) = mpsc::channel::<()>();
        let began = Arc::new(AtomicBool::new(false));
        let (hangs, flag) = (pool.clone(), Arc::clone(&began));
        let first = tokio::spawn(async move {
            hangs
                .run("hang", move || {
                    flag.store(true, Ordering::SeqCst);
                    hang.recv()
                })
                .await
        });
        while !began.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let held = locks.try_lock(&"volume").unwrap();
        let crowded = pool.run("second", move || drop(held)).await.unwrap_err();
        assert!(matches!(crowded, PoolError::Saturated { .. }), "{crowded}");
        assert!(locks.try_lock(&"volume").is_some(), "given up at the deadline");
        first.await.unwrap().unwrap_err();
        let held = locks.try_lock(&"volume").unwrap();
        pool.run("third", move || drop(held)).await.unwrap_err();
        assert!(locks.try_lock(&"volume").is_some(), "refused, since all threads are stuck");
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_breaks_nothing_else() {
        let pool = Pool::new("test", 1, LONG);
        let broken = pool.run("panic", || panic!("as the test asked")).await;
        assert_eq!(broken, Err::<(), _>(PoolError::Panicked { what: "panic".into() }));
        assert_eq!(pool.run("next", || 3).await, Ok(3));
    }
}

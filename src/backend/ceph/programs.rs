//! How many of Ceph's programs there are at a time, over all clusters of the process: [`Programs`].
//!
//! A program that waits for its next command counts like one that works, since both hold memory. Where there is no place for
//! one that is needed, the one that has waited longest ends.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How many programs there are at least places for; each holds 30 to 60 MiB.
const LEAST: usize = 16;
/// How many programs may wait for their next command.
const MOST_IDLE: usize = 4;

/// The places for programs. Copies share them.
#[derive(Clone)]
pub struct Programs(Arc<Shared>);

struct Shared {
    slots: Arc<Semaphore>,
    size: Mutex<usize>,
    /// How many wait for a place.
    waiting: AtomicUsize,
    idle: Mutex<Vec<Weak<dyn IdlePrograms>>>,
}

/// Programs of one cluster that wait for their next command.
pub(super) trait IdlePrograms: Send + Sync {
    /// Since when each of them waits.
    fn since(&self) -> Vec<Instant>;
    /// Ends the one that has waited longest.
    fn end_longest(&self);
}

/// A place for one program, free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Programs {
    /// Places for the usual number of programs, or for `wanted`, if those are more.
    pub fn new(wanted: usize) -> Self {
        let size = wanted.max(LEAST);
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(size)),
            size: Mutex::new(size),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        }))
    }

    /// Makes sure that there are at least so many places: a cluster is configured to use them alone.
    pub fn at_least(&self, wanted: usize) {
        let mut size = self.0.size.lock();
        self.0.slots.add_permits(wanted.saturating_sub(*size));
        *size = wanted.max(*size);
    }

    /// How many places there are.
    pub fn size(&self) -> usize {
        *self.0.size.lock()
    }

    /// Waits for a place. May be dropped.
    pub(super) async fn slot(&self) -> Slot {
        if let Ok(permit) = Arc::clone(&self.0.slots).try_acquire_owned() {
            return Slot { _permit: Some(permit) };
        }
        let _waiting = Waiting::begin(&self.0.waiting);
        self.end_longest_idle();
        // The semaphore is never closed.
        Slot { _permit: Arc::clone(&self.0.slots).acquire_owned().await.ok() }
    }

    /// Takes notice of a list of programs that wait for commands, until it is dropped.
    pub(super) fn register(&self, idle: &Arc<impl IdlePrograms + 'static>) {
        let idle: Weak<dyn IdlePrograms> = Arc::downgrade(idle) as _;
        let mut all = self.idle();
        all.retain(|one| one.strong_count() > 0);
        all.push(idle);
    }

    /// Whether a program that has done its work may wait for more: no other program needs its slot.
    pub(super) fn may_wait(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) == 0
    }

    /// Ends those that have waited longest, where more wait than may.
    pub(super) fn limit_idle(&self) {
        while self.waiting().len() > MOST_IDLE {
            self.end_longest_idle();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Weak<dyn IdlePrograms>>> {
        self.0.idle.lock()
    }

    fn waiting(&self) -> Vec<(Instant, Arc<dyn IdlePrograms>)> {
        let lists: Vec<_> = self.idle().iter().filter_map(Weak::upgrade).collect();
        let since = |list: Arc<dyn IdlePrograms>| {
            list.since().into_iter().map(move |since| (since, Arc::clone(&list))).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(since).collect()
    }

    fn end_longest_idle(&self) {
        if let Some((_, list)) = self.waiting().into_iter().min_by_key(|(since, _)| *since) {
            list.end_longest();
        }
    }
}

impl Default for Programs {
    fn default() -> Self {
        Self::new(LEAST)
    }
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").field("size", &self.size()).finish_non_exhaustive()
    }
}

/// Which slots they are is no part of the configuration.
impl PartialEq for Programs {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Programs {}

/// Counts one that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Programs that wait, each with its place.
    #[derive(Default)]
    struct Idle(Mutex<Vec<(Instant, Slot)>>);

    impl IdlePrograms for Idle {
        fn since(&self) -> Vec<Instant> {
            self.0.lock().iter().map(|(since, _)| *since).collect()
        }

        fn end_longest(&self) {
            self.0.lock().remove(0);
        }
    }

    #[tokio::test]
    async fn the_program_that_has_waited_longest_gives_its_place_to_one_that_is_needed() {
        let programs = Programs::new(0);
        let (first, second) = (Arc::new(Idle::default()), Arc::new(Idle::default()));
        programs.register(&first);
        programs.register(&second);
        let now = Instant::now();
        let slots = (programs.slot().await, programs.slot().await);
        first.0.lock().push((now + Duration::from_secs(1), slots.0));
        second.0.lock().push((now, slots.1));
        let mut busy = Vec::new();
        for _ in 2..programs.size() {
            busy.push(programs.slot().await);
        }
        busy.push(programs.slot().await);
        assert_eq!((first.since().len(), second.since().len()), (1, 0), "the older one has ended");
        busy.push(programs.slot().await);
        assert_eq!(first.since().len(), 0);
        assert!(programs.may_wait());
        let mut late = Box::pin(programs.slot());
        assert!(futures::poll!(&mut late).is_pending(), "the bound holds");
        assert!(!programs.may_wait(), "one that ends its work now makes room");
        drop(busy.pop());
        late.await;
        assert!(programs.may_wait());
    }

    #[tokio::test]
    async fn of_programs_that_wait_there_are_a_few_over_all_clusters() {
        let programs = Programs::new(100);
        let lists: Vec<_> = (0..8).map(|_| Arc::new(Idle::default())).collect();
        for list in &lists {
            programs.register(list);
            let slot = programs.slot().await;
            list.0.lock().push((Instant::now(), slot));
            programs.limit_idle();
        }
        let left: usize = lists.iter().map(|list| list.since().len()).sum();
        assert_eq!(left, MOST_IDLE);
    }

    #[test]
    fn a_cluster_may_have_as_many_programs_as_it_is_configured_to() {
        let programs = Programs::new(3);
        assert_eq!(programs.size(), LEAST);
        programs.at_least(40);
        programs.at_least(20);
        assert_eq!((programs.size(), programs.0.slots.available_permits()), (40, 40));
    }
}

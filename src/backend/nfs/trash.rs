//! What was moved to the trash is purged from here, once the API server says that nobody wants it back: [`Trash`] is the
//! account of it, [`collect_garbage`] the loop.
//!
//! A round looks at the trash ([`scan`]), asks the API server for the PVs, decides ([`plan`]), moves what goes back, and purges
//! what may go ([`act`]), each entry for a slice of time, so that one that is written to holds up no other. Between the rounds
//! the loop sleeps until something is due or was removed.

mod act;
mod plan;
mod rounds;
mod scan;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use self::{
    plan::Found,
    rounds::{Hands, Rounds},
    scan::Key,
};
use super::store::Store;
use crate::volume::{Permit, VolumeName};

/// The first and the longest pause before something that was stuck is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// After a look at the trash the loop pauses for so many times what that took.
const PACE: u32 = 9;

/// So many purged volumes are remembered with their places, for calls that come late.
const REMEMBERED: usize = 4096;

/// What is in the trash of one export.
#[derive(Debug, Default)]
pub(super) struct Trash {
    waiting: AtomicUsize,
    purged: AtomicU64,
    wake: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stuck: Vec<(String, String)>,
    /// What this process itself moved to the trash.
    mine: BTreeSet<String>,
    /// Entries at the top of the export.
    at_top: BTreeSet<String>,
    /// Where the volumes were that were purged last.
    purged: VecDeque<(VolumeName, Vec<String>)>,
}

impl Trash {
    /// Notes that something was moved to the trash.
    pub(super) fn added(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.look();
    }

    /// Lets the trash be looked at soon.
    pub(super) fn look(&self) {
        self.wake.notify_one();
    }

    /// Notes what this process is about to move to the trash.
    pub(super) fn moving(&self, entry: &str) {
        self.state().mine.insert(entry.to_owned());
    }

    /// Whether this process itself moved it to the trash.
    fn is_mine(&self, entry: &str) -> bool {
        self.state().mine.contains(entry)
    }

    /// The entries at the top of the export, by the names that they have there.
    pub(super) fn at_top(&self) -> Vec<String> {
        self.state().at_top.iter().cloned().collect()
    }

    /// Notes an entry at the top of the export.
    pub(super) fn put_at_top(&self, name: &str) {
        self.state().at_top.insert(name.to_owned());
    }

    /// Notes that an entry is gone.
    pub(super) fn taken(&self, path: &[String]) {
        if let [name] = path {
            self.state().at_top.remove(name);
        }
    }

    fn renamed(&self, from: &[String], to: &[String]) {
        self.taken(from);
        if let [name] = to {
            self.put_at_top(name);
        }
    }

    /// Notes that an entry was purged.
    fn gone(&self, key: &Key, found: &Found) {
        self.taken(&key.path());
        let mut state = self.state();
        state.mine.remove(&key.name);
        if let Found::Removed { marker, .. } = found {
            state.purged.push_back((marker.id.name().clone(), marker.segments.clone()));
            if state.purged.len() > REMEMBERED {
                state.purged.pop_front();
            }
        }
    }

    /// Where the volume of this name was that was purged.
    fn place_of(&self, volume: &VolumeName) -> Option<Vec<String>> {
        let state = self.state();
        state.purged.iter().rev().find(|(name, _)| name == volume).map(|(_, place)| place.clone())
    }

    /// Shows how many entries there are, and what is stuck.
    fn show(&self, waiting: usize, mut stuck: Vec<(String, String)>) {
        stuck.sort();
        self.waiting.store(waiting, Ordering::SeqCst);
        self.state().stuck = stuck;
    }

    fn counter(&self) -> &AtomicU64 {
        &self.purged
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    pub(super) fn stuck(&self) -> Vec<(String, String)> {
        self.state().stuck.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Purges the trash of `store` until the permit ends.
pub(super) async fn collect_garbage(store: &Arc<Store>, permit: &Permit) {
    // While we did not lead, others may have changed what is recorded.
    store.index.reset();
    let ending = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let mut rounds = Rounds::default();
    while permit.check().is_ok() {
        let Ok(opened) = store.opened("purge").await else {
            tokio::time::sleep(FIRST_PAUSE).await;
            continue;
        };
        let hands = Hands { store, opened: &opened, permit, ended: &ending.0 };
        match rounds.run(&hands).await {
            Some(Ok(())) => {}
            Some(Err(trouble)) => {
                if permit.check().is_err() {
                    return;
                }
                let reason = store.explain("purge", trouble).chain();
                tracing::warn!(export = store.export.name, reason, "purging the trash failed");
                store.invalidate(&opened);
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
            None => tokio::time::sleep(LONGEST_PAUSE).await,
        }
        let next = rounds.next(store);
        // Where the trash is large and much is removed, most of the time goes into other things than listing it.
        let pause = (rounds.took * PACE).min(LONGEST_PAUSE);
        tokio::time::sleep_until((Instant::now() + pause).min(next).into()).await;
        tokio::select! {
            () = store.trash.wake.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// So many rounds as make an end of whatever is due, without the pauses between them.
#[cfg(test)]
pub(super) async fn rounds_for_tests(store: &Arc<Store>, permit: &Permit) {
    let ending = StopOnDrop(Arc::new(AtomicBool::new(false)));
    for _ in 0..3 {
        let Ok(opened) = store.opened("purge").await else { return };
        let hands = Hands { store, opened: &opened, permit, ended: &ending.0 };
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            if !matches!(rounds.run(&hands).await, Some(Ok(()))) {
                break;
            }
        }
    }
}

/// Ends what runs when garbage is not collected any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

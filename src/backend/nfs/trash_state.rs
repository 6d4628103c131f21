//! What this process knows of the trash of one export: [`TrashState`].
//!
//! For metrics, and for what moved something there itself; what lies there is found out by `trash`.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::volume::{RelativePath, VolumeName};

/// So many purged volumes are remembered with their places, for calls that come late.
const REMEMBERED: usize = 4096;

/// What is in the trash of one export.
#[derive(Debug, Default)]
pub(super) struct TrashState {
    waiting: AtomicUsize,
    purged: AtomicU64,
    /// Wakes the loop that purges.
    pub(super) wake: Notify,
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
    purged: VecDeque<(VolumeName, RelativePath)>,
}

impl TrashState {
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
        self.state.lock().mine.insert(entry.to_owned());
    }

    /// Whether this process itself moved it to the trash.
    pub(super) fn is_mine(&self, entry: &str) -> bool {
        self.state.lock().mine.contains(entry)
    }

    /// The entries at the top of the export, by the names that they have there.
    pub(super) fn at_top(&self) -> Vec<String> {
        self.state.lock().at_top.iter().cloned().collect()
    }

    /// Notes an entry at the top of the export.
    pub(super) fn put_at_top(&self, name: &str) {
        self.state.lock().at_top.insert(name.to_owned());
    }

    /// Notes that an entry is gone.
    pub(super) fn taken(&self, path: &RelativePath) {
        if let [name] = &**path {
            self.state.lock().at_top.remove(name);
        }
    }

    pub(super) fn renamed(&self, from: &RelativePath, to: &RelativePath) {
        self.taken(from);
        if let [name] = &**to {
            self.put_at_top(name);
        }
    }

    /// Notes that the entry at `path` was purged; `removed`: as which volume, and where that was.
    pub(super) fn gone(
        &self,
        path: &RelativePath,
        entry: &str,
        removed: Option<(&VolumeName, &RelativePath)>,
    ) {
        self.taken(path);
        let mut state = self.state.lock();
        state.mine.remove(entry);
        if let Some((name, path)) = removed {
            state.purged.push_back((name.clone(), path.clone()));
            if state.purged.len() > REMEMBERED {
                state.purged.pop_front();
            }
        }
    }

    /// Where the volume of this name was that was purged.
    pub(super) fn place_of(&self, volume: &VolumeName) -> Option<RelativePath> {
        let state = self.state.lock();
        state.purged.iter().rev().find(|(name, _)| name == volume).map(|(_, place)| place.clone())
    }

    /// Shows how many entries there are, and what is stuck.
    pub(super) fn show(&self, waiting: usize, mut stuck: Vec<(String, String)>) {
        stuck.sort();
        self.waiting.store(waiting, Ordering::SeqCst);
        self.state.lock().stuck = stuck;
    }

    pub(super) fn counter(&self) -> &AtomicU64 {
        &self.purged
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    pub(super) fn stuck(&self) -> Vec<(String, String)> {
        self.state.lock().stuck.clone()
    }
}

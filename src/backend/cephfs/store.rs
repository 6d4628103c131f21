//! What this process knows of a cluster: [`Store`].
//!
//! Nothing in it is needed to be right: a new process starts with an empty one, and asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::info::Subvolume;
use crate::{
    backend::{
        StoreExpectation, StoreStatus,
        ceph::{Admin, Cluster, ClusterStore, ExpectedIdentity},
    },
    volume::VolumeName,
};

/// A cluster.
pub(super) struct Store {
    pub(super) cluster: Cluster,
    pub(super) identity: ExpectedIdentity,
    memory: Mutex<Memory>,
    /// Tells that something was deleted.
    pub(super) wake: Notify,
}

/// What was learnt of it.
#[derive(Default)]
pub(super) struct Memory {
    /// The admin of the last volume that was worked on, for work that no class asks for.
    pub(super) admin: Option<Admin>,
    /// The only file system, where the cluster has only one.
    pub(super) filesystem: Option<String>,
    /// The file systems and groups in which volumes of ours lie or may lie.
    pub(super) filesystems: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
    /// Where the volumes are that were made or found, and not committed.
    pub(super) uncommitted: BTreeMap<VolumeName, Subvolume>,
    /// Whose the subvolumes are whose name does not tell.
    pub(super) owners: BTreeMap<Subvolume, VolumeName>,
    /// Archived volumes that expire, and when: those that were archived in this term of leadership, and the others once they
    /// were looked for.
    pub(super) archives: BTreeMap<Subvolume, Option<SystemTime>>,
    /// When all that are marked were looked for.
    pub(super) marks_found: Option<Instant>,
    /// When what could not be done is tried again.
    pub(super) retry: Option<Instant>,
    /// Deleted volumes that wait for their purge, and when they are looked at next; `None` for never.
    pub(super) deleted: BTreeMap<Subvolume, Option<SystemTime>>,
    /// What is not signed, as far as it was met.
    pub(super) unsigned: BTreeSet<VolumeName>,
    /// The archived and deleted volumes that were found: one that a PV uses is to be so no more.
    pub(super) removed: BTreeSet<VolumeName>,
    /// What could not be done, and why.
    pub(super) stuck: BTreeMap<String, String>,
    /// Archived and deleted volumes that were purged.
    pub(super) purged: u64,
    /// By file system and group: which names may exist. Whatever is not among them did not when this term of leadership began,
    /// and no other program makes subvolumes that are named by the UID of a claim of ours.
    pub(super) present: BTreeMap<(String, String), Present>,
}

/// How a volume was removed that is still there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Removed {
    Deleted,
    Archived,
}

impl Removed {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Archived => "archived",
        }
    }
}

/// When a removed volume is looked at next (`None` in it: never); `None` where nothing is left to be done.
pub(super) type NextLook = Option<Option<SystemTime>>;

/// How often archives and deleted volumes are looked at where nothing is due.
pub(super) const LATER: Duration = Duration::from_mins(10);
/// How often all are looked for that are marked.
const LOOK: Duration = Duration::from_hours(1);

impl Memory {
    /// Whether all that are marked were looked for not long ago.
    pub(super) fn marks_are_known(&self) -> bool {
        self.marks_found.is_some_and(|found| found.elapsed() < LOOK)
    }

    /// The volumes that were removed so, and when they are looked at next.
    pub(super) fn waiting(&mut self, removed: Removed) -> &mut BTreeMap<Subvolume, Option<SystemTime>> {
        match removed {
            Removed::Deleted => &mut self.deleted,
            Removed::Archived => &mut self.archives,
        }
    }

    /// The removed volumes that are to be looked at now.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<(Removed, Subvolume)> {
        let mut due = Vec::new();
        for removed in [Removed::Deleted, Removed::Archived] {
            let waiting =
                self.waiting(removed).iter().filter(|(_, next)| next.is_some_and(|next| next <= now));
            due.extend(waiting.map(|(at, _)| (removed, at.clone())));
        }
        due
    }

    /// Notes what could not be done. There is an end to it: it is a list for people, and the log has all of it.
    pub(super) fn set_problem(&mut self, what: String, why: String) {
        const MOST: usize = 1000;
        if self.stuck.len() < MOST || self.stuck.contains_key(&what) {
            self.stuck.insert(what, why);
        }
    }
}

/// Names, of each of which only a hash is kept: one that is wrongly taken for present is looked for, no more.
#[derive(Default)]
pub(super) struct Present {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Present {
    /// Adds a name; whether it was not there.
    pub(super) fn insert(&mut self, name: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(name))
    }
}

impl ClusterStore for Store {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn expect(&self, expected: &StoreExpectation, _: Option<&Admin>) {
        self.identity.set(expected);
        let mut memory = self.memory();
        // The second segment of a location is the group. What an older provisioner made lies deeper.
        let ours = expected.places.iter().filter(|location| location.path.len() == 3);
        memory.groups.extend(ours.filter_map(|location| location.path.get(1).cloned()));
    }

    fn has_trash(&self) -> bool {
        !self.memory().deleted.is_empty()
    }

    fn end(&self) {
        // What waits for it lets it go.
        self.wake.notify_one();
    }
}

impl Store {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, identity: ExpectedIdentity::default(), memory: Mutex::default(), wake: Notify::new() }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    /// Remembers where volumes lie.
    pub(super) fn met(&self, fs: &str, group: &str) {
        let mut memory = self.memory();
        if !memory.filesystems.contains(fs) {
            memory.filesystems.insert(fs.to_owned());
        }
        if !memory.groups.contains(group) {
            memory.groups.insert(group.to_owned());
        }
    }

    /// Notes that others may have made anything in the meantime.
    pub(super) fn begin_term(&self) {
        let mut memory = self.memory();
        memory.present.clear();
        memory.archives.clear();
        for look in memory.deleted.values_mut() {
            *look = Some(SystemTime::UNIX_EPOCH);
        }
        memory.unsigned.clear();
        memory.removed.clear();
        memory.marks_found = None;
    }

    pub(super) fn status(&self) -> StoreStatus {
        let memory = self.memory();
        StoreStatus {
            // What waits in Ceph's own trash is not shown to anybody.
            trash: memory.deleted.len(),
            stuck: memory.stuck.iter().map(|(what, why)| (what.clone(), why.clone())).collect(),
            purged: memory.purged,
            ..self.cluster.status(self.identity.mismatch(&self.cluster).map_or(Ok(()), Err))
        }
    }
}

//! What this process knows of a cluster: [`Store`], and the hands that work on it, [`Work`].
//!
//! Nothing in it is needed to be right: a new process starts with an empty one, and asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{
    Admin,
    mark::{Mark, Marks, Owner},
    names,
    subvolumes::{At, Found, Subvolumes},
};
use crate::{
    backend::{Error, Kind, Kubernetes, StoreStatus, ceph::Cluster},
    system::guard::{Guards, Held},
    volume::{SecretName, VolumeName},
};

/// A cluster.
pub(super) struct Store {
    pub(super) cluster: Cluster,
    memory: Mutex<Memory>,
    /// Tells that something was deleted.
    pub(super) wake: Notify,
}

/// What the existing volumes say of a cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// The identity that it had when the newest of them was made.
    pub(super) identity: Option<String>,
    pub(super) groups: BTreeSet<String>,
}

/// What was learnt of it.
#[derive(Default)]
pub(super) struct Memory {
    /// The identity that it had when the newest volume was made.
    past: Option<String>,
    /// Why it is not the cluster that the existing volumes lie in.
    swapped: Option<String>,
    /// The admin of the last volume that was worked on, for work that no class asks for.
    pub(super) admin: Option<Admin>,
    /// The only file system, where the cluster has only one.
    pub(super) filesystem: Option<String>,
    /// The file systems and groups in which volumes of ours lie or may lie.
    pub(super) filesystems: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
    /// Where the volumes are that were made or found, and not committed.
    pub(super) uncommitted: BTreeMap<VolumeName, At>,
    /// Whose the subvolumes are whose name does not tell.
    pub(super) owners: BTreeMap<At, VolumeName>,
    /// Archived volumes that expire, and when: those that were archived in this term of leadership, and the others once they
    /// were looked for.
    pub(super) archives: BTreeMap<At, SystemTime>,
    /// When all that are marked were looked for.
    pub(super) marks_found: Option<Instant>,
    /// When what could not be done is tried again.
    pub(super) retry: Option<Instant>,
    /// Deleted volumes that wait for their purge, and when they are looked at next; `None` for never.
    pub(super) deleted: BTreeMap<At, Option<SystemTime>>,
    /// What is signed by nobody, as far as it was met.
    pub(super) unsigned: BTreeSet<VolumeName>,
    /// The archived and deleted volumes that were found: one that a PV uses is to be so no more.
    pub(super) removed: BTreeSet<VolumeName>,
    /// What could not be done, and why.
    pub(super) stuck: BTreeMap<String, String>,
    /// Archived and deleted volumes that were purged.
    pub(super) purged: u64,
    /// By file system and group: which names may exist. Whatever is not among them did not when this term of leadership began,
    /// and nobody else makes subvolumes that are named by the UID of a claim of ours.
    present: BTreeMap<(String, String), Present>,
}

/// How often all are looked for that are marked.
const LOOK: Duration = Duration::from_hours(1);

impl Memory {
    /// Whether all that are marked were looked for not long ago.
    pub(super) fn marks_are_known(&self) -> bool {
        self.marks_found.is_some_and(|found| found.elapsed() < LOOK)
    }

    /// Notes what could not be done. There is an end to it: it is a list for people, and the log has all of it.
    pub(super) fn stick(&mut self, what: String, why: String) {
        const MOST: usize = 1000;
        if self.stuck.len() < MOST || self.stuck.contains_key(&what) {
            self.stuck.insert(what, why);
        }
    }
}

/// Names, of each of which only a hash is kept: one that is wrongly taken for present is looked for, no more.
#[derive(Default)]
struct Present {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Present {
    /// Adds a name; whether it was not there.
    fn insert(&mut self, name: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(name))
    }
}

impl Store {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, memory: Mutex::default(), wake: Notify::new() }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Takes what the existing volumes say.
    pub(super) fn expect_store(&self, told: &Told) {
        let mut memory = self.memory();
        memory.past.clone_from(&told.identity);
        memory.groups.extend(told.groups.iter().cloned());
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
        let health = self.cluster.health();
        let memory = self.memory();
        StoreStatus {
            name: self.cluster.name().to_owned(),
            problems: if health.ready.is_ok() { health.problems } else { Vec::new() },
            ready: health.ready.and_then(|()| memory.swapped.clone().map_or(Ok(()), Err)),
            running: health.running,
            oldest: health.oldest,
            // What waits in Ceph's own trash is not shown to anybody.
            trash: memory.deleted.len(),
            stuck: memory.stuck.iter().map(|(what, why)| (what.clone(), why.clone())).collect(),
            purged: memory.purged,
        }
    }
}

/// Holds a volume, unless something is being done to it.
pub(super) fn hold(guards: &Guards<VolumeName>, name: &VolumeName) -> Result<Held<VolumeName>, Error> {
    guards.take(name).ok_or_else(|| {
        Error::new(Kind::Busy, format!("volume {name} is being worked on; it is tried again soon"))
    })
}

/// What is written on a subvolume, which stays so for as long as this is held.
pub(super) struct Marked {
    pub(super) marks: Marks,
    pub(super) mark: Mark,
    pub(super) name: VolumeName,
    _held: Held<VolumeName>,
}

/// A cluster, and the means to work on it.
pub(super) struct Work {
    pub(super) store: Arc<Store>,
    pub(super) host: Arc<dyn Kubernetes>,
    pub(super) subvolumes: Subvolumes,
    guards: Guards<VolumeName>,
}

impl Work {
    pub(super) async fn new(
        store: Arc<Store>,
        host: Arc<dyn Kubernetes>,
        admin: Admin,
        guards: Guards<VolumeName>,
    ) -> Result<Self, Error> {
        let subvolumes = Subvolumes::open(Arc::clone(&host), store.cluster.clone(), admin.clone()).await?;
        store.memory().admin = Some(admin);
        Ok(Self { store, host, subvolumes, guards })
    }

    /// What is written on a subvolume that is marked as this cluster's, while its volume is held: nothing else can be done to it.
    /// `None` where there is none.
    pub(super) async fn hold(&self, at: &At) -> Result<Option<Marked>, Error> {
        let mut name = names::volume_of(&at.name);
        loop {
            let held = name.as_ref().map(|name| hold(&self.guards, name)).transpose()?;
            let Found::Subvolume(metadata) = self.subvolumes.metadata(at).await? else { return Ok(None) };
            let marks = Marks::read(&metadata);
            let Owner::Claim(mark) = marks.owner.clone() else { return Ok(None) };
            if !mark.is_of(self.host.cluster_ids().as_ref()) {
                return Ok(None);
            }
            // Not every name tells of which volume it is.
            let owner = VolumeName::for_claim(&mark.uid)?;
            match held {
                Some(held) if name.as_ref() == Some(&owner) => {
                    return Ok(Some(Marked { marks, mark, name: owner, _held: held }));
                }
                Some(_) | None => name = Some(owner),
            }
        }
    }

    /// Forgets which file system is the only one where something that was asked for is not there.
    pub(super) fn invalidate<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            self.store.memory().filesystem = None;
        }
        result
    }

    /// The file system of that name, else the only one that there is, or the only one that has this subvolume group: a second file
    /// system does not stop what works with the first.
    pub(super) async fn filesystem(&self, named: Option<&str>, group: Option<&str>) -> Result<String, Error> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        if let Some(known) = self.store.memory().filesystem.clone() {
            return Ok(known);
        }
        let all = self.subvolumes.filesystems().await?;
        match all.as_slice() {
            [only] => {
                self.store.memory().filesystem = Some(only.clone());
                Ok(only.clone())
            }
            [] => {
                let message = format!(
                    "cluster {} has no file system; create one (ceph fs volume create NAME), or use another cluster",
                    self.store.cluster.name()
                );
                Err(Error::new(Kind::NotFound, message))
            }
            several => {
                let mut having = Vec::new();
                for fs in several {
                    if let Some(group) = group
                        && self.subvolumes.groups(fs).await?.iter().any(|there| there == group)
                    {
                        having.push(fs);
                    }
                }
                if let [only] = having.as_slice() {
                    return Ok((*only).clone());
                }
                let message = format!(
                    "cluster {} has several file systems; write one of them as class parameter fsName: {}",
                    self.store.cluster.name(),
                    several.join(", ")
                );
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }

    /// Whether the subvolume certainly does not exist; from now on it may.
    ///
    /// A list of the group, once in a term, spares asking for each name.
    pub(super) async fn is_new(&self, at: &At) -> Result<bool, Error> {
        let group = (at.fs.clone(), at.group.clone());
        if let Some(present) = self.store.memory().present.get_mut(&group) {
            return Ok(present.insert(&at.name));
        }
        let names = self.subvolumes.list(&at.fs, &at.group).await?;
        let mut memory = self.store.memory();
        let present = memory.present.entry(group).or_default();
        for name in names {
            present.insert(&name);
        }
        Ok(present.insert(&at.name))
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, Error> {
        let fsid = self.subvolumes.fsid().await?;
        let mut memory = self.store.memory();
        let past = memory.past.as_ref().filter(|past| **past != fsid);
        let swapped = past.map(|past| {
            format!(
                "cluster {} is not what it was: its identity (fsid) is {fsid}, the volumes' is {past}. Correct the monitors, or name the \
                 new cluster otherwise",
                self.store.cluster.name()
            )
        });
        memory.swapped.clone_from(&swapped);
        swapped.map_or(Ok(fsid), |why| Err(Error::new(Kind::Refused, why)))
    }

    /// Refuses a cluster that is not the one that the PV was made on.
    pub(super) async fn prove_identity(&self, recorded: Option<&str>) -> Result<(), Error> {
        let fsid = self.subvolumes.fsid().await?;
        let name = self.store.cluster.name();
        match recorded {
            Some(recorded) if recorded == fsid => Ok(()),
            Some(recorded) => Err(Error::new(
                Kind::Refused,
                format!(
                    "cluster {name} is {fsid}, but the volume was made on {recorded}; nothing was touched. Correct the monitors of \
                     {name}, or remove the PersistentVolume by hand if that cluster is gone"
                ),
            )),
            None => Err(Error::new(
                Kind::Refused,
                format!(
                    "the PersistentVolume does not say on which cluster its volume was made (cluster {name} is {fsid}); nothing was \
                     touched. Restore its annotation berth.storage/store-id"
                ),
            )),
        }
    }

    /// Forgets a Secret that we kept. One that is somebody else's by now is left to them.
    pub(super) async fn forget(&self, secret: &SecretName, owner: &VolumeName) -> Result<(), Error> {
        match self.host.delete(secret, owner).await {
            Err(error) if error.kind() == Kind::Refused => {
                tracing::warn!(%secret, volume = %owner, error = error.chain(), "a Secret was left where it is");
                let why = "it was not made by this provisioner; remove it by hand if nobody uses it";
                self.store.memory().stick(format!("Secret {secret}"), why.to_owned());
                Ok(())
            }
            result => result,
        }
    }
}

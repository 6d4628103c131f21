//! What an operation works with: [`ExportOp`] on one export, whose shared state is [`Context`].
//!
//! Nothing here opens an export or runs an operation; that is `store`.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    io,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;

use super::{
    export::Export,
    index::Index,
    op_error::{OpError, fail},
    record::{self, Marker},
    roots::{Invalidate, Roots},
    trash_state::TrashState,
};
use crate::{
    backend::{ClusterInfo, Error, Kind},
    system::{
        keyed_lock::{KeyedLock, KeyedLocks},
        pool::Pool,
        root::{Changes, Errno, Failure, Gate, Root, Step},
    },
    volume::{ClusterIds, Permit, VolumeName},
};

/// What all operations on one export share.
pub(super) struct Context {
    pub(super) export: Export,
    pub(super) kube: Arc<dyn ClusterInfo>,
    pub(super) roots: Arc<Roots>,
    pub(super) trash: TrashState,
    pub(super) index: Index,
    pub(super) pool: Pool,
    volumes: KeyedLocks<VolumeName>,
    /// The export's identity, once it is known; it stays so.
    pub(super) pinned: Mutex<Option<String>>,
    /// Whether this process has read all records once.
    pub(super) read_through: AtomicBool,
    /// What was told already.
    told: Mutex<BTreeSet<VolumeName>>,
    /// Has the root examined again.
    pub(super) invalidate: Arc<Invalidate>,
    /// Lets tests switch rules off.
    #[cfg(test)]
    pub(super) rules: super::tests::Rules,
    /// Lets tests break off an operation before any of its steps.
    #[cfg(test)]
    pub(super) interruption: super::tests::Interruption,
    /// Lets tests have a server that knows no hard links.
    #[cfg(test)]
    pub(super) without_links: AtomicBool,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("export", &self.export).finish_non_exhaustive()
    }
}

/// A root that was found to be the right one.
pub(super) struct Opened {
    pub(super) root: Root,
    /// Its identity; `None` until something is first made on it.
    pub(super) identity: Mutex<Option<String>>,
    /// Whether our own directories are there.
    pub(super) layout_ready: AtomicBool,
    /// Whether the places of all volumes are noted. It begins so where there is no volume yet.
    pub(super) mirrored: AtomicBool,
}

/// What an operation works with, on a thread of the pool.
pub(super) struct ExportOp<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) opened: &'a Opened,
    pub(super) root: &'a Root,
    pub(super) changes: Changes<'a>,
}

/// A rule that keeps data from being lost. Tests switch one off to show what it is for; the product cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// What another cluster recorded is not touched.
    Cluster,
    /// What lies at, above or below a volume is asked of the storage, and archives are places that nothing gets.
    Places,
    /// What was learned of an export once holds for the life of the process, and no two are the same.
    Identity,
    /// What is moved and purged is the directory that was proved to be the volume's.
    Inode,
    /// Nothing is purged before the API server says that its PV is gone.
    PvState,
}

impl Context {
    /// The context of an export; `invalidate` has its root examined again.
    pub(super) fn new(
        export: Export,
        kube: Arc<dyn ClusterInfo>,
        roots: Arc<Roots>,
        invalidate: Arc<Invalidate>,
    ) -> Self {
        let pool = Pool::new(format!("nfs-{}", export.name), export.threads, export.deadline);
        Self {
            export,
            kube,
            roots,
            trash: TrashState::default(),
            index: Index::default(),
            pool,
            volumes: KeyedLocks::default(),
            pinned: Mutex::default(),
            read_through: AtomicBool::new(false),
            told: Mutex::default(),
            invalidate,
            #[cfg(test)]
            rules: super::tests::Rules::default(),
            #[cfg(test)]
            interruption: super::tests::Interruption::default(),
            #[cfg(test)]
            without_links: AtomicBool::new(false),
        }
    }

    /// Learns the identity of the export, unless another one is known; tells the one that is.
    pub(super) fn pin(&self, identity: &str) -> String {
        self.pinned.lock().get_or_insert_with(|| identity.to_owned()).clone()
    }

    /// Lets nobody else work on the volume.
    pub(super) fn try_lock(&self, name: &VolumeName) -> Result<KeyedLock<VolumeName>, Error> {
        self.volumes.try_lock(name).ok_or_else(|| {
            let mut message = format!("volume {name} on export {} is being worked on", self.export.name);
            if let Some((what, age)) = self.pool.running().oldest {
                let _ = write!(message, "; the longest operation there is {what}, since {}s", age.as_secs());
            }
            Error::new(Kind::Busy, message)
        })
    }

    /// Whether any volume is being worked on.
    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// Whether a rule holds: always, but in tests that switch it off.
    #[cfg(test)]
    pub(super) fn enforces(&self, rule: Rule) -> bool {
        self.rules.enforced(rule)
    }

    /// Whether a rule holds: always, but in tests that switch it off.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests switch rules off for one store")]
    pub(super) const fn enforces(&self, _: Rule) -> bool {
        true
    }

    /// Asked directly before every change.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests interrupt a store's steps here"))]
    #[cfg_attr(not(test), expect(unused_variables, reason = "likewise"))]
    pub(super) fn gate(&self, permit: &Permit, step: &Step<'_>) -> io::Result<()> {
        permit.check().map_err(io::Error::other)?;
        #[cfg(test)]
        self.interruption.step(step)?;
        Ok(())
    }

    /// Whether this is the first time that something is told of the volume.
    pub(super) fn tell_once(&self, name: &VolumeName) -> bool {
        self.told.lock().insert(name.clone())
    }

    /// Runs `work` on an opened root, if that is still the one at the export's path.
    pub(super) fn work<T>(
        self: &Arc<Self>,
        opened: &Opened,
        gate: Gate<'_>,
        work: impl FnOnce(&ExportOp<'_>) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let root = &opened.root;
        if !root.is_current()? {
            return Err(
                Failure { step: "look at", path: root.path().into(), cause: Errno::ESTALE.into() }.into()
            );
        }
        work(&ExportOp { context: self, opened, root, changes: root.changing(gate) })
    }
}

impl ExportOp<'_> {
    /// The cluster that this process works for, where it is known.
    pub(super) fn cluster(&self) -> Option<ClusterIds> {
        self.context.kube.cluster_ids()
    }

    /// The identity of the cluster that records are signed with, where it is known.
    pub(super) fn signature(&self) -> Option<String> {
        self.cluster().map(|ids| ids.current().to_owned())
    }

    /// The inode of our own directory: after the export was copied it is another one.
    pub(super) fn base(&self) -> Result<u64, OpError> {
        Ok(self.root.see(&[record::BASE])?.map_or(0, |seen| seen.inode))
    }

    /// The record of a volume in `folder`. One that cannot be read is an error: nobody knows what it protects. An inode that
    /// was noted before the export was copied is left out.
    pub(super) fn marker(&self, folder: &str, name: &VolumeName) -> Result<Option<Marker>, OpError> {
        let Some(mut marker) = self.record(folder, name)? else { return Ok(None) };
        if marker.id.store() != self.context.export.name {
            let path = self.root.path().join(record::file(folder, name).to_string());
            let message = format!("the record {} is of another volume, {}", path.display(), marker.id);
            return fail(Kind::Refused, message);
        }
        if marker.inode.is_some() && marker.base.is_some() {
            marker.inode = marker.inode_in(self.base()?);
        }
        Ok(Some(marker))
    }

    /// The same, also of a cluster that calls the export by another name.
    pub(super) fn record(&self, folder: &str, name: &VolumeName) -> Result<Option<Marker>, OpError> {
        let file = record::file(folder, name);
        let Some(content) = self.root.read_fresh(&file)? else { return Ok(None) };
        let path = || self.root.path().join(file.to_string());
        match Marker::from_json(&content.bytes) {
            Ok(marker) if marker.id.name() == name => Ok(Some(marker)),
            Ok(marker) => fail(
                Kind::Refused,
                format!("the record {} is of another volume, {}", path().display(), marker.id),
            ),
            Err(why) => {
                let advice = "repair it, or remove it if the volume is gone";
                fail(
                    Kind::Refused,
                    format!("the record {} cannot be read: {why}; {advice}", path().display()),
                )
            }
        }
    }
}

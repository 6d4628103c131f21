//! One export at work: [`Store`] opens its root, proves that it is the right one, and runs operations on it.
//!
//! The root is examined on a thread of its own, never by an operation: an operation waits for the outcome at most for its
//! deadline. What was refused is examined again every few seconds until it is right. What the operations do is in
//! `create` and `remove`, what makes a root the right one in `identity`.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    export::Export,
    identity::Roots,
    index::Index,
    record::{self, Marker},
    trash::Trash,
    usability::{self, Usability},
};
use crate::{
    backend::{Error, Host, Kind, StoreExpectation, StoreStatus},
    system::{
        guard::{Guards, Held},
        pool::{Lost, Pool},
        root::{Changes, Errno, Failure, Gate, NotAFile, Root, Step},
    },
    volume::{ClusterIds, Expired, Permit, VolumeName},
};

/// How long a refused root is left before it is examined again.
const AGAIN: Duration = Duration::from_secs(3);

/// One export.
pub(super) struct Store {
    pub(super) export: Export,
    pub(super) host: Arc<dyn Host>,
    pub(super) roots: Arc<Roots>,
    pub(super) trash: Trash,
    pub(super) index: Index,
    pool: Pool,
    volumes: Guards<VolumeName>,
    health: Mutex<Health>,
    /// Whether this process has read all records once.
    pub(super) read_through: AtomicBool,
    /// What was told already.
    told: Mutex<BTreeSet<VolumeName>>,
    pub(super) usability: Arc<Usability>,
    /// Changes whenever `health` does.
    changed: watch::Sender<()>,
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("export", &self.export).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.usability.end();
    }
}

struct Health {
    past: Option<StoreExpectation>,
    /// The export's identity, once it is known; it stays so.
    pinned: Option<String>,
    state: State,
    /// Since when the root is being examined, while it is.
    examining: Option<Instant>,
    /// Counts what makes an examination that is running worthless.
    epoch: u64,
}

enum State {
    /// Nobody has told what the existing volumes say.
    Uninitialised,
    /// It is being examined.
    Unknown,
    /// It can be used.
    Open(Arc<Opened>),
    /// It cannot be used, for this reason.
    Refused(String),
}

/// A root that was found to be the right one.
pub(super) struct Opened {
    pub(super) root: Root,
    /// Its identity; `None` until something is first made on it.
    pub(super) identity: Mutex<Option<String>>,
    /// Whether our own directories are there.
    pub(super) furnished: AtomicBool,
    /// Whether the places of all volumes are noted. It begins so where there is no volume yet.
    pub(super) mirrored: AtomicBool,
}

/// What an operation works with, on a thread of the pool.
pub(super) struct Work<'a> {
    pub(super) store: &'a Arc<Store>,
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

/// Why an operation stopped.
pub(super) enum OpError {
    /// A step failed; what kind of failure it is follows from the errno.
    Step(Failure),
    /// The operation itself says so.
    Said(Error),
}

impl From<Failure> for OpError {
    fn from(failure: Failure) -> Self {
        Self::Step(failure)
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl From<crate::volume::Invalid> for OpError {
    fn from(invalid: crate::volume::Invalid) -> Self {
        Self::Said(invalid.into())
    }
}

/// An error that the operation itself reports.
pub(super) fn fail<T>(kind: Kind, message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Said(Error::new(kind, message)))
}

impl Store {
    pub(super) fn new(export: Export, host: Arc<dyn Host>, roots: Arc<Roots>) -> Arc<Self> {
        let pool = Pool::new(format!("nfs-{}", export.name), export.threads, export.deadline);
        Arc::new(Self {
            export,
            host,
            roots,
            trash: Trash::default(),
            index: Index::default(),
            pool,
            volumes: Guards::default(),
            health: Mutex::new(Health {
                past: None,
                pinned: None,
                state: State::Uninitialised,
                examining: None,
                epoch: 0,
            }),
            read_through: AtomicBool::new(false),
            told: Mutex::default(),
            usability: Arc::default(),
            changed: watch::Sender::new(()),
            #[cfg(test)]
            rules: super::tests::Rules::default(),
            #[cfg(test)]
            interruption: super::tests::Interruption::default(),
            #[cfg(test)]
            without_links: AtomicBool::new(false),
        })
    }

    /// Takes what the existing volumes say, and examines the root by it. Told again, at the beginning of a term, what they
    /// say by then counts; an identity that was known before is not forgotten.
    pub(super) fn expect_store(self: &Arc<Self>, past: StoreExpectation) {
        let mut health = self.health();
        if health.pinned.is_none() {
            health.pinned.clone_from(&past.identity);
        }
        health.past = Some(past);
        self.examine_again(health);
    }

    /// Learns the identity of the export, unless another one is known; tells the one that is.
    pub(super) fn pin(&self, identity: &str) -> String {
        self.health().pinned.get_or_insert_with(|| identity.to_owned()).clone()
    }

    /// Lets nobody else work on the volume.
    pub(super) fn hold(&self, name: &VolumeName) -> Result<Held<VolumeName>, Error> {
        self.volumes.take(name).ok_or_else(|| {
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

    /// Runs `work` on the root, on a thread of the export's pool, at most until the deadline. `held` is held until the
    /// work really returns.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        held: Option<Held<VolumeName>>,
        permit: &Permit,
        work: impl FnOnce(&Work<'_>) -> Result<T, OpError> + Send + 'static,
    ) -> Result<T, Error> {
        let opened = self.opened(&what).await?;
        let (store, permit) = (Arc::clone(self), permit.clone());
        let worked = self.pool.run(what.clone(), move || {
            let _held = held;
            let gate = |step: &Step<'_>| store.gate(&permit, step);
            let result = store.work(&opened, &gate, work);
            store.look_closer(&opened, &result);
            store.usability.note(&result, &permit);
            result
        });
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(trouble)) => Err(self.explain(&what, trouble)),
            Err(lost) => {
                let (Lost::Late { .. } | Lost::Crowded { .. } | Lost::Broken { .. }) = &lost;
                Err(Error::caused_by(Kind::Unavailable, self.on(&what), lost))
            }
        }
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

    pub(super) fn work<T>(
        self: &Arc<Self>,
        opened: &Opened,
        gate: Gate<'_>,
        work: impl FnOnce(&Work<'_>) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let root = &opened.root;
        if !root.is_current()? {
            return Err(
                Failure { step: "look at", path: root.path().into(), cause: Errno::ESTALE.into() }.into()
            );
        }
        work(&Work { store: self, opened, root, changes: root.changing(gate) })
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

    /// Examines the root anew where a failure says that it may not be what it was.
    fn look_closer<T>(self: &Arc<Self>, opened: &Arc<Opened>, result: &Result<T, OpError>) {
        let Err(OpError::Step(failure)) = result else { return };
        if matches!(failure.errno(), Some(Errno::ESTALE | Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN)) {
            self.invalidate(opened);
        }
    }

    /// Whether operations use `opened`.
    pub(super) fn uses(&self, opened: &Arc<Opened>) -> bool {
        matches!(&self.health().state, State::Open(current) if Arc::ptr_eq(current, opened))
    }

    /// Lets nobody use `opened` any more.
    pub(super) fn invalidate(self: &Arc<Self>, opened: &Arc<Opened>) {
        let health = self.health();
        if matches!(&health.state, State::Open(current) if Arc::ptr_eq(current, opened)) {
            self.examine_again(health);
        }
    }

    /// Whether this is the first time that something is told of the volume.
    pub(super) fn tell_once(&self, name: &VolumeName) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone())
    }

    /// Lets nobody use the root that is open now, if one is.
    pub(super) fn doubt_current(self: &Arc<Self>) {
        let health = self.health();
        if matches!(health.state, State::Open(_)) {
            self.examine_again(health);
        }
    }

    /// The root, once it is known to be the right one.
    pub(super) async fn opened(&self, what: &str) -> Result<Arc<Opened>, Error> {
        let unavailable =
            |why: String| Err(Error::new(Kind::Unavailable, format!("{}: {why}", self.on(what))));
        let mut changed = self.changed.subscribe();
        let wait = tokio::time::sleep(self.export.deadline);
        tokio::pin!(wait);
        loop {
            changed.mark_unchanged();
            let refusal = match &self.health().state {
                State::Open(opened) => return Ok(Arc::clone(opened)),
                State::Refused(why) => Some(why.clone()),
                State::Uninitialised => Some("the PersistentVolumes have not been listed yet".into()),
                State::Unknown => None,
            };
            if let Some(why) = refusal {
                return unavailable(why);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = &mut wait => return unavailable(self.silent(self.export.deadline)),
            }
        }
    }

    fn silent(&self, after: Duration) -> String {
        let Export { server, path, root, .. } = &self.export;
        format!(
            "opening {} (mount of {server}:{path}) has not returned after {}s; the server does not answer",
            root.display(),
            after.as_secs()
        )
    }

    fn on(&self, what: &str) -> String {
        format!("{what} on export {}", self.export.name)
    }

    /// The state as readiness and metrics show it.
    pub(super) fn status(&self) -> StoreStatus {
        let running = self.pool.running();
        let mut ready = {
            let health = self.health();
            match (&health.state, health.examining) {
                (State::Open(_), _) => self.usability.verdict(self.export.deadline),
                (State::Refused(why), _) => Err(why.clone()),
                (State::Uninitialised, _) => Err("the PersistentVolumes have not been listed yet".into()),
                (State::Unknown, Some(since)) if since.elapsed() >= self.export.deadline => {
                    Err(self.silent(since.elapsed()))
                }
                (State::Unknown, _) => Err(format!("{} is being opened", self.export.root.display())),
            }
        };
        if let Some((what, age)) = &running.oldest
            && *age >= self.export.deadline
            && ready.is_ok()
        {
            ready =
                Err(format!("{what} has not returned after {}s; the server may not answer", age.as_secs()));
        }
        StoreStatus {
            name: self.export.name.clone(),
            ready,
            problems: Vec::new(),
            running: running.count,
            oldest: running.oldest,
            trash: self.trash.waiting(),
            stuck: self.trash.stuck(),
            purged: self.trash.purged(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the state be found out anew: by a thread for it, or by the one that is at it already.
    fn examine_again(self: &Arc<Self>, mut health: MutexGuard<'_, Health>) {
        health.epoch += 1;
        health.state = State::Unknown;
        let begin = health.examining.is_none();
        if begin {
            health.examining = Some(Instant::now());
        }
        drop(health);
        self.changed.send_replace(());
        if begin {
            let store = Arc::downgrade(self);
            let thread = thread::Builder::new().name(format!("open-{}", self.export.name));
            if let Err(error) = thread.spawn(move || {
                if let Some(opened) = examine_until_right(&store) {
                    usability::follow(&store, &opened);
                }
            }) {
                let mut health = self.health();
                health.examining = None;
                health.state = State::Refused(format!("there is no thread to open it: {error}"));
            }
        }
    }

    /// Puts what is known of a failure into words that help.
    pub(super) fn explain(&self, what: &str, trouble: OpError) -> Error {
        let failure = match trouble {
            OpError::Said(error) => return error,
            OpError::Step(failure) => failure,
        };
        let inner = failure.cause.get_ref();
        if inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Expired>) {
            return Expired.into();
        }
        if inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotAFile>) {
            let hint = "something else than a file is where berth keeps its records; move it away";
            return Error::caused_by(Kind::Refused, format!("{}: {hint}", self.on(what)), failure);
        }
        let (kind, hint) = match failure.errno() {
            Some(Errno::EACCES | Errno::EPERM) => (
                Kind::Unavailable,
                "the server does not allow it; export with no_root_squash, or let the directory belong to the user that \
                 the server maps berth to",
            ),
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EMLINK) => {
                (Kind::Exhausted, "no space, no quota or no inodes are left")
            }
            Some(Errno::EROFS) => {
                (Kind::Unavailable, "the export is read-only; mount and export it read-write")
            }
            Some(Errno::ENAMETOOLONG) => (Kind::Invalid, "a name is longer than the file system takes"),
            Some(Errno::ESTALE | Errno::ENODEV | Errno::ENOTCONN) => {
                (Kind::Unavailable, "the mount is stale; it is being opened again")
            }
            Some(Errno::ENOENT) => {
                (Kind::Unavailable, "something disappeared meanwhile; it is being looked at again")
            }
            Some(Errno::ELOOP) => {
                (Kind::Refused, "a part of the path is a symbolic link, which is not followed")
            }
            Some(Errno::ENOTDIR) => (Kind::Refused, "a part of the path is not a directory"),
            Some(Errno::EXDEV) => (
                Kind::Refused,
                "a part of the path is in another file system that is mounted there, such as a ZFS dataset or a btrfs \
                 subvolume; configure that as an export of its own",
            ),
            Some(Errno::EFBIG) => (Kind::Refused, "a file is bigger than any record; move it away"),
            Some(Errno::EBUSY) => (Kind::InUse, "it is in use or a mount point"),
            Some(
                Errno::EIO | Errno::ETIMEDOUT | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM,
            ) => (Kind::Unavailable, "the outcome is unknown"),
            Some(_) | None => (Kind::Internal, "unexpected failure"),
        };
        Error::caused_by(kind, format!("{}: {hint}", self.on(what)), failure)
    }
}

/// Looks at a root until it is the right one, and returns it; `None` when nobody needs it any more.
fn examine_until_right(store: &Weak<Store>) -> Option<Weak<Opened>> {
    loop {
        {
            let store = store.upgrade()?;
            let (past, pinned, epoch) = {
                let mut health = store.health();
                health.examining = Some(Instant::now());
                (health.past.clone(), health.pinned.clone(), health.epoch)
            };
            let past = past?;
            let outcome = store.verify(&past, pinned.as_deref());
            let mut health = store.health();
            if health.epoch != epoch {
                continue;
            }
            match outcome {
                Ok(opened) => {
                    let opened = Arc::new(opened);
                    if health.pinned.is_none() {
                        health.pinned = opened.identity();
                    }
                    health.state = State::Open(Arc::clone(&opened));
                    health.examining = None;
                    drop(health);
                    tracing::info!(export = store.export.name, "export is ready");
                    store.changed.send_replace(());
                    return Some(Arc::downgrade(&opened));
                }
                Err(why) => {
                    if !matches!(&health.state, State::Refused(known) if *known == why) {
                        tracing::warn!(export = store.export.name, reason = why, "export cannot be used");
                    }
                    health.state = State::Refused(why);
                    drop(health);
                    store.changed.send_replace(());
                }
            }
        }
        // Short steps, so that what was told meanwhile counts soon and the thread ends soon after its store.
        let until = Instant::now() + AGAIN;
        while Instant::now() < until {
            thread::sleep(AGAIN / 30);
            let store = store.upgrade()?;
            if matches!(store.health().state, State::Unknown) {
                break;
            }
        }
    }
}

impl Work<'_> {
    /// The cluster that this process works for, where it is known.
    pub(super) fn cluster(&self) -> Option<ClusterIds> {
        self.store.host.cluster()
    }

    /// The inode of our own directory: after the export was copied it is another one.
    pub(super) fn base(&self) -> Result<u64, OpError> {
        Ok(self.root.see(&[record::BASE])?.map_or(0, |seen| seen.inode))
    }

    /// The record of a volume in `folder`. One that cannot be read is an error: nobody knows what it protects. An inode that
    /// was noted before the export was copied is left out.
    pub(super) fn marker(&self, folder: &str, name: &VolumeName) -> Result<Option<Marker>, OpError> {
        let Some(mut marker) = self.record(folder, name)? else { return Ok(None) };
        if marker.id.store() != self.store.export.name {
            let path = self.root.path().join(record::file(folder, name).join("/"));
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
        let path = || self.root.path().join(file.join("/"));
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

//! One export at work: [`Store`] opens its root, proves that it is the right one, and runs operations on it.
//!
//! The root is examined on a thread of its own, never by an operation: an operation waits for the outcome at most for its
//! deadline. What was refused is examined again every few seconds until it is right. What the operations do is in
//! `create` and `remove`.

use std::{
    fmt::{self, Write as _},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    export::Export,
    index::Index,
    record::{self, Identity, Marker},
    trash::Trash,
};
use crate::{
    backend::{Error, Host, Kind, Past, StoreStatus},
    system::{
        guard::{Guards, Held},
        pool::{Lost, Pool},
        root::{Changes, Entry, Errno, Failure, Gate, Root, Step},
    },
    volume::{ClusterIds, Expired, Permit, VolumeName},
};

/// How long a refused root is left before it is examined again.
const AGAIN: Duration = Duration::from_secs(3);

/// How many places of existing volumes are looked for, where no identity tells whether a root is the right one.
const PLACES: usize = 16;

/// One export.
pub(super) struct Store {
    pub(super) export: Export,
    pub(super) host: Arc<dyn Host>,
    pub(super) trash: Trash,
    pub(super) index: Index,
    pool: Pool,
    volumes: Guards<VolumeName>,
    health: Mutex<Health>,
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

struct Health {
    past: Option<Past>,
    state: State,
    /// Since when the root is being examined, while it is.
    examining: Option<Instant>,
    /// Counts what makes an examination that is running worthless.
    epoch: u64,
}

enum State {
    /// Nobody has told what the existing volumes say.
    Untold,
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
    identity: Mutex<Option<String>>,
    /// Whether our own directories are there.
    furnished: AtomicBool,
    /// Whether the places of all volumes are noted. It begins so where there is no volume yet.
    pub(super) mirrored: AtomicBool,
}

/// What an operation works with, on a thread of the pool.
pub(super) struct Work<'a> {
    pub(super) store: &'a Store,
    pub(super) opened: &'a Opened,
    pub(super) root: &'a Root,
    pub(super) changes: Changes<'a>,
}

/// A rule that keeps data from being lost. Tests switch one off to show what it is for; the product cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// What another cluster recorded is not touched.
    Cluster,
    /// What lies at, above or below a volume is asked of the storage.
    Places,
    /// What is moved and purged is the directory that was proved to be the volume's.
    Inode,
    /// Nothing is purged before the API server says that its PV is gone.
    PvState,
}

/// Why an operation stopped.
pub(super) enum Trouble {
    /// A step failed; what kind of failure it is follows from the errno.
    Step(Failure),
    /// The operation itself says so.
    Said(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Step(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl From<crate::volume::Invalid> for Trouble {
    fn from(invalid: crate::volume::Invalid) -> Self {
        Self::Said(invalid.into())
    }
}

/// An error that the operation itself reports.
pub(super) fn said<T>(kind: Kind, message: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Said(Error::new(kind, message)))
}

impl Store {
    pub(super) fn new(export: Export, host: Arc<dyn Host>) -> Arc<Self> {
        let pool = Pool::new(format!("nfs-{}", export.name), export.threads, export.deadline);
        Arc::new(Self {
            export,
            host,
            trash: Trash::default(),
            index: Index::default(),
            pool,
            volumes: Guards::default(),
            health: Mutex::new(Health { past: None, state: State::Untold, examining: None, epoch: 0 }),
            changed: watch::Sender::new(()),
            #[cfg(test)]
            rules: super::tests::Rules::default(),
            #[cfg(test)]
            interruption: super::tests::Interruption::default(),
            #[cfg(test)]
            without_links: AtomicBool::new(false),
        })
    }

    /// Takes what the existing volumes say, and examines the root by it.
    pub(super) fn remember(self: &Arc<Self>, past: Past) {
        let mut health = self.health();
        health.past = Some(past);
        self.examine_again(health);
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

    /// Runs `work` on the root, on a thread of the export's pool, at most until the deadline. `held` is held until the
    /// work really returns.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        held: Option<Held<VolumeName>>,
        permit: &Permit,
        work: impl FnOnce(&Work<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Error> {
        let opened = self.opened(&what).await?;
        let (store, permit) = (Arc::clone(self), permit.clone());
        let worked = self.pool.run(what.clone(), move || {
            let _held = held;
            let gate = |step: &Step<'_>| store.gate(&permit, step);
            let result = store.work(&opened, &gate, work);
            store.look_closer(&opened, &result);
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
        &self,
        opened: &Opened,
        gate: Gate<'_>,
        work: impl FnOnce(&Work<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
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
    fn look_closer<T>(self: &Arc<Self>, opened: &Arc<Opened>, result: &Result<T, Trouble>) {
        let Err(Trouble::Step(failure)) = result else { return };
        if matches!(failure.errno(), Some(Errno::ESTALE | Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN)) {
            self.doubt(opened);
        }
    }

    /// Lets nobody use `opened` any more.
    pub(super) fn doubt(self: &Arc<Self>, opened: &Arc<Opened>) {
        let health = self.health();
        if matches!(&health.state, State::Open(current) if Arc::ptr_eq(current, opened)) {
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
                State::Untold => Some("nobody has told yet which volumes exist".into()),
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
                (State::Open(_), _) => Ok(()),
                (State::Refused(why), _) => Err(why.clone()),
                (State::Untold, _) => Err("nobody has told yet which volumes exist".into()),
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
            if let Err(error) = thread.spawn(move || examine_until_right(&store)) {
                let mut health = self.health();
                health.examining = None;
                health.state = State::Refused(format!("there is no thread to open it: {error}"));
            }
        }
    }

    /// Finds out whether the directory at the root's path is the export that it was.
    fn examine(&self, past: &Past) -> Result<Opened, String> {
        let Export { root: path, server, path: exported, require_mount, .. } = &self.export;
        let told = |failure: Failure| Error::caused_by(Kind::Unavailable, "cannot be used", failure).chain();
        let root = Root::open(path).map_err(|failure| match failure.errno() {
            Some(Errno::ENOENT) => {
                format!("{} does not exist; mount {server}:{exported} there", path.display())
            }
            Some(_) | None => told(failure),
        })?;
        if *require_mount && !root.is_mount_point().map_err(told)? {
            return Err(format!("{} is not a mount point; mount {server}:{exported} there", path.display()));
        }
        let file = path.join(record::BASE).join("export.json");
        let identity = match root.read(&record::export_file()).map_err(told)? {
            Some(content) => Some(
                Identity::from_json(&content.bytes)
                    .map_err(|why| format!("{} cannot be read: {why}; restore it", file.display()))?,
            ),
            None => None,
        };
        let not_what_it_was = |found: &str| {
            format!(
                "the directory at {} is not what it was: {found}. Mount the export that holds the existing volumes",
                path.display()
            )
        };
        let mirrored = identity.as_ref().is_some_and(|identity| identity.mirrored);
        let identity = identity.map(|identity| identity.id);
        match (&identity, &past.identity) {
            (Some(found), Some(known)) if found != known => {
                return Err(not_what_it_was(&format!("its identity is {found}, the volumes' is {known}")));
            }
            (None, Some(known)) => {
                return Err(not_what_it_was(&format!(
                    "{} with the identity {known} is missing",
                    file.display()
                )));
            }
            (Some(_), Some(_) | None) => {}
            (None, None) => {
                let mut missing = None;
                let mut found = false;
                let places = past.places.iter().filter(|place| place.store == self.export.name);
                for place in places.take(PLACES) {
                    if root.entry(&place.segments).is_ok_and(|entry| entry == Entry::Directory) {
                        found = true;
                        break;
                    }
                    missing.get_or_insert(place);
                }
                if let (Some(place), false) = (missing, found) {
                    let place = place.segments.join("/");
                    return Err(not_what_it_was(&format!(
                        "{place} and other directories of volumes are missing"
                    )));
                }
            }
        }
        Ok(Opened {
            root,
            identity: Mutex::new(identity),
            furnished: AtomicBool::new(false),
            mirrored: AtomicBool::new(mirrored),
        })
    }

    /// Puts what is known of a failure into words that help.
    pub(super) fn explain(&self, what: &str, trouble: Trouble) -> Error {
        let failure = match trouble {
            Trouble::Said(error) => return error,
            Trouble::Step(failure) => failure,
        };
        if failure.cause.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Expired>) {
            return Expired.into();
        }
        let (kind, hint) = match failure.errno() {
            Some(Errno::EACCES | Errno::EPERM) => (
                Kind::Unavailable,
                "the server does not allow it; export with no_root_squash, or let the directory belong to the user as \
                 whom berth appears there",
            ),
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EMLINK) => {
                (Kind::Exhausted, "no space or quota is left")
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
            Some(Errno::EXDEV) => (Kind::Refused, "another file system is mounted within the path"),
            Some(Errno::EBUSY) => (Kind::InUse, "it is in use or a mount point"),
            Some(
                Errno::EIO | Errno::ETIMEDOUT | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM,
            ) => (Kind::Unavailable, "the outcome is unknown"),
            Some(_) | None => (Kind::Internal, "unexpected failure"),
        };
        Error::caused_by(kind, format!("{}: {hint}", self.on(what)), failure)
    }
}

/// What the thread does that examines a root: returns when it is right, or when nobody needs it any more.
fn examine_until_right(store: &Weak<Store>) {
    loop {
        {
            let Some(store) = store.upgrade() else { return };
            let (past, epoch) = {
                let mut health = store.health();
                health.examining = Some(Instant::now());
                (health.past.clone(), health.epoch)
            };
            let Some(past) = past else { return };
            let outcome = store.examine(&past);
            let mut health = store.health();
            if health.epoch != epoch {
                continue;
            }
            match outcome {
                Ok(opened) => {
                    health.state = State::Open(Arc::new(opened));
                    health.examining = None;
                    drop(health);
                    tracing::info!(export = store.export.name, "export is ready");
                    store.changed.send_replace(());
                    return;
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
            let Some(store) = store.upgrade() else { return };
            if matches!(store.health().state, State::Unknown) {
                break;
            }
        }
    }
}

impl Work<'_> {
    /// The export's identity, and our own directories on it: both are made when they are first needed.
    pub(super) fn furnish(&self) -> Result<String, Trouble> {
        let mut identity = self.opened.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.opened.furnished.load(Ordering::SeqCst) {
            self.changes.make_directory(&[record::BASE], 0o700)?;
            for folder in record::FOLDERS {
                self.changes.make_directory(&[record::BASE, folder], 0o700)?;
            }
            self.opened.furnished.store(true, Ordering::SeqCst);
        }
        if let Some(identity) = &*identity {
            return Ok(identity.clone());
        }
        let file = record::export_file();
        let found = if let Some(content) = self.root.read(&file)? {
            Identity::from_json(&content.bytes).or_else(|why| {
                let file = self.root.path().join(file.join("/"));
                said(Kind::Refused, format!("{} cannot be read: {why}", file.display()))
            })?
        } else {
            let new = Identity::new();
            self.changes.write(&file, &new.to_json())?;
            new
        };
        self.opened.mirrored.store(found.mirrored, Ordering::SeqCst);
        *identity = Some(found.id.clone());
        Ok(found.id)
    }

    /// The cluster that this process works for, where it is known.
    pub(super) fn cluster(&self) -> Option<ClusterIds> {
        self.store.host.cluster()
    }

    /// The inode of our own directory: after the export was copied it is another one.
    pub(super) fn base(&self) -> Result<u64, Trouble> {
        Ok(self.root.see(&[record::BASE])?.map_or(0, |seen| seen.inode))
    }

    /// The record of a volume in `folder`. One that cannot be read is an error: nobody knows what it protects.
    pub(super) fn marker(&self, folder: &str, name: &VolumeName) -> Result<Option<Marker>, Trouble> {
        let file = record::file(folder, name);
        let Some(content) = self.root.read_fresh(&file)? else { return Ok(None) };
        match Marker::from_json(&content.bytes) {
            Ok(marker) if marker.id.name() == name && marker.id.store() == self.store.export.name => {
                Ok(Some(marker))
            }
            Ok(marker) => {
                let path = self.root.path().join(file.join("/"));
                said(
                    Kind::Refused,
                    format!("the record {} is of another volume, {}", path.display(), marker.id),
                )
            }
            Err(why) => {
                let path = self.root.path().join(file.join("/"));
                let advice = "repair it, or remove it if the volume is gone";
                said(Kind::Refused, format!("the record {} cannot be read: {why}; {advice}", path.display()))
            }
        }
    }
}

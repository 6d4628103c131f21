//! Whether a root is the export that it was: [`Context::verify`], [`ExportOp::ensure_layout`].
//!
//! An export has an identity from the first time that something is made on it. What was learned of it once, from the disk,
//! from a volume or by making it, holds for the life of the process: a root with another identity, or without one, is
//! refused until it is right.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use rand::random;

use super::{
    export::Export,
    op_error::{OpError, fail},
    record::{self, BASE, Identity, STAGING},
    work::{Context, ExportOp, Opened, Rule},
};
use crate::{
    backend::{Error, Kind, StoreExpectation, quoted},
    system::root::{Entry, Errno, Failure, Made, Placed, Root, Seen},
};

/// How the name of the file begins that becomes the export's identity; no volume has such a name.
pub(super) const STAGED_IDENTITY: &str = "identity@";

/// How many places of existing volumes are looked for, where no identity tells whether a root is the right one.
const LOOKS: usize = 16;

impl Context {
    /// Finds out whether the directory at the root's path is the export that it was. `pinned` is what is known of its
    /// identity in this process.
    pub(super) fn verify(&self, expected: &StoreExpectation, pinned: Option<&str>) -> Result<Opened, String> {
        #[cfg(test)]
        self.interruption.opening();
        let opened = self.look(expected, pinned);
        let noted = opened.as_ref().map_err(Clone::clone).and_then(|opened| {
            let top = opened.root.top().map_err(told)?;
            self.note_root(top, opened.identity().as_deref())
        });
        match noted {
            Ok(()) => opened,
            Err(why) => {
                if opened.is_err() {
                    self.roots.forget(&self.export.name);
                }
                Err(why)
            }
        }
    }

    /// Notes to what the export leads; an error says with which other one it is mixed up.
    fn note_root(&self, top: Seen, identity: Option<&str>) -> Result<(), String> {
        if !self.enforces(Rule::Identity) {
            return Ok(());
        }
        self.roots.note(&self.export, top, identity, Arc::downgrade(&self.invalidate))
    }

    fn look(&self, expected: &StoreExpectation, pinned: Option<&str>) -> Result<Opened, String> {
        let Export { root: path, server, path: exported, require_mount, .. } = &self.export;
        let root = Root::open(path).map_err(|failure| match failure.errno() {
            Some(Errno::ENOENT) => {
                format!("{} does not exist; mount {server}:{exported} there", path.display())
            }
            Some(_) | None => told(failure),
        })?;
        if *require_mount && !root.is_mount_point().map_err(told)? {
            return Err(format!("{} is not a mount point; mount {server}:{exported} there", path.display()));
        }
        let identity = match root.read(&record::export_file()).map_err(told)? {
            Some(content) => Some(
                Identity::from_json(&content.bytes)
                    .map_err(|why| format!("{} cannot be read: {why}; restore it", self.identity_file()))?,
            ),
            None => None,
        };
        let pinned = pinned.filter(|_| self.enforces(Rule::Identity));
        let known = [pinned, expected.identity.as_deref()];
        for known in known.into_iter().flatten() {
            match &identity {
                Some(found) if found.id == known => {}
                Some(found) => return Err(self.has_another_identity(&found.id, known)),
                None => return Err(self.has_no_identity(known)),
            }
        }
        if identity.is_none() {
            self.look_for_volumes(&root, expected)?;
        }
        Ok(Opened {
            root,
            mirrored: AtomicBool::new(identity.as_ref().is_some_and(|identity| identity.mirrored)),
            identity: Mutex::new(identity.map(|identity| identity.id)),
            layout_ready: AtomicBool::new(false),
        })
    }

    /// Where nothing else tells whether it is the right root: some of the volumes must be there.
    fn look_for_volumes(&self, root: &Root, expected: &StoreExpectation) -> Result<(), String> {
        let mut missing = None;
        let places = expected.places.iter().filter(|place| place.store == self.export.name);
        for place in places.take(LOOKS) {
            if root.entry(&place.path).is_ok_and(|entry| entry == Entry::Directory) {
                return Ok(());
            }
            missing.get_or_insert(place);
        }
        let Some(place) = missing else { return Ok(()) };
        Err(format!(
            "the directory at {} is not what it was: {} and other directories of volumes are missing. Mount the export \
             that holds the existing volumes",
            self.export.root.display(),
            place.path
        ))
    }

    fn has_another_identity(&self, found: &str, known: &str) -> String {
        let root = self.export.root.display();
        format!(
            "the directory at {root} is not what it was: its identity is {found}, the volumes' is {known}. Mount the export \
             that holds the existing volumes. If they were moved here, and no other berth uses this export, give it their \
             identity and start berth again: {}",
            self.give_identity(known)
        )
    }

    fn has_no_identity(&self, known: &str) -> String {
        let root = self.export.root.display();
        let base = quoted(&self.export.root.join(BASE).display().to_string());
        format!(
            "the directory at {root} is not what it was: {} with the identity {known} is missing. Mount the export that \
             holds the existing volumes. If they were moved here without the names that begin with a dot, go on with: \
             mkdir -m 700 -p {base} && {}",
            self.identity_file(),
            self.give_identity(known)
        )
    }

    fn identity_file(&self) -> String {
        self.export.root.join(BASE).join("export.json").display().to_string()
    }

    fn give_identity(&self, id: &str) -> String {
        format!("{} > {}", printing_identity(id), quoted(&self.identity_file()))
    }
}

/// The command that prints the file of an export with this identity. The identity comes from a PV or from the export.
fn printing_identity(id: &str) -> String {
    if id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return format!("printf '{{\"version\":1,\"id\":\"{id}\"}}\\n'");
    }
    let file = Identity { id: id.to_owned(), mirrored: false }.to_json();
    format!("printf '%s\\n' {}", quoted(String::from_utf8_lossy(&file).trim_end()))
}

fn told(failure: Failure) -> String {
    Error::caused_by(Kind::Unavailable, "cannot be used", failure).chain()
}

impl Opened {
    /// The identity, where it has one.
    pub(super) fn identity(&self) -> Option<String> {
        self.identity.lock().clone()
    }
}

impl ExportOp<'_> {
    /// The export's identity, and our own directories on it: both are made when they are first needed.
    pub(super) fn ensure_layout(&self) -> Result<String, OpError> {
        let mut identity = self.opened.identity.lock();
        if !self.opened.layout_ready.load(Ordering::SeqCst) {
            self.changes.make_directory(&[BASE], 0o700)?;
            for folder in record::FOLDERS {
                self.changes.make_directory(&[BASE, folder], 0o700)?;
            }
            self.opened.layout_ready.store(true, Ordering::SeqCst);
        }
        if let Some(identity) = &*identity {
            return Ok(identity.clone());
        }
        let found = match self.found_identity()? {
            Some(found) => found,
            None => self.make_identity()?,
        };
        let known = self.context.pin(&found.id);
        if known != found.id && self.context.enforces(Rule::Identity) {
            let message = self.context.has_another_identity(&found.id, &known);
            return fail(Kind::Unavailable, message);
        }
        if let Err(why) = self.context.note_root(self.root.top()?, Some(&found.id)) {
            return fail(Kind::Unavailable, why);
        }
        self.opened.mirrored.store(found.mirrored, Ordering::SeqCst);
        *identity = Some(found.id.clone());
        Ok(found.id)
    }

    fn found_identity(&self) -> Result<Option<Identity>, OpError> {
        let Some(content) = self.root.read_fresh(&record::export_file())? else { return Ok(None) };
        match Identity::from_json(&content.bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(why) => fail(
                Kind::Refused,
                format!("{} cannot be read: {why}; restore it", self.context.identity_file()),
            ),
        }
    }

    /// Gives the export an identity, unless another cluster was faster.
    fn make_identity(&self) -> Result<Identity, OpError> {
        let (new, file) = (Identity::new(), record::export_file());
        let aside = record::ours([STAGING, &format!("{STAGED_IDENTITY}{:016x}", random::<u64>())]);
        self.changes.write(&aside, &new.to_json())?;
        let made = match self.changes.link(&aside, &file)? {
            Placed::New => true,
            Placed::Unsupported => self.changes.create(&file, &new.to_json())? == Made::New,
            Placed::Taken | Placed::Gone | Placed::NotADirectory => false,
        };
        self.changes.remove_file(&aside)?;
        if made {
            return Ok(new);
        }
        let file = self.context.identity_file();
        self.found_identity()?
            .map_or_else(|| fail(Kind::Unavailable, format!("{file} comes and goes; it is tried again")), Ok)
    }
}

/// Writes down that the places of all volumes are noted.
pub(super) fn set_mirrored(work: &ExportOp<'_>) -> Result<(), OpError> {
    if let Some(identity) = work.found_identity()? {
        let identity = Identity { mirrored: true, ..identity };
        work.changes.write(&record::export_file(), &identity.to_json())?;
        work.opened.mirrored.store(true, Ordering::SeqCst);
    }
    Ok(())
}

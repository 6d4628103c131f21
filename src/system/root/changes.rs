//! What changes something beneath a [`Root`]: [`Changes`], which asks a [`Gate`] directly before each [`Step`].

use std::{fmt, io, path::PathBuf};

use nix::{
    errno::Errno,
    fcntl::renameat,
    sys::stat::{Mode, fchmod, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat},
};

use super::directory::{Failure, Root};

/// Asked directly before every change, as the last thing; an error stops the work.
pub type Gate<'a> = &'a (dyn Fn(&Step<'_>) -> io::Result<()> + Sync);

/// One system call that is about to change something.
pub struct Step<'a> {
    /// What it is to do: "move".
    pub what: &'static str,
    /// To what, put together only where it is asked for.
    pub(super) path: &'a (dyn Fn() -> PathBuf + 'a),
    /// Where a move or a link leads.
    pub(super) to: Option<&'a (dyn Fn() -> PathBuf + 'a)>,
}

impl<'a> Step<'a> {
    pub(super) fn new(what: &'static str, path: &'a (dyn Fn() -> PathBuf + 'a)) -> Self {
        Self { what, path, to: None }
    }

    /// What is changed. Of a move it is where the move begins.
    pub fn path(&self) -> PathBuf {
        (self.path)()
    }

    /// Where a move or a link leads.
    pub fn to(&self) -> Option<PathBuf> {
        self.to.map(|to| to())
    }
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.path().display())
    }
}

/// What changes things beneath a [`Root`].
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    pub(super) root: &'a Root,
    pub(super) gate: Gate<'a>,
}

/// Whether a directory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It is new.
    New,
    /// Something with that name was there.
    Existed,
}

/// Whether a directory was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmade {
    /// It was.
    Removed,
    /// There is none.
    Missing,
    /// It is not empty, or in use as a mount point.
    Occupied,
}

impl Root {
    /// The same directory for changes; `gate` is asked before each.
    pub fn changing<'a>(&'a self, gate: Gate<'a>) -> Changes<'a> {
        Changes { root: self, gate }
    }
}

impl<'a> Changes<'a> {
    /// The same beneath another directory.
    pub fn within<'b>(&self, root: &'b Root) -> Changes<'b>
    where
        'a: 'b,
    {
        Changes { root, gate: self.gate }
    }
}

impl Changes<'_> {
    /// Makes one directory; the one above it must exist. `mode` is subject to the umask.
    pub fn make_directory<S: AsRef<str>>(&self, segments: &[S], mode: u32) -> Result<Made, Failure> {
        let step = "make directory";
        let at = self.root.at(step, segments)?;
        self.pass(step, segments)?;
        match mkdirat(&at.parent, at.name.as_c_str(), Mode::from_bits_truncate(mode)) {
            Ok(()) => Ok(Made::New),
            Err(Errno::EEXIST) => Ok(Made::Existed),
            Err(errno) => Err(self.root.failed(step, segments, errno)),
        }
    }

    /// Sets owner, group and mode of the directory there, whatever the umask.
    pub fn set_rights<S: AsRef<str>>(
        &self,
        segments: &[S],
        mode: u32,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Failure> {
        let root = self.root;
        let dir = root.directory("open directory", segments)?;
        if uid.is_some() || gid.is_some() {
            let step = "change owner of";
            self.pass(step, segments)?;
            fchown(&dir, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
                .map_err(|errno| root.failed(step, segments, errno))?;
        }
        let step = "change mode of";
        self.pass(step, segments)?;
        fchmod(&dir, Mode::from_bits_truncate(mode)).map_err(|errno| root.failed(step, segments, errno))
    }

    /// Moves what is at `from` to `to`. The caller has made sure that nothing is there: an empty directory and a file
    /// would be replaced.
    pub fn rename<A: AsRef<str>, B: AsRef<str>>(&self, from: &[A], to: &[B]) -> Result<(), Failure> {
        let step = "move";
        let source = self.root.at(step, from)?;
        let target = self.root.at("move to", to)?;
        self.pass_to(step, from, to)?;
        renameat(&source.parent, source.name.as_c_str(), &target.parent, target.name.as_c_str())
            .map_err(|errno| self.root.failed(step, from, errno))
    }

    /// Removes the directory there if it is empty.
    pub fn remove_directory<S: AsRef<str>>(&self, segments: &[S]) -> Result<Unmade, Failure> {
        let step = "remove directory";
        let at = match self.root.at(step, segments) {
            Ok(at) => at,
            Err(failure) if failure.errno() == Some(Errno::ENOENT) => return Ok(Unmade::Missing),
            Err(failure) => return Err(failure),
        };
        self.pass(step, segments)?;
        match unlinkat(&at.parent, at.name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(Unmade::Removed),
            Err(Errno::ENOENT) => Ok(Unmade::Missing),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) => Ok(Unmade::Occupied),
            Err(errno) => Err(self.root.failed(step, segments, errno)),
        }
    }

    /// Removes the file there; `false` where there is none.
    pub fn remove_file<S: AsRef<str>>(&self, segments: &[S]) -> Result<bool, Failure> {
        let step = "remove";
        let at = match self.root.at(step, segments) {
            Ok(at) => at,
            Err(failure) if failure.errno() == Some(Errno::ENOENT) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        self.pass(step, segments)?;
        match unlinkat(&at.parent, at.name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(errno) => Err(self.root.failed(step, segments, errno)),
        }
    }

    /// What is asked before every change.
    pub fn gate(&self) -> Gate<'_> {
        self.gate
    }

    /// Asks the gate about something that has two ends.
    pub(super) fn pass_to<A: AsRef<str>, B: AsRef<str>>(
        &self,
        step: &'static str,
        from: &[A],
        to: &[B],
    ) -> Result<(), Failure> {
        let (path, to) = (|| self.root.shown(from), || self.root.shown(to));
        (self.gate)(&Step { to: Some(&to), ..Step::new(step, &path) }).map_err(|cause| Failure {
            step,
            path: path(),
            cause,
        })
    }

    /// Asks the gate.
    pub(super) fn pass<S: AsRef<str>>(&self, step: &'static str, segments: &[S]) -> Result<(), Failure> {
        let path = || self.root.shown(segments);
        (self.gate)(&Step::new(step, &path)).map_err(|cause| Failure { step, path: path(), cause })
    }
}

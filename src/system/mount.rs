//! Mounts and unmounts, beneath the one directory of a [`Tree`].
//!
//! What is mounted is told by the [`Table`] alone: nothing here asks a mounted file system, which may hang. A path is reached
//! through its parent, which no link may be part of; what is mounted on is made with the mode 0000, so that a mount that is
//! missing is seen by whoever writes. What is removed is an empty directory or file, never what is in it. Every call may hang
//! and belongs on the threads of a [`Pool`](super::pool::Pool).

mod filesystem;
mod place;
mod table;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use filesystem::Filesystem;
pub use place::{FilesystemUsage, Place, Prepared, Tree};
pub use table::{Mount, Mounted, Table};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// It must not be done there.
    #[error("{} {why}", .path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system said no.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
}

impl MountError {
    fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), why: why.into() }
    }

    fn io<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |cause| Self::Io { step, path: path.to_owned(), cause: cause.into() }
    }

    /// The number of the system's error.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } => cause.raw_os_error(),
            Self::Refused { .. } => None,
        }
    }

    /// Whether the file system that was to be mounted is not known here, or not in this version: another way may work.
    pub fn is_unsupported(&self) -> bool {
        use nix::errno::Errno;
        let errnos = [Errno::ENODEV, Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EOPNOTSUPP];
        self.errno().is_some_and(|errno| errnos.contains(&Errno::from_raw(errno)))
    }

    /// Whether the mounted file system is lost for good at this place: it must be unmounted and mounted again.
    pub fn is_stale(&self) -> bool {
        use nix::errno::Errno;
        let errnos = [Errno::ESTALE, Errno::ENOTCONN, Errno::ESHUTDOWN];
        self.errno().is_some_and(|errno| errnos.contains(&Errno::from_raw(errno)))
    }
}

impl Table {
    /// The table as it is now.
    pub fn read() -> io::Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo")?;
        Self::parse(&text).map_err(io::Error::other)
    }
}

//! Why something was not mounted, unmounted or removed: [`MountError`].

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

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
    pub(super) fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), why: why.into() }
    }

    pub(super) fn io<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
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
        let errnos = [Errno::ENODEV, Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EOPNOTSUPP];
        self.errno().is_some_and(|errno| errnos.contains(&Errno::from_raw(errno)))
    }

    /// Whether the mounted file system is lost for good at this place: it must be unmounted and mounted again.
    pub fn is_stale(&self) -> bool {
        let errnos = [Errno::ESTALE, Errno::ENOTCONN, Errno::ESHUTDOWN];
        self.errno().is_some_and(|errno| errnos.contains(&Errno::from_raw(errno)))
    }
}

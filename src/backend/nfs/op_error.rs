//! Why an operation stopped: [`OpError`], and what a failed step means for an administrator: [`explained`]. Pure.

use crate::{
    backend::{Error, Kind},
    system::root::{Errno, Failure, NotAFile},
    volume::{Expired, Invalid},
};

/// Why an operation stopped.
pub(super) enum OpError {
    /// A step failed; what kind of failure it is follows from the errno.
    Step(Failure),
    /// The operation itself says so.
    Reported(Error),
}

impl From<Failure> for OpError {
    fn from(failure: Failure) -> Self {
        Self::Step(failure)
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Reported(error)
    }
}

impl From<Invalid> for OpError {
    fn from(invalid: Invalid) -> Self {
        Self::Reported(invalid.into())
    }
}

/// An error that the operation itself reports.
pub(super) fn fail<T>(kind: Kind, message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Reported(Error::new(kind, message)))
}

/// Whether a step failed since the export is full.
pub(super) fn is_full(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(Errno::ENOSPC | Errno::EDQUOT))
}

/// What a step did, or `None` where the export is full.
pub(super) fn unless_full<T>(result: Result<T, impl Into<OpError>>) -> Result<Option<T>, OpError> {
    match result.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(OpError::Step(failure)) if is_full(&failure) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the storage said no; the end of the right to change it is no failure of the storage.
pub(super) fn is_storage_failure(error: &OpError) -> bool {
    match error {
        OpError::Reported(_) => true,
        OpError::Step(failure) => failure.errno().is_some(),
    }
}

/// Whether an operation met the top of another file system.
pub(super) fn is_elsewhere(error: &OpError) -> bool {
    matches!(error, OpError::Step(failure) if failure.errno() == Some(Errno::EXDEV))
}

/// The error of the operation `what`, in words that help.
pub(super) fn explained(what: &str, error: OpError) -> Error {
    let failure = match error {
        OpError::Reported(error) => return error,
        OpError::Step(failure) => failure,
    };
    let inner = failure.cause.get_ref();
    if inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Expired>) {
        return Expired.into();
    }
    if inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotAFile>) {
        let hint = "something else than a file is where berth keeps its records; move it away";
        return Error::caused_by(Kind::Refused, format!("{what}: {hint}"), failure);
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
        Some(Errno::EROFS) => (Kind::Unavailable, "the export is read-only; mount and export it read-write"),
        Some(Errno::ENAMETOOLONG) => (Kind::Invalid, "a name is longer than the file system takes"),
        Some(Errno::ESTALE | Errno::ENODEV | Errno::ENOTCONN) => {
            (Kind::Unavailable, "the mount is stale; it is being opened again")
        }
        Some(Errno::ENOENT) => {
            (Kind::Unavailable, "something disappeared during the operation; it is looked at again")
        }
        Some(Errno::ELOOP) => (Kind::Refused, "a part of the path is a symbolic link, which is not followed"),
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
    Error::caused_by(kind, format!("{what}: {hint}"), failure)
}

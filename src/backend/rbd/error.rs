//! Why an operation stopped: [`OpError`].

use crate::{
    backend::{
        Error, Kind,
        ceph::{Failed, Reason},
    },
    volume::{Expired, Invalid},
};

/// Why an operation stopped.
#[derive(Debug)]
pub(super) enum OpError {
    /// A call failed.
    Call(Failed),
    /// The operation itself says so.
    Other(Error),
}

impl OpError {
    /// Whether it is only a matter of seconds.
    pub(super) fn is_too_early(&self) -> bool {
        matches!(self, Self::Call(failed) if failed.reason == Reason::NotExpired)
    }

    /// Whether a safety check said no.
    pub(super) fn is_a_refusal(&self) -> bool {
        matches!(self, Self::Other(error) if error.kind() == Kind::Refused)
    }

    /// Whether nothing of ours can lie where the call looked.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Call(failed)
            if matches!(failed.reason, Reason::NoPool | Reason::NoNamespace | Reason::NotPermitted))
    }
}

impl From<Failed> for OpError {
    fn from(failed: Failed) -> Self {
        Self::Call(failed)
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Invalid> for OpError {
    fn from(invalid: Invalid) -> Self {
        Self::Other(invalid.into())
    }
}

impl From<Expired> for OpError {
    fn from(expired: Expired) -> Self {
        Self::Other(expired.into())
    }
}

impl From<OpError> for Error {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Call(failed) => failed.into(),
            OpError::Other(error) => error,
        }
    }
}

/// An error that the operation itself reports.
pub(super) fn fail<T>(kind: Kind, message: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Other(Error::new(kind, message)))
}

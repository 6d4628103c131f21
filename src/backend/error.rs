//! Why an operation of a backend failed: [`Error`], and its [`Kind`], which decides what happens next.

use std::fmt;

use crate::volume::{Expired, Invalid, SecretName};

/// What kind of failure it was; decides the retry and the words of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong and stays so until it is changed.
    Invalid,
    /// The request is right, but this backend cannot do it.
    Unsupported,
    /// Something else has that name or place.
    Conflict,
    /// What the request names does not exist.
    NotFound,
    /// No space, quota or inodes.
    Exhausted,
    /// It is still in use.
    InUse,
    /// A safety check said no. Nothing was touched. What it said no to is mended by a person, on the object or on the storage:
    /// it is asked again when the object changes, and else slowly.
    Refused,
    /// The same volume is being worked on; try again soon.
    Busy,
    /// The outcome is unknown: the work may still be done later. Retry, do not forget.
    Unavailable,
    /// Anything else: a defect of ours, or an answer that we do not understand.
    Internal,
}

impl Kind {
    /// Whether something may still appear on the storage after this error ("in background").
    pub fn may_still_happen(self) -> bool {
        match self {
            Self::Unavailable | Self::Busy => true,
            Self::Invalid
            | Self::Unsupported
            | Self::Conflict
            | Self::NotFound
            | Self::Exhausted
            | Self::InUse
            | Self::Refused
            | Self::Internal => false,
        }
    }

    /// When the same operation is worth another try.
    pub fn retry(self) -> Retry {
        match self {
            Self::Invalid | Self::Unsupported | Self::Refused => Retry::OnChange,
            Self::Conflict
            | Self::NotFound
            | Self::Exhausted
            | Self::InUse
            | Self::Busy
            | Self::Unavailable
            | Self::Internal => Retry::Backoff,
        }
    }

    /// Whether a removal, or the recording of an owner, that failed so has touched nothing and will touch nothing: what the
    /// storage refuses, and what is not there.
    pub fn touched_nothing(self) -> bool {
        self.retry() == Retry::OnChange || self == Self::NotFound
    }

    /// One lower case word, as in the label of a metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Exhausted => "exhausted",
            Self::InUse => "in_use",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// When an operation that failed is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Once the object or the storage has changed. What is in the way may go without the object changing: slowly, too.
    OnChange,
    /// After a pause that grows with each failure.
    Backoff,
}

/// Why an operation of a backend failed. The message is what the claim's author reads in the Event.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    missing_secret: Option<Box<SecretName>>,
}

impl Error {
    /// A failure of this kind. `message` names the operation and the object, lower case, without a final stop, and
    /// says what to do where somebody can do something.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, missing_secret: None }
    }

    /// The same with its cause.
    pub fn caused_by(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()), missing_secret: None }
    }

    /// The same, where it will be otherwise once there is a Secret of this name.
    #[must_use]
    pub fn for_want_of(mut self, secret: SecretName) -> Self {
        self.missing_secret = Some(Box::new(secret));
        self
    }

    /// The Secret whose absence it was, said by this error or by one of its causes.
    pub fn missing_secret(&self) -> Option<&SecretName> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let named = error.downcast_ref::<Self>().and_then(|error| error.missing_secret.as_deref());
            if named.is_some() {
                return named;
            }
            cause = error.source();
        }
        None
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message and all causes behind it on one line, for an Event, which has nothing else.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<Expired> for Error {
    fn from(expired: Expired) -> Self {
        Self::caused_by(Kind::Unavailable, "stopped before the next change to storage", expired)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(Kind::Invalid, invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_causes_on_one_line() {
        let cause = std::io::Error::from_raw_os_error(13);
        let error = Error::caused_by(Kind::Unavailable, "make directory a-b-c on export default", cause);
        assert_eq!(error.chain(), "make directory a-b-c on export default: Permission denied (os error 13)");
    }

    #[test]
    fn the_secret_that_is_missing_is_found_behind_whatever_was_said_about_it() {
        let secret = SecretName { namespace: "berth".into(), name: "key".into() };
        let missing =
            Error::new(Kind::NotFound, "Secret berth/key does not exist").for_want_of(secret.clone());
        let told = Error::caused_by(Kind::NotFound, "cannot read the key of Ceph user admin", missing);
        assert_eq!(told.missing_secret(), Some(&secret));
        let other = Error::caused_by(Kind::NotFound, "open", std::io::Error::from_raw_os_error(2));
        assert_eq!(other.missing_secret(), None);
    }

    #[test]
    fn only_unknown_outcomes_may_still_happen() {
        assert!(Kind::Unavailable.may_still_happen());
        assert!(!Kind::Refused.may_still_happen());
        assert!(Error::from(Expired).kind().may_still_happen());
    }
}

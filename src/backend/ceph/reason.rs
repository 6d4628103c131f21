//! Why a call failed, what kind of failure that is, and what an administrator can do: [`Reason`].

use super::tool::Tool;
use crate::backend::Kind;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Something has that name already.
    Exists,
    /// There is no such pool.
    NoPool,
    /// There is no such pool for the data.
    NoDataPool,
    /// There is no such RADOS namespace in the pool.
    NoNamespace,
    /// There is no such image, or not under that id in the trash. The pool and the namespace are there.
    NoImage,
    /// There is no such file system.
    NoFilesystem,
    /// There is no such subvolume group. The file system is there.
    NoGroup,
    /// There is no such subvolume, and no snapshot of it. The group is there.
    NoSubvolume,
    /// There is no such metadata key. The image or subvolume is there.
    NoMetadata,
    /// There is no such user, or it has no right to the subvolume to be taken away.
    NoUser,
    /// There is no such object of RADOS. The pool is there.
    NoObject,
    /// Something that was named is not there; which, the text does not say in a way that we know.
    NoSuchThing,
    /// A client has the image open.
    Watched,
    /// It has snapshots, or is only kept for its snapshots.
    Snapshots,
    /// A group still has something in it.
    NotEmpty,
    /// It lies in the trash and its expiry has not come.
    NotExpired,
    /// Its move to the trash was interrupted before its last step.
    HalfMoved,
    /// It is in a group of images.
    Grouped,
    /// It is a clone that is still being filled, or one whose filling failed or was cancelled.
    Cloning,
    /// Something in the trash has no header any more. All that has one was listed nevertheless.
    HeaderlessTrash,
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
    /// The name of no monitor could be resolved.
    Unresolved,
    /// The cluster did not answer in time. The outcome is unknown.
    Deadline,
    /// It was never begun, since other calls held all places.
    Saturated,
    /// The cluster lacks a daemon that must answer, or asks to come again.
    NotReady,
    /// The program crashed or was killed. The outcome is unknown.
    Crashed,
    /// The right to change storage ended. The outcome is unknown where the program had been started.
    Stopped,
    /// The program is not installed.
    ProgramMissing,
    /// Anything else.
    Other,
}

impl Reason {
    /// The kind of error that a backend makes of it where it knows no better.
    pub fn kind(self) -> Kind {
        match self {
            Self::Exists => Kind::Conflict,
            Self::NoPool
            | Self::NoDataPool
            | Self::NoNamespace
            | Self::NoImage
            | Self::NoFilesystem
            | Self::NoGroup
            | Self::NoSubvolume
            | Self::NoMetadata
            | Self::NoUser
            | Self::NoObject
            | Self::NoSuchThing => Kind::NotFound,
            Self::Watched
            | Self::Snapshots
            | Self::NotEmpty
            | Self::NotExpired
            | Self::HalfMoved
            | Self::Cloning
            | Self::Grouped => Kind::InUse,
            Self::NotPermitted
            | Self::WrongKey
            | Self::BadKey
            | Self::Shrink
            | Self::SameSize
            | Self::Argument
            | Self::ProgramMissing => Kind::Invalid,
            Self::Full => Kind::Exhausted,
            Self::Unreachable
            | Self::Unresolved
            | Self::Deadline
            | Self::Saturated
            | Self::NotReady
            | Self::Crashed
            | Self::Stopped => Kind::Unavailable,
            Self::HeaderlessTrash | Self::Other => Kind::Internal,
        }
    }

    /// What it shows of the cluster itself.
    pub(super) fn shows(self) -> Reachability {
        match self {
            Self::Unreachable | Self::Unresolved | Self::Deadline | Self::ProgramMissing => {
                Reachability::Unreachable
            }
            Self::WrongKey => Reachability::AuthRejected,
            Self::BadKey | Self::Saturated | Self::Crashed | Self::Stopped | Self::Other => {
                Reachability::Unknown
            }
            Self::Exists
            | Self::NoPool
            | Self::NoDataPool
            | Self::NoNamespace
            | Self::NoImage
            | Self::NoFilesystem
            | Self::NoGroup
            | Self::NoSubvolume
            | Self::NoMetadata
            | Self::NoUser
            | Self::NoObject
            | Self::NoSuchThing
            | Self::Watched
            | Self::Snapshots
            | Self::NotEmpty
            | Self::NotExpired
            | Self::HalfMoved
            | Self::Cloning
            | Self::Grouped
            | Self::HeaderlessTrash
            | Self::NotPermitted
            | Self::Shrink
            | Self::SameSize
            | Self::Argument
            | Self::Full
            | Self::NotReady => Reachability::Reachable,
        }
    }

    /// The reason in words.
    pub(super) fn headline(self) -> &'static str {
        match self {
            Self::Exists => "it exists already",
            Self::NoPool => "there is no such pool",
            Self::NoDataPool => "there is no such data pool",
            Self::NoNamespace => "there is no such RADOS namespace",
            Self::NoImage => "there is no such image",
            Self::NoFilesystem => "there is no such file system",
            Self::NoGroup => "there is no such subvolume group",
            Self::NoSubvolume => "there is no such subvolume",
            Self::NoMetadata => "there is no such metadata",
            Self::NoUser => "there is no such Ceph user",
            Self::NoObject => "there is no such object",
            Self::NoSuchThing => "something that it names does not exist",
            Self::Watched => "the image is in use by a client",
            Self::Snapshots => "it has snapshots",
            Self::NotEmpty => "it is not empty",
            Self::NotExpired => "it is kept in the trash until its expiry",
            Self::HalfMoved => "its move to the trash was interrupted",
            Self::Cloning => "it is a clone that is not complete",
            Self::Grouped => "it is in a group of images",
            Self::HeaderlessTrash => "something in the trash has no header",
            Self::NotPermitted => "the Ceph user is not permitted to do this",
            Self::WrongKey => "the cluster refused user or key",
            Self::BadKey => "the key cannot be read",
            Self::Shrink => "it would become smaller",
            Self::SameSize => "it has that size already",
            Self::Argument => "the cluster refused a value",
            Self::Full => "the cluster, pool or quota is full",
            Self::Unreachable => "no monitor of the cluster answered",
            Self::Unresolved => "the monitors' names could not be resolved",
            Self::Deadline => "the cluster did not answer in time",
            Self::Saturated => "it was not begun",
            Self::NotReady => "the cluster is not ready for this",
            Self::Crashed => "the program was killed or crashed",
            Self::Stopped => "stopped, since the leader lease was not renewed in time",
            Self::ProgramMissing => "a program of Ceph is missing",
            Self::Other => "it failed",
        }
    }

    /// What an administrator can do about it, when `tool` was told so.
    pub(super) fn advice(self, tool: Tool) -> Option<&'static str> {
        Some(match self {
            Self::NoDataPool if tool == Tool::Ceph => {
                "name one of the file system's data pools (ceph fs ls) as parameter pool, or add this one to them (ceph fs \
                 add_data_pool)"
            }
            Self::NoPool | Self::NoDataPool => {
                "create the pool (ceph osd pool create, rbd pool init), or name another one in the class"
            }
            Self::NoNamespace => "create it with rbd namespace create, or name another one in the class",
            Self::NoFilesystem => "create it with ceph fs volume create, or name another one in the class",
            Self::NoGroup => "create it with ceph fs subvolumegroup create",
            Self::Watched => {
                "wait until it is unmapped everywhere; a client that crashed is forgotten after 30 s"
            }
            Self::Snapshots => "remove its snapshots, and the clones of them, first",
            Self::Cloning => {
                "look at it with ceph fs clone status; one that failed or was cancelled goes with ceph fs subvolume rm --force"
            }
            Self::HalfMoved => {
                "finish the move with rbd trash mv POOL/NAME, if the image still exists under its name and is not needed"
            }
            Self::Grouped => "take it out of the group with rbd group image rm --image-id",
            Self::NotPermitted if tool == Tool::Ceph => {
                "give the user the mon and mgr caps of docs/security.md, for this file system and subvolume group"
            }
            Self::NotPermitted => "give the user the osd caps of docs/security.md, for this pool",
            Self::WrongKey => {
                "compare user and key in the Secret with what ceph auth get prints for the user; one that has no mon caps is refused \
                 in the same way"
            }
            Self::BadKey => "put the key as ceph auth get-key prints it into the Secret",
            Self::Full => "free or add space, or raise the quota",
            Self::Unreachable => {
                "check that the monitors' addresses are right, that they run, and that nothing blocks the way to them"
            }
            Self::Unresolved => "check the monitors' names, or write addresses",
            Self::Deadline => {
                "check with ceph health detail that OSDs, a manager and a metadata server are up, and that no pool is full"
            }
            Self::NotReady => {
                "check with ceph health detail; a manager must be active with its module volumes"
            }
            Self::Crashed => "where it was killed for want of memory, raise the memory limit",
            Self::ProgramMissing => {
                "install Ceph's command-line tools (the package is called ceph-common) where berth runs"
            }
            Self::Exists
            | Self::NoImage
            | Self::NoSubvolume
            | Self::NoMetadata
            | Self::NoUser
            | Self::NoObject
            | Self::NoSuchThing
            | Self::Saturated
            | Self::NotEmpty
            | Self::NotExpired
            | Self::HeaderlessTrash
            | Self::Shrink
            | Self::SameSize
            | Self::Argument
            | Self::Stopped
            | Self::Other => return None,
        })
    }
}

/// What a call shows of the cluster, whatever became of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reachability {
    /// It answered.
    Reachable,
    /// It answered, and does not know us: it may be another one than before.
    AuthRejected,
    /// It did not answer.
    Unreachable,
    /// Nothing.
    Unknown,
}

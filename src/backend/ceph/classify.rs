//! What an exit code and its text mean: [`classify`], one pure table, as measured on real clusters.
//!
//! The exit code comes first, since texts differ between versions of Ceph; the text decides where one code means several
//! things. What is not there is called so only on a text that says so: "no such image" must never be a missing pool. The
//! recorded replies in `replies/` hold the table to what Ceph really says.

use super::{call::Tool, said::Said};
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
    /// Somebody has the image open.
    Watched,
    /// It has snapshots, or is only kept for its snapshots.
    Snapshots,
    /// A group still has something in it.
    NotEmpty,
    /// It lies in the trash and its expiry has not come.
    NotExpired,
    /// Its move to the trash was broken off before its last step.
    HalfMoved,
    /// It is in a group of images.
    Grouped,
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
    Crowded,
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
            | Self::Crowded
            | Self::NotReady
            | Self::Crashed
            | Self::Stopped => Kind::Unavailable,
            Self::HeaderlessTrash | Self::Other => Kind::Internal,
        }
    }

    /// What it shows of the cluster itself.
    pub(super) fn shows(self) -> Shown {
        match self {
            Self::Unreachable | Self::Unresolved | Self::Deadline | Self::ProgramMissing => Shown::Lost,
            Self::WrongKey => Shown::AuthRejected,
            Self::BadKey | Self::Crowded | Self::Crashed | Self::Stopped | Self::Other => Shown::Nothing,
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
            | Self::Grouped
            | Self::HeaderlessTrash
            | Self::NotPermitted
            | Self::Shrink
            | Self::SameSize
            | Self::Argument
            | Self::Full
            | Self::NotReady => Shown::Well,
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
            Self::Watched => "somebody has the image open",
            Self::Snapshots => "it has snapshots",
            Self::NotEmpty => "it is not empty",
            Self::NotExpired => "it is kept in the trash until its expiry",
            Self::HalfMoved => "its move to the trash was broken off",
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
            Self::Crowded => "it was not begun",
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
            Self::HalfMoved => {
                "finish the move with rbd trash mv POOL/NAME, if the image is still there under its name and nobody wants it"
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
            | Self::Crowded
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
pub(super) enum Shown {
    /// It answered.
    Well,
    /// It answered, and does not know us: it may be another one than before.
    AuthRejected,
    /// It did not answer.
    Lost,
    /// Nothing.
    Nothing,
}

/// What it means that `tool` ended with `code` and wrote `stderr`.
pub fn classify(tool: Tool, code: i32, stderr: &str) -> Reason {
    let said = Said::read(stderr);
    if let Some(reason) = connection(code, &said) {
        return reason;
    }
    match tool {
        Tool::Rbd => rbd(code, &said),
        Tool::Ceph => ceph(code, &said),
        Tool::Rados => rados(code, &said),
    }
}

/// Failures before the cluster was asked for anything.
fn connection(code: i32, said: &Said) -> Option<Reason> {
    let connecting = said.any(&[
        "couldn't connect to the cluster",
        "couldn't connect to cluster",
        "error connecting to the cluster",
    ]);
    if code > 128 {
        return Some(Reason::Crashed);
    }
    if !connecting {
        // All that `ceph` says when no monitor answered.
        return (code == 1 && said.is("timed out")).then_some(Reason::Unreachable);
    }
    // The program ends with the error number, or with 1 and says the number.
    let number = ["[errno ", "connect to cluster: ("].iter().find_map(|before| said.number_after(before));
    let number = number.unwrap_or(code);
    Some(if said.any(&["unable to parse addrs", "cannot identify monitors", "server name not found"]) {
        Reason::Unresolved
    } else if said.any(&["failed to decode key", "keyring not found", "no keyring found"]) {
        Reason::BadKey
    } else {
        match number {
            EPERM | EACCES => Reason::WrongKey,
            ETIMEDOUT | ENETUNREACH | EHOSTUNREACH | ECONNREFUSED => Reason::Unreachable,
            EOPNOTSUPP => Reason::BadKey,
            EINVAL => Reason::Argument,
            _ => Reason::Other,
        }
    })
}

fn rbd(code: i32, said: &Said) -> Reason {
    match code {
        1 if said.any(&["Deferment time has not expired"]) => Reason::NotExpired,
        1 if said.any(&["(1) Operation not permitted"]) => Reason::NotPermitted,
        1 if said.any(&["is invalid", "unrecognised option", "too many arguments", "was not specified"]) => {
            Reason::Argument
        }
        ENOENT if said.any(&["error opening pool"]) => Reason::NoPool,
        ENOENT if said.around("namespace '", "' does not exist") => Reason::NoNamespace,
        // Pool and namespace were opened before: nothing else can be missing.
        ENOENT if said.any(&["rbd: create error"]) || said.around("data pool ", " does not exist") => {
            Reason::NoDataPool
        }
        ENOENT
            if said.any(&[
                "failed to get metadata",
                "no existing metadata key",
                "getting metadata failed",
            ]) =>
        {
            Reason::NoMetadata
        }
        ENOENT
            if said.any(&[
                "error opening image",
                "error opening source image",
                "rbd: delete error",
                "rbd: deferred delete error",
                "rbd: remove error",
                "rbd: rename error",
                "image does not exist in trash",
            ]) =>
        {
            Reason::NoImage
        }
        ENOENT if said.any(&["rbd: trash list:"]) => Reason::HeaderlessTrash,
        EUCLEAN if said.any(&["not fully moved to trash"]) => Reason::HalfMoved,
        EMLINK if said.any(&["group"]) => Reason::Grouped,
        EBUSY if said.any(&["watchers"]) => Reason::Watched,
        EINVAL if said.any(&["shrinking an image is only allowed"]) => Reason::Shrink,
        EINVAL if said.any(&["new size is equal to original size"]) => Reason::SameSize,
        ENOTEMPTY | EBUSY if said.any(&["snapshots"]) => Reason::Snapshots,
        _ => by_number(code),
    }
}

fn ceph(code: i32, said: &Said) -> Reason {
    let gone = ["' does not exist", "' not found"];
    let missing = |before: &str| gone.iter().any(|after| said.around(before, after));
    match code {
        EPERM if said.any(&["exists and not created by mgr"]) => Reason::Exists,
        ENOENT if said.any(&["has only snapshots retained"]) => Reason::Snapshots,
        ENOENT if missing("subvolume group '") => Reason::NoGroup,
        ENOENT if missing("subvolume '") => Reason::NoSubvolume,
        ENOENT if missing("FS '") || missing("olume '") || missing("ilesystem '") => Reason::NoFilesystem,
        ENOENT if missing("key '") => Reason::NoMetadata,
        ENOENT
            if said.around("auth ID: ", " doesn't exist")
                || said.any(&["don't have client.", "failed to find client."]) =>
        {
            Reason::NoUser
        }
        ENOENT if missing("pool '") || said.any(&["unrecognized pool"]) => Reason::NoPool,
        EINVAL if said.any(&["invalid pool layout"]) => Reason::NoDataPool,
        EINVAL if said.any(&["No space left on device"]) => Reason::Full,
        ENOTEMPTY if said.any(&["has snapshots"]) => Reason::Snapshots,
        EINVAL if said.any(&["would be lesser than"]) => Reason::Shrink,
        EOPNOTSUPP if said.any(&["is not enabled/loaded", "ceph-mgr restart"]) => Reason::NotReady,
        _ => by_number(code),
    }
}

/// `rados` ends with 1 after every failure, and says the number.
fn rados(code: i32, said: &Said) -> Reason {
    let number =
        said.lines().last().and_then(|line| line.rsplit_once(": (")?.1.split(')').next()?.parse().ok());
    match number.unwrap_or(code) {
        ENOENT if said.any(&["error opening pool"]) => Reason::NoPool,
        ENOENT if said.any(&["error getting omap"]) => Reason::NoObject,
        // Nothing was said.
        1 if number.is_none() => Reason::Other,
        number => by_number(number),
    }
}

/// What is left when the text says nothing that is known.
fn by_number(code: i32) -> Reason {
    match code {
        EPERM | EACCES => Reason::NotPermitted,
        ENOENT => Reason::NoSuchThing,
        EAGAIN | EBUSY | ESHUTDOWN | ENOTCONN => Reason::NotReady,
        EEXIST => Reason::Exists,
        EINVAL | ERANGE | ENAMETOOLONG | EOPNOTSUPP => Reason::Argument,
        ENOTEMPTY => Reason::NotEmpty,
        ENOSPC | EDQUOT => Reason::Full,
        ETIMEDOUT => Reason::Deadline,
        ENETUNREACH | EHOSTUNREACH | ECONNREFUSED => Reason::Unreachable,
        _ => Reason::Other,
    }
}

pub(super) const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
pub(super) const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EMLINK: i32 = 31;
const ERANGE: i32 = 34;
const ENAMETOOLONG: i32 = 36;
const ENOTEMPTY: i32 = 39;
const EOPNOTSUPP: i32 = 95;
const ENETUNREACH: i32 = 101;
const ENOTCONN: i32 = 107;
const ESHUTDOWN: i32 = 108;
pub(super) const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;
const EUCLEAN: i32 = 117;
const EDQUOT: i32 = 122;

/// The names of error numbers, as a `ceph` that stays writes them in place of an exit code.
const NAMES: &[(&str, i32)] = &[
    ("EPERM", EPERM),
    ("ENOENT", ENOENT),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("E2BIG", 7),
    ("EBADF", 9),
    ("EAGAIN", EAGAIN),
    ("EWOULDBLOCK", EAGAIN),
    ("ENOMEM", 12),
    ("EACCES", EACCES),
    ("EFAULT", 14),
    ("EBUSY", EBUSY),
    ("EEXIST", EEXIST),
    ("EXDEV", 18),
    ("ENODEV", 19),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", EINVAL),
    ("EFBIG", 27),
    ("ENOSPC", ENOSPC),
    ("EROFS", 30),
    ("EDOM", 33),
    ("ERANGE", ERANGE),
    ("EDEADLK", 35),
    ("EDEADLOCK", 35),
    ("ENAMETOOLONG", ENAMETOOLONG),
    ("ENOSYS", 38),
    ("ENOTEMPTY", ENOTEMPTY),
    ("ELOOP", 40),
    ("ENODATA", 61),
    ("EOVERFLOW", 75),
    ("EOPNOTSUPP", EOPNOTSUPP),
    ("ENOTSUP", EOPNOTSUPP),
    ("ENETUNREACH", ENETUNREACH),
    ("ENOTCONN", ENOTCONN),
    ("ESHUTDOWN", ESHUTDOWN),
    ("ETIMEDOUT", ETIMEDOUT),
    ("ECONNREFUSED", ECONNREFUSED),
    ("EHOSTUNREACH", EHOSTUNREACH),
    ("EALREADY", 114),
    ("EINPROGRESS", 115),
    ("ESTALE", 116),
    ("EDQUOT", EDQUOT),
    ("ECANCELED", 125),
];

/// The exit code that the text of a `ceph` that stays stands for: `Error ENOENT: …`, or 0 where there is no error.
pub(super) fn code_in(stderr: &str) -> i32 {
    let said = Said::read(stderr);
    let Some(name) = said.lines().find_map(|line| line.strip_prefix("Error ")?.split(':').next()) else {
        return 0;
    };
    // One that has no name of its own is still an error.
    NAMES.iter().find(|(known, _)| *known == name).map_or(UNNAMED, |(_, code)| *code)
}

const UNNAMED: i32 = 127;

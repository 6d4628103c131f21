//! Error numbers of POSIX as the programs end with them, and their names as a `ceph` that stays writes them: [`code_in`].

use super::stderr::Stderr;

pub(super) const EPERM: i32 = 1;
pub(super) const ENOENT: i32 = 2;
pub(super) const EAGAIN: i32 = 11;
pub(super) const EACCES: i32 = 13;
pub(super) const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;
pub(super) const EMLINK: i32 = 31;
pub(super) const ERANGE: i32 = 34;
pub(super) const ENAMETOOLONG: i32 = 36;
pub(super) const ENOTEMPTY: i32 = 39;
pub(super) const EOPNOTSUPP: i32 = 95;
pub(super) const ENETUNREACH: i32 = 101;
pub(super) const ENOTCONN: i32 = 107;
pub(super) const ESHUTDOWN: i32 = 108;
pub(super) const ETIMEDOUT: i32 = 110;
pub(super) const ECONNREFUSED: i32 = 111;
pub(super) const EHOSTUNREACH: i32 = 113;
pub(super) const EUCLEAN: i32 = 117;
pub(super) const EDQUOT: i32 = 122;

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
    let stderr = Stderr::read(stderr);
    let Some(name) = stderr.lines().find_map(|line| line.strip_prefix("Error ")?.split(':').next()) else {
        return 0;
    };
    // One that has no name of its own is still an error.
    NAMES.iter().find(|(known, _)| *known == name).map_or(UNNAMED, |(_, code)| *code)
}

const UNNAMED: i32 = 127;

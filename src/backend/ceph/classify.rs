//! What an exit code and its text mean: [`classify`], one pure table, as measured on real clusters.
//!
//! The exit code comes first, since texts differ between versions of Ceph; the text decides where one code means several
//! things. What is not there is called so only on a text that says so: "no such image" must never be a missing pool. The
//! recorded replies in `replies/` hold the table to what Ceph really says.

use super::{
    errno::{
        EACCES, EAGAIN, EBUSY, ECONNREFUSED, EDQUOT, EEXIST, EHOSTUNREACH, EINVAL, EMLINK, ENAMETOOLONG,
        ENETUNREACH, ENOENT, ENOSPC, ENOTCONN, ENOTEMPTY, EOPNOTSUPP, EPERM, ERANGE, ESHUTDOWN, ETIMEDOUT,
        EUCLEAN,
    },
    reason::Reason,
    stderr::Stderr,
    tool::Tool,
};

/// What it means that `tool` ended with `code` and wrote `stderr`.
pub fn classify(tool: Tool, code: i32, stderr: &str) -> Reason {
    let stderr = Stderr::read(stderr);
    if let Some(reason) = connection(code, &stderr) {
        return reason;
    }
    match tool {
        Tool::Rbd => rbd(code, &stderr),
        Tool::Ceph => ceph(code, &stderr),
        Tool::Rados => rados(code, &stderr),
    }
}

/// Failures before the cluster was asked for anything.
fn connection(code: i32, stderr: &Stderr) -> Option<Reason> {
    let connecting = stderr.any(&[
        "couldn't connect to the cluster",
        "couldn't connect to cluster",
        "error connecting to the cluster",
    ]);
    if code > 128 {
        return Some(Reason::Crashed);
    }
    if !connecting {
        // All that `ceph` says when no monitor answered.
        return (code == 1 && stderr.is("timed out")).then_some(Reason::Unreachable);
    }
    // The program ends with the error number, or with 1 and says the number.
    let number = ["[errno ", "connect to cluster: ("].iter().find_map(|before| stderr.number_after(before));
    let number = number.unwrap_or(code);
    Some(if stderr.any(&["unable to parse addrs", "cannot identify monitors", "server name not found"]) {
        Reason::Unresolved
    } else if stderr.any(&["failed to decode key", "keyring not found", "no keyring found"]) {
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

fn rbd(code: i32, stderr: &Stderr) -> Reason {
    match code {
        1 if stderr.any(&["Deferment time has not expired"]) => Reason::NotExpired,
        1 if stderr.any(&["(1) Operation not permitted"]) => Reason::NotPermitted,
        1 if stderr.any(&[
            "is invalid",
            "unrecognised option",
            "too many arguments",
            "was not specified",
        ]) =>
        {
            Reason::Argument
        }
        ENOENT if stderr.any(&["error opening pool"]) => Reason::NoPool,
        ENOENT if stderr.around("namespace '", "' does not exist") => Reason::NoNamespace,
        // Pool and namespace were opened before: nothing else can be missing.
        ENOENT if stderr.any(&["rbd: create error"]) || stderr.around("data pool ", " does not exist") => {
            Reason::NoDataPool
        }
        ENOENT
            if stderr.any(&[
                "failed to get metadata",
                "no existing metadata key",
                "getting metadata failed",
            ]) =>
        {
            Reason::NoMetadata
        }
        ENOENT
            if stderr.any(&[
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
        ENOENT if stderr.any(&["rbd: trash list:"]) => Reason::HeaderlessTrash,
        EUCLEAN if stderr.any(&["not fully moved to trash"]) => Reason::HalfMoved,
        EMLINK if stderr.any(&["group"]) => Reason::Grouped,
        EBUSY if stderr.any(&["watchers"]) => Reason::Watched,
        EINVAL if stderr.any(&["shrinking an image is only allowed"]) => Reason::Shrink,
        EINVAL if stderr.any(&["new size is equal to original size"]) => Reason::SameSize,
        ENOTEMPTY | EBUSY if stderr.any(&["snapshots"]) => Reason::Snapshots,
        _ => by_number(code),
    }
}

fn ceph(code: i32, stderr: &Stderr) -> Reason {
    let gone = ["' does not exist", "' not found"];
    let missing = |before: &str| gone.iter().any(|after| stderr.around(before, after));
    match code {
        EPERM if stderr.any(&["exists and not created by mgr"]) => Reason::Exists,
        ENOENT if stderr.any(&["has only snapshots retained"]) => Reason::Snapshots,
        ENOENT if missing("subvolume group '") => Reason::NoGroup,
        ENOENT if missing("subvolume '") => Reason::NoSubvolume,
        ENOENT if missing("FS '") || missing("olume '") || missing("ilesystem '") => Reason::NoFilesystem,
        ENOENT if missing("key '") => Reason::NoMetadata,
        ENOENT
            if stderr.around("auth ID: ", " doesn't exist")
                || stderr.any(&["don't have client.", "failed to find client."]) =>
        {
            Reason::NoUser
        }
        ENOENT if missing("pool '") || stderr.any(&["unrecognized pool"]) => Reason::NoPool,
        EINVAL if stderr.any(&["invalid pool layout"]) => Reason::NoDataPool,
        EINVAL if stderr.any(&["No space left on device"]) => Reason::Full,
        ENOTEMPTY if stderr.any(&["has snapshots"]) => Reason::Snapshots,
        EAGAIN if stderr.any(&["is not ready for operation"]) => Reason::Cloning,
        EINVAL if stderr.any(&["would be lesser than"]) => Reason::Shrink,
        EOPNOTSUPP if stderr.any(&["is not enabled/loaded", "ceph-mgr restart"]) => Reason::NotReady,
        _ => by_number(code),
    }
}

/// `rados` ends with 1 after every failure, and says the number.
fn rados(code: i32, stderr: &Stderr) -> Reason {
    let number =
        stderr.lines().last().and_then(|line| line.rsplit_once(": (")?.1.split(')').next()?.parse().ok());
    match number.unwrap_or(code) {
        ENOENT if stderr.any(&["error opening pool"]) => Reason::NoPool,
        ENOENT if stderr.any(&["error getting omap"]) => Reason::NoObject,
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

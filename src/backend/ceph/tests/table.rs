//! The table of meanings held against what a real cluster answered.

use std::collections::BTreeMap;

use super::fake::Recorded;
use crate::backend::ceph::{Reason, Tool, classify, errno::code_in, stderr::Stderr};

/// What each recorded failure means. A case that is recorded and not here, or here and not recorded, fails the test.
pub(super) const MEANINGS: &[(&str, Reason)] = &[
    ("ceph-auth-get-key-no-user", Reason::NoUser),
    ("ceph-auth-get-key-not-permitted", Reason::NotPermitted),
    ("ceph-fsid-empty-key", Reason::WrongKey),
    ("ceph-fsid-no-key-file", Reason::WrongKey),
    ("ceph-fsid-undecodable-key", Reason::BadKey),
    ("ceph-fsid-unknown-user", Reason::WrongKey),
    ("ceph-fsid-unreachable", Reason::Unreachable),
    ("ceph-fsid-unresolved", Reason::Unresolved),
    ("ceph-fsid-wrong-key", Reason::WrongKey),
    ("ceph-group-create-no-filesystem", Reason::NoFilesystem),
    ("ceph-group-getpath-no-group", Reason::NoGroup),
    ("ceph-group-rm-no-group", Reason::NoGroup),
    ("ceph-group-rm-not-empty", Reason::NotEmpty),
    ("ceph-invalid-command", Reason::Argument),
    ("ceph-subvolume-authorize-foreign", Reason::Exists),
    ("ceph-subvolume-create-bad-name", Reason::Argument),
    ("ceph-subvolume-create-full", Reason::Full),
    ("ceph-subvolume-create-no-filesystem", Reason::NoFilesystem),
    ("ceph-subvolume-create-no-group", Reason::NoGroup),
    ("ceph-subvolume-create-no-mgr-cap", Reason::NotPermitted),
    ("ceph-subvolume-create-no-pool", Reason::NoDataPool),
    ("ceph-subvolume-deauthorize-again", Reason::NoUser),
    ("ceph-subvolume-deauthorize-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-getpath-no-filesystem", Reason::NoFilesystem),
    ("ceph-subvolume-getpath-no-group", Reason::NoGroup),
    ("ceph-subvolume-getpath-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-getpath-retained", Reason::Snapshots),
    ("ceph-subvolume-info-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-ls-no-group", Reason::NoGroup),
    ("ceph-subvolume-metadata-get-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-metadata-get-none", Reason::NoMetadata),
    ("ceph-subvolume-metadata-rm-none", Reason::NoMetadata),
    ("ceph-subvolume-resize-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-rm-no-subvolume", Reason::NoSubvolume),
    ("ceph-subvolume-rm-snapshots", Reason::Snapshots),
    ("rados-create-exists", Reason::Exists),
    // It says so on its standard output.
    ("rados-omap-get-no-key", Reason::Other),
    ("rados-omap-no-object", Reason::NoObject),
    ("rados-omap-no-pool", Reason::NoPool),
    ("rados-omap-other-pool", Reason::NotPermitted),
    ("rados-omap-undecodable-key", Reason::BadKey),
    ("rados-omap-unreachable", Reason::Unreachable),
    ("rados-omap-unresolved", Reason::Unresolved),
    ("rados-omap-wrong-key", Reason::WrongKey),
    ("rbd-clone-unprotected", Reason::Argument),
    ("rbd-create-bad-feature", Reason::Argument),
    ("rbd-create-exists", Reason::Exists),
    ("rbd-create-format-1", Reason::Argument),
    // A pool that is full does not refuse: it lets its clients wait.
    ("rbd-create-full", Reason::Deadline),
    ("rbd-create-no-data-pool", Reason::NoDataPool),
    ("rbd-create-no-namespace", Reason::NoNamespace),
    ("rbd-create-no-pool", Reason::NoPool),
    ("rbd-create-no-write", Reason::NotPermitted),
    ("rbd-create-other-pool", Reason::NotPermitted),
    ("rbd-create-unreachable", Reason::Unreachable),
    ("rbd-create-wrong-key", Reason::WrongKey),
    ("rbd-flatten-no-parent", Reason::Argument),
    ("rbd-import-exists", Reason::Exists),
    ("rbd-info-empty-key", Reason::WrongKey),
    ("rbd-info-no-image", Reason::NoImage),
    ("rbd-info-no-key-file", Reason::WrongKey),
    ("rbd-info-no-namespace", Reason::NoNamespace),
    ("rbd-info-no-pool", Reason::NoPool),
    ("rbd-info-other-pool", Reason::NotPermitted),
    ("rbd-info-undecodable-key", Reason::BadKey),
    ("rbd-info-unknown-user", Reason::WrongKey),
    ("rbd-info-unreachable", Reason::Unreachable),
    ("rbd-info-unresolved", Reason::Unresolved),
    ("rbd-info-wrong-key", Reason::WrongKey),
    ("rbd-ls-no-namespace", Reason::NoNamespace),
    ("rbd-ls-no-pool", Reason::NoPool),
    ("rbd-ls-other-pool", Reason::NotPermitted),
    ("rbd-meta-get-no-image", Reason::NoImage),
    ("rbd-meta-get-none", Reason::NoMetadata),
    ("rbd-meta-remove-none", Reason::NoMetadata),
    ("rbd-meta-set-full", Reason::Deadline),
    ("rbd-meta-set-no-image", Reason::NoImage),
    ("rbd-meta-set-no-write", Reason::NotPermitted),
    ("rbd-namespace-create-exists", Reason::Exists),
    ("rbd-rename-exists", Reason::Exists),
    ("rbd-rename-no-image", Reason::NoImage),
    ("rbd-resize-no-image", Reason::NoImage),
    ("rbd-resize-same", Reason::SameSize),
    ("rbd-resize-shrink", Reason::Shrink),
    // All that it says of an image that is there, in a full pool without a trash.
    ("rbd-rm-keeps-no-trash", Reason::NoImage),
    ("rbd-rm-no-image", Reason::NoImage),
    ("rbd-rm-no-pool", Reason::NoPool),
    ("rbd-rm-snapshots", Reason::Snapshots),
    ("rbd-rm-watched", Reason::Watched),
    ("rbd-status-no-image", Reason::NoImage),
    ("rbd-trash-ls-no-header", Reason::HeaderlessTrash),
    ("rbd-trash-ls-no-pool", Reason::NoPool),
    ("rbd-trash-mv-full", Reason::Deadline),
    ("rbd-trash-mv-moved-no-image", Reason::NoImage),
    ("rbd-trash-mv-no-image", Reason::NoImage),
    ("rbd-trash-mv-no-pool", Reason::NoPool),
    ("rbd-trash-purge-blocked", Reason::Snapshots),
    ("rbd-trash-restore-exists", Reason::Exists),
    ("rbd-trash-restore-half-moved", Reason::NotReady),
    ("rbd-trash-restore-no-image", Reason::NoImage),
    ("rbd-trash-rm-grouped", Reason::Grouped),
    ("rbd-trash-rm-half-moved", Reason::HalfMoved),
    ("rbd-trash-rm-no-image", Reason::NoImage),
    ("rbd-trash-rm-not-expired", Reason::NotExpired),
    ("rbd-trash-rm-snapshots", Reason::Snapshots),
];

/// Proves: rbd 16
#[test]
fn every_recorded_failure_means_what_the_table_says() {
    let meanings: BTreeMap<&str, Reason> = MEANINGS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut met = Vec::new();
    for case in Recorded::all() {
        assert!(case.name.starts_with(&case.tool.to_string()), "{} is of another tool", case.name);
        met.push(case.name.clone());
        match (meanings.get(case.name.as_str()), case.code) {
            (None, 0) => {}
            (None, code) => wrong.push(format!("{} (exit {code}) has no expectation in MEANINGS", case.name)),
            (Some(_), 0) => wrong.push(format!("{} was recorded as a success", case.name)),
            (Some(&expected), code) => {
                let reason = classify(case.tool, code, &case.stderr);
                if reason != expected {
                    wrong.push(format!("{}: {reason:?} and not {expected:?}:\n{}", case.name, case.stderr));
                }
            }
        }
    }
    for (name, _) in MEANINGS {
        if !met.iter().any(|met| met == name) {
            wrong.push(format!("{name} was not recorded"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_meaning_hangs_on_a_log_line_which_may_be_lost() {
    for case in Recorded::all().into_iter().filter(|case| case.code != 0) {
        // Keys are looked at before; here only the log tells.
        if !case.name.ends_with("-undecodable-key") {
            let bare = Stderr::read(&case.stderr).text().to_owned();
            let (with, without) =
                (classify(case.tool, case.code, &case.stderr), classify(case.tool, case.code, &bare));
            assert_eq!(without, with, "{}", case.name);
        }
    }
}

#[test]
fn a_ceph_that_stays_tells_the_same_as_one_that_ends() {
    for case in Recorded::all().into_iter().filter(|case| case.tool == Tool::Ceph) {
        // A program that was not let in ends.
        if !case.name.starts_with("ceph-fsid-") {
            assert_eq!(code_in(&case.stderr), case.code, "{}", case.name);
        }
    }
}

#[test]
fn a_failure_that_was_not_recorded_is_classified_by_its_number() {
    let rows = [
        ("a full cluster", Tool::Rbd, 28, "rbd: create error: (28) No space left on device", Reason::Full),
        ("a quota", Tool::Rbd, 122, "rbd: create error: (122) Disk quota exceeded", Reason::Full),
        (
            "a client that was fenced",
            Tool::Rbd,
            108,
            "rbd: error: (108) Cannot send after transport endpoint shutdown",
            Reason::NotReady,
        ),
        ("a program that was killed", Tool::Rbd, 137, "", Reason::Crashed),
        (
            "a refused connection",
            Tool::Rbd,
            111,
            "rbd: couldn't connect to the cluster!",
            Reason::Unreachable,
        ),
        (
            "a manager without its module",
            Tool::Ceph,
            95,
            "Error ENOTSUP: Module 'volumes' is not enabled/loaded (required by command 'fs subvolume create'): use `ceph mgr module enable volumes` to enable it",
            Reason::NotReady,
        ),
        ("a manager that is busy", Tool::Ceph, 11, "Error EAGAIN: clone in progress", Reason::NotReady),
        (
            "a newer name of a missing file system",
            Tool::Ceph,
            2,
            "Error ENOENT: Volume 'x' not found",
            Reason::NoFilesystem,
        ),
        (
            "a newer name of a wrong key",
            Tool::Ceph,
            13,
            "[errno 13] error connecting to the cluster",
            Reason::WrongKey,
        ),
        (
            "a monitor that is gone, by number",
            Tool::Ceph,
            1,
            "[errno 110] error connecting to the cluster",
            Reason::Unreachable,
        ),
        (
            "something missing that is not known",
            Tool::Rbd,
            2,
            "rbd: mirroring: (2) No such file or directory",
            Reason::NoSuchThing,
        ),
        (
            "a subvolume that holds more than it should",
            Tool::Ceph,
            22,
            "Error EINVAL: Can't resize the subvolume. The new size '1' would be lesser than the current used size '2'",
            Reason::Shrink,
        ),
        ("a number without a meaning", Tool::Ceph, 5, "Error EIO: something broke", Reason::Other),
    ];
    for (row, tool, code, stderr, reason) in rows {
        assert_eq!(classify(tool, code, stderr), reason, "{row}");
    }
}

#[test]
fn nothing_that_is_missing_above_an_image_looks_like_a_missing_image() {
    // Removal takes a missing image for done.
    for case in Recorded::all().into_iter().filter(|case| case.code != 0) {
        let reason = classify(case.tool, case.code, &case.stderr);
        let gone = matches!(reason, Reason::NoImage | Reason::NoSubvolume);
        // What asks that of a full pool looks for the image once more.
        let in_a_full_pool = case.name == "rbd-rm-keeps-no-trash";
        let says_so = case.name.contains("no-image") || case.name.contains("no-subvolume") || in_a_full_pool;
        assert_eq!(gone, says_so, "{}", case.name);
    }
}

/// Metadata of a subvolume in a full file system: the mark of a deletion, which Ceph said to have written, was not there.
#[test]
fn a_change_that_ends_as_if_it_were_made_and_was_not_is_known_by_what_is_said_of_it() {
    let said = |name: &str| {
        let case = Recorded::all().into_iter().find(|case| case.name == name).unwrap();
        assert_eq!(case.code, 0, "{name}");
        Stderr::read(&case.stderr).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(said("ceph-subvolume-metadata-set"), [""; 0]);
    assert_eq!(said("ceph-subvolume-metadata-set-full"), ["error in write"]);
}

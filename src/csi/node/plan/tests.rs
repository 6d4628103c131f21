//! Tables of what is decided for a call.

use tonic::Code;

use super::*;
use crate::{
    csi::{request::Capability, wire::v1::volume_capability::access_mode::Mode as Access},
    volume::Mode,
};

const STAGING: &str = "/k/plugins/a/globalmount";
/// The stage, as the table shows it.
const S: (&str, &str, &str) = (STAGING, "0:1", "rw");
/// A publication of it.
const T: (&str, &str, &str) = ("/t", "0:1", "rw");

fn arguments(access: Access) -> Arguments {
    let mount_options = Vec::new();
    Arguments::of(&Capability { mode: Mode::Filesystem, fs_type: String::new(), mount_options, access })
}

fn volume(device: &str) -> Mounted {
    Mounted { device: device.into(), root: "/".into(), fs_type: "nfs4".into(), source: "nas:/a".into() }
}

/// A table with `device` mounted at `point`, read-only where it says so.
fn table(mounts: &[(&str, &str, &str)]) -> Table {
    let lines = mounts
        .iter()
        .map(|(point, device, options)| format!("1 1 {device} / {point} {options} - nfs4 nas:/a rw\n"));
    Table::parse(lines.collect::<String>().as_bytes()).unwrap()
}

fn record(publications: &[(&str, bool, Access)]) -> StageRecord {
    StageRecord {
        driver: "d".into(),
        volume: "v".into(),
        staging: STAGING.into(),
        point: STAGING.into(),
        server: "nas:/a".into(),
        arguments: arguments(Access::MultiNodeMultiWriter),
        handle: std::collections::BTreeMap::new(),
        mounted: Some(volume("0:1")),
        publications: publications
            .iter()
            .map(|(target, read_only, access)| Publication {
                target: target.into(),
                point: target.into(),
                read_only: *read_only,
                arguments: arguments(*access),
                mounted: volume("0:1"),
            })
            .collect(),
    }
}

#[test]
fn a_volume_is_staged_only_where_nothing_else_is() {
    let known = record(&[]);
    let begun = StageRecord { mounted: None, ..known.clone() };
    let (rwx, rox) = (Access::MultiNodeMultiWriter, Access::MultiNodeReaderOnly);
    let here: &[(&str, &str, &str)] = &[(STAGING, "0:1", "rw")];
    let other: &[(&str, &str, &str)] = &[(STAGING, "0:9", "rw")];
    let over: &[(&str, &str, &str)] = &[(STAGING, "0:1", "rw"), (STAGING, "0:9", "rw")];
    let rows = [
        ("the first time", None, STAGING, rwx, &[][..], Ok(Staging::Mount)),
        ("something is mounted there", None, STAGING, rwx, other, Err(Code::FailedPrecondition)),
        ("again", Some(&known), STAGING, rwx, here, Ok(Staging::Done)),
        ("again with another mode", Some(&known), STAGING, rox, here, Err(Code::AlreadyExists)),
        ("after the machine restarted", Some(&known), STAGING, rwx, &[], Ok(Staging::Mount)),
        ("after that with another mode", Some(&known), STAGING, rox, &[], Ok(Staging::Mount)),
        ("something else is there instead", Some(&known), STAGING, rwx, other, Err(Code::FailedPrecondition)),
        ("something else hides it", Some(&known), STAGING, rwx, over, Err(Code::FailedPrecondition)),
        ("after a crash before the mount", Some(&begun), STAGING, rwx, &[], Ok(Staging::Mount)),
        ("after a crash behind the mount", Some(&begun), STAGING, rwx, here, Ok(Staging::Mount)),
        ("elsewhere too", Some(&known), "/k/other", rwx, here, Err(Code::AlreadyExists)),
        ("elsewhere after it was unmounted", Some(&known), "/k/other", rwx, &[], Ok(Staging::Mount)),
    ];
    for (row, record, staging, access, mounts, expected) in rows {
        let staging = Path::new(staging);
        let planned = stage(record, staging, staging, &arguments(access), &table(mounts));
        assert_eq!(planned.map_err(|status| status.code()), expected, "{row}");
    }
}

#[test]
fn the_publish_matrix_of_the_specification_holds() {
    use Publishing::{Bind, Done, MakeReadOnly, Renew, Stage};
    let (many, one, rwop) =
        (Access::MultiNodeMultiWriter, Access::SingleNodeWriter, Access::SingleNodeSingleWriter);
    let (exists, failed) = (|| Err(Code::AlreadyExists), || Err(Code::FailedPrecondition));
    let at = |access| Some(record(&[("/t", false, access)]));
    let both = Access::SingleNodeMultiWriter;
    let rows = [
        ("no stage is known", None, "/t", many, false, vec![S], Ok(Stage)),
        ("the stage is not mounted", Some(record(&[])), "/t", many, false, vec![], Ok(Stage)),
        (
            "the stage is hidden",
            Some(record(&[])),
            "/t",
            many,
            false,
            vec![S, (STAGING, "0:9", "rw")],
            Ok(Stage),
        ),
        ("the first place", Some(record(&[])), "/t", many, false, vec![S], Ok(Bind)),
        ("same place, same arguments", at(many), "/t", many, false, vec![S, T], Ok(Done)),
        ("same place, other access mode", at(many), "/t", both, false, vec![S, T], exists()),
        ("same place, only for reading", at(many), "/t", many, true, vec![S, T], exists()),
        ("another place", at(many), "/u", many, false, vec![S, T], Ok(Bind)),
        ("another place of a shared writer", at(both), "/u", both, false, vec![S, T], Ok(Bind)),
        ("same place of one writer", at(one), "/t", one, false, vec![S, T], Ok(Done)),
        ("another place of one writer", at(one), "/u", one, false, vec![S, T], failed()),
        ("another place of one pod", at(rwop), "/u", rwop, false, vec![S, T], failed()),
        ("another place beside one writer", at(one), "/u", many, false, vec![S, T], failed()),
        ("another place after the first is gone", at(one), "/u", one, false, vec![S], Ok(Bind)),
        ("same place after its mount is gone", at(many), "/t", both, false, vec![S], Ok(Bind)),
        (
            "something else is there",
            Some(record(&[])),
            "/t",
            many,
            false,
            vec![S, ("/t", "0:9", "rw")],
            failed(),
        ),
        ("something else hides it", at(many), "/t", many, false, vec![S, T, ("/t", "0:9", "rw")], Ok(Renew)),
        ("bound before a crash", Some(record(&[])), "/t", many, false, vec![S, T], Ok(Done)),
        (
            "bound before a crash, to be read-only",
            Some(record(&[])),
            "/t",
            many,
            true,
            vec![S, T],
            Ok(MakeReadOnly),
        ),
        (
            "read-only before a crash",
            Some(record(&[])),
            "/t",
            many,
            true,
            vec![S, ("/t", "0:1", "ro")],
            Ok(Done),
        ),
    ];
    for (row, record, target, access, read_only, mounts, expected) in rows {
        let wanted = Wanted {
            staging: Path::new(STAGING),
            target: Path::new(target),
            point: Path::new(target),
            read_only,
            arguments: &arguments(access),
        };
        let planned = publish(record.as_ref(), &wanted, &table(&mounts));
        assert_eq!(planned.map_err(|status| status.code()), expected, "{row}");
    }
}

#[test]
fn a_target_that_shows_an_earlier_stage_is_renewed() {
    let mut known = record(&[("/t", false, Access::MultiNodeMultiWriter)]);
    known.mounted = Some(volume("0:2"));
    let wanted = Wanted {
        staging: Path::new(STAGING),
        target: Path::new("/t"),
        point: Path::new("/t"),
        read_only: false,
        arguments: &arguments(Access::MultiNodeMultiWriter),
    };
    let mounts = table(&[(STAGING, "0:2", "rw"), ("/t", "0:1", "rw")]);
    assert_eq!(publish(Some(&known), &wanted, &mounts).unwrap(), Publishing::Renew);
}

#[test]
fn only_what_was_mounted_for_the_volume_is_unmounted() {
    let known = record(&[("/t", false, Access::MultiNodeMultiWriter)]);
    let target = Path::new("/t");
    assert!(is_ours(Some(&known), target, &volume("0:1")));
    assert!(is_ours(Some(&known), Path::new("/u"), &volume("0:1")), "bound before a crash");
    assert!(!is_ours(Some(&known), target, &volume("0:9")));
    assert!(is_ours(None, target, &volume("0:9")));
    let renewed = StageRecord { mounted: Some(volume("0:2")), ..known };
    assert!(is_ours(Some(&renewed), target, &volume("0:1")), "published from an earlier stage");
}

#[test]
fn at_the_start_only_what_nothing_uses_is_taken_away() {
    let known = record(&[("/t", false, Access::MultiNodeMultiWriter)]);
    let rows = [
        ("a pod uses it", true, vec![S, T], Left::Keep),
        ("a pod uses it, and kubelet forgot it", false, vec![S, T], Left::Keep),
        ("a pod uses what is not staged any more", false, vec![T], Left::Keep),
        ("staged for a pod that comes", true, vec![S], Left::Keep),
        ("kubelet forgot it", false, vec![S], Left::Unstage),
        ("the machine was restarted", true, vec![], Left::Forget),
    ];
    for (row, by_kubelet, mounts, expected) in rows {
        assert_eq!(left(&known, by_kubelet, &table(&mounts)), expected, "{row}");
    }
}

//! `berth node` as kubelet uses it: over its sockets, with mounts of the real kernel in a mount namespace of its own.
//!
//! NFS volumes are directories of this machine (`--test-nfs-bind-root`), or what a program in place of `mount.nfs` mounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // It is all test.

mod guest;
mod host;
mod kubelet;
mod registration;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use berth::csi::wire::v1::volume_capability::access_mode::Mode;
use host::{Host, LONG, record, skipped, wait_until};
use kubelet::{Pv, code, info, publish, stage, stats, unpublish, unstage};
use tonic::Code;

/// Mounts the share beneath the directory of the test, once nothing holds it.
const SLOW: &str =
    "#!/bin/sh\nwhile [ -e @GATE@ ]; do sleep 0.05; done\nexec mount --bind \"@SRV@${1#*:}\" \"$2\"\n";
const HUNG: &str = include_str!("hung.py");

macro_rules! unless_skipped {
    ($name:literal) => {
        if skipped($name) {
            return;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_staged_once_and_published_to_each_pod() {
    unless_skipped!("a volume is staged once and published to each pod");
    let mut host = Host::start();
    let (plugin, node, capabilities, ready) = info(&host).await;
    assert_eq!((plugin.name.as_str(), plugin.vendor_version.as_str()), (host::DRIVER, berth::VERSION));
    assert_eq!((node.node_id.as_str(), ready), ("worker-1", Some(true)));
    assert_eq!(capabilities, [1, 2, 5]);
    let pv = Pv::new("v", "/a");
    let (one, two) = (host.target("one"), host.target("two"));
    assert_eq!(stats(&host, &pv, &one).await.unwrap_err().code(), Code::NotFound);
    // Everything twice: kubelet repeats what it is not sure of.
    for _ in 0..2 {
        stage(&host, &pv).await.unwrap();
        publish(&host, &pv, &one).await.unwrap();
        publish(&host, &pv, &two).await.unwrap();
    }
    assert_eq!(host.mounted().len(), 3, "{:?}", host.mounted());
    fs::write(host.seen(&one).join("file"), "data").unwrap();
    assert_eq!(fs::read_to_string(host.seen(&two).join("file")).unwrap(), "data");
    assert_eq!(fs::read_to_string(host.srv().join("a/file")).unwrap(), "data");
    // What is beneath the mounts is closed to all: this process sees it, since it is in another namespace.
    for beneath in [&one, &two, &host.staging("v")] {
        assert_eq!(fs::metadata(beneath).unwrap().mode() & 0o7777, 0, "{beneath:?}");
    }
    let usage = stats(&host, &pv, &one).await.unwrap();
    assert!(usage[0].total > 0 && usage[0].used > 0 && usage[0].unit == 1 && usage[1].unit == 2, "{usage:?}");
    assert_eq!(stats(&host, &pv, Path::new("some/path")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(stats(&host, &pv, &host.target("three")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(code(unstage(&host, &pv).await), Code::FailedPrecondition, "pods use it");
    for _ in 0..2 {
        unpublish(&host, &pv, &one).await.unwrap();
        unpublish(&host, &pv, &two).await.unwrap();
    }
    assert!(!one.exists() && !two.exists());
    for _ in 0..2 {
        unstage(&host, &pv).await.unwrap();
    }
    assert_eq!(host.mounted(), Vec::<String>::new());
    let left = fs::read_dir(host.staging("v").parent().unwrap()).unwrap().count();
    assert_eq!(left, 2, "only what kubelet made");
    assert!(host.srv().join("a/file").exists());
    assert_eq!(host.stop_berth(), Some(0));
    assert!(!host.socket().exists() && !host.registration().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publish_matrix_holds_on_real_mounts() {
    unless_skipped!("the publish matrix holds on real mounts");
    let host = Host::start();
    let (one, two) = (host.target("one"), host.target("two"));
    let rows = [
        (Mode::SingleNodeWriter, Code::FailedPrecondition),
        (Mode::SingleNodeReaderOnly, Code::FailedPrecondition),
        (Mode::MultiNodeReaderOnly, Code::Ok),
        (Mode::MultiNodeSingleWriter, Code::Ok),
        (Mode::MultiNodeMultiWriter, Code::Ok),
        (Mode::SingleNodeSingleWriter, Code::FailedPrecondition),
        (Mode::SingleNodeMultiWriter, Code::Ok),
    ];
    for (mode, second) in rows {
        let pv = Pv { mode, ..Pv::new("v", "/a") };
        stage(&host, &pv).await.unwrap();
        publish(&host, &pv, &one).await.unwrap();
        assert_eq!(code(publish(&host, &pv, &one).await), Code::Ok, "{mode:?}: same place");
        let other = Pv { options: vec!["noatime".into()], ..pv.clone() };
        assert_eq!(
            code(publish(&host, &other, &one).await),
            Code::AlreadyExists,
            "{mode:?}: other arguments"
        );
        assert_eq!(code(stage(&host, &other).await), Code::AlreadyExists, "{mode:?}: other stage");
        assert_eq!(code(publish(&host, &pv, &two).await), second, "{mode:?}: other place");
        unpublish(&host, &pv, &one).await.unwrap();
        unpublish(&host, &pv, &two).await.unwrap();
        unstage(&host, &pv).await.unwrap();
    }
    assert_eq!(host.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_publication_cannot_be_written_to() {
    unless_skipped!("a read-only publication cannot be written to");
    let host = Host::start();
    let pv = Pv::new("v", "/a");
    let (read, write) = (host.target("read"), host.target("write"));
    stage(&host, &pv).await.unwrap();
    publish(&host, &Pv { read_only: true, ..pv.clone() }, &read).await.unwrap();
    publish(&host, &pv, &write).await.unwrap();
    fs::write(host.seen(&write).join("file"), "data").unwrap();
    assert_eq!(fs::read_to_string(host.seen(&read).join("file")).unwrap(), "data");
    let refused = fs::write(host.seen(&read).join("file"), "other").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30), "{refused}");
    assert!(host.mounts(&read)[0].split(',').any(|option| option == "ro"));
    assert_eq!(code(publish(&host, &pv, &read).await), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_and_nothing_behind_a_link_is_touched() {
    unless_skipped!("nothing outside and nothing behind a link is touched");
    let host = Host::start();
    let pv = Pv::new("v", "/a");
    stage(&host, &pv).await.unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), host.kubelet().join("pods/link")).unwrap();
    let target = host.target("used");
    fs::create_dir_all(target.join("data")).unwrap();
    for (target, why) in [
        (outside.path().join("mount"), "does not lie beneath"),
        (host.kubelet().join("pods/link/mount"), "symbolic link"),
        (host.kubelet().join("pods/../../mount"), "'..'"),
        (target.clone(), "is not empty"),
    ] {
        let refused = publish(&host, &pv, &target).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{target:?}: {refused}");
        assert!(refused.message().contains(why), "{target:?}: {refused}");
    }
    assert_eq!(code(unpublish(&host, &pv, &outside.path().join("mount")).await), Code::FailedPrecondition);
    assert_eq!(code(unpublish(&host, &pv, &target).await), Code::FailedPrecondition, "it is not empty");
    assert!(target.join("data").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // What something else mounted is neither covered nor unmounted.
    let foreign = host.target("foreign");
    fs::create_dir(&foreign).unwrap();
    host.run("mount", &["-t", "tmpfs", "x", foreign.to_str().unwrap()]);
    assert_eq!(code(publish(&host, &pv, &foreign).await), Code::FailedPrecondition);
    assert_eq!(code(unpublish(&host, &pv, &foreign).await), Code::FailedPrecondition);
    assert_eq!(host.mounts(&foreign).len(), 1);
    // A directory on the server that is a link does not lead out of the share.
    symlink("/etc", host.srv().join("link")).unwrap();
    let refused = stage(&host, &Pv::new("w", "/link")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    assert!(!record(&host.staging("w")).exists(), "nothing is left of it");
}

/// A pod wrote to the disk of the node, since its volume was staged before the machine started again and was not any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_is_gone_is_made_again_and_never_published_empty() {
    unless_skipped!("a stage that is gone is made again and never published empty");
    let host = Host::start();
    let pv = Pv::new("v", "/a");
    fs::write(host.srv().join("a/file"), "data").unwrap();
    let (staging, target) = (host.staging("v"), host.target("pod"));
    stage(&host, &pv).await.unwrap();
    host.run("umount", &[staging.to_str().unwrap()]);
    publish(&host, &pv, &target).await.unwrap();
    assert_eq!(fs::read_to_string(host.seen(&target).join("file")).unwrap(), "data");
    // Also where it was never staged.
    let never = Pv::new("w", "/a");
    publish(&host, &never, &host.target("other")).await.unwrap();
    assert_eq!(host.mounts(&host.staging("w")).len(), 1);
    // Where something else is, nothing is published.
    unpublish(&host, &pv, &target).await.unwrap();
    host.run("mount", &["-t", "tmpfs", "x", staging.to_str().unwrap()]);
    assert_eq!(code(publish(&host, &pv, &target).await), Code::FailedPrecondition);
    assert!(!target.exists());
    host.run("umount", &[staging.to_str().unwrap()]);
    publish(&host, &pv, &target).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pods_get_their_volumes_at_once() {
    unless_skipped!("a hundred pods get their volumes at once");
    let host = Arc::new(Host::start());
    let pvs = [Pv::new("v", "/a"), Pv::new("w", "/b")];
    for pv in &pvs {
        stage(&host, pv).await.unwrap();
    }
    let all = (0..100).map(|pod: usize| {
        let (host, pv) = (Arc::clone(&host), pvs[pod % 2].clone());
        tokio::spawn(async move {
            let target = host.target(&format!("pod-{pod}"));
            // What is told to come again comes again.
            for _ in 0..50 {
                match code(publish(&host, &pv, &target).await) {
                    Code::Ok => return target,
                    Code::Aborted => tokio::time::sleep(Duration::from_millis(200)).await,
                    other => panic!("{other}"),
                }
            }
            panic!("never published")
        })
    });
    let targets = futures::future::join_all(all).await;
    assert_eq!(host.mounted().len(), 102);
    for (pod, target) in targets.into_iter().enumerate() {
        unpublish(&host, &pvs[pod % 2], &target.unwrap()).await.unwrap();
    }
    for pv in &pvs {
        unstage(&host, pv).await.unwrap();
    }
    assert_eq!(host.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_kubelet_gave_up_goes_on_and_is_named_to_the_next_one() {
    unless_skipped!("a call that kubelet gave up goes on and is named to the next one");
    let host = Host::with_mount_program(SLOW);
    let pv = Pv { options: vec!["vers=3".into()], ..Pv::new("v", "/a") };
    fs::write(host.gate(), "").unwrap();
    tokio::time::timeout(Duration::from_secs(2), stage(&host, &pv)).await.unwrap_err();
    let told = unstage(&host, &pv).await.unwrap_err();
    assert_eq!(told.code(), Code::Aborted, "{told}");
    assert!(told.message().contains("NodeStageVolume of it has been running for"), "{told}");
    // Others are served.
    fs::remove_file(host.gate()).unwrap();
    wait_until("the call ends by itself", || host.mounts(&host.staging("v")).len() == 1);
    stage(&host, &pv).await.unwrap();
    assert_eq!(host.mounts(&host.staging("v")).len(), 1);
    unstage(&host, &pv).await.unwrap();
    assert_eq!(host.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_fails_leaves_nothing_and_says_why() {
    unless_skipped!("a mount that fails leaves nothing and says why");
    let host =
        Host::with_mount_program("#!/bin/sh\necho 'mount.nfs: access denied by server' >&2\nexit 32\n");
    let pv = Pv { options: vec!["vers=3".into()], ..Pv::new("v", "/a") };
    let failed = stage(&host, &pv).await.unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    for part in ["volume v of nas:/a", "mount.nfs ended with 32", "access denied by server"] {
        assert!(failed.message().contains(part), "{failed}");
    }
    assert!(!record(&host.staging("v")).exists());
    assert_eq!(host.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_delays_no_other_volume_and_its_pods_can_go() {
    unless_skipped!("a server that is gone delays no other volume and its pods can go");
    if let Err(error) = fs::File::open("/dev/fuse") {
        return println!("skipped: a server that is gone: /dev/fuse: {error}");
    }
    let python =
        std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let Ok(python) = python else {
        return println!("skipped: a server that is gone: python3 is not installed");
    };
    let python = String::from_utf8(python.stdout).unwrap();
    let host = Host::with_mount_program(&HUNG.replace("/usr/bin/env python3", python.trim()));
    let pv = Pv { options: vec!["vers=3".into()], ..Pv::new("v", "/gone") };
    let (one, two) = (host.target("one"), host.target("two"));
    stage(&host, &pv).await.unwrap();
    publish(&host, &pv, &one).await.unwrap();
    let before = stats(&host, &pv, &one).await.unwrap();
    assert_eq!((before[0].total, before[0].available, before[0].used), (4_096_000, 2_048_000, 1_638_400));
    fs::write(host.gate(), "").unwrap();
    let began = Instant::now();
    assert_eq!(stats(&host, &pv, &one).await.unwrap(), before, "the last answer");
    for _ in 0..5 {
        assert_eq!(stats(&host, &pv, &one).await.unwrap(), before, "and again");
    }
    let told = publish(&host, &pv, &two).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.message().contains("nas:/gone has not answered"), "{told}");
    assert_eq!(info(&host).await.3, Some(true), "the process is well");
    unpublish(&host, &pv, &one).await.unwrap();
    assert!(!one.exists());
    unstage(&host, &pv).await.unwrap();
    assert_eq!(host.mounted(), Vec::<String>::new());
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_two_steps_a_volume_is_unstaged_from_what_is_on_disk() {
    unless_skipped!("killed between any two steps a volume is unstaged from what is on disk");
    let mut host = Host::start();
    let pv = Pv::new("v", "/a");
    let target = host.target("pod");
    let restart = |host: &mut Host| {
        host.kill_berth();
        assert!(host.socket().exists(), "left behind");
        host.start_berth();
    };
    stage(&host, &pv).await.unwrap();
    restart(&mut host);
    stage(&host, &pv).await.unwrap();
    publish(&host, &pv, &target).await.unwrap();
    fs::write(host.seen(&target).join("file"), "data").unwrap();
    restart(&mut host);
    assert_eq!(fs::read_to_string(host.seen(&target).join("file")).unwrap(), "data", "the pod goes on");
    assert!(stats(&host, &pv, &target).await.unwrap()[0].total > 0);
    let other = Pv { read_only: true, ..pv.clone() };
    assert_eq!(code(publish(&host, &other, &target).await), Code::AlreadyExists, "it is remembered");
    publish(&host, &pv, &target).await.unwrap();
    restart(&mut host);
    unpublish(&host, &pv, &target).await.unwrap();
    restart(&mut host);
    unstage(&host, &pv).await.unwrap();
    restart(&mut host);
    unstage(&host, &pv).await.unwrap();
    assert_eq!(host.mounted(), Vec::<String>::new());
    assert!(!target.exists() && !record(&host.staging("v")).exists());
}

/// Kills at moments that nothing chooses, also in the middle of a step.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_left_mounted_and_nothing_is_lost() {
    unless_skipped!("killed at any moment nothing is left mounted and nothing is lost");
    let mut host = Host::start();
    fs::write(host.srv().join("a/file"), "data").unwrap();
    let pv = Pv::new("v", "/a");
    let target = host.target("pod");
    for round in 0..12_u64 {
        {
            let life = async {
                loop {
                    let _ = stage(&host, &pv).await;
                    let _ = publish(&host, &pv, &target).await;
                    let _ = unpublish(&host, &pv, &target).await;
                    let _ = unstage(&host, &pv).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(7 * round + 3), life).await;
        }
        host.kill_berth();
        host.start_berth();
        // What kubelet does after a start: it asks for all of it again, and takes it away again.
        stage(&host, &pv).await.unwrap();
        publish(&host, &pv, &target).await.unwrap();
        assert_eq!(fs::read_to_string(host.seen(&target).join("file")).unwrap(), "data");
        assert_eq!(host.mounted().len(), 2, "{:?}", host.mounted());
        unpublish(&host, &pv, &target).await.unwrap();
        unstage(&host, &pv).await.unwrap();
        assert_eq!(host.mounted(), Vec::<String>::new());
    }
    assert_eq!(fs::read_to_string(host.srv().join("a/file")).unwrap(), "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_away_what_kubelet_forgot_and_leaves_what_pods_use() {
    unless_skipped!("a start takes away what kubelet forgot and leaves what pods use");
    let mut host = Host::start();
    let (used, left) = (Pv::new("used", "/a"), Pv::new("left", "/b"));
    let target = host.target("pod");
    for pv in [&used, &left] {
        stage(&host, pv).await.unwrap();
    }
    publish(&host, &used, &target).await.unwrap();
    let (of_used, of_left) = (host.staging("used"), host.staging("left"));
    host.kill_berth();
    for staging in [&of_used, &of_left] {
        fs::remove_file(staging.parent().unwrap().join("vol_data.json")).unwrap();
    }
    host.start_berth();
    assert_eq!(host.mounts(&of_left), Vec::<String>::new());
    assert!(!record(&of_left).exists());
    assert_eq!((host.mounts(&of_used).len(), host.mounts(&target).len()), (1, 1));
    // A machine that was restarted has the records and no mounts.
    host.kill_berth();
    host.run("umount", &[target.to_str().unwrap(), of_used.to_str().unwrap()]);
    host.start_berth();
    assert!(!record(&of_used).exists());
}

/// The next start took a file that a pod had written into its volume for the record of another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_writes_into_its_volume_is_never_taken_for_a_record() {
    unless_skipped!("what a pod writes into its volume is never taken for a record");
    let mut host = Host::start();
    let (pv, victim) = (Pv::new("v", "/a"), Pv::new("victim", "/b"));
    let target = host.target("pod");
    stage(&host, &pv).await.unwrap();
    stage(&host, &victim).await.unwrap();
    publish(&host, &victim, &target).await.unwrap();
    let of_victim = fs::read(record(&host.staging("victim"))).unwrap();
    let mut planted: serde_json::Value = serde_json::from_slice(&of_victim).unwrap();
    let inside = host.staging("v").join("x").display().to_string();
    for (key, value) in
        [("staging", inside.clone().into()), ("point", inside.into()), ("mounted", serde_json::Value::Null)]
    {
        planted[key] = value;
    }
    planted["publications"] = serde_json::json!([]);
    for file in ["x.berth.json", "below/x.berth.json"] {
        let file = host.srv().join("a").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, planted.to_string()).unwrap();
    }
    host.kill_berth();
    host.start_berth();
    assert!(host.srv().join("a/x.berth.json").exists(), "it was taken for a record, and removed");
    publish(&host, &victim, &target).await.unwrap();
    unpublish(&host, &victim, &target).await.unwrap();
    for pv in [&pv, &victim] {
        unstage(&host, pv).await.unwrap();
    }
    assert_eq!(host.mounted(), Vec::<String>::new());
}

/// The key of a storage system stood in the log at the level `trace`.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_anywhere() {
    const PLANTED: &str = "planted-hunter2";
    unless_skipped!("no secret is written anywhere");
    let host = Host::start();
    let secrets = std::collections::BTreeMap::from([("userKey".to_owned(), PLANTED.to_owned())]);
    let pv = Pv { secrets, options: vec![format!("password={PLANTED}")], ..Pv::new("v", "/a") };
    stage(&host, &pv).await.unwrap();
    publish(&host, &pv, &host.target("pod")).await.unwrap();
    let failed = stage(&host, &Pv { mode: Mode::SingleNodeWriter, ..pv.clone() }).await.unwrap_err();
    assert!(!format!("{failed:?}").contains(PLANTED));
    let absent = Pv { id: "w".into(), ..Pv { context: Pv::new("w", "/absent").context, ..pv.clone() } };
    let failed = stage(&host, &absent).await.unwrap_err();
    assert!(!format!("{failed:?}").contains(PLANTED));
    let text = fs::read_to_string(record(&host.staging("v"))).unwrap();
    assert!(!text.contains(PLANTED) && text.contains("\"volume\""), "{text}");
    let log = host.log();
    assert!(log.contains("NodeStageVolume") && !log.contains(PLANTED), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_does_not_keep_the_process() {
    unless_skipped!("a client that says nothing does not keep the process");
    let mut host = Host::start();
    let _silent = std::os::unix::net::UnixStream::connect(host.socket()).unwrap();
    let _other = std::os::unix::net::UnixStream::connect(host.registration()).unwrap();
    let began = Instant::now();
    assert_eq!(host.stop_berth(), Some(0));
    assert!(began.elapsed() < LONG);
    assert!(!host.socket().exists() && !host.registration().exists());
}

#[test]
fn a_directory_that_is_not_kubelets_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["node", "--kubelet-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let told = String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout);
    assert!(told.contains("has no plugins_registry") && told.contains("/var/lib/k0s/kubelet"), "{told}");
}

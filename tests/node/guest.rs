//! What needs a kernel that serves and mounts NFS: run by `e2e/run mounts` in the machine of `e2e/guest`.
//!
//! The kernel's own server exports a directory in memory; the tests look at what arrives there, past the client.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::{
    host::{Host, LONG, record, wait_until},
    kubelet::{Pv, code, publish, stage, stats, unpublish, unstage},
};

/// Set in the machine.
const VARIABLE: &str = "BERTH_TEST_GUEST";
const EXPORT: &str = "/run/export";

/// Starts the server: version 4 with `/` for the export, version 3 with its path.
const SERVER: &str = "set -e
mkdir -p /run/export /run/rpc_pipefs /run/lock /var/lib/nfs
mount -t tmpfs tmpfs /var/lib/nfs
mkdir -p /var/lib/nfs/sm /var/lib/nfs/v4recovery
mount -t tmpfs tmpfs /run/export
chmod 777 /run/export
modprobe nfsd
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs sunrpc /run/rpc_pipefs
echo '/run/export *(rw,sync,insecure,no_subtree_check,no_root_squash,fsid=0)' >/etc/exports
: >/var/lib/nfs/etab
: >/var/lib/nfs/rmtab
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo 10 >/proc/fs/nfsd/nfsv4leasetime
rpcbind
rpc.mountd
rpc.nfsd 4
exportfs -ra
echo Y >/proc/fs/nfsd/v4_end_grace
";

/// Prints why the test is skipped, where it is; starts the server where it is not.
fn skipped(test: &str) -> bool {
    static STARTED: Once = Once::new();
    let inside = std::env::var_os(VARIABLE).is_some();
    if inside {
        STARTED.call_once(|| shell(SERVER));
    } else {
        println!("skipped: {test}: needs a kernel with NFS: e2e/run mounts");
    }
    !inside
}

fn shell(script: &str) {
    let done = Command::new("sh").args(["-c", script]).output().unwrap();
    let told = [done.stdout, done.stderr].map(|told| String::from_utf8_lossy(&told).into_owned());
    assert!(done.status.success(), "{script}: {told:?}");
}

/// The directory of a volume on the server.
fn served(name: &str) -> PathBuf {
    let directory = Path::new(EXPORT).join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn pv(server: &str, share: &str, options: &[&str]) -> Pv {
    let mut pv = Pv::new("v", share);
    pv.context.insert("server".into(), server.into());
    pv.options = options.iter().map(|&option| option.to_owned()).collect();
    pv
}

/// Reads and writes the file as a pod would, in a process that can be given up where the server is gone.
fn within(host: &Host, path: &Path, seconds: &str) -> bool {
    let cat = Command::new("timeout")
        .args(["-s", "KILL", seconds, "cat"])
        .arg(host.seen(path).join("file"))
        .output()
        .unwrap();
    cat.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_volumes_of_every_version_of_nfs_serve_pods_while_the_plugin_is_killed() {
    if skipped("volumes of every version of NFS serve pods while the plugin is killed") {
        return;
    }
    let rows: [(&str, &str, &[&str], &str); 5] = [
        ("127.0.0.1", "/a", &[], "vers=4.2"),
        ("localhost", "/a", &["vers=4.1", "noatime"], "vers=4.1"),
        ("127.0.0.1", "/a", &["nfsvers=4.0", "nosuid"], "vers=4.0"),
        ("::1", "/a", &["soft"], "proto=tcp6"),
        ("127.0.0.1", "/run/export/a", &["vers=3", "nolock"], "vers=3"),
    ];
    let volume = served("a");
    let mut host = Host::with_kernel();
    for (server, share, options, shown) in rows {
        let told = format!("{server}:{share} {options:?}");
        let pv = pv(server, share, options);
        let (one, two) = (host.target("one"), host.target("two"));
        stage(&host, &pv).await.unwrap();
        publish(&host, &pv, &one).await.unwrap();
        publish(&host, &Pv { read_only: true, ..pv.clone() }, &two).await.unwrap();
        let mount = host.mount_of(&host.staging("v"));
        assert!(mount.split(',').any(|option| option == shown), "{told}: {mount}");
        for option in options.iter().filter(|option| ["noatime", "nosuid"].contains(option)) {
            let of_mount = host.mounts(&one);
            assert!(of_mount[0].split(',').any(|one| one == *option), "{told}: {of_mount:?}");
        }
        fs::write(host.seen(&one).join("file"), &told).unwrap();
        assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), told, "on the server");
        let refused = fs::write(host.seen(&two).join("file"), "other").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(30), "{told}: {refused}");
        let usage = stats(&host, &pv, &one).await.unwrap();
        assert!(usage[0].total > 0 && usage[0].unit == 1, "{told}: {usage:?}");
        host.kill_berth();
        assert_eq!(fs::read_to_string(host.seen(&two).join("file")).unwrap(), told, "pods go on");
        host.start_berth();
        unpublish(&host, &pv, &one).await.unwrap();
        assert_eq!(code(unstage(&host, &pv).await), Code::FailedPrecondition, "{told}: a pod uses it");
        unpublish(&host, &pv, &two).await.unwrap();
        unstage(&host, &pv).await.unwrap();
        assert_eq!(host.mounted(), Vec::<String>::new(), "{told}");
        assert!(!record(&host.staging("v")).exists(), "{told}");
        assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), told, "the data stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_a_share_that_is_missing_is_named_and_leaves_nothing() {
    if skipped("a share that is missing is named and leaves nothing") {
        return;
    }
    let host = Host::with_kernel();
    for options in [&["vers=4.2"][..], &["vers=3", "nolock"], &[]] {
        let failed = stage(&host, &pv("127.0.0.1", "/missing", options)).await.unwrap_err();
        assert!(failed.message().contains("127.0.0.1:/missing"), "{options:?}: {failed}");
        assert_eq!(host.mounted(), Vec::<String>::new(), "{options:?}");
        assert!(!record(&host.staging("v")).exists(), "{options:?}");
    }
}

/// An administrator restored the directory of the volume from a backup: the client holds one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn guest_a_volume_whose_directory_was_made_again_serves_the_next_pod() {
    if skipped("a volume whose directory was made again serves the next pod") {
        return;
    }
    let host = Host::with_kernel();
    let volume = served("again");
    let pv = pv("127.0.0.1", "/again", &["vers=4.2"]);
    let (old, new) = (host.target("old"), host.target("new"));
    stage(&host, &pv).await.unwrap();
    publish(&host, &pv, &old).await.unwrap();
    fs::write(host.seen(&old).join("file"), "before").unwrap();
    fs::remove_dir_all(&volume).unwrap();
    fs::write(served("again").join("file"), "restored").unwrap();
    let stale =
        || fs::read_dir(host.seen(&host.staging("v"))).is_err_and(|error| error.raw_os_error() == Some(116));
    wait_until("the client notices", stale);
    publish(&host, &pv, &new).await.unwrap();
    assert_eq!(fs::read_to_string(host.seen(&new).join("file")).unwrap(), "restored");
    // The pod from before can go, and kubelet can begin again with it.
    unpublish(&host, &pv, &old).await.unwrap();
    publish(&host, &pv, &old).await.unwrap();
    assert_eq!(fs::read_to_string(host.seen(&old).join("file")).unwrap(), "restored");
    for target in [&old, &new] {
        unpublish(&host, &pv, target).await.unwrap();
    }
    unstage(&host, &pv).await.unwrap();
    assert_eq!(host.mounted(), Vec::<String>::new());
}

/// Hard mounts, which are the default, wait for their server for ever.
#[tokio::test(flavor = "multi_thread")]
async fn guest_a_server_that_is_gone_holds_up_no_other_volume_and_lets_pods_end() {
    if skipped("a server that is gone holds up no other volume and lets pods end") {
        return;
    }
    let mut host = Host::with_kernel();
    served("a");
    // The same server under another address, which is cut off later.
    shell("modprobe iptable_filter");
    let gone = pv("127.0.0.2", "/a", &["vers=4.2"]);
    let other = Pv { id: "w".into(), ..pv("127.0.0.1", "/a", &["vers=4.1"]) };
    let (one, two, well) = (host.target("one"), host.target("two"), host.target("well"));
    stage(&host, &gone).await.unwrap();
    publish(&host, &gone, &one).await.unwrap();
    fs::write(host.seen(&one).join("file"), "data").unwrap();
    let before = stats(&host, &gone, &one).await.unwrap();
    let cut = "iptables-legacy -w -A INPUT -i lo -p tcp -d 127.0.0.2 --dport 2049 -j DROP";
    shell(cut);
    let began = Instant::now();
    assert!(!within(&host, &one, "2"), "the pod hangs");
    assert_eq!(stats(&host, &gone, &one).await.unwrap()[0].total, before[0].total, "the last answer");
    let told = publish(&host, &gone, &two).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.message().contains("127.0.0.2:/a has not answered"), "{told}");
    stage(&host, &other).await.unwrap();
    publish(&host, &other, &well).await.unwrap();
    assert_eq!(fs::read_to_string(host.seen(&well).join("file")).unwrap(), "data");
    // Also by a process that knows nothing of the mounts but what is on disk.
    host.kill_berth();
    host.start_berth();
    unpublish(&host, &gone, &one).await.unwrap();
    assert!(!one.exists());
    unstage(&host, &gone).await.unwrap();
    assert!(began.elapsed() < LONG * 2, "{:?}", began.elapsed());
    unpublish(&host, &other, &well).await.unwrap();
    unstage(&host, &other).await.unwrap();
    assert_eq!(host.mounted(), Vec::<String>::new());
    shell(&cut.replace(" -A ", " -D "));
    // It comes back, and so does its volume.
    let back = Instant::now();
    while code(stage(&host, &gone).await) != Code::Ok {
        assert!(back.elapsed() < LONG, "staged once the server is back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    publish(&host, &gone, &one).await.unwrap();
    assert_eq!(fs::read_to_string(host.seen(&one).join("file")).unwrap(), "data");
    unpublish(&host, &gone, &one).await.unwrap();
    unstage(&host, &gone).await.unwrap();
}

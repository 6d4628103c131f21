//! The program as a process: exit codes, streams, probes and signals. Everything finer is tested beside the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is all test.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

fn berth() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_wrong_configuration_ends_with_2_and_says_what_to_write() {
    let Output { status, stdout, stderr } = berth().output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert_eq!(text(&stdout), "");
    assert!(text(&stderr).starts_with("berth: not configured: --provisioner-name, PROVISIONER_NAME"));

    let old = [
        ("NFS_SERVER", "s"),
        ("NFS_PATH", "/p"),
        ("PROVISIONER_NAME", "p"),
        ("ENABLE_LEADER_ELECTION", "no"),
    ];
    let Output { status, stderr, .. } = berth().envs(old).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(text(&stderr).contains("environment variable ENABLE_LEADER_ELECTION \"no\" must be one of"));
}

#[test]
fn exports_that_overlap_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("berth.yaml");
    let exports = "provisionerNames: [p]\nexports:\n- {name: a, server: s, path: /x}\n- {name: b, server: s, path: /x/y}\n";
    std::fs::write(&config, exports).unwrap();
    let Output { status, stderr, .. } = berth().arg("--config").arg(&config).output().unwrap();
    assert_eq!(status.code(), Some(2), "{}", text(&stderr));
    assert!(text(&stderr).contains("overlap"), "{}", text(&stderr));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let Output { status, stdout, stderr } = berth().arg("--version").output().unwrap();
    assert!(status.success());
    assert_eq!((text(&stdout), text(&stderr)), (format!("berth {}\n", berth::VERSION).as_str(), ""));
    let Output { status, stdout, .. } = berth().args(["controller", "--help"]).output().unwrap();
    assert!(status.success());
    assert!(text(&stdout).contains("--nfs-server"));
}

/// Proves: row 2.4
#[test]
fn without_a_cluster_the_reason_is_named() {
    let needed = ["--nfs-server=s", "--nfs-path=/p", "--provisioner-name=p", "--listen=off"];
    let Output { status, stderr, .. } = berth().args(needed).output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(text(&stderr).contains("KUBECONFIG"), "{}", text(&stderr));
    let Output { status, stderr, .. } = berth().args(needed).env("KUBECONFIG", "/nowhere").output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(text(&stderr).contains("read the kubeconfig /nowhere"), "{}", text(&stderr));
}

/// A process that is ended also when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits for the end; what does not end in half a minute never does.
    fn end(&mut self) -> i32 {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().expect("an exit code, not a signal");
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the process did not end");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

/// The file as soon as it is there.
fn wait_for(file: &Path) -> String {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if let Ok(text) = std::fs::read_to_string(file) {
            return text;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} did not appear", file.display());
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An API server that accepts connections and never answers must delay neither the probes nor the end of the process.
///
/// Proves: statement 13, statement 17
#[test]
fn a_dead_api_server_delays_neither_probes_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let server = dead.local_addr().unwrap();
    let cluster = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: 'http://{server}'}}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user: {{}}\n"
    );
    std::fs::write(&kubeconfig, cluster).unwrap();
    let export = folder.path().join("export");
    std::fs::create_dir(&export).unwrap();
    let address = folder.path().join("address");

    let child = berth()
        .args(["--nfs-server=s", "--nfs-path=/p", "--provisioner-name=p", "--listen=127.0.0.1:0"])
        .args(["--shutdown-grace=2s", "--api-timeout=5s", "-v=4"])
        .arg("--export-root")
        .arg(&export)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .arg("--listen-file")
        .arg(&address)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let address = wait_for(&address);
    let address = address.trim();

    assert!(get(address, "/livez").starts_with("HTTP/1.1 200 OK"));
    let ready = get(address, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("[-]synced: "), "{ready}");
    assert!(get(address, "/metrics").contains("\nberth_leader 0.0\n"));

    running.signal("-TERM");
    assert_eq!(running.end(), 0);
}

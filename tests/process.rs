//! The program as a process: exit codes, streams, probes and signals. Everything finer is tested beside the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // It is all test.

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

/// What a process needs besides a cluster.
const NEEDED: [&str; 3] = ["--nfs-server=s", "--nfs-path=/p", "--provisioner-name=p"];

/// Proves: row 2.4
#[test]
fn without_a_cluster_the_reason_is_named() {
    let needed = || {
        let mut command = berth();
        command.args(NEEDED).arg("--listen=off");
        command
    };
    let Output { status, stderr, .. } = needed().output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(text(&stderr).contains("KUBECONFIG"), "{}", text(&stderr));
    let Output { status, stderr, .. } = needed().env("KUBECONFIG", "/nowhere").output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(text(&stderr).contains("read the kubeconfig /nowhere"), "{}", text(&stderr));
}

/// A kubeconfig for `server`, whose only context is `c`.
fn kubeconfig(folder: &Path, context: &str, server: &str) -> std::path::PathBuf {
    let file = folder.join(format!("kubeconfig-{context}"));
    let cluster = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {context}\nclusters:\n- name: c\n  cluster: {{server: '{server}'}}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user: {{}}\n"
    );
    std::fs::write(&file, cluster).unwrap();
    file
}

#[test]
fn everything_wrong_in_the_settings_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let good = kubeconfig(folder.path(), "c", "http://127.0.0.1:9");
    let other_context = kubeconfig(folder.path(), "staging", "http://127.0.0.1:9");
    let no_yaml = folder.path().join("no-yaml");
    std::fs::write(&no_yaml, "{").unwrap();
    let bad_key = folder.path().join("bad-key");
    let text_of_good = std::fs::read_to_string(&good).unwrap();
    std::fs::write(
        &bad_key,
        text_of_good
            .replace("http:", "https:")
            .replace("user: {}", "user: {client-certificate-data: bm8=, client-key-data: bm8=}"),
    )
    .unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let good = good.to_str().unwrap();
    let rows: [(&str, Vec<String>, &str); 6] = [
        ("a context that is not there", vec![format!("--kubeconfig={}", other_context.display())], "staging"),
        ("a kubeconfig that is no YAML", vec![format!("--kubeconfig={}", no_yaml.display())], "no-yaml"),
        (
            "a key that is no key",
            vec![format!("--kubeconfig={}", bad_key.display()), "--listen=off".into()],
            "cannot create a client for the API server at https://127.0.0.1:9",
        ),
        (
            "a port that is taken",
            vec![format!("--kubeconfig={good}"), format!("--listen={taken}")],
            "listen on 127.0.0.1:",
        ),
        (
            "a port that is taken, as the old flag has it",
            vec![format!("--kubeconfig={good}"), format!("-metrics-port={}", taken.port())],
            "listen on :",
        ),
        (
            "a file that cannot be written",
            vec![
                format!("--kubeconfig={good}"),
                "--listen=127.0.0.1:0".into(),
                "--listen-file=/nowhere/address".into(),
            ],
            "write /nowhere/address",
        ),
    ];
    for (row, flags, named) in rows {
        let Output { status, stderr, .. } = berth().args(NEEDED).args(flags).output().unwrap();
        assert_eq!(status.code(), Some(2), "{row}: {}", text(&stderr));
        assert!(text(&stderr).contains(named), "{row}: {}", text(&stderr));
    }
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

/// The text of a file as soon as it contains `part`.
fn wait_for_text(file: &Path, part: &str) -> String {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.contains(part) {
            return text;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{part:?} did not appear in {}", std::fs::read_to_string(file).unwrap_or_default());
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
    let kubeconfig = kubeconfig(folder.path(), "c", &format!("http://{}", dead.local_addr().unwrap()));
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

/// A process of which only the log is of interest, against the API server at `server`.
fn logging(folder: &Path, server: &str, flags: &[&str]) -> (Running, std::path::PathBuf) {
    let log = folder.join("log");
    let child = berth()
        .args(NEEDED)
        .args(["--listen=off", "--kubeconfig"])
        .arg(kubeconfig(folder, "c", server))
        .args(flags)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    (Running(child), log)
}

fn lines<'a>(log: &'a str, part: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(part)).collect()
}

#[test]
fn an_unreachable_api_server_is_told_once_for_all_requests_with_address_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    // Freed at once: nothing listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let (mut running, log) = logging(folder.path(), &format!("http://{address}"), &["-v=4"]);
    // At -v=4 every retry is told at the level debug.
    let retries = "cannot find out whether the API server supports streaming lists";
    while lines(&wait_for_text(&log, retries), retries).len() < 3 {
        thread::sleep(Duration::from_millis(50));
    }
    running.signal("-TERM");
    assert_eq!(running.end(), 0);
    let most = 1 + began.elapsed().as_secs() / 5;
    let log = std::fs::read_to_string(log).unwrap();
    let told = lines(&log, "the API server cannot be reached");
    assert!(!told.is_empty() && told.len() as u64 <= most, "{log}");
    assert!(told[0].contains(" WARN "), "{log}");
    assert!(told[0].contains(&format!("server=\"http://{address}/\"")), "{log}");
    assert!(told[0].contains("Connection refused"), "{log}");
    assert!(!log.contains(" kube_") && !log.contains(" hyper"), "a line for a request: {log}");
    let others = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(others.count(), told.len(), "{log}");
}

/// An API server that refuses everything with this code, and denies every right that it is asked for; it ends with the test.
fn refusing(code: &'static str, message: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || refuse(stream, code, message));
        }
    });
    address
}

fn refuse(mut stream: TcpStream, code: &str, message: &str) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
            Ok(0) | Err(_) => return,
        }
    }
    let (number, reason) = code.split_once(' ').unwrap();
    let mut status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": number.parse::<u16>().unwrap(),
    });
    let mut line = code;
    if number == "403" && request.starts_with(b"POST /apis/authorization.k8s.io/") {
        line = "201 Created";
        status = serde_json::json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}, "status": {"allowed": false},
        });
    }
    let body = status.to_string();
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

#[test]
fn a_missing_right_without_which_nothing_works_is_an_error_with_the_rule_to_add() {
    let folder = tempfile::tempdir().unwrap();
    let address = refusing("403 Forbidden", "x is forbidden");
    let (mut running, log) = logging(folder.path(), &format!("http://{address}"), &[]);
    let said = "missing right to list persistentvolumes";
    let text = wait_for_text(&log, said);
    running.signal("-TERM");
    assert_eq!(running.end(), 0);
    let line = lines(&text, said)[0];
    assert!(line.contains(" ERROR "), "{line}");
    let rule = r#"resources: [\"persistentvolumes\"]\n  verbs: [\"list\", \"watch\"]\n"#;
    assert!(line.contains(r#"rule="- apiGroups: "#) && line.contains(rule), "{line}");
}

#[test]
fn refusals_of_the_api_server_are_sentences_and_no_dumps() {
    let rows = [
        (
            "401 Unauthorized",
            "Unauthorized",
            "the API server does not accept the credentials of this process",
        ),
        (
            "403 Forbidden",
            "x is forbidden: User y cannot list it",
            "error=\"x is forbidden: User y cannot list it\"",
        ),
    ];
    for (code, message, said) in rows {
        let folder = tempfile::tempdir().unwrap();
        let (mut running, log) = logging(folder.path(), &format!("http://{}", refusing(code, message)), &[]);
        let text = wait_for_text(&log, said);
        assert!(lines(&text, said).iter().all(|line| line.contains(" ERROR ")), "{text}");
        running.signal("-TERM");
        assert_eq!(running.end(), 0);
        let text = std::fs::read_to_string(log).unwrap();
        for dump in ["ApiError", "Status {", "ErrorResponse", "kube_"] {
            assert!(!text.contains(dump), "{code}: {text}");
        }
    }
}

/// On the network of a node another berth may have the port that nobody asked for.
#[test]
fn a_default_port_that_is_taken_is_told_and_the_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // Where this fails the port is taken already, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = kubeconfig(folder.path(), "c", &format!("http://{}", dead.local_addr().unwrap()));
    let log = folder.path().join("log");
    let child = berth()
        .args(NEEDED)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let text = wait_for_text(&log, "started");
    assert!(text.contains("the port is in use: berth serves probes and metrics once it is free"), "{text}");
    assert!(text.contains(":8080"), "{text}");
    running.signal("-TERM");
    assert_eq!(running.end(), 0);
}

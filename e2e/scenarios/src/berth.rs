//! The unmodified `berth` binary as a child process.
//!
//! [`program`] finds or builds it, [`Setup`] says how it is started (the environment of the old
//! images and a few flags, all of them in this file), [`Berth`] is one running process: its log,
//! its probes, its cost, and the ways to end it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::{
    case::PATIENCE,
    control_plane::{Access, User},
    process::{Process, Usage},
};

/// The binary under test: `BERTH_BIN`, else what cargo builds (`BERTH_PROFILE`, default `dev`).
pub async fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BERTH_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("BERTH_BIN is {}, which is no file", path.display());
        }
        return path.canonicalize().context("resolve BERTH_BIN");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let profile = std::env::var("BERTH_PROFILE").unwrap_or_else(|_| "dev".to_owned());
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--package", "berth", "--bin", "berth", "--message-format=json-render-diagnostics"])
        .args(["--profile", &profile])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("run cargo build")?;
    if !output.status.success() {
        bail!("cargo build failed ({})", output.status);
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .context("cargo build named no executable")
}

/// The NFS export, as an old Deployment names it.
#[derive(Clone, Debug)]
pub struct Export {
    /// `NFS_SERVER`.
    pub server: String,
    /// `NFS_PATH`.
    pub path: String,
    /// The directory where it is mounted.
    pub root: PathBuf,
}

/// How a process is to be started. The defaults are those of an old Deployment.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whose rights it has.
    pub user: User,
    /// How it reaches the API server.
    pub access: Access,
    /// `PROVISIONER_NAME`; not set if empty.
    pub provisioner: String,
    /// What an old Deployment for NFS says, and one for Ceph does not.
    pub export: Option<Export>,
    /// `ENABLE_LEADER_ELECTION`.
    pub leader_election: bool,
    /// What it logs, if the scenario depends on that.
    pub log: Option<String>,
    /// Further flags.
    pub flags: Vec<OsString>,
    /// Further environment; wins over everything above.
    pub environment: Vec<(OsString, OsString)>,
}

impl Setup {
    /// Adds flags.
    #[must_use]
    pub fn flags<T: AsRef<str>, const N: usize>(mut self, flags: [T; N]) -> Self {
        self.flags.extend(flags.map(|flag| OsString::from(flag.as_ref())));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Logs this, whatever `BERTH_LOG` says.
    #[must_use]
    pub fn logs(mut self, what: &str) -> Self {
        self.log = Some(what.to_owned());
        self
    }

    /// Uses another way to the API server.
    #[must_use]
    pub fn through(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Leaves it to flags and file which names are served.
    #[must_use]
    pub fn without_provisioner(mut self) -> Self {
        self.provisioner.clear();
        self
    }

    /// Leads at once, without a lock.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.leader_election = false;
        self
    }

    /// Looks for unused directories at short intervals, where an administrator's berth takes hours.
    #[must_use]
    pub fn sweeps_soon(self) -> Self {
        self.flags(["--sweep-interval=1s", "--sweep-grace=1s"])
    }

    /// The command line: `berth controller` with the environment of the old images.
    fn command(&self, program: &Path, kubeconfig: &Path, listen_file: &Path) -> Command {
        let log = self
            .log
            .clone()
            .or_else(|| std::env::var("BERTH_LOG").ok())
            .unwrap_or_else(|| "info,berth=debug".to_owned());
        let mut command = Command::new(program);
        command
            .args(["controller", "--listen=127.0.0.1:0", "--listen-file"])
            .arg(listen_file)
            .arg(format!("--log-level={log}"))
            // Scenarios make many errors on purpose; an administrator's berth waits up to minutes.
            .arg("--retry-max=3s")
            .args(&self.flags)
            // Nothing of the developer's own cluster may leak in.
            .env_clear()
            .envs(
                ["PATH", "HOME", "TMPDIR"]
                    .into_iter()
                    .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))),
            )
            .env("RUST_BACKTRACE", "1")
            // What is removed is purged as soon as its PV is gone, unless a scenario says otherwise.
            .env("BERTH_TRASH_RETENTION", "0s")
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAMESPACE", self.user.namespace());
        if !self.provisioner.is_empty() {
            command.env("PROVISIONER_NAME", &self.provisioner);
        }
        if let Some(export) = &self.export {
            command
                .env("NFS_SERVER", &export.server)
                .env("NFS_PATH", &export.path)
                .env("BERTH_EXPORT_ROOT", &export.root);
        }
        if !self.leader_election {
            command.env("ENABLE_LEADER_ELECTION", "false");
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it as `name`; its log and kubeconfig go to `dir`. Does not wait for anything.
    pub fn start(&self, program: &Path, name: &str, dir: &Path) -> Result<Berth> {
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, self.access.kubeconfig())
            .with_context(|| format!("write {}", kubeconfig.display()))?;
        let listen_file = dir.join(format!("{name}.address"));
        let command = self.command(program, &kubeconfig, &listen_file);
        let process = Process::spawn(name, command, &dir.join(format!("{name}.log")))?;
        Ok(Berth { process: Arc::new(process), listen_file, may_end: Arc::default() })
    }
}

/// A berth process. Clones share it; the last one to be dropped kills it.
#[derive(Clone, Debug)]
pub struct Berth {
    process: Arc<Process>,
    /// Where it writes the address of its probes.
    listen_file: PathBuf,
    may_end: Arc<AtomicBool>,
}

impl Berth {
    /// Ends it at once, as a crash of its node would.
    pub async fn kill(&self) -> Result<()> {
        self.may_end.store(true, Ordering::Relaxed);
        self.process.kill().await
    }

    /// SIGTERM, then waits for its end.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.may_end.store(true, Ordering::Relaxed);
        self.process.terminate(PATIENCE).await
    }

    /// Sends a signal, e.g. `SIGSTOP` to make it hang and `SIGCONT` to let it go on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&self) -> Result<ExitStatus> {
        self.may_end.store(true, Ordering::Relaxed);
        self.process.wait(PATIENCE).await
    }

    /// Whatever ends it from now on is no fault; gives its process id.
    pub fn expect_end(&self) -> i32 {
        self.may_end.store(true, Ordering::Relaxed);
        self.pid()
    }

    /// True once a scenario has ended it, or waits for its end.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.may_end.load(Ordering::Relaxed)
    }

    /// What it has written.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The last `lines` lines of that.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }

    /// Memory and processor time.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.process.usage()
    }

    /// True until it has ended.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.exit_status().is_none()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn check_alive(&self) -> Result<()> {
        self.process.check_alive()
    }

    /// Status and body of a GET on its probe and metrics port.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let ask = async {
            let address = std::fs::read_to_string(&self.listen_file)?;
            let mut stream = TcpStream::connect(address.trim()).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: berth\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), ask)
            .await
            .map_err(|_| anyhow!("no answer to GET {path} within 10 s"))?
            .with_context(|| format!("GET {path}"))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("GET {path} was answered by {answer:?}"))?;
        let code = head
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("GET {path} was answered by {head:?}"))?;
        Ok((code, body.to_owned()))
    }

    /// Waits until `path` answers 200.
    pub async fn answers(&self, path: &str) -> Result<()> {
        let mut last = anyhow!("never asked");
        let ask = async {
            loop {
                self.check_alive()?;
                match self.get(path).await {
                    Ok((200, _)) => return Ok(()),
                    Ok((code, body)) => last = anyhow!("{code}: {body}"),
                    Err(error) => last = error,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(result) => result,
            Err(_) => Err(last.context(format!("GET {path} is not 200 after {PATIENCE:?}"))),
        }
    }

    /// The value of a metric, `0` if it does not appear. `series` is name and labels as in the
    /// exposition, e.g. `berth_claims{state="pending"}`.
    pub async fn metric(&self, series: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        Ok(text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0))
    }
}

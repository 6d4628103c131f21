//! A real Ceph cluster of one node, for scenarios, benchmarks and the demonstration: `e2e/ceph` in Rust's hands.
//!
//! [`Cluster::start`] is the entry point; dropping it ends the daemons by their process ids and removes all they wrote.
//! The daemons are children of this process, so that one can be killed, frozen and started again. [`Cluster::rbd`] and
//! [`Cluster::ceph`] are what an administrator types. [`inventory`] tells what lies in the cluster,
//! and [`steps`] stands in front of the programs that berth calls.
//!
//! It knows nothing of berth.

pub mod inventory;
pub mod steps;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::process::{Process, ScratchDir};

/// More than any command of an administrator needs on a cluster that serves.
const COMMAND_LIMIT: Duration = Duration::from_mins(2);

/// The file system that [`Cluster::start`] makes.
pub const FILE_SYSTEM: &str = "cephfs";

/// One of the daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// The monitor.
    Mon,
    /// The manager, which answers `ceph fs subvolume`.
    Mgr,
    /// The only OSD, which holds everything.
    Osd,
    /// The metadata server of the file system.
    Mds,
}

impl Daemon {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 4] = [Self::Mon, Self::Mgr, Self::Osd, Self::Mds];
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mon => "mon",
            Self::Mgr => "mgr",
            Self::Osd => "osd",
            Self::Mds => "mds",
        })
    }
}

/// Whether a cluster can be started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packages {
    /// Everything is there.
    Ready,
    /// Something is missing; the reason says what, and how to get it.
    Missing(String),
}

impl Packages {
    /// Looks for Ceph's programs, and changes nothing.
    pub async fn find() -> Result<Self> {
        let missing = script("missing").output().await.context("run e2e/ceph missing")?;
        let missing =
            String::from_utf8_lossy(&missing.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        if missing.is_empty() {
            return Ok(Self::Ready);
        }
        Ok(Self::Missing(format!(
            "Ceph's programs are not installed; on Debian, as root: apt-get install --no-install-recommends {missing}"
        )))
    }

    /// As [`Packages::find`], and installs what is missing where this is Debian and we are root.
    pub async fn install() -> Result<Self> {
        let found = Self::find().await?;
        if found == Self::Ready {
            return Ok(found);
        }
        println!("ceph: installing Ceph's packages, where that is possible");
        // It says itself why it cannot; a failure shows in what is missing afterwards.
        let _ = script("install").status().await.context("run e2e/ceph install")?;
        Self::find().await
    }
}

/// `e2e/ceph VERB`.
fn script(verb: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ceph"));
    command.arg(verb).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Ended before their directory goes.
    daemons: Mutex<BTreeMap<Daemon, Arc<Process>>>,
    monitors: Monitors,
    dir: ScratchDir,
}

/// Where the monitor listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitors {
    /// Protocol 2.
    pub v2: String,
    /// Protocol 1, which is what old classes and old PVs name.
    pub v1: String,
}

impl Monitors {
    /// Reads the line `mon host` of the configuration that `e2e/ceph prepare` wrote.
    fn read(conf: &str) -> Option<Self> {
        let line = conf.lines().find_map(|line| line.strip_prefix("mon host = "))?;
        let (v2, v1) = line.trim().strip_prefix("[v2:")?.strip_suffix(']')?.split_once(",v1:")?;
        Some(Self { v2: v2.to_owned(), v1: v1.to_owned() })
    }
}

impl Cluster {
    /// Starts a cluster in a temporary directory and waits until it serves.
    pub async fn start() -> Result<Self> {
        let dir = ScratchDir::new("berth-ceph-")?;
        succeed(script("prepare").arg(dir.path())).await.context("prepare the cluster")?;
        let conf = std::fs::read_to_string(dir.path().join("ceph.conf")).context("read ceph.conf")?;
        let monitors = Monitors::read(&conf).context("ceph.conf names no monitor")?;
        let cluster = Self { daemons: Mutex::default(), monitors, dir };
        for daemon in Daemon::ALL {
            cluster.launch(daemon)?;
        }
        succeed(script("settle").arg(cluster.dir.path())).await.with_context(|| cluster.logs())?;
        Ok(cluster)
    }

    /// Where everything of it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration, which names the monitors and the administrator's key: what `CEPH_CONF` is to be.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("ceph.conf")
    }

    /// Where the monitor listens.
    #[must_use]
    pub fn monitors(&self) -> &Monitors {
        &self.monitors
    }

    // --- daemons -------------------------------------------------------------------------------

    fn launch(&self, daemon: Daemon) -> Result<()> {
        let mut command = script("daemon");
        command.arg(self.dir.path()).arg(daemon.to_string());
        let log = self.dir.path().join("log").join(format!("{daemon}.out"));
        let process = Arc::new(Process::spawn(&format!("ceph-{daemon}"), command, &log)?);
        self.lock().insert(daemon, process);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Daemon, Arc<Process>>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daemon(&self, daemon: Daemon) -> Result<Arc<Process>> {
        self.lock().get(&daemon).cloned().with_context(|| format!("the {daemon} was never started"))
    }

    /// The process id of a daemon.
    pub fn pid(&self, daemon: Daemon) -> Result<i32> {
        Ok(self.daemon(daemon)?.pid())
    }

    /// Ends a daemon as a crash of its machine would.
    pub async fn kill(&self, daemon: Daemon) -> Result<()> {
        self.daemon(daemon)?.kill().await
    }

    /// Lets a daemon hang: its connections stay, and nothing answers.
    pub fn freeze(&self, daemon: Daemon) -> Result<()> {
        self.daemon(daemon)?.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self, daemon: Daemon) -> Result<()> {
        self.daemon(daemon)?.signal(Signal::SIGCONT)
    }

    /// Puts the cluster right whatever was done to it: thaws what is frozen, starts what has ended, waits until all serves.
    pub async fn recover(&self) -> Result<()> {
        for daemon in Daemon::ALL {
            match self.daemon(daemon)?.exit_status() {
                None => self.thaw(daemon)?,
                Some(_) => self.launch(daemon)?,
            }
        }
        succeed(script("wait").arg(self.dir.path())).await.with_context(|| self.logs())
    }

    /// Fails if a daemon has ended.
    pub fn check_alive(&self) -> Result<()> {
        self.lock().values().try_for_each(|process| process.check_alive())
    }

    /// The ends of the daemons' logs.
    fn logs(&self) -> String {
        let mut text = "the cluster does not serve".to_owned();
        for (daemon, process) in self.lock().iter() {
            text = format!("{text}; {daemon}: {}", process.log_tail(3).replace('\n', " | "));
        }
        text
    }

    // --- an administrator's commands -----------------------------------------------------------

    /// A command that works on this cluster as its administrator.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("CEPH_CONF", self.conf()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a program as the administrator and waits for its end.
    pub async fn run<T: AsRef<OsStr>>(&self, program: &str, args: &[T]) -> Result<Answer> {
        let mut command = self.command(program);
        command.args(args);
        answer(&mut command, COMMAND_LIMIT).await
    }

    /// `rbd ARGS`, which must succeed; gives what it printed.
    pub async fn rbd<T: AsRef<OsStr>>(&self, args: &[T]) -> Result<String> {
        self.run("rbd", args).await?.done()
    }

    /// `ceph ARGS`, which must succeed; gives what it printed.
    pub async fn ceph<T: AsRef<OsStr>>(&self, args: &[T]) -> Result<String> {
        self.run("ceph", args).await?.done()
    }

    /// The text of `rbd ARGS --format json`, read; nothing counts as `null`.
    pub async fn rbd_json<V: DeserializeOwned>(&self, args: &[&str]) -> Result<V> {
        read(&self.rbd(&[args, &["--format", "json"]].concat()).await?, args)
    }

    /// The text of `ceph ARGS --format json`, read; nothing counts as `null`.
    pub async fn ceph_json<V: DeserializeOwned>(&self, args: &[&str]) -> Result<V> {
        read(&self.ceph(&[args, &["--format", "json"]].concat()).await?, args)
    }

    /// Several questions to one `ceph`, whose start costs more than they do: the answers in JSON, one after the other. A
    /// question that fails has none.
    pub async fn ask(&self, questions: &[&str]) -> Result<Vec<serde_json::Value>> {
        let mut command = self.command("ceph");
        command.args(["--format", "json"]).stdin(Stdio::piped());
        let said = answer_to(&mut command, format!("{}\n", questions.join("\n")).into_bytes(), COMMAND_LIMIT)
            .await?;
        let values = serde_json::Deserializer::from_str(&said.stdout).into_iter();
        let values: Result<Vec<_>, _> = values.collect();
        values.with_context(|| format!("the answers to {questions:?} are {said:?}"))
    }

    /// Runs a script of Python that finds the mounted file system as `fs`, a `cephfs.LibCephFS`, and its arguments as
    /// `sys.argv[1:]`; gives what it printed. For what an administrator does in a mount, where nothing can be mounted.
    pub async fn in_file_system(&self, script: &str, args: &[&str]) -> Result<String> {
        let script = format!(
            "import cephfs, os, sys\nfs = cephfs.LibCephFS(conffile=os.environ['CEPH_CONF'], auth_id='admin')\n\
             fs.mount(filesystem_name=b'{FILE_SYSTEM}')\n{script}\nfs.unmount()\n"
        );
        self.run("/usr/bin/python3", &[&["-c", &script][..], args].concat()).await?.done()
    }

    /// Makes a pool for images.
    pub async fn pool(&self, name: &str) -> Result<()> {
        self.ceph(&["osd", "pool", "create", name, "1"]).await?;
        self.rbd(&["pool", "init", name]).await.map(drop)
    }

    /// The capabilities that the documentation tells administrators to give: as `deploy/examples/ceph/caps.sh` prints them.
    pub async fn documented_caps(args: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/ceph/caps.sh");
        let mut command = Command::new("/bin/sh");
        command.arg(script).args(args);
        Ok(answer(&mut command, COMMAND_LIMIT).await?.done()?.trim().to_owned())
    }

    /// Makes a user with these capabilities, or finds it, and gives its key.
    pub async fn user(&self, name: &str, caps: &[(&str, &str)]) -> Result<String> {
        let entity = format!("client.{name}");
        let mut args = vec!["auth", "get-or-create-key", entity.as_str()];
        args.extend(caps.iter().flat_map(|(daemon, cap)| [*daemon, *cap]));
        Ok(self.ceph(&args).await?.trim().to_owned())
    }

    /// A user's key.
    pub async fn key(&self, name: &str) -> Result<String> {
        Ok(self.ceph(&["auth", "get-key", &format!("client.{name}")]).await?.trim().to_owned())
    }
}

fn read<V: DeserializeOwned>(text: &str, args: &[&str]) -> Result<V> {
    let text = if text.trim().is_empty() { "null" } else { text };
    serde_json::from_str(text).with_context(|| format!("the answer to {args:?} is {text:?}"))
}

/// What a program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The program and its arguments.
    pub asked: String,
    /// How it ended; `None` for a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Answer {
    /// What it printed, if it succeeded.
    pub fn done(self) -> Result<String> {
        ensure!(self.code == Some(0), "{} ended with {:?}: {}", self.asked, self.code, self.stderr.trim());
        Ok(self.stdout)
    }
}

/// Runs a command to its end, at most so long.
pub async fn answer(command: &mut Command, at_most: Duration) -> Result<Answer> {
    answer_to(command, Vec::new(), at_most).await
}

/// The same, with something to read.
async fn answer_to(command: &mut Command, input: Vec<u8>, at_most: Duration) -> Result<Answer> {
    let asked = format!("{:?}", command.as_std());
    let running = async {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(stdin) = &mut stdin {
                // Who does not read it says so by the way it ends.
                stdin.write_all(&input).await.ok();
            }
            drop(stdin);
        };
        futures::join!(feed, child.wait_with_output()).1
    };
    let Ok(output) = tokio::time::timeout(at_most, running).await else {
        bail!("{asked} still ran after {at_most:?}");
    };
    let output = output.with_context(|| format!("run {asked}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer {
        asked,
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// Runs a step of `e2e/ceph`, which limits its own time.
async fn succeed(command: &mut Command) -> Result<()> {
    answer(command, Duration::from_mins(5)).await?.done().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitors_are_read_from_the_configuration() {
        let conf = "[global]\nfsid = x\nmon host = [v2:127.0.0.1:20000,v1:127.0.0.1:20001]\n";
        let monitors = Monitors::read(conf).unwrap();
        assert_eq!((monitors.v2.as_str(), monitors.v1.as_str()), ("127.0.0.1:20000", "127.0.0.1:20001"));
        assert_eq!(Monitors::read("mon host = 127.0.0.1\n"), None);
    }

    #[tokio::test]
    async fn an_answer_tells_what_was_asked_and_how_it_ended() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let answer = answer(&mut command, Duration::from_secs(30)).await.unwrap();
        assert_eq!(
            (answer.code, answer.stdout.as_str(), answer.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        let error = answer.done().unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.ends_with("ended with Some(3): err"), "{error}");
    }
}

//! Child processes that never outlive the run.
//!
//! [`Process::spawn`] starts a program in a process group of its own, with its output in a file.
//! Dropping a [`Process`] kills the group by its id. When the run itself is killed, a guardian (a
//! shell that reads a pipe held by us) does the same for everything that was still running, and
//! removes the temporary directories it was told of.
//!
//! It does not restart anything and knows nothing of what the programs are.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{ChildStdin, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::sync::watch;

const GUARDIAN: &str = r#"
list=
while read -r verb what; do
    case $verb in
    add) list="$list $what" ;;
    drop)
        kept=
        for one in $list; do [ "$one" = "$what" ] || kept="$kept $one"; done
        list=$kept
        ;;
    esac
done
for one in $list; do
    case $one in /*) ;; *) kill -KILL "-$one" 2>/dev/null ;; esac
done
for one in $list; do
    case $one in /*) rm -rf -- "$one" ;; esac
done
"#;

/// Our end of the guardian's pipe: it acts when this is closed, whatever closes it.
fn guardian() -> Result<&'static Mutex<ChildStdin>> {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_starts = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipe) = PIPE.get() {
        return Ok(pipe);
    }
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(GUARDIAN).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Control-C at the terminal reaches our group: the guardian must survive it.
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let mut child = shell.spawn().context("start the guardian shell")?;
    let stdin = child.stdin.take().context("the guardian has no stdin")?;
    Ok(PIPE.get_or_init(|| Mutex::new(stdin)))
}

fn tell_guardian(verb: &str, what: &str) -> Result<()> {
    let mut pipe = guardian()?.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{verb} {what}").context("tell the guardian")
}

/// A temporary directory which is removed on drop, and also when the run is killed.
#[derive(Debug)]
pub struct ScratchDir {
    dir: tempfile::TempDir,
    guarded: bool,
}

impl ScratchDir {
    /// Makes a directory under `TMPDIR` whose name begins with `prefix`.
    pub fn new(prefix: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().context("make a temporary directory")?;
        // The guardian splits its list at blanks, so it is told only of names that it cannot misread.
        let name = dir.path().to_str().filter(|name| {
            name.starts_with('/')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
        });
        if let Some(name) = name {
            tell_guardian("add", name)?;
        }
        let guarded = name.is_some();
        Ok(Self { dir, guarded })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if self.guarded
            && let Some(name) = self.dir.path().to_str()
            && let Err(error) = tell_guardian("drop", name)
        {
            tracing::warn!(%error, "the guardian is gone");
        }
    }
}

/// A running (or ended) program.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: i32,
    log: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts `command` as `name`; both its outputs go to the end of the file `log`.
    ///
    /// Must be called inside a tokio runtime: a task waits for the end of the program.
    pub fn spawn(name: &str, mut command: tokio::process::Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {name} ({})", command.as_std().get_program().display()))?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .with_context(|| format!("{name} has no process id"))?;
        tell_guardian("add", &pid.to_string())?;
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            if let Err(error) = tell_guardian("drop", &pid.to_string()) {
                tracing::warn!(%error, pid, "the guardian is gone");
            }
            match status {
                Ok(status) => {
                    ended.send_replace(Some(status));
                }
                Err(error) => tracing::warn!(%error, pid, "cannot wait for a child"),
            }
        });
        Ok(Self { name: name.to_owned(), pid, log: log.to_owned(), exit })
    }

    /// The process id, which is also the id of its group.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("(cannot read {}: {error})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last `lines` lines that it has written.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Sends `signal` to the program and to whatever it started.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit_status().is_some() {
            bail!("{} has ended already", self.name);
        }
        killpg(Pid::from_raw(self.pid), signal)
            .with_context(|| format!("send {signal} to {} ({})", self.name, self.pid))
    }

    /// Waits until it ends.
    pub async fn wait(&self, at_most: Duration) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(at_most, exit.wait_for(Option::is_some))
            .await
            .map_err(|_| anyhow!("{} still runs after {at_most:?}", self.name))?
            .with_context(|| format!("{} was not waited for", self.name))?;
        (*ended).with_context(|| format!("{} has no exit status", self.name))
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        if self.exit_status().is_none() {
            self.signal(Signal::SIGKILL)?;
        }
        self.wait(Duration::from_secs(30)).await.map(drop)
    }

    /// Asks it to end and waits until it has.
    pub async fn terminate(&self, at_most: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(at_most).await
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn check_alive(&self) -> Result<()> {
        match self.exit_status() {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}); the end of its log:\n{}", self.name, self.log_tail(30))
            }
        }
    }

    /// What it has cost so far; `None` once it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        if self.exit_status().is_some() {
            return None;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        Usage::parse(&status, &stat)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit_status().is_none()
            && let Err(error) = killpg(Pid::from_raw(self.pid), Signal::SIGKILL)
        {
            tracing::debug!(%error, name = self.name, "already gone");
        }
    }
}

/// Memory and processor time of a process, from `/proc`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory now, KiB.
    pub resident_kib: u64,
    /// The most it ever had, KiB.
    pub peak_kib: u64,
    /// User and system time, seconds.
    pub cpu_seconds: f64,
}

impl Usage {
    /// Reads the text of `/proc/PID/status` and `/proc/PID/stat`.
    fn parse(status: &str, stat: &str) -> Option<Self> {
        let kib = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        };
        // The second field is the program's name in parentheses and may itself hold blanks.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut ticks = after_name.split_ascii_whitespace().skip(11);
        let user: u32 = ticks.next()?.parse().ok()?;
        let system: u32 = ticks.next()?.parse().ok()?;
        // USER_HZ, the unit of these fields, is 100 on every Linux that Rust supports.
        let cpu_seconds = (f64::from(user) + f64::from(system)) / 100.0;
        Some(Self { resident_kib: kib("VmRSS:")?, peak_kib: kib("VmHWM:")?, cpu_seconds })
    }
}

/// Processor seconds that a process and all beneath it have used, with those that have ended and were waited for.
#[must_use]
pub fn tree_cpu_seconds(root: i32) -> f64 {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<Ticks> = pids
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Ticks::parse(pid, &std::fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect();
    let mut tree = vec![root];
    let mut ticks = 0.0;
    while let Some(pid) = tree.pop() {
        ticks += all.iter().filter(|process| process.pid == pid).map(|process| process.used).sum::<f64>();
        tree.extend(all.iter().filter(|process| process.parent == pid).map(|process| process.pid));
    }
    // USER_HZ, the unit of these fields, is 100 on every Linux that Rust supports.
    ticks / 100.0
}

struct Ticks {
    pid: i32,
    parent: i32,
    used: f64,
}

impl Ticks {
    /// Reads the text of `/proc/PID/stat`.
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may itself hold blanks.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
        Some(Self { pid, parent: fields.get(1)?.parse().ok()?, used: ticks })
    }
}

/// A port on loopback that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("bind a port on loopback")?;
    Ok(listener.local_addr().context("read the port")?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    fn runs(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until(condition: impl Fn() -> bool) {
        tokio::time::timeout(Duration::from_secs(30), async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the condition holds within 30 s");
    }

    #[tokio::test]
    async fn dropping_a_process_kills_it_and_what_it_started() {
        let dir = ScratchDir::new("berth-test-").unwrap();
        let log = dir.path().join("log");
        let process = Process::spawn("parent", shell("sleep 600 & echo $!; wait"), &log).unwrap();
        until(|| process.log().ends_with('\n')).await;
        let grandchild = process.log().trim().to_owned();
        assert!(runs(&grandchild));
        drop(process);
        until(|| !runs(&grandchild)).await;
    }

    #[tokio::test]
    async fn the_exit_status_and_both_outputs_are_kept() {
        let dir = ScratchDir::new("berth-test-").unwrap();
        let log = dir.path().join("log");
        let process = Process::spawn("short", shell("echo out; echo err >&2; exit 3"), &log).unwrap();
        let status = process.wait(Duration::from_secs(30)).await.unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log(), "out\nerr\n");
        assert_eq!(process.log_tail(1), "err");
        let error = process.check_alive().unwrap_err().to_string();
        assert!(error.contains("short ended (exit status: 3)"), "{error}");
    }

    #[tokio::test]
    async fn terminate_is_the_signal_that_a_program_can_answer() {
        let dir = ScratchDir::new("berth-test-").unwrap();
        let log = dir.path().join("log");
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let process = Process::spawn("polite", shell(script), &log).unwrap();
        until(|| process.log().contains("ready")).await;
        let status = process.terminate(Duration::from_secs(30)).await.unwrap();
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn the_guardian_kills_and_removes_only_what_it_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let [kept, gone] = ["kept", "gone"].map(|name| dir.path().join(name));
        for one in [&kept, &gone] {
            std::fs::create_dir(one).unwrap();
        }
        let mut sleeper = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut sleeper, 0);
        let mut sleeper = sleeper.arg("600").spawn().unwrap();
        let mut shell = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(GUARDIAN)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = shell.stdin.take().unwrap();
        writeln!(pipe, "add {}", sleeper.id()).unwrap();
        writeln!(pipe, "add {}", kept.display()).unwrap();
        writeln!(pipe, "add {}", gone.display()).unwrap();
        writeln!(pipe, "drop {}", kept.display()).unwrap();
        drop(pipe);
        assert!(!sleeper.wait().unwrap().success());
        shell.wait().unwrap();
        assert!(kept.exists());
        assert!(!gone.exists());
    }

    #[test]
    fn a_tree_costs_what_its_ended_children_cost() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = tree_cpu_seconds(me);
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        assert!(std::process::Command::new("sh").args(["-c", busy]).status().unwrap().success());
        assert!(tree_cpu_seconds(me) > before);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 3 4 20 0 1 0 100 1000 256";
        let ticks = Ticks::parse(7, stat).unwrap();
        assert_eq!((ticks.parent, ticks.used), (1, 307.0));
    }

    #[test]
    fn usage_is_read_also_when_the_program_has_an_odd_name() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 256";
        let usage = Usage::parse(status, stat).unwrap();
        assert_eq!(usage, Usage { resident_kib: 1024, peak_kib: 2048, cpu_seconds: 3.0 });
    }
}

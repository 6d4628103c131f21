//! Starts programs: [`run`] for one that answers and ends, [`Session`] for one that is asked again and again.
//!
//! A program gets its arguments as they are (no shell), an environment of what is named and a fixed `PATH`, a deadline, and a
//! process group of its own, which is killed whole at the deadline, or when the caller no longer waits. What it wrote is kept
//! up to a cap; the rest is read, counted and dropped, so that no program ever waits for us. No argument and no output is logged
//! here: only the caller knows what may be shown.

mod session;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
pub use session::{Exchange, Session};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::{Instant, timeout, timeout_at},
};

/// Where programs are looked up, whatever the environment of this process says.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long what a program left behind may hold its outputs open after it ended.
const LEFTOVERS: Duration = Duration::from_secs(1);
/// How long a killed program may take to be gone; a longer one hangs in the kernel and is reaped when it comes out.
const REAPING: Duration = Duration::from_secs(2);

/// One program to be run.
#[derive(Clone)]
pub struct Command {
    /// Its name, looked up in [`PATH`], or its path.
    pub program: String,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Its whole environment besides `PATH`.
    pub env: Vec<(String, String)>,
    /// What it reads from its standard input; `None` for nothing.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take.
    pub deadline: Duration,
    /// How many bytes are kept of each of its outputs.
    pub cap: usize,
}

impl fmt::Debug for Command {
    /// Without arguments, environment and input: what they hold is the caller's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// How a program ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, or 128 and the number of the signal that ended it, as a shell says it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Captured,
    /// What it wrote to its standard error.
    pub stderr: Captured,
}

/// What was written to one output.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The beginning, up to the cap.
    pub bytes: Vec<u8>,
    /// How many bytes behind it were dropped.
    pub dropped: u64,
}

impl Captured {
    fn add(&mut self, bytes: &[u8], cap: usize) {
        let (kept, dropped) = bytes.split_at(bytes.len().min(cap.saturating_sub(self.bytes.len())));
        self.bytes.extend_from_slice(kept);
        self.dropped += u64::try_from(dropped.len()).unwrap_or(u64::MAX);
    }
}

impl fmt::Debug for Captured {
    /// How much it is, not what it says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured").field("kept", &self.bytes.len()).field("dropped", &self.dropped).finish()
    }
}

/// Why there is no [`Output`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such program.
    #[error("the program {0} is not installed here (looked up in {PATH})")]
    Missing(String),
    /// It did not end, or a session did not answer, in time. It and its children were killed.
    #[error("did not answer within {} s and was killed", .0.as_secs_f32())]
    Deadline(Duration),
    /// It could not be started, fed or waited for.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
}

impl Failure {
    fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { step, cause }
    }
}

/// Runs a program to its end.
///
/// Dropped, it kills the program with everything that it started.
pub async fn run(command: &Command) -> Result<Output, Failure> {
    let end = Instant::now() + command.deadline;
    let Started { mut child, group, stdin, stdout, stderr } = start(command)?;
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let status = {
        let mut outputs = pin!(async {
            tokio::join!(
                feed(stdin, command.stdin.as_deref().unwrap_or_default()),
                capture(stdout, &mut out, command.cap),
                capture(stderr, &mut err, command.cap),
            )
        });
        let mut closed = false;
        let ended = timeout_at(end, async {
            tokio::select! {
                biased;
                status = child.wait() => status,
                _ = &mut outputs => { closed = true; child.wait().await }
            }
        })
        .await;
        match ended {
            Ok(status) => {
                if !closed {
                    closed = timeout(LEFTOVERS, &mut outputs).await.is_ok();
                }
                // Where nobody holds the outputs, nobody of the group is left, and its number may be somebody else's.
                if closed {
                    group.disarm();
                } else {
                    drop(group);
                }
                status.map_err(Failure::io("wait for the program"))?
            }
            Err(_late) => {
                drop(group);
                let _ = timeout(REAPING, child.wait()).await;
                return Err(Failure::Deadline(command.deadline));
            }
        }
    };
    Ok(Output { code: code(status), stdout: out, stderr: err })
}

/// A program that was started, and the ends of its pipes.
struct Started {
    child: Child,
    group: Group,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

fn start(command: &Command) -> Result<Started, Failure> {
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .env("PATH", PATH)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .process_group(0)
        // Reaped also where nobody waits for it any more.
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => Failure::Missing(command.program.clone()),
            _ => Failure::Io { step: "start the program", cause },
        })?;
    let group = Group::of(&child);
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(Failure::Io { step: "start the program", cause: io::ErrorKind::BrokenPipe.into() });
    };
    Ok(Started { child, group, stdin, stdout, stderr })
}

#[derive(Debug)]
/// The process group of a child; killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// Lets it be.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            match killpg(group, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => tracing::warn!(group = group.as_raw(), %error, "a program could not be killed"),
            }
        }
    }
}

/// Writes all of it and closes the pipe. A program that does not read it says by its exit code what that means.
async fn feed(mut pipe: ChildStdin, bytes: &[u8]) {
    let _ = pipe.write_all(bytes).await;
    let _ = pipe.shutdown().await;
}

/// Reads to the end. An output that cannot be read any more has ended.
async fn capture(mut pipe: impl AsyncRead + Unpin, captured: &mut Captured, cap: usize) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        captured.add(buffer.get(..count).unwrap_or_default(), cap);
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

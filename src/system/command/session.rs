//! A program that stays and is asked one thing after another: [`Session`].
//!
//! Where an answer ends, its asker knows: by a mark that the program writes to its standard error after everything else.
//! A session that did anything unexpected, or whose asker went away in the middle, is never asked again.

use std::{os::fd::AsFd, time::Duration};

use nix::{errno::Errno, unistd::read};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::timeout,
};

use super::{Captured, Command, Failure, Group, LEFTOVERS, Output, REAPING, Started, capture, code, start};

/// A running program that answers.
#[derive(Debug)]
pub struct Session {
    /// `None` once it cannot be trusted any more.
    running: Option<Running>,
    cap: usize,
}

#[derive(Debug)]
struct Running {
    // Killed before it is waited for.
    group: Group,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// What was written up to the mark, which is left out.
    Answer {
        /// To the standard output.
        stdout: Captured,
        /// To the standard error.
        stderr: Captured,
    },
    /// The program ended instead. Whether it did what it was asked is unknown.
    Ended(Output),
}

impl Session {
    /// Starts the program. [`Command::stdin`] and [`Command::deadline`] mean nothing here.
    pub fn start(command: &Command) -> Result<Self, Failure> {
        let Started { child, group, stdin, stdout, stderr } = start(command)?;
        Ok(Self { running: Some(Running { group, child, stdin, stdout, stderr }), cap: command.cap })
    }

    /// Whether it may be asked again.
    pub fn usable(&self) -> bool {
        self.running.is_some()
    }

    /// Writes `request` and reads until the standard error contains `mark`.
    ///
    /// After a failure, after [`Exchange::Ended`], and when this is dropped before its end, the program is killed.
    pub async fn ask(
        &mut self,
        request: &[u8],
        mark: &[u8],
        deadline: Duration,
    ) -> Result<Exchange, Failure> {
        // Put back only after a whole answer: dropped on the way, it is gone.
        let Some(mut running) = self.running.take() else {
            let cause = std::io::ErrorKind::BrokenPipe.into();
            return Err(Failure::Io { step: "ask a program that was given up", cause });
        };
        let (mut out, mut err) = (Captured::default(), Captured::default());
        let asked = timeout(deadline, running.exchange(request, mark, self.cap, &mut out, &mut err)).await;
        match asked {
            Ok(true) => {
                self.running = Some(running);
                Ok(Exchange::Answer { stdout: out, stderr: err })
            }
            Ok(false) => running.ended(self.cap, out, err).await.map(Exchange::Ended),
            Err(_late) => {
                let Running { group, mut child, .. } = running;
                drop(group);
                let _ = timeout(REAPING, child.wait()).await;
                Err(Failure::Deadline(deadline))
            }
        }
    }
}

impl Running {
    /// Whether the mark came; otherwise the program closed its outputs.
    async fn exchange(
        &mut self,
        request: &[u8],
        mark: &[u8],
        cap: usize,
        out: &mut Captured,
        err: &mut Captured,
    ) -> bool {
        let Self { stdin, stdout, stderr, .. } = self;
        let writing = async {
            // A program that does not read any more shows it by closing its outputs.
            let _ = stdin.write_all(request).await;
            let _ = stdin.flush().await;
            std::future::pending::<()>().await;
        };
        let reading = async {
            let (mut from_out, mut from_err) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
            let (mut seen, mut out_open) = (Vec::new(), true);
            loop {
                tokio::select! {
                    count = stdout.read(&mut from_out), if out_open => match count {
                        Ok(count @ 1..) => out.add(from_out.get(..count).unwrap_or_default(), cap),
                        Ok(0) | Err(_) => out_open = false,
                    },
                    count = stderr.read(&mut from_err) => {
                        let Ok(count @ 1..) = count else {
                            err.add(&seen, cap);
                            return false;
                        };
                        seen.extend_from_slice(from_err.get(..count).unwrap_or_default());
                        if let Some(at) = position(&seen, mark) {
                            err.add(seen.get(..at).unwrap_or_default(), cap);
                            return true;
                        }
                        // All but what may be the beginning of the mark.
                        let settled = seen.len().saturating_sub(mark.len().saturating_sub(1));
                        err.add(seen.get(..settled).unwrap_or_default(), cap);
                        seen.drain(..settled);
                    }
                }
            }
        };
        let marked = tokio::select! {
            () = writing => false,
            marked = reading => marked,
        };
        if marked {
            // What was written before the mark lies in the pipe, whether or not the runtime has heard of it yet.
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match read(stdout.as_fd(), &mut buffer) {
                    Ok(count @ 1..) => out.add(buffer.get(..count).unwrap_or_default(), cap),
                    Err(Errno::EINTR) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
        marked
    }

    /// Collects what is left of a program that closes its outputs.
    async fn ended(self, cap: usize, mut out: Captured, mut err: Captured) -> Result<Output, Failure> {
        let Self { group, mut child, stdin, stdout, stderr } = self;
        drop(stdin);
        let _ = timeout(LEFTOVERS, async {
            tokio::join!(capture(stdout, &mut out, cap), capture(stderr, &mut err, cap))
        })
        .await;
        let status = timeout(LEFTOVERS, child.wait()).await;
        let status = match status {
            Ok(status) => {
                group.disarm();
                status
            }
            Err(_late) => {
                drop(group);
                timeout(REAPING, child.wait()).await.map_err(|_| Failure::Deadline(REAPING))?
            }
        };
        let status = status.map_err(Failure::io("wait for the program"))?;
        Ok(Output { code: code(status), stdout: out, stderr: err })
    }
}

fn position(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len().max(1)).position(|window| window == mark)
}

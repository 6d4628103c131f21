//! `ceph` programs that stay and are asked again: [`SessionPool`]. A new one costs a quarter of a second of processor time, a
//! command of one that stays a fifth of that (`docs/decisions/0013-one-ceph-program-for-many-commands.md`).
//!
//! Such a program reads commands line by line and says nothing when one is done. A second line that it cannot execute makes it
//! say so, without asking the cluster: that is where the answer ends. A program that behaves otherwise in any way is ended,
//! and the command is given to one of its own.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    credentials::Credentials,
    errno::{EACCES, EPERM, ETIMEDOUT, code_in},
    programs::{IdlePrograms, Programs, Slot},
};
use crate::system::command::{self, Captured, Command, Exchange, Failure};

/// How long a program waits for the next command. It holds fifty megabytes.
const IDLE: Duration = Duration::from_secs(30);
/// How old a program may become: it knows the monitors and the commands of the time when it was started.
const AGE: Duration = Duration::from_mins(10);
/// How long none is started after one did not behave.
const REST: Duration = Duration::from_mins(5);

/// The programs of one cluster that wait for a command.
#[derive(Debug)]
pub(super) struct SessionPool {
    /// As many as may run.
    turns: Semaphore,
    programs: Programs,
    idle: Arc<IdleSessions>,
    resting: Mutex<Option<Instant>>,
}

/// Those that wait.
#[derive(Debug, Default)]
struct IdleSessions(Mutex<Vec<Idle>>);

impl IdleSessions {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock()
    }
}

impl IdlePrograms for IdleSessions {
    fn since(&self) -> Vec<Instant> {
        self.lock().iter().map(|idle| idle.since).collect()
    }

    fn end_longest(&self) {
        let mut idle = self.lock();
        let longest = idle.iter().enumerate().min_by_key(|(_, idle)| idle.since).map(|(at, _)| at);
        if let Some(at) = longest {
            idle.swap_remove(at);
        }
    }
}

#[derive(Debug)]
struct Idle {
    process: command::Session,
    credentials: Credentials,
    started: Instant,
    since: Instant,
    slot: Slot,
}

/// How a command ended, as if it had had a program of its own.
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
}

/// What came of asking.
pub(super) enum Outcome {
    Ended(Ended),
    /// Give it to a program of its own. Whether it was executed already is unknown.
    Fallback,
    Failed(Failure),
}

impl SessionPool {
    pub(super) fn new(limit: usize, programs: &Programs) -> Self {
        let idle = Arc::default();
        programs.register(&idle);
        let programs = programs.clone();
        Self { turns: Semaphore::new(limit), programs, idle, resting: Mutex::default() }
    }

    /// Waits for a turn.
    pub(super) fn turns(&self) -> &Semaphore {
        &self.turns
    }

    /// Whether commands can be asked now.
    pub(super) fn usable(&self) -> bool {
        let resting = *self.resting.lock();
        resting.is_none_or(|until| until <= Instant::now())
    }

    /// Takes a program that waits, for these credentials.
    pub(super) fn take(&self, credentials: &Credentials) -> Option<Session> {
        let mut idle = self.idle.lock();
        expire(&mut idle);
        let at = idle.iter().rposition(|idle| idle.credentials == *credentials)?;
        let Idle { process, credentials, started, slot, .. } = idle.swap_remove(at);
        Some(Session { process, credentials, started, slot })
    }

    /// Starts a program, and sees whether it answers as expected. Nothing is asked of the cluster but to be let in.
    pub(super) async fn start(
        &self,
        command: &Command,
        credentials: &Credentials,
        slot: Slot,
    ) -> Result<Session, Outcome> {
        let mut process = command::Session::start(command).map_err(Outcome::Failed)?;
        let mark = mark();
        match process.ask(format!("tell {mark}\n").as_bytes(), mark.as_bytes(), command.deadline).await {
            Ok(Exchange::Answer { .. }) => {
                Ok(Session { process, credentials: credentials.clone(), started: Instant::now(), slot })
            }
            // It said why it was not let in, as it says it to everybody.
            Ok(Exchange::Ended(output)) if output.code != 0 => {
                Err(Outcome::Ended(Ended { code: output.code, stdout: output.stdout, stderr: output.stderr }))
            }
            Ok(Exchange::Ended(_)) => {
                self.rest("it ended instead of reading commands");
                Err(Outcome::Fallback)
            }
            Err(failure) => {
                if let Failure::Deadline(_) = failure {
                    self.rest("it did not answer");
                }
                Err(Outcome::Failed(failure))
            }
        }
    }

    /// Asks for one command; a program that answered waits for the next one then.
    pub(super) async fn ask(&self, mut session: Session, line: &str, deadline: Duration) -> Outcome {
        let mark = mark();
        let request = format!("{line}\ntell {mark}\n");
        match session.process.ask(request.as_bytes(), mark.as_bytes(), deadline).await {
            Ok(Exchange::Answer { stdout, mut stderr }) => {
                // The mark's own sentence, up to the mark.
                let end = stderr.bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
                stderr.bytes.truncate(end);
                let code = code_in(&String::from_utf8_lossy(&stderr.bytes));
                // One that has lost the cluster would wait as long again; a new one is told at once. And what a user may do is
                // looked at when a program is let in: rights that were given since then are only a new one's.
                if ![ETIMEDOUT, EACCES, EPERM].contains(&code) {
                    self.put_back(session);
                }
                Outcome::Ended(Ended { code, stdout, stderr })
            }
            Ok(Exchange::Ended(output)) => {
                tracing::debug!(code = output.code, "a ceph that should have stayed has ended");
                Outcome::Fallback
            }
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn put_back(&self, session: Session) {
        if !self.programs.may_wait() {
            return;
        }
        let Session { process, credentials, started, slot } = session;
        let mut idle = self.idle.lock();
        expire(&mut idle);
        idle.push(Idle { process, credentials, started, since: Instant::now(), slot });
        if idle.len() == 1 {
            tokio::spawn(end_when_idle(Arc::downgrade(&self.idle)));
        }
        drop(idle);
        self.programs.limit_idle();
    }

    /// Ends what waits above the limit: another user's program must not stay beside one that is about to be started.
    pub(super) fn make_room(&self) {
        let mut idle = self.idle.lock();
        expire(&mut idle);
        // A caller with a turn holds one that is not waiting, or is about to start one.
        let room = self.turns.available_permits();
        let surplus = idle.len().saturating_sub(room);
        idle.drain(..surplus);
    }

    fn rest(&self, why: &str) {
        tracing::warn!(why, "not keeping ceph programs for reuse for a while: each command starts a new one");
        *self.resting.lock() = Some(Instant::now() + REST);
    }
}

/// A program that is about to be asked. Dropped, it is ended.
pub(super) struct Session {
    process: command::Session,
    credentials: Credentials,
    started: Instant,
    slot: Slot,
}

fn expire(idle: &mut Vec<Idle>) {
    let now = Instant::now();
    idle.retain(|idle| idle.process.usable() && now < idle.since + IDLE && now < idle.started + AGE);
}

async fn end_when_idle(waiting: Weak<IdleSessions>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(waiting) = waiting.upgrade() else { return };
        let mut idle = waiting.lock();
        expire(&mut idle);
        if idle.is_empty() {
            return;
        }
    }
}

/// A word that nothing else will ever write.
fn mark() -> String {
    format!("berth{:032x}", rand::random::<u128>())
}

/// The command as one line, as a shell would read it; `None` where that cannot be.
pub(super) fn line(args: &[String]) -> Option<String> {
    let quoted = |arg: &String| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@,".contains(&b);
        if !arg.is_empty() && arg.bytes().all(plain) {
            arg.clone()
        } else {
            format!("'{}'", arg.replace('\'', "'\"'\"'"))
        }
    };
    // Python ends lines at more than a newline.
    let one_line =
        |arg: &String| !arg.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    (!args.is_empty() && args.iter().all(one_line))
        .then(|| args.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_becomes_a_line_that_is_read_as_the_same_words() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let rows = [
            (words(&["fs", "ls"]), Some("fs ls")),
            (words(&["set", "a b", "", "it's"]), Some("set 'a b' '' 'it'\"'\"'s'")),
            (words(&["set", "{\"a\":\"$b\\\"}"]), Some("set '{\"a\":\"$b\\\"}'")),
            (words(&["set", "ü #"]), Some("set 'ü #'")),
            (words(&["set", "a\nfs rm"]), None),
            (words(&["set", "a\r"]), None),
            (words(&[]), None),
        ];
        for (args, expected) in rows {
            assert_eq!(line(&args).as_deref(), expected, "{args:?}");
        }
    }
}

//! A cluster as one user sees it: [`Ceph`], which calls the programs.
//!
//! A call waits for its turn, is refused while the cluster is left alone, and what comes of it is noted on the cluster. What a
//! failure means is decided in `classify`; no failure is tried again.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};

use super::{
    admin::Admin,
    breaker::BreakerDecision,
    call::{Call, Failed, Reply},
    classify::classify,
    cluster::{Cluster, Tools},
    credentials::Credentials,
    programs::Slot,
    reach::{self, Probed},
    reason::{Reachability, Reason},
    session_pool::{self, Ended, Outcome},
    stderr::{Stderr, without_keys},
    tool::Tool,
};
use crate::{
    system::{
        command::{self, Command, Failure},
        secret::SecretFile,
    },
    volume::{Permit, is_uuid},
};

/// How much of an answer is kept: a list of 100,000 images has 6 MB.
const CAP: usize = 64 << 20;
/// How long a monitor may take to say who it is.
const GREETING: Duration = Duration::from_secs(3);
/// How often a permit is asked while a program runs.
const WATCH: Duration = Duration::from_millis(250);

/// A cluster as one user sees it. Cheap to copy.
#[derive(Debug, Clone)]
pub struct Ceph {
    cluster: Cluster,
    credentials: Credentials,
    /// Whom the cluster knows it as, where what becomes of its calls shows whether that user can be used.
    admin: Option<Arc<Admin>>,
}

impl Cluster {
    /// A handle on the cluster for this user.
    #[must_use]
    pub fn with(&self, credentials: Credentials) -> Ceph {
        Ceph { cluster: self.clone(), credentials, admin: None }
    }
}

impl Ceph {
    /// Records the outcome of each call on this user of the cluster.
    #[must_use]
    pub(super) fn of(self, admin: &Admin) -> Self {
        Self { admin: Some(Arc::new(admin.clone())), ..self }
    }

    /// Who it is, with which key.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The user, without `client.`.
    pub fn user(&self) -> &str {
        self.credentials.user()
    }

    /// The identity that the cluster gave itself when it was made. Asked once, and again after the cluster could not be
    /// reached.
    pub async fn fsid(&self) -> Result<String, Failed> {
        match self.cluster.identity_now() {
            Some(fsid) => Ok(fsid),
            None => self.ask_identity().await,
        }
    }

    /// The same, asked in any case.
    pub(super) async fn ask_identity(&self) -> Result<String, Failed> {
        #[derive(serde::Deserialize)]
        struct Answer {
            fsid: String,
        }
        let what = format!("ask cluster {} who it is", self.cluster.name());
        let reply = self.call(Tool::Ceph, Call::reads(what.clone(), ["fsid"])).await?;
        let answer: Option<Answer> = reply.json().ok().flatten();
        let Some(Answer { fsid }) = answer.filter(|answer| is_uuid(&answer.fsid)) else {
            let stderr =
                without_keys(&String::from_utf8_lossy(&reply.stdout), self.credentials.key().reveal());
            return Err(self.failed(
                &what,
                Tool::Ceph,
                Reason::Other,
                Some(0),
                Stderr::read(&stderr).summary(),
            ));
        };
        self.cluster.set_identity(fsid.clone());
        Ok(fsid)
    }

    /// Calls a program; of `ceph` maybe one that is still running, which answers in JSON wherever the command has such.
    pub async fn call(&self, tool: Tool, call: Call) -> Result<Reply, Failed> {
        let _begun = self.cluster.begun(&call.what);
        let begun = tokio::time::Instant::now();
        let outcome = tokio::select! {
            biased;
            outcome = self.approach(tool, &call) => outcome,
            () = ended(call.permit.as_ref()) => Err(self.failed(&call.what, tool, Reason::Stopped, None, String::new())),
        };
        self.cluster.learn(&outcome);
        self.note(&outcome);
        let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Ok(_) => {
                tracing::debug!(cluster = self.cluster.name(), %tool, call = call.what, ms = elapsed, "done");
            }
            Err(failed) => tracing::debug!(
                cluster = self.cluster.name(), %tool, call = call.what, ms = elapsed,
                code = failed.code, reason = ?failed.reason, stderr = failed.stderr, "failed"
            ),
        }
        outcome
    }

    /// Notes what the call showed of the user.
    fn note<T>(&self, outcome: &Result<T, Failed>) {
        let Some(admin) = &self.admin else { return };
        match outcome {
            Ok(_) => self.cluster.note_user(admin, Ok(())),
            Err(failed) => match failed.reason.shows() {
                Reachability::Reachable => self.cluster.note_user(admin, Ok(())),
                Reachability::AuthRejected => self.cluster.note_user(admin, Err(failed.to_string())),
                Reachability::Unknown if failed.reason == Reason::BadKey => {
                    self.cluster.note_user(admin, Err(failed.to_string()));
                }
                Reachability::Unknown | Reachability::Unreachable => {}
            },
        }
    }

    /// Makes the call, unless the cluster is left alone; finds out what listens where no monitor answered.
    async fn approach(&self, tool: Tool, call: &Call) -> Result<Reply, Failed> {
        let gate = self.cluster.breaker().gate();
        let trial = match gate {
            BreakerDecision::Allow => false,
            BreakerDecision::Reject(left, why) => {
                let found = format!("{why}; it is asked again in {} s", left.as_secs().max(1));
                return Err(self
                    .failed(&call.what, tool, Reason::Unreachable, None, String::new())
                    .with(found));
            }
            BreakerDecision::HalfOpen => {
                let heard = self.probe_monitors().await;
                if !heard.is_empty() && !reach::any_monitor(&heard) {
                    let found = reach::diagnosis(&heard);
                    self.cluster.breaker().begin(&found, true, false);
                    return Err(self
                        .failed(&call.what, tool, Reason::Unreachable, None, String::new())
                        .with(found));
                }
                true
            }
        };
        let mut outcome = self.attempt(tool, call).await;
        let Err(failed) = &outcome else {
            self.cluster.breaker().end();
            return outcome;
        };
        match failed.reason {
            Reason::Unreachable => {
                let heard = self.probe_monitors().await;
                // The programs try both protocols of a monitor. The error says more if the address names its protocol.
                if self.cluster.set_msgr_protocols(reach::msgr_protocols(&heard)) {
                    outcome = self.attempt(tool, call).await;
                }
                outcome.map_err(|failed| {
                    if failed.reason != Reason::Unreachable {
                        self.cluster.breaker().end();
                        return failed;
                    }
                    let found = reach::diagnosis(&heard);
                    let why = if found.is_empty() { &failed.stderr } else { &found };
                    self.cluster.breaker().begin(why, trial, reach::any_monitor(&heard));
                    failed.with(found)
                })
            }
            Reason::Unresolved => {
                self.cluster.breaker().begin(&failed.stderr, trial, false);
                outcome
            }
            // Nothing was asked.
            Reason::Saturated | Reason::ProgramMissing | Reason::Stopped => outcome,
            _ => {
                self.cluster.breaker().end();
                outcome
            }
        }
    }

    async fn attempt(&self, tool: Tool, call: &Call) -> Result<Reply, Failed> {
        let shared = &self.cluster.shared;
        let failed = |reason, stderr: String| self.failed(&call.what, tool, reason, None, stderr);
        if call.args.iter().any(|arg| arg.contains('\0')) {
            return Err(failed(Reason::Argument, "an argument has a NUL character".into()));
        }
        let deadline = call.deadline.unwrap_or(shared.tools.deadline);
        let line = (tool == Tool::Ceph && call.stdin.is_none() && shared.tools.sessions > 0)
            .then(|| session_pool::line(&call.args))
            .flatten();
        let ended = match line {
            Some(line) if shared.sessions.usable() => {
                let _turn = self.turn(shared.sessions.turns(), deadline, tool, call).await?;
                match self.ask(&line, deadline, call).await? {
                    Outcome::Fallback => None,
                    Outcome::Ended(ended) => Some(ended),
                    Outcome::Failed(failure) => return Err(self.not_run(tool, call, failure)),
                }
            }
            Some(_) | None => None,
        };
        let ended = if let Some(ended) = ended {
            ended
        } else {
            let _turn = self.turn(&shared.slots, deadline, tool, call).await?;
            let _place = self.slot(deadline, tool, call).await?;
            let secret = self.secret(tool, call)?;
            let mut command = self.command(tool, call, &secret, deadline).await?;
            command.args.extend(call.args.iter().cloned());
            command.stdin.clone_from(&call.stdin);
            self.permitted(tool, call)?;
            let output = command::run(&command).await.map_err(|failure| self.not_run(tool, call, failure))?;
            Ended { code: output.code, stdout: output.stdout, stderr: output.stderr }
        };
        self.read(tool, call, ended)
    }

    /// Asks a `ceph` that waits, or a new one that will wait afterwards.
    async fn ask(&self, line: &str, deadline: Duration, call: &Call) -> Result<Outcome, Failed> {
        let sessions = &self.cluster.shared.sessions;
        let session = if let Some(session) = sessions.take(&self.credentials) {
            session
        } else {
            // Read while it connects, not needed afterwards.
            let secret = self.secret(Tool::Ceph, call)?;
            let command = self.command(Tool::Ceph, call, &secret, deadline).await?;
            sessions.make_room();
            let slot = self.slot(deadline, Tool::Ceph, call).await?;
            match sessions.start(&command, &self.credentials, slot).await {
                Ok(session) => session,
                Err(outcome) => return Ok(outcome),
            }
        };
        self.permitted(Tool::Ceph, call)?;
        Ok(sessions.ask(session, line, deadline).await)
    }

    /// Waits until one more call to this cluster may be made.
    async fn turn<'a>(
        &'a self,
        turns: &'a Semaphore,
        deadline: Duration,
        tool: Tool,
        call: &Call,
    ) -> Result<Turn<'a>, Failed> {
        let waiting = async {
            let few = if self.cluster.is_unreachable() {
                self.cluster.shared.few.acquire().await.ok()
            } else {
                None
            };
            // Neither semaphore is ever closed.
            Turn { _few: few, _turn: turns.acquire().await.ok() }
        };
        timeout(deadline, waiting).await.map_err(|_late| self.crowded(tool, call))
    }

    /// Waits until one more program may run, of all clusters.
    async fn slot(&self, deadline: Duration, tool: Tool, call: &Call) -> Result<Slot, Failed> {
        let slots = &self.cluster.shared.tools.programs;
        timeout(deadline, slots.slot()).await.map_err(|_late| self.crowded(tool, call))
    }

    fn crowded(&self, tool: Tool, call: &Call) -> Failed {
        let oldest = self.cluster.health().oldest.map_or_else(String::new, |(what, since)| {
            format!(", the longest on cluster {} for {} s: {what}", self.cluster.name(), since.as_secs())
        });
        let found = format!("all slots for Ceph programs were in use{oldest}");
        self.failed(&call.what, tool, Reason::Saturated, None, String::new()).with(found)
    }

    fn permitted(&self, tool: Tool, call: &Call) -> Result<(), Failed> {
        match call.permit.as_ref().map(Permit::check) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.failed(&call.what, tool, Reason::Stopped, None, String::new())),
        }
    }

    fn secret(&self, tool: Tool, call: &Call) -> Result<SecretFile, Failed> {
        SecretFile::new(self.credentials.key().reveal().as_bytes()).map_err(|error| {
            let stderr = format!("cannot make the file from which the program reads the key: {error}");
            self.failed(&call.what, tool, Reason::Other, None, stderr)
        })
    }

    /// The program with everything but the command's own arguments.
    async fn command(
        &self,
        tool: Tool,
        call: &Call,
        secret: &SecretFile,
        deadline: Duration,
    ) -> Result<Command, Failed> {
        let Tools { rbd, ceph, rados, connect, operation, .. } = &self.cluster.shared.tools;
        let monitors = self.monitors(tool, call).await?;
        let seconds = |duration: &Duration| duration.as_secs().max(1).to_string();
        let (connect, operation) = (seconds(connect), seconds(operation));
        let secret = secret.path();
        let mut args = vec![
            // Neither configuration nor keys of the machine.
            "--conf",
            "/dev/null",
            "--keyring",
            "/dev/null",
            "-m",
            &monitors,
            "--id",
            self.credentials.user(),
            "--keyfile",
            &secret,
            "--client-mount-timeout",
            &connect,
            "--rados-mon-op-timeout",
            &operation,
            "--rados-osd-op-timeout",
            &operation,
        ];
        let program = match tool {
            Tool::Rbd => rbd,
            Tool::Rados => {
                // It tries to read the monitors' configuration first, and does not say why it could not.
                args.push("--no-mon-config");
                rados
            }
            Tool::Ceph => {
                args.extend(["--connect-timeout", &connect, "--format", "json"]);
                ceph
            }
        };
        Ok(Command {
            program: program.clone(),
            args: args.into_iter().map(str::to_owned).collect(),
            env: ENVIRONMENT.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            stdin: None,
            deadline,
            cap: CAP,
        })
    }

    /// The monitors for `-m`, their names resolved now.
    async fn monitors(&self, tool: Tool, call: &Call) -> Result<String, Failed> {
        let found = self.lookup().await;
        let msgr_protocols = self.cluster.msgr_protocols();
        self.cluster.monitors().resolved(|name| addresses(&found, name), &msgr_protocols).ok_or_else(|| {
            let problems: Vec<&str> =
                found.values().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
            self.failed(&call.what, tool, Reason::Unresolved, None, problems.join(", "))
        })
    }

    /// What listens where monitors should.
    async fn probe_monitors(&self) -> Vec<Probed> {
        let found = self.lookup().await;
        let endpoints = self.cluster.monitors().to_ask(|name| addresses(&found, name));
        reach::probe_monitors(endpoints, self.cluster.tools().connect.min(GREETING)).await
    }

    /// The addresses of the monitors' names, or why there are none.
    async fn lookup(&self) -> BTreeMap<&str, Result<Vec<IpAddr>, String>> {
        let connect = self.cluster.tools().connect;
        let lookups = self.cluster.monitors().names().into_iter().map(|name| async move {
            let found = timeout(connect, tokio::net::lookup_host((name, 0))).await;
            let addresses = match found {
                Ok(Ok(found)) => {
                    let distinct: std::collections::BTreeSet<IpAddr> =
                        found.map(|found| found.ip()).collect();
                    Ok(distinct.into_iter().collect())
                }
                Ok(Err(error)) => Err(format!("{name}: {error}")),
                Err(_late) => Err(format!("{name}: no answer within {} s", connect.as_secs())),
            };
            (name, addresses)
        });
        futures::future::join_all(lookups).await.into_iter().collect()
    }

    /// What a program that ended has to say.
    fn read(&self, tool: Tool, call: &Call, ended: Ended) -> Result<Reply, Failed> {
        let stderr =
            without_keys(&String::from_utf8_lossy(&ended.stderr.bytes), self.credentials.key().reveal());
        let reply = |stdout| {
            let remark = Stderr::read(&stderr).lines().take(2).collect::<Vec<_>>().join("; ");
            Ok(Reply { what: call.what.clone(), stdout, remark })
        };
        if ended.code == 0 && ended.stdout.dropped == 0 {
            return reply(ended.stdout.bytes);
        }
        let (reason, stderr) = if ended.code == 0 {
            (Reason::Other, format!("an answer of more than {} MiB", CAP >> 20))
        } else {
            (classify(tool, ended.code, &stderr), Stderr::read(&stderr).summary())
        };
        if call.accept_output_on == Some(reason) && ended.stdout.dropped == 0 {
            return reply(ended.stdout.bytes);
        }
        // The only failure of which `rados` tells on its standard output.
        let keyless =
            tool == Tool::Rados && stderr.is_empty() && ended.stdout.bytes.starts_with(b"No such key");
        let reason = if keyless { Reason::NoMetadata } else { reason };
        let stderr =
            if stderr.is_empty() { format!("nothing, and ended with {}", ended.code) } else { stderr };
        Err(self.failed(&call.what, tool, reason, Some(ended.code), stderr))
    }

    /// A program that did not end by itself.
    fn not_run(&self, tool: Tool, call: &Call, failure: Failure) -> Failed {
        let (reason, stderr) = match failure {
            Failure::Missing(_) => (Reason::ProgramMissing, failure.to_string()),
            Failure::Deadline(after) => {
                (Reason::Deadline, format!("nothing for {} s, and was killed", after.as_secs_f32()))
            }
            Failure::Io { step, cause } => (Reason::Other, format!("{step}: {cause}")),
        };
        self.failed(&call.what, tool, reason, None, stderr)
    }

    fn failed(&self, what: &str, tool: Tool, reason: Reason, code: Option<i32>, stderr: String) -> Failed {
        let about_the_cluster =
            matches!(reason.shows(), Reachability::Unreachable | Reachability::AuthRejected)
                || reason == Reason::BadKey;
        let what = if about_the_cluster && !what.contains(self.cluster.name()) {
            format!("{what} on cluster {} ({})", self.cluster.name(), self.cluster.monitors())
        } else {
            what.to_owned()
        };
        Failed { what, tool, reason, code, stderr, found: String::new() }
    }
}

/// A place among the calls of one cluster.
struct Turn<'a> {
    _few: Option<SemaphorePermit<'a>>,
    _turn: Option<SemaphorePermit<'a>>,
}

fn addresses(found: &BTreeMap<&str, Result<Vec<IpAddr>, String>>, name: &str) -> Vec<IpAddr> {
    found.get(name).and_then(|found| found.as_ref().ok()).cloned().unwrap_or_default()
}

/// Beside `PATH`: texts that can be read, and answers that are not held back.
const ENVIRONMENT: &[(&str, &str)] =
    &[("LC_ALL", "C.UTF-8"), ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")];

/// Waits until the right to change storage has ended; for ever without one.
async fn ended(permit: Option<&Permit>) {
    match permit {
        Some(permit) => {
            while permit.check().is_ok() {
                sleep(WATCH).await;
            }
        }
        None => std::future::pending().await,
    }
}

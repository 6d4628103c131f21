//! Who leads: of all replicas at most one works at a time. Entered through [`Elector`].
//!
//! The rules are those of the Go client library: a `Lease` that the leader renews, that others take over when it was not
//! renewed for its duration, measured on their own clock since they saw it change. What leads gets a [`Permit`] that
//! ends by itself before anybody else may lead.
//!
//! It never ends the process and does not stop the workers: whoever follows [`Elector::states`] does.

mod decision;
mod lock;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{Client, client::ClientBuilder};
use rand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    observe::{CountApiRequests, Metrics},
    volume::{Invalid, Permit},
};
use decision::{Seen, Step, decide, old_lock, written};
use lock::{Kind, Locks, Record, Sighting, Trouble};

/// Which lock, who stands for it, and the three times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the `Lease`, and of the `Endpoints` that the old provisioners lock.
    pub name: String,
    /// The namespace of both.
    pub namespace: String,
    /// Who we are; different for every process.
    pub identity: String,
    /// How long others wait for a leader that does not renew.
    pub duration: Duration,
    /// How long the leader goes on working without a renewal.
    pub renew_deadline: Duration,
    /// How often the leader renews and the others look.
    pub retry_period: Duration,
}

impl Settings {
    /// The lock of `provisioner` with the usual times (15 s, 10 s, 2 s), for a process on `hostname`.
    pub fn new(provisioner: &str, namespace: &str, hostname: &str) -> Self {
        Self {
            name: provisioner.replace('/', "-"),
            namespace: namespace.to_owned(),
            identity: format!("{hostname}_{:032x}", rand::rng().random::<u128>()),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Whether the times fit together.
    pub fn check(&self) -> Result<(), Invalid> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        let wrong = |what, time, why: String| Err(Invalid::new(what, seconds(time), why));
        if self.duration.subsec_nanos() != 0 || self.duration > Duration::from_hours(1) {
            let why = "must be whole seconds, at most an hour: the lease says it in seconds".to_owned();
            return wrong("lease duration", self.duration, why);
        }
        if self.renew_deadline >= self.duration {
            let why = format!(
                "must be less than the lease duration, {}: the leader must stop before another may begin",
                seconds(self.duration)
            );
            return wrong("lease renew deadline", self.renew_deadline, why);
        }
        // The wait between two renewals is up to 1.2 times the period, and a renewal must have time for two requests.
        if self.retry_period.is_zero() || self.retry_period.saturating_mul(2) > self.renew_deadline {
            let why = format!(
                "must be more than 0 and at most half of the renew deadline, {}",
                seconds(self.renew_deadline)
            );
            return wrong("lease retry period", self.retry_period, why);
        }
        Ok(())
    }

    /// How long one request may take: a renewal can be tried twice before its deadline.
    fn request_limit(&self) -> Duration {
        self.renew_deadline / 2
    }

    fn pause(&self) -> Duration {
        self.retry_period.mul_f64(rand::rng().random_range(1.0..1.2))
    }
}

/// A client for the lease alone: it gives up in time and repeats nothing by itself.
pub fn client(config: &kube::Config, settings: &Settings, metrics: &Metrics) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(settings.request_limit());
    config.read_timeout = Some(settings.renew_deadline);
    config.write_timeout = Some(settings.renew_deadline);
    // Without it the time that a connection lay idle counts as reading.
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(&CountApiRequests::new(metrics.clone())).build())
}

/// One time of leading, from winning the lock to losing it.
#[derive(Debug, Clone)]
pub struct Term {
    /// The right to change storage; ends by itself unless the lock is renewed.
    pub permit: Permit,
    /// Cancelled when this term is over, also when the next one has begun already.
    pub ended: CancellationToken,
}

/// Whether this process leads.
#[derive(Debug, Clone)]
pub enum State {
    /// Somebody else does, or nobody.
    Standby,
    /// It does.
    Leading(Term),
}

/// What is known of the lock, for readiness details and logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Which object is the lock: `Lease berth/nfs.berth.storage`; `off` without leader election.
    pub lock: String,
    /// Who holds it, as far as known.
    pub holder: Option<String>,
    /// Why it cannot be had, as a sentence for an administrator.
    pub trouble: Option<String>,
}

/// Stands for the lock in a background task until it is released or dropped.
pub struct Elector {
    states: watch::Receiver<State>,
    status: Arc<Mutex<Status>>,
    lock_uid: Arc<OnceLock<String>>,
    work: Work,
}

/// What keeps the state of an [`Elector`] alive.
enum Work {
    /// Without election: the sender itself, until the release.
    Off(Mutex<Option<Office>>),
    /// The task that holds the sender.
    Task { stop: CancellationToken, task: tokio::task::JoinHandle<()> },
}

impl Elector {
    /// Without leader election: leads for ever.
    pub fn off() -> Self {
        let mut office = Office::new();
        office.enter(Permit::unlimited());
        let status = Status { lock: "off".to_owned(), ..Status::default() };
        Self {
            states: office.states.subscribe(),
            status: Arc::new(Mutex::new(status)),
            lock_uid: Arc::default(),
            work: Work::Off(Mutex::new(Some(office))),
        }
    }

    /// Begins to stand for the lock; `client` is best made by [`client`].
    pub fn start(client: Client, settings: Settings) -> Self {
        let office = Office::new();
        let lock = format!("{} {}/{}", Kind::Lease, settings.namespace, settings.name);
        let status = Arc::new(Mutex::new(Status { lock, ..Status::default() }));
        let stop = CancellationToken::new();
        let following = office.states.subscribe();
        let lock_uid = Arc::<OnceLock<String>>::default();
        let candidate = Candidate::new(client, settings, office, Arc::clone(&status), Arc::clone(&lock_uid));
        let task = tokio::spawn(candidate.run(stop.clone()));
        Self { states: following, status, lock_uid, work: Work::Task { stop, task } }
    }

    /// Whether we lead, now and whenever it changes. When a term has ended the follower must stop its workers before it
    /// begins with the next one. The channel closes when the elector has ended.
    pub fn states(&self) -> watch::Receiver<State> {
        self.states.clone()
    }

    /// What is known of the lock.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The UID of the object that is the lock: another identity of the cluster, where `kube-system` may not be read. The first
    /// that this process sees stays for its life, whatever becomes of the object. `None` until it is seen and without leader
    /// election; known before the first term begins.
    pub fn lock_uid(&self) -> Option<String> {
        self.lock_uid.get().cloned()
    }

    /// Ends the term and hands the lock to whoever stands next. To be called when the workers have stopped; returns
    /// within the renew deadline.
    pub async fn release(&self) {
        match &self.work {
            Work::Off(office) => drop(office.lock().unwrap_or_else(PoisonError::into_inner).take()),
            Work::Task { stop, .. } => {
                stop.cancel();
                let mut states = self.states.clone();
                // The task is done when the sender is gone.
                while states.changed().await.is_ok() {}
            }
        }
    }
}

impl fmt::Debug for Elector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elector").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Drop for Elector {
    /// Ends the term at once; a lock that was not released lasts until it runs out.
    fn drop(&mut self) {
        match &self.work {
            Work::Off(_) => {}
            Work::Task { task, .. } => task.abort(),
        }
    }
}

/// The term that we are in, if any. Dropped, it ends it.
struct Office {
    states: watch::Sender<State>,
    term: Option<Term>,
}

impl Office {
    fn new() -> Self {
        Self { states: watch::Sender::new(State::Standby), term: None }
    }

    fn enter(&mut self, permit: Permit) {
        let term = Term { permit, ended: CancellationToken::new() };
        self.term = Some(term.clone());
        self.states.send_replace(State::Leading(term));
    }

    fn leave(&mut self) {
        if let Some(term) = self.term.take() {
            // In this order: nobody who learns of the end may still find the permit valid.
            term.permit.revoke();
            term.ended.cancel();
            self.states.send_replace(State::Standby);
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How a try to get or keep the lock ended.
enum Round {
    /// It is ours by a write that began then.
    Held(Instant),
    /// It is somebody else's.
    Theirs(String),
}

/// What stands for the lock.
struct Candidate {
    settings: Settings,
    locks: Locks,
    office: Office,
    status: Arc<Mutex<Status>>,
    lock_uid: Arc<OnceLock<String>>,
    kind: Kind,
    /// How often in a row the server refused the `Lease`.
    refusals: u32,
    /// When to try the `Lease` again, where the role did not allow it.
    lease_again: Instant,
    /// The lock as we last wrote it, as long as nobody else seems to have written it since.
    own: Option<Sighting>,
    seen: Option<Seen>,
    old: OldLock,
}

/// What is known of the lock of an old provisioner, while the `Lease` is ours.
#[derive(Default)]
struct OldLock {
    seen: Option<Seen>,
    /// The version that is known to be dead.
    superseded: Option<String>,
    /// The role does not let us look.
    hidden: bool,
    /// Renewals since the last look.
    renewals: u32,
}

/// So many refusals in a row make us use the other lock: a server that has just started may refuse everything once.
const REFUSALS: u32 = 2;
/// How long the other lock is used before the role may have changed.
const LEASE_AGAIN: Duration = Duration::from_mins(10);
/// Every so many renewals a leader looks whether an old provisioner was started beside it.
const RENEWALS_PER_LOOK: u32 = 5;

impl Candidate {
    fn new(
        client: Client,
        settings: Settings,
        office: Office,
        status: Arc<Mutex<Status>>,
        lock_uid: Arc<OnceLock<String>>,
    ) -> Self {
        let locks = Locks::new(client, &settings.namespace, &settings.name, settings.request_limit());
        Self {
            settings,
            locks,
            office,
            status,
            lock_uid,
            kind: Kind::Lease,
            refusals: 0,
            lease_again: Instant::now(),
            own: None,
            seen: None,
            old: OldLock::default(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.stand()).await;
        self.office.leave();
        if timeout(self.settings.renew_deadline, self.give_up()).await.is_err() {
            warn!(lock = %self.lock(), "the lock could not be released in time and lasts until it runs out");
        }
    }

    /// Gets the lock and keeps it, for ever.
    async fn stand(&mut self) {
        // Until when we may lead without another renewal.
        let mut deadline: Option<Instant> = None;
        loop {
            if self.kind == Kind::Endpoints && deadline.is_none() && Instant::now() >= self.lease_again {
                (self.kind, self.seen, self.own) = (Kind::Lease, None, None);
            }
            let limit = deadline.unwrap_or_else(|| Instant::now() + self.settings.renew_deadline);
            let round = match timeout_at(limit, self.round()).await {
                Ok(round) => round,
                Err(_) => {
                    Err(Trouble::Other("the server did not answer before the renew deadline".to_owned()))
                }
            };
            match round {
                Ok(Round::Held(start)) => {
                    let until = start + self.settings.renew_deadline;
                    deadline = Some(until);
                    self.lead(until).await;
                }
                Ok(Round::Theirs(holder)) => {
                    deadline = None;
                    self.lose(&format!("it is held by {holder}"));
                    self.tell(Some(holder), None);
                }
                Err(trouble) => {
                    self.complain(&trouble);
                    self.fall_back(&trouble, deadline.is_some());
                }
            }
            if let Some(until) = deadline
                && Instant::now() >= until
            {
                (deadline, self.own) = (None, None);
                self.lose("it was not renewed in time");
            }
            let pause = Instant::now() + self.settings.pause();
            sleep_until(deadline.map_or(pause, |until| pause.min(until))).await;
        }
    }

    /// One try to get or keep the lock: a second look where somebody seems to have been quicker, since it may have been an
    /// earlier request of our own whose answer was lost.
    async fn round(&mut self) -> Result<Round, Trouble> {
        let mut trouble = Trouble::Conflict;
        for _ in 0..3 {
            let sighting = match &self.own {
                Some(own) => Some(own.clone()),
                None => self.locks.get(self.kind).await?,
            };
            self.pin_uid(sighting.as_ref());
            let record = sighting.as_ref().and_then(|sighting| sighting.record.clone());
            let now = Instant::now();
            let before = self.seen.take();
            self.seen = sighting.as_ref().map(|sighting| Seen::again(before, sighting, now));
            let step = decide(self.seen.as_ref(), now, &self.settings.identity, self.settings.duration);
            if let (Step::Wait(_), Some(record)) = (step, record.as_ref()) {
                return Ok(Round::Theirs(record.holder.clone()));
            }
            if step == Step::Take {
                // It was not ours for a moment: another term begins, not this one goes on.
                self.lose("somebody else had it meanwhile");
            }
            let next = written(record.as_ref(), step, &self.settings, Timestamp::now());
            let superseded = self.old.superseded.clone();
            let start = Instant::now();
            let done = match &sighting {
                Some(old) => self.locks.replace(old, &next, superseded.as_deref()).await,
                None => self.locks.create(self.kind, &next, superseded.as_deref()).await,
            };
            match done {
                Ok(own) => {
                    self.pin_uid(Some(&own));
                    self.own = Some(own);
                    return Ok(Round::Held(start));
                }
                Err(again @ (Trouble::Conflict | Trouble::Missing)) => (self.own, trouble) = (None, again),
                Err(other) => return Err(other),
            }
        }
        Err(trouble)
    }

    /// Keeps the first UID that the server tells of the lock.
    fn pin_uid(&self, sighting: Option<&Sighting>) {
        if let Some(uid) = sighting.and_then(Sighting::uid) {
            self.lock_uid.get_or_init(|| uid.to_owned());
        }
    }

    /// The lock is ours until `until`: begins a term or goes on with it, unless an old provisioner still leads.
    async fn lead(&mut self, until: Instant) {
        (self.refusals, self.seen) = (0, None);
        let moment = std::time::Instant::now() + until.saturating_duration_since(Instant::now());
        if let Some(term) = &self.office.term {
            term.permit.extend_to(moment);
        }
        let leading = self.office.term.is_some();
        // The next renewal must not wait for what is only a precaution.
        let limit = if leading { Instant::now() + self.settings.retry_period } else { until };
        let wait = match timeout_at(limit, self.look_at_old_lock(leading)).await {
            Ok(wait) => wait,
            Err(_) if leading => None,
            Err(_) => Some("the lock of an old provisioner cannot be read in time".to_owned()),
        };
        if let Some(why) = wait {
            self.lose(&why);
            self.tell(Some(self.settings.identity.clone()), Some(why));
            return;
        }
        self.tell(Some(self.settings.identity.clone()), None);
        let left = until.saturating_duration_since(Instant::now());
        if self.office.term.is_none() && !left.is_zero() {
            info!(lock = %self.lock(), identity = %self.settings.identity, "leading");
            self.office.enter(Permit::lasting(left));
        }
    }

    /// Why we may not lead for the sake of an old provisioner, if so.
    async fn look_at_old_lock(&mut self, leading: bool) -> Option<String> {
        self.old.renewals = self.old.renewals.saturating_add(1);
        let now = match self.kind {
            Kind::Endpoints => return None,
            Kind::Lease if leading && (self.old.hidden || self.old.renewals < RENEWALS_PER_LOOK) => {
                return None;
            }
            Kind::Lease => Instant::now(),
        };
        self.old.renewals = 0;
        let sighting = match self.locks.get(Kind::Endpoints).await {
            Ok(Some(sighting)) => sighting,
            Ok(None) => return None,
            Err(Trouble::Forbidden(why)) => {
                if !std::mem::replace(&mut self.old.hidden, true) {
                    info!(why, "cannot see whether an old provisioner leads: none must run beside this one");
                }
                return None;
            }
            // While leading it is only a precaution: the next look will do.
            Err(_) if leading => return None,
            Err(trouble) => return Some(format!("the lock of an old provisioner cannot be read: {trouble}")),
        };
        self.old.hidden = false;
        sighting.record.as_ref()?;
        let version = sighting.version();
        let recorded = self.own.as_ref().and_then(Sighting::superseded);
        if self.old.superseded.as_deref().or(recorded) == Some(version.as_str()) {
            return None;
        }
        let seen = Seen::again(self.old.seen.take(), &sighting, now);
        let wait = old_lock(&seen, now, Timestamp::now(), &self.settings.identity, &self.settings);
        let holder = seen.record.holder.clone();
        self.old.seen = Some(seen);
        if wait.is_none() {
            // Written with the next renewal.
            self.old.superseded = Some(version);
            return None;
        }
        Some(format!(
            "an old provisioner, {holder}, holds Endpoints {}/{}",
            self.settings.namespace, self.settings.name
        ))
    }

    fn lose(&mut self, why: &str) {
        if self.office.term.is_some() {
            warn!(lock = %self.lock(), why, "no longer leading");
            self.office.leave();
        }
    }

    /// Chooses the other lock where the role does not allow this one.
    fn fall_back(&mut self, trouble: &Trouble, held: bool) {
        let Trouble::Forbidden(why) = trouble else { return };
        if held {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        match self.kind {
            Kind::Lease if self.refusals >= REFUSALS => {
                info!(why, "no right to the Lease: using the Endpoints lock of the old provisioners");
                self.kind = Kind::Endpoints;
                self.lease_again = Instant::now() + LEASE_AGAIN;
            }
            Kind::Lease => return,
            Kind::Endpoints => self.kind = Kind::Lease,
        }
        (self.refusals, self.seen, self.own) = (0, None, None);
    }

    async fn give_up(&mut self) {
        for _ in 0..3 {
            let sighting = match self.own.take() {
                Some(own) => Ok(Some(own)),
                None => self.locks.get(self.kind).await,
            };
            let Ok(Some(sighting)) = sighting else { return };
            let Some(record) =
                sighting.record.clone().filter(|record| record.holder == self.settings.identity)
            else {
                return;
            };
            let wall = Timestamp::now();
            let free = Record {
                holder: String::new(),
                seconds: 1,
                acquired: Some(wall),
                renewed: Some(wall),
                ..record
            };
            match self.locks.replace(&sighting, &free, None).await {
                Ok(_) => {
                    info!(lock = %self.lock(), "released");
                    return;
                }
                Err(trouble) => warn!(lock = %self.lock(), %trouble, "cannot release the lock"),
            }
        }
    }

    fn lock(&self) -> String {
        format!("{} {}/{}", self.kind, self.settings.namespace, self.settings.name)
    }

    fn complain(&self, trouble: &Trouble) {
        let text = trouble.to_string();
        let known = self.status.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone();
        if known.as_ref() != Some(&text) {
            warn!(lock = %self.lock(), trouble = text, "the lock cannot be had");
        }
        let holder = self.status.lock().unwrap_or_else(PoisonError::into_inner).holder.clone();
        self.tell(holder, Some(text));
    }

    fn tell(&self, holder: Option<String>, trouble: Option<String>) {
        let next = Status { lock: self.lock(), holder, trouble };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.holder != next.holder
            && let Some(holder) = &next.holder
            && *holder != self.settings.identity
        {
            info!(lock = next.lock, holder, "standing by");
        }
        *status = next;
    }
}

#[cfg(test)]
mod tests;

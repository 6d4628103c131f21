//! Who leads: of all replicas at most one works at a time. Entered through [`Elector`].
//!
//! The rules are those of the Go client library: a `Lease` that the leader renews, that others take over when it was not
//! renewed for its duration, measured on their own clock since they saw it change. What leads gets a [`Permit`] that
//! ends by itself before anybody else may lead.
//!
//! It never ends the process and does not stop the workers: whoever follows [`Elector::states`] does.

mod candidate;
mod decision;
mod lock;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use kube::{Client, client::ClientBuilder};
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    observe::{CountApiRequests, Metrics},
    volume::{Clock, Invalid, Permit},
};
use candidate::Candidate;
use lock::Kind;

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
            let why = "must be whole seconds and at most one hour, because the Lease object stores seconds"
                .to_owned();
            return wrong("lease duration", self.duration, why);
        }
        if self.renew_deadline >= self.duration {
            let why = format!(
                "must be less than the lease duration, {}: the leader must stop before another replica starts",
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
}

/// A client for the lease alone: it gives up in time and repeats nothing by itself.
pub fn client(config: &kube::Config, settings: &Settings, metrics: &Metrics) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    let server = config.cluster_url.to_string();
    config.default_retry = false;
    config.connect_timeout = Some(settings.request_limit());
    config.read_timeout = Some(settings.renew_deadline);
    config.write_timeout = Some(settings.renew_deadline);
    // Without it the time that a connection lay idle counts as reading.
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(&CountApiRequests::new(metrics.clone(), &server)).build())
}

/// One time of leading, from winning the lock to losing it.
#[derive(Debug, Clone)]
pub struct Leadership {
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
    Leading(Leadership),
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

    /// Begins to stand for the lock; `client` is best made by [`client`]. The permits end by `clock`. `established`: there are
    /// volumes already, so that a lock object that is not there was deleted, and its holder may still be at work.
    pub fn start(client: Client, settings: Settings, clock: Clock, established: bool) -> Self {
        let office = Office::new();
        let lock = format!("{} {}/{}", Kind::Lease, settings.namespace, settings.name);
        let status = Arc::new(Mutex::new(Status { lock, ..Status::default() }));
        let stop = CancellationToken::new();
        let following = office.states.subscribe();
        let lock_uid = Arc::<OnceLock<String>>::default();
        let known = (Arc::clone(&status), Arc::clone(&lock_uid));
        let candidate = Candidate::new(client, settings, clock, established, office, known);
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
    term: Option<Leadership>,
}

impl Office {
    fn new() -> Self {
        Self { states: watch::Sender::new(State::Standby), term: None }
    }

    fn enter(&mut self, permit: Permit) {
        let term = Leadership { permit, ended: CancellationToken::new() };
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

#[cfg(test)]
mod tests;

//! Who leads: of all replicas at most one works at a time. Entered through [`Elector`].
//!
//! The rules are those of the Go client library: a `Lease` that the leader renews, that others take over when it was not
//! renewed for its duration, measured on their own clock since they saw it change. What leads gets a [`Permit`] that
//! ends by itself before another process may lead.
//!
//! It never ends the process and does not stop the workers: the follower of [`Elector::states`] does.

mod candidate;
mod decision;
mod endpoints_lock;
mod leadership;
mod lock;
mod settings;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use kube::{Client, client::ClientBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    observe::{CountApiRequests, Metrics},
    volume::{Clock, Permit},
};
use candidate::Candidate;
use leadership::Announcer;
pub use leadership::{Leadership, State, Status};
use lock::Kind;
pub use settings::Settings;

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

/// Competes for the lock in a background task until it is released or dropped.
pub struct Elector {
    states: watch::Receiver<State>,
    status: Arc<Mutex<Status>>,
    lock_uid: Arc<OnceLock<String>>,
    work: Work,
}

/// What keeps the state of an [`Elector`] alive.
enum Work {
    /// Without election: the sender itself, until the release.
    Off(Mutex<Option<Announcer>>),
    /// The task that holds the sender.
    Task { stop: CancellationToken, task: tokio::task::JoinHandle<()> },
}

impl Elector {
    /// Without leader election: leads for ever.
    pub fn off() -> Self {
        let mut announcer = Announcer::new();
        announcer.begin(Permit::unlimited());
        let status = Status { lock: "off".to_owned(), ..Status::default() };
        Self {
            states: announcer.states.subscribe(),
            status: Arc::new(Mutex::new(status)),
            lock_uid: Arc::default(),
            work: Work::Off(Mutex::new(Some(announcer))),
        }
    }

    /// Begins to compete for the lock; `client` is best made by [`client`]. The permits end by `clock`. `established`: there are
    /// volumes already, so that a lock object that is not there was deleted, and its holder may still be at work.
    pub fn start(client: Client, settings: Settings, clock: Clock, established: bool) -> Self {
        let announcer = Announcer::new();
        let lock = format!("{} {}/{}", Kind::Lease, settings.namespace, settings.name);
        let status = Arc::new(Mutex::new(Status { lock, ..Status::default() }));
        let stop = CancellationToken::new();
        let following = announcer.states.subscribe();
        let lock_uid = Arc::<OnceLock<String>>::default();
        let known = (Arc::clone(&status), Arc::clone(&lock_uid));
        let candidate = Candidate::new(client, settings, clock, established, announcer, known);
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
        self.status.lock().clone()
    }

    /// The UID of the object that is the lock: another identity of the cluster, where `kube-system` may not be read. The first
    /// that this process sees stays for its life, whatever becomes of the object. `None` until it is seen and without leader
    /// election; known before the first term begins.
    pub fn lock_uid(&self) -> Option<String> {
        self.lock_uid.get().cloned()
    }

    /// Ends the term and hands the lock to the next candidate. To be called when the workers have stopped; returns
    /// within the renew deadline.
    pub async fn release(&self) {
        match &self.work {
            Work::Off(announcer) => drop(announcer.lock().take()),
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

#[cfg(test)]
mod tests;

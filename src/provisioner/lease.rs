//! Who leads: of all replicas at most one works at a time. Entered through [`Elector`].
//!
//! The rules are those of the Go client library: a `Lease` that the leader renews, that others take over when it was not
//! renewed for its duration, measured on their own clock since they saw it change. What leads gets a [`Permit`] that
//! ends by itself before anybody else may lead.
//!
//! It never ends the process and does not stop the workers: whoever follows [`Elector::states`] does.

use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::volume::{Invalid, Permit};

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
    pub fn new(_provisioner: &str, _namespace: &str, _hostname: &str) -> Self {
        unimplemented!()
    }

    /// Whether the times fit together: retry period < renew deadline < duration, whole seconds in the duration.
    pub fn check(&self) -> Result<(), Invalid> {
        unimplemented!()
    }
}

/// A client for the lease alone: it gives up in time and repeats nothing by itself.
pub fn client(_config: &kube::Config, _settings: &Settings) -> Result<Client, kube::Error> {
    unimplemented!()
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
    _s: watch::Receiver<State>,
}

impl Elector {
    /// Without leader election: leads for ever.
    pub fn off() -> Self {
        unimplemented!()
    }

    /// Begins to stand for the lock; `client` is best made by [`client`].
    pub fn start(_client: Client, _settings: Settings) -> Self {
        unimplemented!()
    }

    /// Whether we lead, now and whenever it changes. When a term has ended the follower must stop its workers before it
    /// begins with the next one.
    pub fn states(&self) -> watch::Receiver<State> {
        unimplemented!()
    }

    /// What is known of the lock.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Ends the term and hands the lock to whoever stands next. To be called when the workers have stopped; returns
    /// within the renew deadline.
    pub async fn release(&self) {
        unimplemented!()
    }
}

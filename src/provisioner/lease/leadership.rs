//! Whether this process leads, and who is told: [`Leadership`] from winning the lock to losing it, [`Announcer`].

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::volume::Permit;

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
    /// Another process does, or none.
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
    pub problem: Option<String>,
}

/// The term that we are in, if any. Dropped, it ends it.
pub(super) struct Announcer {
    pub(super) states: watch::Sender<State>,
    pub(super) term: Option<Leadership>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self { states: watch::Sender::new(State::Standby), term: None }
    }

    pub(super) fn begin(&mut self, permit: Permit) {
        let term = Leadership { permit, ended: CancellationToken::new() };
        self.term = Some(term.clone());
        self.states.send_replace(State::Leading(term));
    }

    pub(super) fn end(&mut self) {
        if let Some(term) = self.term.take() {
            // In this order: no one that learns of the end may still find the permit valid.
            term.permit.revoke();
            term.ended.cancel();
            self.states.send_replace(State::Standby);
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.end();
    }
}

//! The lock of the old provisioners, beside the `Lease`: what is known of it, [`EndpointsLock`], and a [`Look`] at it.

use super::lock::{Observed, OpError};
use crate::volume::Moment;

/// A look at the Endpoints, and when the question was asked.
pub(super) struct Look {
    pub(super) asked: Moment,
    pub(super) answer: Result<Option<Observed>, OpError>,
}

/// What the lock of the old provisioners, and of replicas that may not use Leases, lets us do while we hold the `Lease`.
pub(super) struct EndpointsLock {
    /// Until when no holder of it can have begun to work.
    pub(super) clear: Moment,
    /// Why we may not work for its sake.
    pub(super) blocked: Option<String>,
    /// The version that is known to be dead.
    pub(super) superseded: Option<String>,
    /// The role does not let us look; when to look again.
    pub(super) hidden: Option<Moment>,
}

impl EndpointsLock {
    /// Nothing is known of it.
    pub(super) fn new(now: Moment) -> Self {
        Self { clear: now, blocked: None, superseded: None, hidden: None }
    }

    /// No holder of it can begin to work before then.
    pub(super) fn clear_until(&mut self, until: Moment) {
        (self.clear, self.blocked) = (until, None);
    }
}

//! The right to change storage, which ends by itself: see [`Permit`].
//!
//! It does not obtain or extend leadership (`provisioner::lease` does); it only carries the answer to where it counts.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The right to change storage until a moment that its issuer moves on as the leader lease is renewed.
///
/// A backend asks [`check`](Permit::check) directly before every step that changes storage. A process that was stopped for a
/// minute, or whose API server is gone, therefore does nothing that a newer leader may be doing at the same time.
/// Copies share the same end.
#[derive(Clone)]
pub struct Permit {
    start: Instant,
    /// Nanoseconds after `start` at which the right ends.
    until: Arc<AtomicU64>,
}

/// The lease that allowed the work has run out; nothing further was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leader lease was not renewed in time")]
pub struct Expired;

impl Permit {
    /// A right that lasts for `duration` from now.
    pub fn lasting(duration: Duration) -> Self {
        let permit = Self { start: Instant::now(), until: Arc::new(AtomicU64::new(REVOKED + 1)) };
        permit.extend_to(Instant::now() + duration);
        permit
    }

    /// A right without end, for a process that runs without leader election, and for tests.
    pub fn unlimited() -> Self {
        Self { start: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// Lets the right, and all copies of it, last until `moment`; a right that was revoked stays revoked.
    pub fn extend_to(&self, moment: Instant) {
        let nanos =
            u64::try_from(moment.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let _ = self.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
            (now != REVOKED).then(|| nanos.clamp(REVOKED + 1, u64::MAX))
        });
    }

    /// Ends the right at once and for good.
    pub fn revoke(&self) {
        self.until.store(REVOKED, Ordering::SeqCst);
    }

    /// Whether the right still lasts.
    pub fn check(&self) -> Result<(), Expired> {
        let until = self.until.load(Ordering::SeqCst);
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if until == u64::MAX || now < until { Ok(()) } else { Err(Expired) }
    }
}

/// No moment of a living permit is zero: `extend_to` begins at one.
const REVOKED: u64 = 0;

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("valid", &self.check().is_ok()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_ends_for_every_copy_and_a_revoked_one_cannot_be_extended() {
        let permit = Permit::lasting(Duration::from_hours(1));
        let copy = permit.clone();
        assert_eq!(copy.check(), Ok(()));
        permit.revoke();
        copy.extend_to(Instant::now() + Duration::from_hours(1));
        assert_eq!(copy.check(), Err(Expired));
        assert_eq!(permit.check(), Err(Expired));
    }

    #[test]
    fn a_permit_that_was_not_extended_ends_by_itself() {
        let permit = Permit::lasting(Duration::ZERO);
        assert_eq!(permit.check(), Err(Expired));
        permit.extend_to(Instant::now() + Duration::from_hours(1));
        assert_eq!(permit.check(), Ok(()));
    }
}

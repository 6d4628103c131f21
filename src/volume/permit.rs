//! The right to change storage, which ends by itself: see [`Permit`].
//!
//! It does not obtain or extend leadership (`provisioner::lease` does); it only carries the answer to where it counts.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Clock, Moment};

/// The right to change storage until a moment that its issuer moves on as the leader lease is renewed.
///
/// A backend asks [`check`](Permit::check) directly before every step that changes storage. A process that was stopped for a
/// minute, whose machine was suspended, or whose API server is gone, therefore does nothing that a newer leader may be doing
/// at the same time. Copies share the same end.
#[derive(Clone)]
pub struct Permit {
    /// What the end is measured by; `None` for a right without end.
    clock: Option<Clock>,
    /// Nanoseconds after boot at which the right ends.
    until: Arc<AtomicU64>,
}

/// The lease that allowed the work has run out; nothing further was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leader lease was not renewed in time")]
pub struct Expired;

impl Permit {
    /// A right that lasts until `moment` on `clock`.
    pub fn until(clock: Clock, moment: Moment) -> Self {
        Self { clock: Some(clock), until: Arc::new(AtomicU64::new(nanos(moment))) }
    }

    /// A right without end, for a process that runs without leader election, and for tests.
    pub fn unlimited() -> Self {
        Self { clock: None, until: Arc::new(AtomicU64::new(nanos(Moment::NEVER))) }
    }

    /// Lets the right, and all copies of it, last until `moment`; a right that was revoked stays revoked.
    pub fn extend_to(&self, moment: Moment) {
        let _ = self
            .until
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now != REVOKED).then(|| nanos(moment)));
    }

    /// Ends the right at once and for good.
    pub fn revoke(&self) {
        self.until.store(REVOKED, Ordering::SeqCst);
    }

    /// Whether the right still lasts.
    pub fn check(&self) -> Result<(), Expired> {
        let until = self.until.load(Ordering::SeqCst);
        let lasts = match &self.clock {
            Some(clock) => nanos(clock.now()) < until,
            None => until != REVOKED,
        };
        if lasts { Ok(()) } else { Err(Expired) }
    }
}

/// What a right that was revoked lasts until: no moment of a clock is that early.
const REVOKED: u64 = 0;

fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.since_boot().as_nanos()).unwrap_or(u64::MAX).max(REVOKED + 1)
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("valid", &self.check().is_ok()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use super::*;

    /// A clock that the test moves.
    fn clock() -> (Clock, Arc<Mutex<Duration>>) {
        let time = Arc::new(Mutex::new(Duration::from_secs(100)));
        let told = Arc::clone(&time);
        (Clock::new(move || *told.lock().unwrap()), time)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_permit_ends_for_every_copy_and_a_revoked_one_cannot_be_extended() {
        let (clock, _) = clock();
        for permit in [Permit::until(clock.clone(), clock.now() + SECOND), Permit::unlimited()] {
            let copy = permit.clone();
            assert_eq!(copy.check(), Ok(()));
            permit.revoke();
            copy.extend_to(clock.now() + SECOND);
            assert_eq!(copy.check(), Err(Expired));
            assert_eq!(permit.check(), Err(Expired));
        }
    }

    #[test]
    fn a_permit_that_was_not_extended_ends_by_itself() {
        let (clock, time) = clock();
        let permit = Permit::until(clock.clone(), clock.now() + SECOND);
        assert_eq!(permit.check(), Ok(()));
        *time.lock().unwrap() += SECOND;
        assert_eq!(permit.check(), Err(Expired), "it lasts until its end, not longer");
        permit.extend_to(clock.now() + SECOND);
        assert_eq!(permit.check(), Ok(()));
    }

    #[test]
    fn a_clock_that_cannot_be_read_ends_every_permit() {
        let unreadable = Clock::new(|| Duration::MAX);
        assert_eq!(Permit::until(unreadable.clone(), unreadable.now() + SECOND).check(), Err(Expired));
        assert_eq!(Permit::until(unreadable, Moment::NEVER).check(), Err(Expired));
    }
}

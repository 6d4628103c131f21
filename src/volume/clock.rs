//! The time that a right to act is measured by: see [`Clock`].
//!
//! It reads no clock of the machine: whoever makes it says how. What is written to files or objects is not measured by it.

use std::{fmt, ops::Add, sync::Arc, time::Duration};

/// Tells how long ago the machine was booted, the time that it was suspended included.
///
/// A clock that stands still while the machine is suspended (`CLOCK_MONOTONIC`, which `std::time::Instant` reads) lets a leader
/// that wakes up after minutes believe that its lease is seconds old.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// A clock that reads the time since boot from `since_boot`, which must not go backwards.
    pub fn new(since_boot: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(since_boot))
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment((self.0)())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// A moment on a [`Clock`]. Moments of different machines have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Later than all others.
    pub const NEVER: Self = Self(Duration::MAX);

    /// How long after `earlier` this is; zero where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long after boot this is.
    pub(super) fn since_boot(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(length))
    }
}

//! What to do about a lock that was seen: pure, time comes in.
//!
//! It measures on our own monotonic clock alone; what locks say of the time of day is only ever a hint.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Settings,
    lock::{Record, Sighting},
};

/// A lock as it was seen, and since when it has been like that on our own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) record: Record,
    pub(super) version: String,
    pub(super) since: Instant,
}

impl Seen {
    /// The next look at a lock: time goes on as long as nobody wrote it. That it says the same is not enough: the clock that
    /// its times come from may stand still.
    pub(super) fn again(before: Option<Self>, sighting: &Sighting, now: Instant) -> Self {
        let version = sighting.version();
        match before {
            Some(seen) if seen.version == version => seen,
            Some(_) | None => {
                Self { record: sighting.record.clone().unwrap_or_default(), version, since: now }
            }
        }
    }

    /// When the holder will have let it run out, if nothing changes.
    fn expiry(&self, ours: Duration) -> Instant {
        self.since + self.record.duration().unwrap_or(ours).min(LONGEST_WAIT)
    }
}

/// No lock that stands still is respected for longer, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// What to do about the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none.
    Create,
    /// Nobody holds it any more.
    Take,
    /// It is ours.
    Renew,
    /// Somebody else holds it; until then, if nothing changes.
    Wait(Instant),
}

/// What to do about a lock that was seen like this. `ours` is the duration of a lock that does not tell its own.
pub(super) fn decide(seen: Option<&Seen>, now: Instant, me: &str, ours: Duration) -> Step {
    let Some(seen) = seen else { return Step::Create };
    if seen.record.holder == me {
        return Step::Renew;
    }
    if seen.record.holder.is_empty() {
        return Step::Take;
    }
    let expiry = seen.expiry(ours);
    if now < expiry { Step::Wait(expiry) } else { Step::Take }
}

/// The record to write after `old` at this step.
pub(super) fn written(old: Option<&Record>, step: Step, settings: &Settings, wall: Timestamp) -> Record {
    let record = Record {
        holder: settings.identity.clone(),
        seconds: i64::try_from(settings.duration.as_secs()).unwrap_or(i64::MAX),
        acquired: Some(wall),
        renewed: Some(wall),
        transitions: 0,
    };
    match (step, old) {
        (Step::Renew, Some(old)) => {
            Record { acquired: old.acquired.or(Some(wall)), transitions: old.transitions, ..record }
        }
        (Step::Take, Some(old)) => Record { transitions: old.transitions.saturating_add(1), ..record },
        (Step::Create | Step::Take | Step::Renew | Step::Wait(_), _) => record,
    }
}

/// Until when an old provisioner has to be waited for, whose lock was seen like this; `None` if it is gone.
///
/// Our clock alone decides, so that no difference between two clocks makes us lead beside it or wait for ever. Where the
/// time that the lock tells is long past as well, it is enough that it stood still for a few of the renewals that a living leader makes.
pub(super) fn old_lock(
    seen: &Seen,
    now: Instant,
    wall: Timestamp,
    me: &str,
    settings: &Settings,
) -> Option<Instant> {
    if seen.record.holder.is_empty() || seen.record.holder == me {
        return None;
    }
    let duration = seen.record.duration().unwrap_or(settings.duration).min(LONGEST_WAIT);
    let long_past = seen.record.renewed.is_none_or(|renewed| {
        u64::try_from(wall.as_second().saturating_sub(renewed.as_second()))
            .is_ok_and(|age| age > 2 * duration.as_secs())
    });
    let still = if long_past { duration.min(settings.retry_period * 3) } else { duration };
    Some(seen.since + still).filter(|until| now < *until)
}

//! What to do about a lock that was seen: pure, time comes in.
//!
//! It measures on our own clock alone; what locks say of the time of day is never believed. What is told once is kept for
//! the life of the process: a lock that is gone still has its last holder.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    lock::{LockRecord, Observed},
    settings::Settings,
};
use crate::volume::Moment;

/// What is known of a lock.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// The lock as it was seen last; `None` as long as it never was.
    pub(super) seen: Option<Seen>,
    pub(super) identity: Identity,
}

impl View {
    /// Another look at the lock, whose answer came at `now`; `None`: it is not there.
    pub(super) fn look(&mut self, observed: Option<&Observed>, now: Moment) {
        self.seen = Seen::again(self.seen.take(), observed, now);
        self.identity = std::mem::take(&mut self.identity).again(observed.and_then(Observed::uid), now);
    }

    /// Until when a process other than `me` has to be taken for the holder, if nothing changes; `None` if none holds it. `ours` is
    /// the duration of a lock that does not tell its own.
    pub(super) fn held_until(&self, me: &str, ours: Duration) -> Option<Moment> {
        let seen = self.seen.as_ref()?;
        (!seen.record.holder.is_empty() && seen.record.holder != me).then(|| seen.expiry(ours))
    }

    /// From when on the lock, once held, lets its holder work.
    ///
    /// A lock that was made in place of one that is gone says nothing of the holder of that one: it may have renewed it directly
    /// before it was deleted. Only who has held the new one for as long as a lock lasts knows that the other has stopped.
    pub(super) fn settled(&self, hold_off: Duration) -> Option<Moment> {
        match &self.identity {
            Identity::Known { replaced: Some(since), .. } => Some(*since + hold_off),
            Identity::Known { replaced: None, .. } | Identity::Unknown | Identity::Missing => None,
        }
    }

    /// Its holder is known to be gone, until the lock changes.
    pub(super) fn clear_holder(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.record = LockRecord::default();
        }
    }

    /// Takes it for granted that no process can have held the lock before: that it is not there does not mean that it is gone.
    pub(super) fn never_used(&mut self) {
        if let Identity::Missing = self.identity {
            self.identity = Identity::Unknown;
        }
    }
}

/// A state of a lock, and since when it has been like that on our own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// What it says; once it is gone, what it said last.
    pub(super) record: LockRecord,
    /// `None` while it is gone.
    pub(super) version: Option<String>,
    pub(super) since: Moment,
}

impl Seen {
    /// The next look at a lock: time goes on as long as it is neither written nor deleted. That it says the same is not enough: the
    /// clock that its times come from may stand still.
    fn again(before: Option<Self>, observed: Option<&Observed>, now: Moment) -> Option<Self> {
        let version = observed.map(Observed::version);
        match (before, observed) {
            (Some(seen), _) if seen.version == version => Some(seen),
            (_, Some(observed)) => {
                Some(Self { record: observed.record.clone().unwrap_or_default(), version, since: now })
            }
            (Some(seen), None) => Some(Self { version, since: now, ..seen }),
            (None, None) => None,
        }
    }

    /// When the holder will have let it run out, if nothing changes.
    fn expiry(&self, ours: Duration) -> Moment {
        self.since + self.record.duration().unwrap_or(ours).min(LONGEST_WAIT)
    }
}

/// Which object the lock is, and whether it replaced another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Identity {
    /// It was not looked at yet.
    #[default]
    Unknown,
    /// It was not there so far.
    Missing,
    /// It has this UID; if it came in place of another one, or of one that may have been deleted before we looked, since when it is
    /// known to be there.
    Known { uid: String, replaced: Option<Moment> },
}

impl Identity {
    fn again(self, uid: Option<&str>, now: Moment) -> Self {
        let known = |replaced| uid.map(|uid| Self::Known { uid: uid.to_owned(), replaced });
        match self {
            Self::Unknown => known(None).unwrap_or(Self::Missing),
            Self::Missing => known(Some(now)).unwrap_or(Self::Missing),
            Self::Known { uid: old, replaced } if uid.is_none_or(|uid| uid == old) => {
                Self::Known { uid: old, replaced }
            }
            Self::Known { uid: old, replaced } => {
                known(Some(now)).unwrap_or(Self::Known { uid: old, replaced })
            }
        }
    }
}

/// No lock that stands still is respected for longer, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// What to do about the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none.
    Create,
    /// It is not held any more.
    Take,
    /// It is ours.
    Renew,
    /// Another process holds it, or held it when it was deleted; until then, if nothing changes.
    Wait(Moment),
}

/// What to do about a lock of which this is known. `ours` is the duration of a lock that does not tell its own.
pub(super) fn decide(view: &View, now: Moment, me: &str, ours: Duration) -> Step {
    let Some(seen) = &view.seen else { return Step::Create };
    match view.held_until(me, ours) {
        Some(until) if now < until => Step::Wait(until),
        Some(_) | None if seen.version.is_none() => Step::Create,
        None if seen.record.holder == me => Step::Renew,
        Some(_) | None => Step::Take,
    }
}

/// The record to write after `old` at this step.
pub(super) fn written(
    old: Option<&LockRecord>,
    step: Step,
    settings: &Settings,
    wall: Timestamp,
) -> LockRecord {
    let record = LockRecord {
        holder: settings.identity.clone(),
        seconds: i64::try_from(settings.duration.as_secs()).unwrap_or(i64::MAX),
        acquired: Some(wall),
        renewed: Some(wall),
        transitions: 0,
    };
    match (step, old) {
        (Step::Renew, Some(old)) => {
            LockRecord { acquired: old.acquired.or(Some(wall)), transitions: old.transitions, ..record }
        }
        (Step::Take, Some(old)) => LockRecord { transitions: old.transitions.saturating_add(1), ..record },
        (Step::Create | Step::Take | Step::Renew | Step::Wait(_), _) => record,
    }
}

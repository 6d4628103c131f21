//! What the rounds remember of one entry of the trash: [`Item`].

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{plan::Found, scan::Key};
use crate::{backend::PvState, system::root::Left};

/// The first and the longest pause before something that was stuck is tried again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The first pause before an entry is looked at again: a volume is moved to the trash a moment before its PV is deleted.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// An entry whose purge takes longer than this is shown.
const LONG: Duration = Duration::from_mins(5);

/// What the previous version removed is kept for at least so long: nothing says which cluster may want it back.
const LEGACY_KEPT: Duration = Duration::from_hours(24);

/// What is remembered of an entry.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) found: Arc<Found>,
    /// When it was first seen, by the API server's clock.
    pub(super) seen: Option<SystemTime>,
    /// When the API server was asked for its PV.
    pub(super) asked: Option<Instant>,
    /// What it said in this round.
    pub(super) pv: Option<PvState>,
    pub(super) superseded: bool,
    /// Since when it is being purged.
    pub(super) purging: Option<Instant>,
    /// Until when it is not touched, and how long that pause is.
    pub(super) pause: Option<(Instant, Duration)>,
    /// Something was done: it is to be looked at again.
    pub(super) stale: bool,
    /// What is shown of it.
    pub(super) why: Vec<(String, String)>,
}

impl Item {
    pub(super) fn new(found: Arc<Found>, now: Option<SystemTime>) -> Self {
        Self {
            found,
            seen: now,
            asked: None,
            pv: None,
            superseded: false,
            purging: None,
            pause: None,
            stale: false,
            why: Vec::new(),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some_and(|(until, _)| until > Instant::now())
    }

    pub(super) fn wait(&mut self, longest: Duration) {
        let length = self.pause.map_or(FIRST_WAIT, |(_, length)| (length * 2).min(longest));
        self.pause = Some((Instant::now() + length, length));
    }

    /// From when on it may be purged; `None` while that is not known.
    pub(super) fn due(&self, retention: Duration) -> Option<SystemTime> {
        match &*self.found {
            Found::Removed { marker, .. } | Found::OrphanRecord { marker, .. } => match &marker.trash {
                Some(trash) => match trash.until {
                    Some(until) => Some(until.into()),
                    None => self.seen?.checked_add(Duration::from_secs(trash.keep)),
                },
                None => self.seen?.checked_add(retention),
            },
            // Its name may tell any time: a clock was wrong, or a person gave it.
            Found::Named { whole, .. } => {
                let since = self.seen?.max(SystemTime::from(whole.at));
                since.checked_add(Duration::from_secs(whole.keep))
            }
            Found::Legacy { at, .. } => {
                let at = SystemTime::from(*at);
                let since = self.seen.map_or(at, |seen| seen.min(at));
                since.checked_add(retention.max(LEGACY_KEPT))
            }
            Found::Begun { .. } | Found::Misplaced { .. } | Found::OtherCluster | Found::Unrecognised(_) => {
                None
            }
        }
    }

    pub(super) fn is_due(&self, retention: Duration, now: Option<SystemTime>) -> bool {
        self.due(retention).zip(now).is_some_and(|(due, now)| due <= now)
    }

    /// Shows why it stays where it is; the log says it once.
    pub(super) fn tell(&mut self, export: &str, path: String, why: String) {
        if !self.why.iter().any(|(_, known)| *known == why) {
            tracing::warn!(export, path, reason = why, "an entry of the trash is held");
        }
        self.why = vec![(path, why)];
    }
}

/// Takes what remains of an entry after its slice of time; whether the next slice follows at once.
pub(super) fn keep_purging(export: &str, item: &mut Item, at: &Key, left: Left) -> bool {
    let since = *item.purging.get_or_insert_with(Instant::now);
    let shown = at.shown();
    let folder = shown.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut why: Vec<(String, String)> =
        left.stuck.into_iter().map(|stuck| (joined(folder, &stuck.path), stuck.why)).collect();
    let mut at_once = false;
    for unfinished in left.unfinished {
        let path = joined(folder, &unfinished.entry);
        if unfinished.refilled {
            let still = "something still writes there; stop the pods or nodes that have it mounted";
            why.push((path, still.into()));
        } else {
            at_once = why.is_empty();
            if since.elapsed() >= LONG {
                let minutes = since.elapsed().as_secs() / 60;
                why.push((path, format!("its purge takes {minutes} minutes already, and goes on")));
            }
        }
    }
    for (path, reason) in &why {
        if !item.why.iter().any(|(known, _)| known == path) {
            tracing::warn!(export, path, reason, "cannot be purged");
        }
    }
    item.why = why;
    if at_once {
        item.pause = None;
    } else {
        item.wait(LONGEST_PAUSE);
    }
    at_once
}

fn joined(folder: &str, below: &str) -> String {
    if folder.is_empty() { below.to_owned() } else { format!("{folder}/{below}") }
}

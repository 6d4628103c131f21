//! Which recorded volumes lie at, above or below a directory: [`Index`].
//!
//! Only for exports that an earlier version wrote, until the places of all their volumes are noted in the mirror (`places`,
//! `upgrade`): from then on it is empty, and nothing relies on it. Read from the records when it is first needed, and kept up
//! to date from then on.

use std::{collections::BTreeMap, ops::Bound};

use parking_lot::Mutex;

use super::op_error::{OpError, fail};
use crate::{backend::Kind, volume::VolumeName};

/// The places of all recorded volumes of an export.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unread,
    /// Somebody reads; what changed since then.
    Reading(Vec<(VolumeName, Vec<String>, Change)>),
    Read(Places),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

type Places = BTreeMap<Vec<String>, Vec<VolumeName>>;

/// Volumes, each with its place.
pub(super) type Found = Vec<(VolumeName, Vec<String>)>;

impl Index {
    /// Notes a volume whose record was written.
    pub(super) fn add(&self, name: &VolumeName, segments: &[String]) {
        self.note(name, segments, Change::Add);
    }

    /// Forgets a volume whose record is gone.
    pub(super) fn remove(&self, name: &VolumeName, segments: &[String]) {
        self.note(name, segments, Change::Remove);
    }

    /// Forgets everything: somebody else may have worked on the export meanwhile.
    pub(super) fn reset(&self) {
        *self.0.lock() = State::Unread;
    }

    fn note(&self, name: &VolumeName, segments: &[String], change: Change) {
        match &mut *self.0.lock() {
            State::Unread => {}
            State::Reading(changes) => changes.push((name.clone(), segments.to_vec(), change)),
            State::Read(places) => apply(places, name, segments, change),
        }
    }

    /// The volumes other than `except` that, as far as the mirror may not tell of them yet, lie at, above or below `segments`, each with its place.
    pub(super) fn overlapping(
        &self,
        segments: &[String],
        except: &VolumeName,
        read: impl FnOnce() -> Result<Found, OpError>,
    ) -> Result<Found, OpError> {
        {
            let mut state = self.0.lock();
            match &mut *state {
                State::Read(places) => return Ok(overlapping(places, segments, except)),
                State::Reading(_) => {
                    return fail(Kind::Busy, "the records of the export are being read");
                }
                State::Unread => *state = State::Reading(Vec::new()),
            }
        }
        let read = read();
        let mut state = self.0.lock();
        let changes = match std::mem::take(&mut *state) {
            State::Reading(changes) => changes,
            State::Unread | State::Read(_) => {
                return fail(Kind::Busy, "the records of the export changed while they were read");
            }
        };
        let mut places = Places::new();
        for (name, segments) in read? {
            apply(&mut places, &name, &segments, Change::Add);
        }
        for (name, segments, change) in changes {
            apply(&mut places, &name, &segments, change);
        }
        let found = overlapping(&places, segments, except);
        *state = State::Read(places);
        Ok(found)
    }
}

fn apply(places: &mut Places, name: &VolumeName, segments: &[String], change: Change) {
    let names = places.entry(segments.to_vec()).or_default();
    names.retain(|known| known != name);
    match change {
        Change::Add => names.push(name.clone()),
        Change::Remove => {}
    }
    if names.is_empty() {
        places.remove(segments);
    }
}

fn overlapping(places: &Places, segments: &[String], except: &VolumeName) -> Found {
    let above = (1..segments.len()).filter_map(|length| {
        let prefix = segments.get(..length)?;
        places.get_key_value(prefix)
    });
    let from = (Bound::Included(segments.to_vec()), Bound::Unbounded);
    let below = places.range(from).take_while(|(place, _)| place.starts_with(segments));
    above
        .chain(below)
        .flat_map(|(place, names)| names.iter().map(move |name| (name, place)))
        .filter(|(name, _)| *name != except)
        .map(|(name, place)| (name.clone(), place.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &str) -> Vec<String> {
        path.split('/').map(String::from).collect()
    }

    #[test]
    fn volumes_at_above_and_below_are_found_and_others_are_not() {
        let mut places = Places::new();
        for (name, place) in
            [("a", "x"), ("b", "x/y"), ("c", "x/y/z"), ("d", "x!"), ("e", "xy"), ("f", "x/y")]
        {
            apply(&mut places, &name.parse().unwrap(), &segments(place), Change::Add);
        }
        let found = |place: &str, except: &str| {
            let found = overlapping(&places, &segments(place), &except.parse().unwrap());
            let mut names: Vec<_> = found.iter().map(|(name, _)| name.to_string()).collect();
            names.sort();
            names.concat()
        };
        assert_eq!(found("x", "none"), "abcf");
        assert_eq!(found("x/y", "b"), "acf");
        assert_eq!(found("x/y/z/deeper", "none"), "abcf");
        assert_eq!(found("x/other", "none"), "a");
        assert_eq!(found("y", "none"), "");
        apply(&mut places, &"a".parse().unwrap(), &segments("x"), Change::Remove);
        assert!(!places.contains_key(&segments("x")));
    }
}

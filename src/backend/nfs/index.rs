//! Which recorded volumes lie at, above or below a directory: [`Index`].
//!
//! Only for exports that an earlier version wrote, until the places of all their volumes are noted in the mirror (`places`,
//! `upgrade`): from then on it is empty, and nothing relies on it. Read from the records when it is first needed, and kept up
//! to date from then on.

use std::{collections::BTreeMap, ops::Bound};

use parking_lot::Mutex;

use super::op_error::{OpError, fail};
use crate::{
    backend::Kind,
    volume::{RelativePath, VolumeName},
};

/// The places of all recorded volumes of an export.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unread,
    /// A thread is reading; changes since it began.
    Reading(Vec<(VolumeName, RelativePath, Change)>),
    Read(Places),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

type Places = BTreeMap<RelativePath, Vec<VolumeName>>;

/// Volumes, each with its place.
pub(super) type Found = Vec<(VolumeName, RelativePath)>;

impl Index {
    /// Notes a volume whose record was written.
    pub(super) fn add(&self, name: &VolumeName, path: &RelativePath) {
        self.note(name, path, Change::Add);
    }

    /// Forgets a volume whose record is gone.
    pub(super) fn remove(&self, name: &VolumeName, path: &RelativePath) {
        self.note(name, path, Change::Remove);
    }

    /// Forgets everything: another process may have worked on the export in between.
    pub(super) fn reset(&self) {
        *self.0.lock() = State::Unread;
    }

    fn note(&self, name: &VolumeName, path: &RelativePath, change: Change) {
        match &mut *self.0.lock() {
            State::Unread => {}
            State::Reading(changes) => changes.push((name.clone(), path.clone(), change)),
            State::Read(places) => apply(places, name, path, change),
        }
    }

    /// The volumes other than `except` that, as far as the mirror may not tell of them yet, lie at, above or below `path`, each with its place.
    pub(super) fn overlapping(
        &self,
        path: &RelativePath,
        except: &VolumeName,
        read: impl FnOnce() -> Result<Found, OpError>,
    ) -> Result<Found, OpError> {
        {
            let mut state = self.0.lock();
            match &mut *state {
                State::Read(places) => return Ok(overlapping(places, path, except)),
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
        for (name, path) in read? {
            apply(&mut places, &name, &path, Change::Add);
        }
        for (name, path, change) in changes {
            apply(&mut places, &name, &path, change);
        }
        let found = overlapping(&places, path, except);
        *state = State::Read(places);
        Ok(found)
    }
}

fn apply(places: &mut Places, name: &VolumeName, path: &RelativePath, change: Change) {
    let names = places.entry(path.clone()).or_default();
    names.retain(|known| known != name);
    match change {
        Change::Add => names.push(name.clone()),
        Change::Remove => {}
    }
    if names.is_empty() {
        places.remove(path);
    }
}

fn overlapping(places: &Places, path: &RelativePath, except: &VolumeName) -> Found {
    let above: Vec<_> = path.parents().filter_map(|parent| places.get_key_value(&parent)).collect();
    let from = (Bound::Included(path.clone()), Bound::Unbounded);
    let below = places.range(from).take_while(|(place, _)| place.starts_with(path));
    above
        .into_iter()
        .chain(below)
        .flat_map(|(place, names)| names.iter().map(move |name| (name, place)))
        .filter(|(name, _)| *name != except)
        .map(|(name, place)| (name.clone(), place.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> RelativePath {
        path.parse().unwrap()
    }

    #[test]
    fn volumes_at_above_and_below_are_found_and_others_are_not() {
        let mut places = Places::new();
        for (name, place) in
            [("a", "x"), ("b", "x/y"), ("c", "x/y/z"), ("d", "x!"), ("e", "xy"), ("f", "x/y")]
        {
            apply(&mut places, &name.parse().unwrap(), &at(place), Change::Add);
        }
        let found = |place: &str, except: &str| {
            let found = overlapping(&places, &at(place), &except.parse().unwrap());
            let mut names: Vec<_> = found.iter().map(|(name, _)| name.to_string()).collect();
            names.sort();
            names.concat()
        };
        assert_eq!(found("x", "none"), "abcf");
        assert_eq!(found("x/y", "b"), "acf");
        assert_eq!(found("x/y/z/deeper", "none"), "abcf");
        assert_eq!(found("x/other", "none"), "a");
        assert_eq!(found("y", "none"), "");
        apply(&mut places, &"a".parse().unwrap(), &at("x"), Change::Remove);
        assert!(!places.contains_key(&at("x")));
    }
}

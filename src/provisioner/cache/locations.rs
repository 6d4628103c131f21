//! Who lies where: [`LocationIndex`], an ordered index that answers what a new volume would overlap.
//!
//! It does not know what lies there, and takes several occupants of one place: the old provisioners allowed that.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use crate::volume::Location;

/// How an occupied place lies to the one asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It is the same place.
    Same,
    /// It contains the place asked about.
    Above,
    /// It lies in the place asked about.
    Below,
}

/// A place as one text: backend, store and segments, each followed by the separator. What lies beneath a place
/// begins with its text, and comes directly after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LocationKey(Box<str>);

/// Cannot occur in a segment of a path.
const SEPARATOR: char = '\0';

impl LocationKey {
    /// The text for `place` of the backend with this name.
    pub(crate) fn new(backend: &str, place: &Location) -> Self {
        let mut text = String::with_capacity(96);
        let parts = [backend, &place.store].into_iter().chain(place.path.iter().map(String::as_str));
        for part in parts {
            text.push_str(part);
            text.push(SEPARATOR);
        }
        Self(text.into_boxed_str())
    }

    /// The texts of the places above this one, the store's root not among them, nearest last.
    fn above(&self) -> impl Iterator<Item = &str> {
        let ends = self.0.match_indices(SEPARATOR).map(|(at, _)| at + SEPARATOR.len_utf8());
        ends.skip(2).filter_map(|end| self.0.get(..end)).filter(|text| text.len() < self.0.len())
    }

    /// The name of the backend.
    pub(crate) fn backend(&self) -> &str {
        self.0.split(SEPARATOR).next().unwrap_or_default()
    }

    /// The name of the store.
    pub(crate) fn store(&self) -> &str {
        self.0.split(SEPARATOR).nth(1).unwrap_or_default()
    }

    /// The same path on another store.
    pub(crate) fn on(&self, store: &str) -> Self {
        let (backend, path) = (self.backend(), self.0.splitn(3, SEPARATOR).nth(2).unwrap_or_default());
        Self(format!("{backend}{SEPARATOR}{store}{SEPARATOR}{path}").into_boxed_str())
    }

    /// The place that it is the text of.
    pub(crate) fn place(&self) -> Location {
        let mut parts = self.0.trim_end_matches(SEPARATOR).split(SEPARATOR).skip(1).map(str::to_owned);
        Location { store: parts.next().unwrap_or_default(), path: parts.collect() }
    }

    /// The path below the root of the store, for people.
    pub(crate) fn path(&self) -> String {
        let parts: Vec<&str> = self.0.trim_end_matches(SEPARATOR).split(SEPARATOR).skip(2).collect();
        parts.join("/")
    }
}

/// Who lies at one place; nearly always one.
#[derive(Debug)]
enum Occupants {
    One(Arc<str>),
    Several(Vec<Arc<str>>),
}

impl Occupants {
    fn as_slice(&self) -> &[Arc<str>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

/// Occupied places.
#[derive(Debug, Default)]
pub(crate) struct LocationIndex(BTreeMap<Box<str>, Occupants>);

impl LocationIndex {
    /// `who` lies at `location`.
    pub(crate) fn insert(&mut self, location: &LocationKey, who: &Arc<str>) {
        match self.0.entry(location.0.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Occupants::One(Arc::clone(who)));
            }
            Entry::Occupied(mut occupied) => {
                let mut all = occupied.get().as_slice().to_vec();
                if !all.contains(who) {
                    all.push(Arc::clone(who));
                    occupied.insert(Occupants::Several(all));
                }
            }
        }
    }

    /// `who` does not lie at `location` any more.
    pub(crate) fn remove(&mut self, location: &LocationKey, who: &str) {
        if let Entry::Occupied(mut occupied) = self.0.entry(location.0.clone()) {
            let mut left: Vec<_> =
                occupied.get().as_slice().iter().filter(|one| ***one != *who).cloned().collect();
            match (left.pop(), left.is_empty()) {
                (None, _) => {
                    occupied.remove();
                }
                (Some(last), true) => {
                    occupied.insert(Occupants::One(last));
                }
                (Some(last), false) => {
                    left.push(last);
                    occupied.insert(Occupants::Several(left));
                }
            }
        }
    }

    /// The stores of this backend on which anything lies.
    pub(crate) fn stores(&self, backend: &str) -> Vec<&str> {
        let mut stores = Vec::new();
        let mut from = format!("{backend}{SEPARATOR}");
        let begin = from.len();
        while let Some((text, _)) = self.0.range::<str, _>((Bound::Included(&*from), Bound::Unbounded)).next()
            && text.get(..begin) == from.get(..begin)
            && let Some(store) = text.get(begin..).and_then(|rest| rest.split(SEPARATOR).next())
        {
            stores.push(store);
            // After everything on this store, and before the next one.
            from.truncate(begin);
            from.push_str(store);
            from.push('\u{1}');
        }
        stores
    }

    /// Everybody who lies at, above or below `location`.
    pub(crate) fn overlapping<'a>(
        &'a self,
        location: &'a LocationKey,
    ) -> impl Iterator<Item = (Relation, &'a Arc<str>)> + 'a {
        let above = location
            .above()
            .filter_map(|text| self.0.get(text))
            .flat_map(|occupants| occupants.as_slice().iter().map(|who| (Relation::Above, who)));
        let from: (Bound<&str>, Bound<&str>) = (Bound::Included(&location.0), Bound::Unbounded);
        let below = self
            .0
            .range::<str, _>(from)
            .take_while(|(text, _)| text.starts_with(&*location.0))
            .flat_map(|(text, occupants)| {
                let relation = if text.len() == location.0.len() { Relation::Same } else { Relation::Below };
                occupants.as_slice().iter().map(move |who| (relation, who))
            });
        above.chain(below)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(store: &str, path: &str) -> Location {
        Location { store: store.into(), path: path.split('/').map(String::from).collect() }
    }

    fn location(path: &str) -> LocationKey {
        LocationKey::new("fake", &place("default", path))
    }

    #[test]
    fn what_overlaps_is_found_at_above_and_below() {
        use Relation::{Above, Below, Same};
        let mut places = LocationIndex::default();
        for (path, who) in
            [("a", "1"), ("b/c", "2"), ("b/c", "3"), ("b/cd", "4"), ("b/c/d/e", "5"), ("b-c", "6")]
        {
            places.insert(&location(path), &who.into());
        }
        let table: &[(&str, &[(Relation, &str)])] = &[
            ("a", &[(Same, "1")]),
            ("a/x", &[(Above, "1")]),
            ("a/x/y", &[(Above, "1")]),
            ("aa", &[]),
            ("b", &[(Below, "2"), (Below, "3"), (Below, "5"), (Below, "4")]),
            ("b/c", &[(Same, "2"), (Same, "3"), (Below, "5")]),
            ("b/c/d", &[(Above, "2"), (Above, "3"), (Below, "5")]),
            ("b/c/d/e", &[(Above, "2"), (Above, "3"), (Same, "5")]),
            ("b/d", &[]),
            ("c", &[]),
        ];
        for (path, expected) in table {
            let location = location(path);
            let found: Vec<_> = places.overlapping(&location).map(|(how, who)| (how, &**who)).collect();
            assert_eq!(found, *expected, "{path}");
        }
        let elsewhere = LocationKey::new("fake", &place("other", "a"));
        assert_eq!(places.overlapping(&elsewhere).count(), 0);
        assert_eq!(elsewhere.on("default"), location("a"));
        assert_eq!(location("b/c").on("other"), LocationKey::new("fake", &place("other", "b/c")));
        assert_eq!(LocationKey::new("other", &place("default", "a")).store(), "default");
        assert_eq!(location("b/c").path(), "b/c");
    }

    #[test]
    fn the_stores_of_a_backend_are_found_each_once() {
        let mut places = LocationIndex::default();
        for (backend, store, path) in [
            ("fake", "a", "x"),
            ("fake", "a", "y/z"),
            ("fake", "a-b", "x"),
            ("fake", "ab", "x"),
            ("fak", "before", "x"),
            ("fakes", "after", "x"),
        ] {
            places.insert(&LocationKey::new(backend, &place(store, path)), &"1".into());
        }
        assert_eq!(places.stores("fake"), ["a", "a-b", "ab"]);
        assert_eq!(places.stores("fakes"), ["after"]);
        assert_eq!(places.stores("other"), [""; 0]);
    }

    #[test]
    fn the_last_occupant_to_leave_frees_the_place() {
        let mut places = LocationIndex::default();
        for who in ["1", "2", "3", "2"] {
            places.insert(&location("a"), &who.into());
        }
        for (who, left) in [("2", 2), ("9", 2), ("1", 1), ("3", 0), ("3", 0)] {
            places.remove(&location("a"), who);
            assert_eq!(places.overlapping(&location("a")).count(), left, "after {who} left");
        }
        assert!(places.0.is_empty());
    }

    proptest! {
        #[test]
        fn the_index_finds_what_comparing_each_pair_finds(
            paths in prop::collection::vec("[ab-]{1,2}(/[ab.]{1,2}){0,3}", 1..20),
            asked in "[ab-]{1,2}(/[ab.]{1,2}){0,3}",
        ) {
            let mut places = LocationIndex::default();
            for (index, path) in paths.iter().enumerate() {
                places.insert(&location(path), &index.to_string().into());
            }
            let location = location(&asked);
            let mut found: Vec<usize> =
                places.overlapping(&location).map(|(_, who)| who.parse().unwrap()).collect();
            found.sort_unstable();
            let expected: Vec<usize> = paths
                .iter()
                .enumerate()
                .filter(|(_, path)| place("default", path).overlaps(&place("default", &asked)))
                .map(|(index, _)| index)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

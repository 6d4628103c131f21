//! Where a volume lies in its store: [`Location`], a store and a [`RelativePath`].

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use super::Invalid;

/// A path below the root of a store: names, each within the one before; at least one. Ordered name by name, so that what lies
/// beneath a path follows it directly.
///
/// Read from text it holds no name that leads elsewhere. Names that are put together are those that a backend gave.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<String>);

impl RelativePath {
    /// What is called `name` in this directory.
    #[must_use]
    pub fn child(&self, name: impl Into<String>) -> Self {
        self.iter().cloned().chain([name.into()]).collect()
    }

    /// The path `rest` below this directory.
    #[must_use]
    pub fn below(&self, rest: &[String]) -> Self {
        self.iter().chain(rest).cloned().collect()
    }

    /// The directories on the way, the outermost first.
    pub fn parents(&self) -> impl DoubleEndedIterator<Item = Self> {
        (1..self.len()).map(|length| self.iter().take(length).cloned().collect())
    }

    /// Whether this path is `other`, above it or below it.
    pub fn overlaps(&self, other: &[String]) -> bool {
        self.iter().zip(other).all(|(a, b)| a == b)
    }
}

impl FromStr for RelativePath {
    type Err = Invalid;

    /// Reads `a/b`. Leading, trailing and repeated slashes do not count.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let names: Self = text.split('/').filter(|name| !name.is_empty()).map(String::from).collect();
        let wrong = |why| Err(Invalid::new("path", text, why));
        if names.is_empty() {
            return wrong("names the root of the store");
        }
        if names.iter().any(|name| matches!(name.as_str(), "." | "..")) {
            return wrong("contains '.' or '..'; name directories in full");
        }
        Ok(names)
    }
}

impl FromIterator<String> for RelativePath {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl From<&[String]> for RelativePath {
    fn from(names: &[String]) -> Self {
        Self(names.to_vec())
    }
}

/// Ordered and equal as its names are.
impl Borrow<[String]> for RelativePath {
    fn borrow(&self) -> &[String] {
        &self.0
    }
}

impl Deref for RelativePath {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// Where a volume lies within a store: what two volumes must not share.
///
/// Ordered by store, then by path, so that what lies beneath a location follows it directly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The configured name of the export or cluster.
    pub store: String,
    /// Where it lies below the store's root.
    pub path: RelativePath,
}

impl Location {
    /// The location of a path that is written as `a/b`.
    pub fn new(store: impl Into<String>, path: &str) -> Result<Self, Invalid> {
        Ok(Self { store: store.into(), path: path.parse()? })
    }

    /// Whether this location is `other`, above it or below it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.store == other.store && self.path.overlaps(&other.path)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_overlap_at_above_and_below_but_not_beside() {
        let at = |path: &str| Location::new("default", path).unwrap();
        assert!(at("a/b").overlaps(&at("a/b")));
        assert!(at("a/b").overlaps(&at("a")));
        assert!(at("a").overlaps(&at("a/b")));
        assert!(!at("a/b").overlaps(&at("a/bc")));
        assert!(!at("a/b").overlaps(&Location::new("other", "a/b").unwrap()));
    }

    #[test]
    fn a_path_reads_back_and_holds_no_name_that_leads_elsewhere() {
        assert_eq!("/a//b/".parse::<RelativePath>().unwrap().to_string(), "a/b");
        for bad in ["", "/", "a/../b", "./a"] {
            assert!(bad.parse::<RelativePath>().is_err(), "{bad}");
        }
    }
}

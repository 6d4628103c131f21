//! Keys and where they are kept: [`Secrets`], which never shows a value, and [`SecretName`].
//!
//! It reads nothing: whoever has access to a store of secrets fills one in.

use std::{collections::BTreeMap, fmt};

/// Names a set of secrets: a Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Values that must not be seen, by key. `Debug` shows the keys alone, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// The value with this key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// The only value there is, with its key; `None` where there is none or more than one.
    pub fn only(&self) -> Option<(&str, &[u8])> {
        let mut all = self.iter();
        all.next().filter(|_| all.next().is_none())
    }
}

impl FromIterator<(String, Vec<u8>)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(pairs: &[(&str, &str)]) -> Secrets {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?} {:#?}", secrets(&[("key", "hunter2")]), secrets(&[("key", "hunter2")]));
        assert!(shown.contains("key"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn the_only_value_is_not_a_guess() {
        assert_eq!(secrets(&[("any", "a")]).only(), Some(("any", b"a".as_slice())));
        assert_eq!(secrets(&[("a", "a"), ("b", "b")]).only(), None);
        assert_eq!(secrets(&[]).only(), None);
    }
}

//! By what a Kubernetes cluster differs from all others that may use the same storage: [`ClusterIds`].
//!
//! It does not find the identity out; the provisioner does.

use std::fmt;

/// The identity of the cluster that this process works for, and the ones that it has had before.
///
/// What is unknown never counts as equal: a process that does not know its cluster has no `ClusterIds` at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterIds {
    current: String,
    others: Vec<String>,
}

impl ClusterIds {
    /// A cluster with this identity alone.
    pub fn only(current: impl Into<String>) -> Self {
        Self { current: current.into(), others: Vec::new() }
    }

    /// The same cluster, which is also known by these identities: those of before it was rebuilt, and those by which
    /// it signed while its own could not be read.
    #[must_use]
    pub fn also(mut self, others: impl IntoIterator<Item = String>) -> Self {
        let others = others.into_iter().filter(|id| !id.is_empty() && *id != self.current);
        self.others.extend(others);
        self
    }

    /// With what new records are signed.
    pub fn current(&self) -> &str {
        &self.current
    }

    /// Whether a record that is signed so is one of this cluster. A record without a signature is not.
    pub fn include(&self, signature: &str) -> bool {
        !signature.is_empty() && (self.current == signature || self.others.iter().any(|id| id == signature))
    }
}

impl fmt::Display for ClusterIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_this_cluster_by_its_present_or_a_former_identity_and_never_without_one() {
        let ids = ClusterIds::only("now").also(["before".to_owned(), String::new()]);
        assert_eq!(ids.current(), "now");
        for (signature, ours) in [("now", true), ("before", true), ("other", false), ("", false)] {
            assert_eq!(ids.include(signature), ours, "{signature:?}");
        }
    }
}

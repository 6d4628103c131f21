//! What a class says before any claim uses it: [`Inspection`], which [`Stores::inspect`](super::Stores::inspect) gives.
//!
//! Pure values. What becomes of a finding, the caller decides.

use std::collections::BTreeSet;

/// What a class says of all its volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The labels of a claim on which the name of its volume depends.
    pub labels: BTreeSet<String>,
    /// The annotations of a claim on which the name of its volume depends.
    pub annotations: BTreeSet<String>,
    /// What an administrator should know, though no claim is refused for it.
    pub findings: Vec<Finding>,
}

/// Something about a class that is probably not what its author wanted. Each text continues a sentence that begins with the
/// class: `has …`, `gives …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The pattern for names has what looks like a token and is taken as it is.
    LiteralPattern(String),
    /// No node can mount its volumes.
    NotMountable {
        /// The minor version of Kubernetes 1 from which on that is so; 0 for all.
        from_minor: u32,
        /// Why, and what to do.
        why: String,
    },
}

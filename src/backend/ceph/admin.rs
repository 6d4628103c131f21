//! A user of a cluster as classes and the configuration name it: [`Admin`].

use crate::volume::SecretName;

/// A user of a cluster, and where its key is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admin {
    /// Its name, without `client.`.
    pub user: String,
    /// The Secret with its key.
    pub secret: SecretName,
}

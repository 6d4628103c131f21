//! What RBD and `CephFS` share: clusters, credentials, the calls of Ceph's command-line tools and what their answers mean.
//!
//! [`Clusters`] finds a [`Cluster`]; [`Cluster::with`] makes a [`Ceph`], a handle for one user; [`Ceph::rbd`] and [`Ceph::ceph`] call the
//! tools. What an image or a subvolume is, is not known here, and nothing is retried.

mod call;
mod classify;
mod cluster;
mod credentials;
#[cfg(test)]
pub(crate) mod tests;

pub use call::{Call, Failed, Reply, Tool};
pub use classify::{Reason, classify};
pub use cluster::{Cluster, Clusters, Monitors, Tools};
pub use credentials::{Credentials, Key};
#[cfg(test)]
pub(crate) use tests::fake;

/// A cluster as one user sees it. Cheap to copy.
#[derive(Debug, Clone)]
pub struct Ceph {
    cluster: Cluster,
    credentials: Credentials,
}

impl Ceph {
    pub(super) fn new(cluster: Cluster, credentials: Credentials) -> Self {
        Self { cluster, credentials }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The user.
    pub fn user(&self) -> &str {
        self.credentials.user()
    }

    /// Calls `rbd`. Standard output of a call that succeeded is the reply; `--format json` is the caller's to add.
    pub async fn rbd(&self, call: Call) -> Result<Reply, Failed> {
        self.start(Tool::Rbd, call).await
    }

    /// Calls `ceph`, or asks a `ceph` that is still running. The answer is in JSON wherever the command has such.
    pub async fn ceph(&self, call: Call) -> Result<Reply, Failed> {
        self.start(Tool::Ceph, call).await
    }

    /// The identity that the cluster gave itself when it was made; asked once in the life of the process.
    pub async fn fsid(&self) -> Result<String, Failed> {
        Ok(self.cluster.shared.fsid.get().cloned().unwrap_or_default())
    }

    #[expect(clippy::unused_async, reason = "the body follows")]
    async fn start(&self, tool: Tool, call: Call) -> Result<Reply, Failed> {
        Err(Failed { what: call.what, tool, reason: Reason::Other, code: None, said: String::new() })
    }
}

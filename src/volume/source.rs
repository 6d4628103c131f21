//! Where a volume is for whoever mounts it: [`Source`].

use std::{collections::BTreeMap, fmt};

use super::SecretName;

/// Where the bytes are, in the words that whoever mounts them needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A directory on an NFS server (the in-tree `nfs` volume).
    Nfs {
        /// Host name or address, as the PV spells it.
        server: String,
        /// Absolute path on the server.
        path: String,
    },
    /// A volume that the node plugin of a CSI driver mounts.
    Csi(CsiSource),
    /// An RBD image, for the node plugin that Kubernetes had before 1.31 (the in-tree `rbd` volume).
    Rbd(RbdSource),
    /// A directory of a CephFS, for the node plugin that Kubernetes had before 1.31 (the in-tree `cephfs` volume).
    Cephfs(CephfsSource),
}

/// The fields of a PV's `csi` source that a backend decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CsiSource {
    /// The name of the driver.
    pub driver: String,
    /// The volume handle: the volume's id, for what we made.
    pub handle: String,
    /// What the node plugin must know to find the volume. No secrets.
    pub attributes: BTreeMap<String, String>,
    /// The file system to make where there is none; `None` for raw devices, and where the driver decides.
    pub fs_type: Option<String>,
    /// The secrets with which a node connects to the volume (`nodeStageSecretRef`).
    pub stage_secret: Option<SecretName>,
}

/// The fields of a PV's in-tree `rbd` source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RbdSource {
    /// Host names or addresses, as the PV spells them.
    pub monitors: Vec<String>,
    /// The pool.
    pub pool: String,
    /// The image.
    pub image: String,
    /// The user that nodes map the image as, without `client.`.
    pub user: String,
    /// The secret with that user's key; the namespace is empty where the PV names none.
    pub secret: Option<SecretName>,
    /// The file system to make where there is none.
    pub fs_type: Option<String>,
}

/// The fields of a PV's in-tree `cephfs` source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CephfsSource {
    /// Host names or addresses, as the PV spells them.
    pub monitors: Vec<String>,
    /// Absolute path in the file system.
    pub path: String,
    /// The user that nodes mount it as, without `client.`.
    pub user: String,
    /// The secret with that user's key; the namespace is empty where the PV names none.
    pub secret: Option<SecretName>,
}

impl fmt::Display for Source {
    /// As an administrator would name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nfs { server, path } => write!(f, "{server}:{path}"),
            Self::Csi(csi) => write!(f, "volume {:?} of driver {}", csi.handle, csi.driver),
            Self::Rbd(rbd) => write!(f, "image {}/{} at {}", rbd.pool, rbd.image, rbd.monitors.join(",")),
            Self::Cephfs(cephfs) => write!(f, "{} at {}", cephfs.path, cephfs.monitors.join(",")),
        }
    }
}

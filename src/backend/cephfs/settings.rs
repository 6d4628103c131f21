//! The name of the backend, and how the administrator set it up: [`Settings`].

use std::collections::BTreeMap;

use crate::backend::ceph::Admin;

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "cephfs";

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `cephfs.berth.storage`.
    pub driver: String,
    /// With which user subvolumes of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
    /// Where the Secrets of the volumes' own users are kept where the class does not say
    /// (`PROVISIONER_SECRET_NAMESPACE`, `-secret-namespace`); `None` for the claim's namespace.
    pub secret_namespace: Option<String>,
}

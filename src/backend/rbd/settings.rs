//! The name of the backend, and how the administrator set it up: [`Settings`].

use std::collections::BTreeMap;

use crate::backend::ceph::Admin;

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "rbd";

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `rbd.berth.storage`.
    pub driver: String,
    /// With which user images of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
}

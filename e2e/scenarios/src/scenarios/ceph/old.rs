//! Classes and PVs of rbd-provisioner, kubernetes.io/rbd and cephfs-provisioner.
use crate::suite::Scenario;
pub(super) fn scenarios() -> Vec<Scenario> {
    Vec::new()
}

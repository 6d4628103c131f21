//! The behaviours that every backend must show, on the real cluster.
use crate::suite::Scenario;
pub(super) fn scenarios() -> Vec<Scenario> {
    Vec::new()
}

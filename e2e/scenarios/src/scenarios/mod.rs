//! The scenarios, by theme.

mod harness;

use crate::suite::Scenario;

/// All of them, in the order of reading.
#[must_use]
pub fn all() -> Vec<Scenario> {
    harness::scenarios()
}

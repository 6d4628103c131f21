//! The chart of `deploy/chart`, by Helm 3 and Helm 4: what it renders, and what becomes of releases on a real API server.

mod documents;
mod releases;
mod renderings;
mod upgrades;

use serde_json::Value;

use crate::suite::Scenario;

/// All of them, in the order of reading.
pub(super) fn all() -> Vec<Scenario> {
    [renderings::scenarios(), releases::scenarios(), upgrades::scenarios(), documents::scenarios()]
        .into_iter()
        .flatten()
        .collect()
}

/// The name that the chart gives to the objects of a release that has `nfs.server`.
fn old_name(release: &str) -> String {
    format!("{release}-nfs-subdir-external-provisioner")
}

/// `more` merged into `values`.
fn merged(mut values: Value, more: &Value) -> Value {
    match (&mut values, more) {
        (Value::Object(values), Value::Object(more)) => {
            for (key, more) in more {
                let before = values.remove(key).unwrap_or(Value::Null);
                values.insert(key.clone(), merged(before, more));
            }
            Value::Object(values.clone())
        }
        (_, more) => more.clone(),
    }
}

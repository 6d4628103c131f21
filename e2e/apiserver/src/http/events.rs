//! Events in the form of `events.k8s.io/v1`, out of and into the core form that is stored.
//!
//! Entry points: [`to_new`], [`to_core`]. Deliberately not here: everything else about events.

use serde_json::{Map, Value, json};

const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    let Value::Object(mut fields) = value else { return value };
    for (from, to) in pairs {
        if let Some(part) = fields.remove(from) {
            fields.insert(to.into(), part);
        }
    }
    Value::Object(fields)
}

/// The new form of a stored event.
pub(crate) fn to_new(value: Value) -> Value {
    rename(value, RENAMED.into_iter())
}

/// The stored form of an event in the new form.
pub(crate) fn to_core(value: Value) -> Value {
    let mut value = rename(value, RENAMED.into_iter().map(|(core, new)| (new, core)));
    if let Some(fields) = value.as_object_mut() {
        fields.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
        fields.entry("source").or_insert_with(|| json!({}));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_turn_into_each_other() {
        let new = json!({"regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c", "deprecatedSource": {}});
        let core = to_core(new.clone());
        assert_eq!(
            core,
            json!({"involvedObject": {"kind": "Pod"}, "message": "n", "reportingComponent": "c", "source": {}})
        );
        assert_eq!(to_new(core), new);
    }
}

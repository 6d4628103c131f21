//! Which existing volume suits a claim.
//!
//! Entry point: [`best`]. Pure. Deliberately not here: volumes that name the claim themselves, and binding.

use serde_json::Value;

use crate::{
    object::{self, text},
    quantity,
    rules::validation::BETA_CLASS,
    selector::Selection,
};

/// The class of a claim or volume; the old annotation wins.
pub(crate) fn class_of(value: &Value) -> &str {
    object::annotation(value, BETA_CLASS).unwrap_or_else(|| text(value, "/spec/storageClassName"))
}

fn modes(value: &Value) -> Vec<&str> {
    value
        .pointer("/spec/accessModes")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn capacity(volume: &Value) -> i128 {
    quantity::parse(text(volume, "/spec/capacity/storage")).unwrap_or(0)
}

/// What any volume must have, also one that names the claim: size, mode, attributes, not being deleted.
pub(crate) fn satisfies(claim: &Value, volume: &Value) -> bool {
    let request = quantity::parse(text(claim, "/spec/resources/requests/storage")).unwrap_or(0);
    capacity(volume) >= request
        && text(claim, "/spec/volumeMode") == text(volume, "/spec/volumeMode")
        // Absent and empty mean the same.
        && text(claim, "/spec/volumeAttributesClassName") == text(volume, "/spec/volumeAttributesClassName")
        && !object::is_terminating(volume)
}

/// The smallest of the free volumes that suits the claim.
pub(crate) fn best<'a>(claim: &Value, volumes: impl Iterator<Item = &'a Value>) -> Option<&'a Value> {
    let selection = claim.pointer("/spec/selector").map(Selection::of_label_selector).unwrap_or_default();
    volumes
        .filter(|volume| {
            let offered = modes(volume);
            text(volume, "/status/phase") == "Available"
                && volume.pointer("/spec/claimRef").is_none()
                && satisfies(claim, volume)
                && class_of(claim) == class_of(volume)
                && modes(claim).iter().all(|mode| offered.contains(mode))
                && selection.matches_labels(volume)
        })
        .min_by_key(|volume| (capacity(volume), object::name(volume).to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(name: &str, size: &str, class: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"tier": "gold"}},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"], "capacity": {"storage": size}, "volumeMode": "Filesystem",
                "storageClassName": class},
            "status": {"phase": "Available"}})
    }

    fn with(mut value: Value, pointer: &str, new: Value) -> Value {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        value.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.into(), new);
        value
    }

    #[test]
    fn the_smallest_suitable_volume_is_taken() {
        let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "storageClassName": "a", "resources": {"requests": {"storage": "2Gi"}}}});
        for (row, claim, volumes, expected) in [
            (
                "the smallest",
                claim.clone(),
                vec![volume("big", "9Gi", "a"), volume("fit", "2Gi", "a")],
                Some("fit"),
            ),
            ("none is big enough", claim.clone(), vec![volume("small", "1Gi", "a")], None),
            ("another class", claim.clone(), vec![volume("x", "2Gi", "b")], None),
            (
                "a mode that is not offered",
                with(claim.clone(), "/spec/accessModes", json!(["ReadOnlyMany"])),
                vec![volume("x", "2Gi", "a")],
                None,
            ),
            (
                "a selector that does not match",
                with(claim.clone(), "/spec/selector", json!({"matchLabels": {"tier": "tin"}})),
                vec![volume("x", "2Gi", "a")],
                None,
            ),
            (
                "a selector that matches",
                with(claim.clone(), "/spec/selector", json!({"matchLabels": {"tier": "gold"}})),
                vec![volume("x", "2Gi", "a")],
                Some("x"),
            ),
            (
                "a volume of another",
                claim.clone(),
                vec![with(volume("x", "2Gi", "a"), "/spec/claimRef", json!({"name": "other"}))],
                None,
            ),
            (
                "attributes that the volume does not have",
                with(claim.clone(), "/spec/volumeAttributesClassName", json!("gold")),
                vec![volume("x", "2Gi", "a")],
                None,
            ),
            (
                "attributes that the volume has",
                with(claim.clone(), "/spec/volumeAttributesClassName", json!("gold")),
                vec![with(volume("x", "2Gi", "a"), "/spec/volumeAttributesClassName", json!("gold"))],
                Some("x"),
            ),
            (
                "attributes that the claim does not ask for",
                with(claim.clone(), "/spec/volumeAttributesClassName", json!("")),
                vec![with(volume("x", "2Gi", "a"), "/spec/volumeAttributesClassName", json!("gold"))],
                None,
            ),
            (
                "an empty selector",
                with(claim.clone(), "/spec/selector", json!({})),
                vec![volume("x", "2Gi", "a")],
                Some("x"),
            ),
            (
                "the old annotation names the class",
                with(claim, "/metadata/annotations", json!({BETA_CLASS: "b"})),
                vec![volume("x", "2Gi", "b")],
                Some("x"),
            ),
        ] {
            assert_eq!(best(&claim, volumes.iter()).map(object::name), expected, "{row}");
        }
    }
}

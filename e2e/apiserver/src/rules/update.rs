//! Which part of an object a write may change.
//!
//! Entry point: [`prepare`]: the main resource keeps the stored status, the status subresource keeps the stored
//! spec, the system's own metadata is always the stored one. Deliberately not here: whether the result is valid.

use serde_json::{Value, json};

use crate::resource::{Kind, Resource};

/// The part of an object that a request addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// The object itself.
    #[default]
    Main,
    /// `/status`
    Status,
    /// `/finalize` of a namespace.
    Finalize,
}

/// The object that results when `new` is written over `old` through `part`.
pub(crate) fn prepare(resource: &Resource, old: &Value, mut new: Value, part: Part) -> Value {
    let old_field = |field: &str| old.get(field).cloned();
    match part {
        Part::Main => {
            if resource.has_status() && resource.table != Kind::Namespace {
                put(&mut new, "status", old_field("status"));
            }
            if resource.table == Kind::Service {
                keep_addresses(old, &mut new);
            }
            if resource.table == Kind::Namespace {
                put(&mut new, "status", old_field("status"));
                put(&mut new, "spec", old_field("spec"));
            }
        }
        Part::Status => {
            for field in ["spec", "data", "type"] {
                put(&mut new, field, old_field(field));
            }
            if resource.table == Kind::Pod {
                let metadata = old_field("metadata");
                put(&mut new, "metadata", metadata);
            }
        }
        Part::Finalize => {
            let spec = new.get("spec").cloned();
            new = old.clone();
            put(&mut new, "spec", spec);
        }
    }
    let system = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "generation",
        "selfLink",
    ];
    let old_metadata = old.get("metadata").cloned().unwrap_or_default();
    let metadata = crate::object::metadata(&mut new);
    for field in system {
        match old_metadata.get(field) {
            Some(value) => {
                metadata.insert(field.into(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    if resource.generation && part == Part::Main && new.get("spec") != old.get("spec") {
        let generation = old_metadata.get("generation").and_then(Value::as_i64).unwrap_or(0) + 1;
        crate::object::metadata(&mut new).insert("generation".into(), json!(generation));
    }
    if resource.table == Kind::PersistentVolume && part == Part::Status {
        let phase = |v: &Value| v.pointer("/status/phase").cloned();
        if phase(&new) != phase(old) {
            crate::object::child(&mut new, "status")
                .insert("lastPhaseTransitionTime".into(), json!(crate::object::now()));
        }
    }
    new
}

/// A service that names no address keeps the one that it got.
fn keep_addresses(old: &Value, new: &mut Value) {
    let spec = crate::object::child(new, "spec");
    for field in ["clusterIP", "clusterIPs"] {
        if let Some(address) = old.get("spec").and_then(|spec| spec.get(field)) {
            spec.entry(field).or_insert_with(|| address.clone());
        }
    }
}

fn put(value: &mut Value, field: &str, part: Option<Value>) {
    if let Some(fields) = value.as_object_mut() {
        match part {
            Some(part) => {
                fields.insert(field.into(), part);
            }
            None => {
                fields.remove(field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_and_status_are_written_through_different_doors() {
        let resource = Kind::PersistentVolumeClaim.resource();
        let old = json!({"metadata": {"name": "a", "uid": "1"}, "spec": {"volumeName": ""}, "status": {"phase": "Pending"}});
        let new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let main = prepare(resource, &old, new.clone(), Part::Main);
        assert_eq!(
            main,
            json!({"metadata": {"name": "a", "uid": "1", "labels": {"x": "y"}}, "spec": {"volumeName": "pv"}, "status": {"phase": "Pending"}})
        );
        let status = prepare(resource, &old, new, Part::Status);
        assert_eq!(
            status,
            json!({"metadata": {"name": "a", "uid": "1", "labels": {"x": "y"}}, "spec": {"volumeName": ""}, "status": {"phase": "Bound"}})
        );
    }

    #[test]
    fn the_generation_counts_changes_of_the_spec_only() {
        let resource = Kind::StatefulSet.resource();
        let old = json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}});
        let same = prepare(
            resource,
            &old,
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}),
            Part::Main,
        );
        assert_eq!(same.pointer("/metadata/generation"), Some(&json!(1)));
        let more = prepare(resource, &old, json!({"spec": {"replicas": 2}}), Part::Main);
        assert_eq!(more.pointer("/metadata/generation"), Some(&json!(2)));
    }
}

//! What the API server does to the contents of an object: decoding, defaults, validation, admission.
//!
//! Entry points: [`decode`] (bytes to a typed object, unknown fields told), [`defaults::apply`],
//! [`validation::on_create`], [`validation::on_update`]. All pure. Deliberately not here: versions, names that are
//! taken, finalizers (see `registry`).

pub(crate) mod defaults;
pub(crate) mod names;
pub(crate) mod update;
pub(crate) mod validation;

use serde_json::Value;

use crate::{object, quantity, resource::Resource, status::Status};

/// What the client wants to be told of fields that its kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    /// A `Warning` header for each.
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Reads an object as its kind. Answers the object as the kind knows it (without type) and a warning for each
/// unknown field.
pub(crate) fn decode(
    resource: &Resource,
    mut value: Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let version = format!("{} in version \"{}\"", resource.kind, resource.version);
    let cannot = |why: String| {
        Status::bad_request(format!("{version} cannot be handled as a {}: {why}", resource.kind))
    };
    if let Err(text) = quantity::canonicalise(&mut value) {
        return Err(cannot(format!(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' (got \"{text}\")"
        )));
    }
    object::strip_type(&mut value);
    let mut known = (resource.round_trip)(&value).map_err(|e| cannot(e.to_string()))?;
    object::strip_type(&mut known);
    let mut unknown = Vec::new();
    if validation != FieldValidation::Ignore {
        unknown_fields(&value, &known, "", &mut unknown);
    }
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(cannot(format!("strict decoding error: {}", unknown.join(", "))));
    }
    let mut known = restrict(&value, known);
    prune(&mut known);
    object::drop_empty_metadata(&mut known);
    Ok((known, unknown))
}

/// Keeps what was given: the round trip adds fields that the type requires.
fn restrict(given: &Value, known: Value) -> Value {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => known
            .into_iter()
            .filter_map(|(key, child)| {
                let kept = restrict(given.get(&key)?, child);
                Some((key, kept))
            })
            .collect(),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).map(|(given, known)| restrict(given, known)).collect()
        }
        (_, known) => known,
    }
}

fn unknown_fields(given: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, child) in given {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known_child) => unknown_fields(child, known_child, &at, found),
                    None if child.is_null() => {}
                    None => found.push(format!("unknown field \"{at}\"")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_fields(given, known, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Drops empty lists, which the Go types omit; `rules` of a role is the list that they keep.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, child| match child {
                Value::Array(items) => !items.is_empty() || key == "rules",
                Value::Null => false,
                _ => true,
            });
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Kind;

    #[test]
    fn an_unknown_field_is_named_with_its_path_and_dropped() {
        let given = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClas": "x", "resources": {"requests": {"storage": "1024Mi"}}}});
        let resource = Kind::PersistentVolumeClaim.resource();
        let (known, warnings) = decode(resource, given.clone(), FieldValidation::Warn).unwrap();
        assert_eq!(warnings, ["unknown field \"spec.storageClas\""]);
        assert_eq!(known.pointer("/spec/resources/requests/storage"), Some(&json!("1Gi")));
        assert!(known.pointer("/spec/storageClas").is_none());
        let refused = decode(resource, given, FieldValidation::Strict).unwrap_err();
        assert_eq!(
            refused.message,
            "PersistentVolumeClaim in version \"v1\" cannot be handled as a PersistentVolumeClaim: strict decoding \
             error: unknown field \"spec.storageClas\""
        );
    }

    #[test]
    fn a_field_of_the_wrong_type_is_a_bad_request() {
        let given = json!({"metadata": {"name": "a", "labels": {"x": 1}}});
        assert_eq!(decode(Kind::ConfigMap.resource(), given, FieldValidation::Warn).unwrap_err().code, 400);
    }
}

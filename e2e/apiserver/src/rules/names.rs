//! Names, label and annotation keys, finalizer names: what Kubernetes lets through.
//!
//! Entry points: [`object_name`], [`metadata`]. Deliberately not here: whether a name is taken.

use serde_json::Value;

use crate::{
    object,
    resource::{Kind, Resource},
    status::FieldError,
};

/// The most bytes of all annotations together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

pub(crate) fn is_label(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            // Within a subdomain the parts may be longer than a label.
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(part.chars().next())
                && edge(part.chars().last())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}

/// What is wrong with the name of an object.
pub(crate) fn object_name(resource: &Resource, name: &str) -> Option<FieldError> {
    let invalid = |detail: &str| Some(FieldError::invalid("metadata.name", &Value::from(name), detail));
    if resource.table.has_lax_names() {
        if name == "." || name == ".." || name.contains(['/', '%']) {
            return invalid("may not be '.' or '..' and may not contain '/' or '%'");
        }
        return None;
    }
    let is_label_only = matches!(resource.table, Kind::Namespace | Kind::Service);
    if is_label_only && name.len() > 63 {
        return invalid("must be no more than 63 characters");
    }
    if is_label_only && !is_label(name) {
        return invalid(LABEL);
    }
    if name.len() > 253 {
        return invalid("must be no more than 253 characters");
    }
    if !is_subdomain(name) {
        return invalid(SUBDOMAIN);
    }
    None
}

fn is_name_part(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// What is wrong with a key such as `example.com/name`.
fn qualified_name(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|p| !is_subdomain(p)) {
        return Some(format!("prefix part {SUBDOMAIN}"));
    }
    if !is_name_part(name) {
        return Some(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                .to_owned(),
        );
    }
    None
}

/// What is wrong with the labels, annotations and finalizers of an object.
pub(crate) fn metadata(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = value.get("metadata");
    let map = |field: &str| metadata.and_then(|m| m.get(field)).and_then(Value::as_object);
    for (key, text) in map("labels").into_iter().flatten() {
        if let Some(why) = qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", &Value::from(key.as_str()), &why));
        }
        let text = text.as_str().unwrap_or_default();
        if !text.is_empty() && !is_name_part(text) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
            errors.push(FieldError::invalid("metadata.labels", &Value::from(text), why));
        }
    }
    let mut size = 0;
    for (key, text) in map("annotations").into_iter().flatten() {
        size += key.len() + text.as_str().unwrap_or_default().len();
        if let Some(why) = qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &Value::from(key.as_str()), &why));
        }
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    for finalizer in object::finalizers(value) {
        if let Some(why) = qualified_name(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", &Value::from(finalizer), &why));
        } else if !finalizer.contains('/')
            && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes")
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid("metadata.finalizers", &Value::from(finalizer), why));
        }
    }
    for (index, owner) in metadata
        .and_then(|m| m.get("ownerReferences"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &format!("/{field}")).is_empty() {
                let at = format!("metadata.ownerReferences[{index}].{field}");
                errors.push(FieldError::invalid(at, &Value::from(""), "must not be empty"));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_judged_as_the_kind_demands() {
        for (kind, name, valid) in [
            (Kind::PersistentVolume, "pvc-1", true),
            (Kind::PersistentVolume, "a.b-c", true),
            (Kind::PersistentVolume, "A", false),
            (Kind::PersistentVolume, "-a", false),
            (Kind::PersistentVolume, "a..b", false),
            (Kind::Namespace, "a.b", false),
            (Kind::ClusterRole, "system:node", true),
            (Kind::ClusterRole, "a/b", false),
        ] {
            assert_eq!(object_name(kind.resource(), name).is_none(), valid, "{kind:?} {name}");
        }
        assert!(object_name(Kind::ConfigMap.resource(), &"a".repeat(254)).is_some());
    }

    #[test]
    fn bad_keys_and_too_big_annotations_are_found() {
        let fine = json!({"metadata": {"labels": {"a.b/c": "x"}, "annotations": {"Example.com/X": "any thing"},
            "finalizers": ["kubernetes.io/pvc-protection"]}});
        assert_eq!(metadata(&fine), []);
        for broken in [
            json!({"metadata": {"labels": {"a b": "x"}}}),
            json!({"metadata": {"labels": {"a": "x y"}}}),
            json!({"metadata": {"annotations": {"a/b/c": ""}}}),
            json!({"metadata": {"annotations": {"a": "x".repeat(ANNOTATIONS_LIMIT)}}}),
            json!({"metadata": {"finalizers": ["mine"]}}),
            json!({"metadata": {"ownerReferences": [{"kind": "Pod"}]}}),
        ] {
            assert!(!metadata(&broken).is_empty());
        }
    }
}

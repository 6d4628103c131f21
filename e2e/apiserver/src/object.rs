//! Objects: the compact form in the store, and reading and writing fields of the parsed form.
//!
//! Entry points: [`Object`] (serialized, without `apiVersion` and `kind`, which its table tells) and the functions
//! on [`Value`]s that every other part uses for metadata.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::resource::Resource;

/// A stored object: its place in the table, its version and its JSON, which begins with `{` and lacks the head.
#[derive(Debug)]
pub(crate) struct Object {
    /// `namespace/name`, or `name` for what is not namespaced.
    pub(crate) key: Arc<str>,
    pub(crate) rv: u64,
    pub(crate) json: Box<str>,
}

impl Object {
    pub(crate) fn new(key: Arc<str>, rv: u64, value: &Value) -> Self {
        Self { key, rv, json: value.to_string().into_boxed_str() }
    }

    /// The object without `apiVersion` and `kind`.
    pub(crate) fn parse(&self) -> Value {
        // What the store wrote itself is JSON.
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// The object as it is in responses.
    pub(crate) fn parse_full(&self, resource: &Resource) -> Value {
        let mut value = self.parse();
        set_type(&mut value, resource);
        value
    }

    /// Appends the object with its head.
    pub(crate) fn write_full(&self, resource: &Resource, out: &mut Vec<u8>) {
        resource.write_head(out);
        out.extend_from_slice(self.json.get(1..).unwrap_or("}").as_bytes());
    }

    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(crate) fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }
}

pub(crate) fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

pub(crate) fn set_type(value: &mut Value, resource: &Resource) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".into(), json!(resource.api_version()));
        fields.insert("kind".into(), json!(resource.kind));
    }
}

pub(crate) fn strip_type(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
}

/// The text at a JSON pointer, `""` when there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn meta<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn name(value: &Value) -> &str {
    meta(value, "name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    meta(value, "namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    meta(value, "uid")
}

pub(crate) fn is_terminating(value: &Value) -> bool {
    value.get("metadata").and_then(|m| m.get("deletionTimestamp")).is_some_and(|t| !t.is_null())
}

pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

pub(crate) fn finalizers(value: &Value) -> Vec<&str> {
    value
        .get("metadata")
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// The object at a field, made if it is not there (or is something else).
pub(crate) fn child<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    child_of_map(value.as_object_mut().unwrap_or_else(|| unreachable!("made an object just now")), field)
}

/// As [`child`], for a map.
pub(crate) fn child_of_map<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().unwrap_or_else(|| unreachable!("made an object just now"))
}

pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    child(value, "metadata")
}

pub(crate) fn set_annotation(value: &mut Value, key: &str, text: &str) {
    child_of_map(metadata(value), "annotations").insert(key.into(), json!(text));
}

pub(crate) fn remove_annotation(value: &mut Value, key: &str) {
    child_of_map(metadata(value), "annotations").remove(key);
    drop_empty_metadata(value);
}

pub(crate) fn add_finalizer(value: &mut Value, finalizer: &str) {
    if !finalizers(value).contains(&finalizer) {
        let metadata = metadata(value);
        match metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
            Some(list) => list.push(json!(finalizer)),
            None => {
                metadata.insert("finalizers".into(), json!([finalizer]));
            }
        }
    }
}

pub(crate) fn remove_finalizer(value: &mut Value, finalizer: &str) {
    if let Some(list) = metadata(value).get_mut("finalizers").and_then(Value::as_array_mut) {
        list.retain(|f| f != finalizer);
    }
    drop_empty_metadata(value);
}

/// Takes empty maps and lists out of the metadata, as the typed encoding of the real server does.
pub(crate) fn drop_empty_metadata(value: &mut Value) {
    let metadata = metadata(value);
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

/// Now, to the second, as timestamps in metadata are.
pub(crate) fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

pub(crate) fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random (version 4) UID.
pub(crate) fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// The suffix that a generated name gets.
pub(crate) fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .filter_map(|_| ALPHABET.get(rand::random_range(0..ALPHABET.len())).map(|b| char::from(*b)))
        .collect()
}

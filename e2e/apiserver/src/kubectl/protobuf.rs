//! Bodies in the Kubernetes protobuf encoding, for the kinds that kubectl makes itself (`kubectl create namespace`,
//! `kubectl auth can-i`) and sends so.
//!
//! Entry point: [`to_json`]. Answers are JSON, which every client takes. Deliberately not here: other kinds; their
//! clients are told which media type to use.

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// The type of a field.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Flag,
    Number,
    Message(&'static [Field]),
    Texts,
    Messages(&'static [Field]),
    TextMap,
    BytesMap,
    Time,
}

/// Number, name and type of a field.
type Field = (u64, &'static str, Type);

const OWNER: &[Field] = &[
    (1, "kind", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
    (6, "controller", Type::Flag),
    (7, "blockOwnerDeletion", Type::Flag),
];
const META: &[Field] = &[
    (1, "name", Type::Text),
    (2, "generateName", Type::Text),
    (3, "namespace", Type::Text),
    (5, "uid", Type::Text),
    (6, "resourceVersion", Type::Text),
    (7, "generation", Type::Number),
    (8, "creationTimestamp", Type::Time),
    (9, "deletionTimestamp", Type::Time),
    (10, "deletionGracePeriodSeconds", Type::Number),
    (11, "labels", Type::TextMap),
    (12, "annotations", Type::TextMap),
    (13, "ownerReferences", Type::Messages(OWNER)),
    (14, "finalizers", Type::Texts),
];
const METADATA: Field = (1, "metadata", Type::Message(META));
const RULE: &[Field] = &[
    (1, "verbs", Type::Texts),
    (2, "apiGroups", Type::Texts),
    (3, "resources", Type::Texts),
    (4, "resourceNames", Type::Texts),
    (5, "nonResourceURLs", Type::Texts),
];
const SUBJECT: &[Field] = &[
    (1, "kind", Type::Text),
    (2, "apiGroup", Type::Text),
    (3, "name", Type::Text),
    (4, "namespace", Type::Text),
];
const ROLE_REF: &[Field] = &[(1, "apiGroup", Type::Text), (2, "kind", Type::Text), (3, "name", Type::Text)];
const ROLE: &[Field] = &[METADATA, (2, "rules", Type::Messages(RULE))];
const BINDING: &[Field] =
    &[METADATA, (2, "subjects", Type::Messages(SUBJECT)), (3, "roleRef", Type::Message(ROLE_REF))];
const NAMESPACE: &[Field] = &[METADATA, (2, "spec", Type::Message(&[(1, "finalizers", Type::Texts)]))];
const CONFIG_MAP: &[Field] =
    &[METADATA, (2, "data", Type::TextMap), (3, "binaryData", Type::BytesMap), (4, "immutable", Type::Flag)];
const SECRET: &[Field] = &[
    METADATA,
    (2, "data", Type::BytesMap),
    (3, "type", Type::Text),
    (4, "stringData", Type::TextMap),
    (5, "immutable", Type::Flag),
];
const NAMES: &[Field] = &[(1, "name", Type::Text)];
const SERVICE_ACCOUNT: &[Field] = &[
    METADATA,
    (3, "imagePullSecrets", Type::Messages(NAMES)),
    (4, "automountServiceAccountToken", Type::Flag),
];
const RESOURCE_ATTRIBUTES: &[Field] = &[
    (1, "namespace", Type::Text),
    (2, "verb", Type::Text),
    (3, "group", Type::Text),
    (4, "version", Type::Text),
    (5, "resource", Type::Text),
    (6, "subresource", Type::Text),
    (7, "name", Type::Text),
];
const PATH_ATTRIBUTES: &[Field] = &[(1, "path", Type::Text), (2, "verb", Type::Text)];
const ACCESS_REVIEW: &[Field] = &[
    METADATA,
    (
        2,
        "spec",
        Type::Message(&[
            (1, "resourceAttributes", Type::Message(RESOURCE_ATTRIBUTES)),
            (2, "nonResourceAttributes", Type::Message(PATH_ATTRIBUTES)),
        ]),
    ),
];
const RULES_REVIEW: &[Field] = &[METADATA, (2, "spec", Type::Message(NAMESPACE_ONLY))];
const NAMESPACE_ONLY: &[Field] = &[(1, "namespace", Type::Text)];
const SUBJECT_REVIEW: &[Field] = &[METADATA];
const DELETE_OPTIONS: &[Field] = &[
    (1, "gracePeriodSeconds", Type::Number),
    (2, "preconditions", Type::Message(&[(1, "uid", Type::Text), (2, "resourceVersion", Type::Text)])),
    (3, "orphanDependents", Type::Flag),
    (4, "propagationPolicy", Type::Text),
    (5, "dryRun", Type::Texts),
];

fn fields_of(kind: &str) -> Option<&'static [Field]> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Role" | "ClusterRole" => ROLE,
        "RoleBinding" | "ClusterRoleBinding" => BINDING,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        "SelfSubjectRulesReview" => RULES_REVIEW,
        "SelfSubjectReview" => SUBJECT_REVIEW,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

/// One field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The fields of a message, in order.
fn read(mut bytes: &[u8]) -> Option<Vec<(u64, Wire<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => {
                bytes = bytes.get(8..)?;
                continue;
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Wire::Bytes(value)
            }
            5 => {
                bytes = bytes.get(4..)?;
                continue;
            }
            _ => return None,
        };
        fields.push((tag >> 3, wire));
    }
    Some(fields)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(list) = object.entry(name).or_insert_with(|| json!([])).as_array_mut() {
        list.push(value);
    }
}

fn decode(bytes: &[u8], schema: &'static [Field]) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    for (number, wire) in read(bytes)? {
        let Some((_, name, kind)) = schema.iter().find(|(n, _, _)| *n == number) else { continue };
        match (kind, wire) {
            (Type::Flag, Wire::Number(value)) => {
                object.insert((*name).into(), json!(value != 0));
            }
            // Non-pointers are always on the wire: zero is "not set".
            (Type::Number, Wire::Number(0)) if *name == "generation" => {}
            (Type::Number, Wire::Number(value)) => {
                object.insert((*name).into(), json!(value.cast_signed()));
            }
            (Type::Text, Wire::Bytes([])) => {}
            (Type::Text, Wire::Bytes(value)) => {
                object.insert((*name).into(), json!(text(value)?));
            }
            (Type::Texts, Wire::Bytes(value)) => push(&mut object, name, json!(text(value)?)),
            (Type::Message(schema), Wire::Bytes(value)) => {
                object.insert((*name).into(), Value::Object(decode(value, schema)?));
            }
            (Type::Messages(schema), Wire::Bytes(value)) => {
                push(&mut object, name, Value::Object(decode(value, schema)?));
            }
            (Type::TextMap | Type::BytesMap, Wire::Bytes(entry)) => {
                let (mut key, mut value) = (String::new(), &[][..]);
                for field in read(entry)? {
                    match field {
                        (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => value = bytes,
                        _ => {}
                    }
                }
                let value = match kind {
                    Type::BytesMap => base64::engine::general_purpose::STANDARD.encode(value),
                    _ => text(value)?,
                };
                let map = object.entry(*name).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, json!(value));
                }
            }
            (Type::Time, Wire::Bytes(value)) => {
                for field in read(value)? {
                    if let (1, Wire::Number(seconds)) = field {
                        let at = jiff::Timestamp::from_second(seconds.cast_signed()).ok()?;
                        object.insert((*name).into(), json!(crate::object::timestamp(at)));
                    }
                }
            }
            _ => return None,
        }
    }
    Some(object)
}

/// The JSON form of a body, or what is wrong with it.
pub(crate) fn to_json(body: &[u8]) -> Result<Value, String> {
    let broken = || "the body is no object in the Kubernetes protobuf encoding".to_owned();
    let envelope = read(body.strip_prefix(b"k8s\0").ok_or_else(broken)?).ok_or_else(broken)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in envelope {
        match field {
            (1, Wire::Bytes(meta)) => {
                for part in read(meta).ok_or_else(broken)? {
                    match part {
                        (1, Wire::Bytes(bytes)) => version = text(bytes).ok_or_else(broken)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes).ok_or_else(broken)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = fields_of(&kind)
        .ok_or_else(|| format!("this server reads a {kind} as application/json only, not as protobuf"))?;
    let mut object = decode(raw, schema).ok_or_else(broken)?;
    object.insert("apiVersion".into(), json!(version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn a_config_map_is_read_from_the_wire() {
        let meta = [field(1, b"cm"), field(2, b""), field(8, b"")].concat();
        let entry = [field(1, b"a"), field(2, b"b")].concat();
        let object = [field(1, &meta), field(2, &entry)].concat();
        let kind = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &object)].concat();
        assert_eq!(
            to_json(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}})
        );
        assert!(to_json(&body[..body.len() - 1]).is_err());
        assert!(to_json(b"{}").is_err());
    }
}

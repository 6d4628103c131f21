//! Sets of fields, in the form in which `managedFields` carries them.
//!
//! Entry points: [`FieldSet::of`] an object, [`FieldSet::leaves`], [`get`] and [`remove`] by path. Elements are the
//! texts of the wire form: `f:name`, `k:{"name":"x"}`, `v:"x"`. Deliberately not here: who owns what (`ownership`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::patch::schema::{List, list_keys};

/// The way to a field, element by element.
pub(crate) type Path = Vec<String>;

/// A set of fields of one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Every field that an object sets, except what the system owns.
    pub(crate) fn of(value: &Value) -> Self {
        let mut set = of_value(value, &mut Vec::new());
        for system in ["f:apiVersion", "f:kind"] {
            set.children.remove(system);
        }
        if let Some(metadata) = set.children.get_mut("f:metadata") {
            for system in [
                "f:name",
                "f:namespace",
                "f:uid",
                "f:resourceVersion",
                "f:generation",
                "f:creationTimestamp",
                "f:deletionTimestamp",
                "f:deletionGracePeriodSeconds",
                "f:managedFields",
                "f:selfLink",
            ] {
                metadata.children.remove(system);
            }
            if metadata.children.is_empty() {
                set.children.remove("f:metadata");
            }
        }
        set
    }

    pub(crate) fn parse(wire: &Value) -> Self {
        let mut set = Self::default();
        let Some(fields) = wire.as_object() else { return set };
        for (element, child) in fields {
            if element == "." {
                set.member = true;
            } else {
                let mut parsed = Self::parse(child);
                if parsed.children.is_empty() {
                    parsed.member = true;
                }
                set.children.insert(element.clone(), parsed);
            }
        }
        set
    }

    pub(crate) fn to_wire(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".into(), json!({}));
        }
        for (element, child) in &self.children {
            fields.insert(element.clone(), child.to_wire());
        }
        Value::Object(fields)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// The paths of all members that have no members beneath them.
    pub(crate) fn leaves(&self) -> Vec<Path> {
        let mut leaves = Vec::new();
        self.collect(&mut Vec::new(), &mut leaves);
        leaves
    }

    fn collect(&self, path: &mut Path, leaves: &mut Vec<Path>) {
        if self.children.is_empty() && self.member {
            leaves.push(path.clone());
        }
        for (element, child) in &self.children {
            path.push(element.clone());
            child.collect(path, leaves);
            path.pop();
        }
    }

    /// The list items that are members themselves, with what lies beneath them.
    pub(crate) fn items(&self) -> Vec<Path> {
        let mut items = Vec::new();
        self.collect_items(&mut Vec::new(), &mut items);
        items
    }

    fn collect_items(&self, path: &mut Path, items: &mut Vec<Path>) {
        for (element, child) in &self.children {
            path.push(element.clone());
            if element.starts_with("k:") && child.member {
                items.push(path.clone());
            }
            child.collect_items(path, items);
            path.pop();
        }
    }

    /// Whether the set has this field, a field beneath it, or the whole that contains it.
    pub(crate) fn touches(&self, path: &[String]) -> bool {
        let mut at = self;
        for element in path {
            if at.member && at.children.is_empty() {
                return true;
            }
            match at.children.get(element) {
                Some(child) => at = child,
                None => return false,
            }
        }
        true
    }

    pub(crate) fn insert(&mut self, path: &[String]) {
        let mut at = self;
        for element in path {
            at = at.children.entry(element.clone()).or_default();
            if element.starts_with("k:") {
                at.member = true;
            }
        }
        at.member = true;
    }

    /// Takes a field, and everything beneath it, out of the set.
    pub(crate) fn remove(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.children.remove(first);
        } else if let Some(child) = self.children.get_mut(first) {
            child.remove(rest);
            if child.children.is_empty() && !child.member {
                self.children.remove(first);
            }
        }
    }
}

fn of_value(value: &Value, parents: &mut Vec<String>) -> FieldSet {
    let mut set = FieldSet::default();
    let Some(fields) = value.as_object() else {
        set.member = true;
        return set;
    };
    // An empty map is itself what is set.
    set.member = fields.is_empty();
    for (field, child) in fields {
        let element = format!("f:{field}");
        let child_set = match child {
            Value::Array(items) => of_list(items, parents, field),
            Value::Null => continue,
            _ => {
                parents.push(field.clone());
                let child_set = of_value(child, parents);
                parents.pop();
                child_set
            }
        };
        set.children.insert(element, child_set);
    }
    set
}

fn of_list(items: &[Value], parents: &mut Vec<String>, field: &str) -> FieldSet {
    let mut set = FieldSet::default();
    let rule = list_keys(parents, field);
    if rule == List::Atomic || items.is_empty() {
        set.member = true;
        return set;
    }
    parents.push(field.to_owned());
    for item in items {
        let mut child =
            if matches!(rule, List::Map(_)) { of_value(item, parents) } else { FieldSet::default() };
        child.member = true;
        set.children.insert(item_element(item, rule), child);
    }
    parents.pop();
    set
}

/// The element that names an item of a list.
pub(crate) fn item_element(item: &Value, rule: List) -> String {
    match rule {
        List::Map(keys) => format!("k:{}", key_of(item, keys)),
        List::Set | List::Atomic => format!("v:{item}"),
    }
}

fn key_of(item: &Value, keys: &[&str]) -> Value {
    let mut key = Map::new();
    for name in keys {
        let default = if *name == "protocol" { json!("TCP") } else { Value::Null };
        key.insert((*name).into(), item.get(*name).cloned().unwrap_or(default));
    }
    Value::Object(key)
}

fn is_item(item: &Value, element: &str) -> bool {
    if let Some(value) = element.strip_prefix("v:") {
        return serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item);
    }
    let Some(key) = element.strip_prefix("k:").and_then(|k| serde_json::from_str::<Value>(k).ok()) else {
        return false;
    };
    key.as_object().is_some_and(|key| {
        key.iter().all(|(name, wanted)| match item.get(name) {
            Some(actual) => actual == wanted,
            None => name == "protocol" && wanted == "TCP",
        })
    })
}

/// The value at a path.
pub(crate) fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = value;
    for element in path {
        at = match element.strip_prefix("f:") {
            Some(field) => at.get(field)?,
            None => at.as_array()?.iter().find(|item| is_item(item, element))?,
        };
    }
    Some(at)
}

/// Removes the value at a path, and maps and lists that are empty then.
pub(crate) fn remove(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if let Some(field) = first.strip_prefix("f:") {
        let Some(fields) = value.as_object_mut() else { return };
        if !rest.is_empty()
            && let Some(child) = fields.get_mut(field)
        {
            remove(child, rest);
            let keep = match child {
                Value::Object(map) => !map.is_empty(),
                Value::Array(list) => !list.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
            };
            if keep {
                return;
            }
        }
        fields.remove(field);
    } else if let Some(items) = value.as_array_mut() {
        if rest.is_empty() {
            items.retain(|item| !is_item(item, first));
        } else if let Some(item) = items.iter_mut().find(|item| is_item(item, first)) {
            remove(item, rest);
        }
    }
}

/// A path as people write it: `.spec.containers[name="x"].image`.
pub(crate) fn display(path: &[String]) -> String {
    let mut text = String::new();
    for element in path {
        if let Some(field) = element.strip_prefix("f:") {
            text.push('.');
            text.push_str(field);
        } else if let Some(key) = element.strip_prefix("k:") {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            text.push('[');
            text.push_str(&parts.join(","));
            text.push(']');
        } else if let Some(value) = element.strip_prefix("v:") {
            text.push_str("[=");
            text.push_str(value);
            text.push(']');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_goes_to_the_wire_and_back() {
        let object = json!({"apiVersion": "v1", "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"accessModes": ["RWO"], "containers": [{"name": "c", "image": "i"}]}});
        let set = FieldSet::of(&object);
        let wire = set.to_wire();
        assert_eq!(
            wire,
            json!({"f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
                "f:spec": {"f:accessModes": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}})
        );
        assert_eq!(FieldSet::parse(&wire), set);
        let image: Path =
            ["f:spec", "f:containers", "k:{\"name\":\"c\"}", "f:image"].map(String::from).into();
        assert_eq!(get(&object, &image), Some(&json!("i")));
        assert_eq!(display(&image), ".spec.containers[name=\"c\"].image");
        assert!(set.touches(&image));
    }
}

//! Who set which field, and server-side apply.
//!
//! Entry points: [`track`] after any write, [`apply`] for server-side apply. Simplified against the real server in
//! one way: a map is not itself a field beside its entries. Conflicts, shared ownership and the removal of fields that
//! a manager no longer applies are as there. Deliberately not here: upgrades between versions of a kind.

use serde_json::{Map, Value, json};

use super::fieldset::{self, FieldSet, Path};
use crate::{
    object::{self, text},
    patch::schema::{List, list_keys},
    resource::Resource,
    rules::update::Part,
    status::Status,
};

/// Who writes, and by which operation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) apply: bool,
}

impl Writer {
    pub(crate) fn update(manager: &str) -> Self {
        Self { manager: manager.to_owned(), apply: false }
    }

    pub(crate) fn apply(manager: &str) -> Self {
        Self { manager: manager.to_owned(), apply: true }
    }
}

struct Entry {
    fields: Map<String, Value>,
    set: FieldSet,
}

impl Entry {
    fn is_of(&self, writer: &Writer, part: Part) -> bool {
        let field = |name: &str| self.fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = if writer.apply { "Apply" } else { "Update" };
        field("manager") == writer.manager
            && field("operation") == operation
            && field("subresource") == subresource(part)
    }
}

fn subresource(part: Part) -> &'static str {
    match part {
        Part::Main => "",
        Part::Status => "status",
        Part::Finalize => "finalize",
    }
}

fn read(value: &Value) -> Vec<Entry> {
    value
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .filter(|fields| fields.contains_key("manager"))
        .map(|fields| Entry {
            set: FieldSet::parse(fields.get("fieldsV1").unwrap_or(&Value::Null)),
            fields: fields.clone(),
        })
        .collect()
}

fn write(value: &mut Value, entries: Vec<Entry>) {
    let list: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.set.is_empty())
        .map(|mut entry| {
            entry.fields.insert("fieldsV1".into(), entry.set.to_wire());
            Value::Object(entry.fields)
        })
        .collect();
    let metadata = object::metadata(value);
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(list));
    }
}

fn entry_of<'a>(
    entries: &'a mut Vec<Entry>,
    resource: &Resource,
    writer: &Writer,
    part: Part,
) -> &'a mut Entry {
    let position = entries.iter().position(|entry| entry.is_of(writer, part)).unwrap_or_else(|| {
        let mut fields = Map::new();
        fields.insert("manager".into(), json!(writer.manager));
        fields.insert("operation".into(), json!(if writer.apply { "Apply" } else { "Update" }));
        fields.insert("apiVersion".into(), json!(resource.api_version()));
        fields.insert("fieldsType".into(), json!("FieldsV1"));
        if part != Part::Main {
            fields.insert("subresource".into(), json!(subresource(part)));
        }
        entries.push(Entry { fields, set: FieldSet::default() });
        entries.len() - 1
    });
    let entry = entries.get_mut(position).unwrap_or_else(|| unreachable!("found or pushed just now"));
    entry.fields.insert("time".into(), json!(object::now()));
    entry
}

/// Records in `new` who set what by this write.
///
/// Server-side apply has recorded its own part already ([`apply`]); what is left then is nothing.
pub(crate) fn track(resource: &Resource, old: Option<&Value>, new: &mut Value, writer: &Writer, part: Part) {
    if writer.apply {
        return;
    }
    // A client may reset ownership, but otherwise cannot write it: what it sends back is what it read.
    let given = read(new);
    let reset = old.is_some() && given.is_empty() && new.pointer("/metadata/managedFields").is_some();
    let mut entries = match old {
        Some(old) if !reset => {
            if given.is_empty() {
                read(old)
            } else {
                given
            }
        }
        _ => Vec::new(),
    };
    let nothing = json!({});
    let before = old.unwrap_or(&nothing);
    let after_set = FieldSet::of(new);
    let changed: Vec<Path> = after_set
        .leaves()
        .into_iter()
        .filter(|path| fieldset::get(before, path) != fieldset::get(new, path))
        .collect();
    let removed: Vec<Path> =
        FieldSet::of(before).leaves().into_iter().filter(|path| fieldset::get(new, path).is_none()).collect();
    if changed.is_empty() && removed.is_empty() {
        write(new, entries);
        return;
    }
    for entry in &mut entries {
        for path in &removed {
            entry.set.remove(path);
        }
        if !entry.is_of(writer, part) {
            for path in &changed {
                entry.set.remove(path);
            }
        }
    }
    if !changed.is_empty() {
        let mine = entry_of(&mut entries, resource, writer, part);
        for path in &changed {
            mine.set.insert(path);
        }
    }
    write(new, entries);
}

/// What server-side apply makes of an object: `live` is the stored one (`None`: it is created), `config` what the
/// manager wants, both without type.
pub(crate) fn apply(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer,
    part: Part,
    force: bool,
) -> Result<Value, Status> {
    let mut config = config.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        if metadata.contains_key("managedFields") {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        metadata.remove("creationTimestamp");
    }
    match part {
        Part::Main if resource.has_status() => {
            if let Some(fields) = config.as_object_mut() {
                fields.remove("status");
            }
        }
        Part::Status => {
            if let Some(fields) = config.as_object_mut() {
                fields.remove("spec");
            }
        }
        Part::Main | Part::Finalize => {}
    }
    let nothing = json!({});
    let live = live.unwrap_or(&nothing);
    let mut entries = read(live);
    let mine = FieldSet::of(&config);
    let wanted = mine.leaves();

    let mut conflicts = Vec::new();
    for path in &wanted {
        if fieldset::get(live, path) == fieldset::get(&config, path) {
            continue;
        }
        for entry in entries.iter_mut().filter(|entry| !entry.is_of(writer, part)) {
            if entry.set.touches(path) {
                if force {
                    entry.set.remove(path);
                } else {
                    conflicts.push((describe(&entry.fields), fieldset::display(path)));
                }
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(Status::apply_conflict(&conflicts));
    }

    let mut merged = live.clone();
    merge(&mut merged, &config, &mut Vec::new());
    let before = entries
        .iter()
        .find(|entry| entry.is_of(writer, part))
        .map(|entry| entry.set.clone())
        .unwrap_or_default();
    let others: Vec<&FieldSet> =
        entries.iter().filter(|entry| !entry.is_of(writer, part)).map(|entry| &entry.set).collect();
    for path in before.items().into_iter().chain(before.leaves()) {
        if !mine.touches(&path) && !others.iter().any(|set| set.touches(&path)) {
            fieldset::remove(&mut merged, &path);
        }
    }
    entry_of(&mut entries, resource, writer, part).set = mine;
    write(&mut merged, entries);
    Ok(merged)
}

fn describe(entry: &Map<String, Value>) -> String {
    let entry = Value::Object(entry.clone());
    let manager = text(&entry, "/manager");
    if text(&entry, "/operation") == "Apply" {
        return format!("\"{manager}\"");
    }
    let part = text(&entry, "/subresource");
    let with = if part.is_empty() { String::new() } else { format!(" with subresource \"{part}\"") };
    format!("\"{manager}\"{with} using {}", text(&entry, "/apiVersion"))
}

fn merge(target: &mut Value, config: &Value, parents: &mut Vec<String>) {
    let (Some(fields), Some(wanted)) = (target.as_object_mut(), config.as_object()) else {
        *target = config.clone();
        return;
    };
    for (field, value) in wanted {
        match value {
            Value::Null => {
                fields.remove(field);
            }
            Value::Object(_) => {
                parents.push(field.clone());
                let slot = fields.entry(field.clone()).or_insert_with(|| json!({}));
                if !slot.is_object() {
                    *slot = json!({});
                }
                merge(slot, value, parents);
                parents.pop();
            }
            Value::Array(items) => {
                let rule = list_keys(parents, field);
                let slot = fields.entry(field.clone()).or_insert_with(|| json!([]));
                match (rule, slot.as_array_mut()) {
                    (List::Set | List::Map(_), Some(list)) => {
                        parents.push(field.clone());
                        for item in items {
                            let element = fieldset::item_element(item, rule);
                            match list.iter_mut().find(|i| fieldset::item_element(i, rule) == element) {
                                Some(existing) if rule != List::Set => merge(existing, item, parents),
                                Some(_) => {}
                                None => list.push(item.clone()),
                            }
                        }
                        parents.pop();
                    }
                    _ => *slot = value.clone(),
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                fields.insert(field.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind;

    fn config(data: &Value) -> Value {
        json!({"metadata": {"name": "c"}, "data": data})
    }

    fn applied(live: Option<&Value>, data: &Value, manager: &str, force: bool) -> Result<Value, Status> {
        apply(Kind::ConfigMap.resource(), live, &config(data), &Writer::apply(manager), Part::Main, force)
    }

    #[test]
    fn a_field_of_another_manager_is_a_conflict_unless_forced_or_equal() {
        let one = applied(None, &json!({"a": "1"}), "one", false).unwrap();
        let refused = applied(Some(&one), &json!({"a": "2"}), "two", false).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
        assert!(refused.message.contains("conflict with \"one\": .data.a"), "{}", refused.message);
        let same = applied(Some(&one), &json!({"a": "1"}), "two", false).unwrap();
        assert_eq!(same.pointer("/metadata/managedFields").unwrap().as_array().unwrap().len(), 2);
        let forced = applied(Some(&one), &json!({"a": "2"}), "two", true).unwrap();
        assert_eq!(forced["data"], json!({"a": "2"}));
        assert_eq!(forced.pointer("/metadata/managedFields/0/manager"), Some(&json!("two")));
    }

    #[test]
    fn a_field_no_longer_applied_goes_unless_someone_else_has_it() {
        let one = applied(None, &json!({"a": "1", "b": "1"}), "one", false).unwrap();
        let less = applied(Some(&one), &json!({"a": "1"}), "one", false).unwrap();
        assert_eq!(less["data"], json!({"a": "1"}));
        let shared = applied(Some(&one), &json!({"b": "1"}), "two", false).unwrap();
        let kept = applied(Some(&shared), &json!({"a": "1"}), "one", false).unwrap();
        assert_eq!(kept["data"], json!({"a": "1", "b": "1"}));
    }

    #[test]
    fn an_update_takes_the_fields_that_it_changes() {
        let one = applied(None, &json!({"a": "1", "b": "1"}), "one", false).unwrap();
        let mut new = one.clone();
        new["data"]["a"] = json!("2");
        track(Kind::ConfigMap.resource(), Some(&one), &mut new, &Writer::update("editor"), Part::Main);
        let refused = applied(Some(&new), &json!({"a": "3", "b": "1"}), "one", false).unwrap_err();
        assert!(refused.message.contains("conflict with \"editor\" using v1"), "{}", refused.message);
    }
}

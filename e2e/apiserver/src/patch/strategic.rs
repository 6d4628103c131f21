//! Strategic merge patch.
//!
//! Entry point: [`merge`]. Lists merge by the keys of `schema`; the directives `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList` and `$setElementOrder` are honoured. Deliberately not here: three-way merging, which
//! the client does.

use serde_json::{Map, Value};

use super::schema::{List, merge_key};
use crate::status::Status;

/// Applies a strategic merge patch in place.
pub(crate) fn merge(target: &mut Value, patch: &Value) -> Result<(), Status> {
    let Some(patch) = patch.as_object() else {
        return Err(Status::bad_request("a strategic merge patch is an object"));
    };
    merge_map(target, patch, &mut Vec::new())
}

fn merge_map(
    target: &mut Value,
    patch: &Map<String, Value>,
    parents: &mut Vec<String>,
) -> Result<(), Status> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut fields = patch.clone();
            fields.remove("$patch");
            *target = Value::Object(fields);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(Status::bad_request(format!("Unknown patch type found: {other}")));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return Ok(()) };
    for (key, change) in patch {
        if key == "$patch" || key == "$retainKeys" || key.starts_with("$setElementOrder/") {
            continue;
        }
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().cloned().unwrap_or_default();
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if change.is_null() {
            fields.remove(key);
            continue;
        }
        match change {
            Value::Object(change) => {
                parents.push(key.clone());
                merge_map(fields.entry(key.clone()).or_insert(Value::Null), change, parents)?;
                parents.pop();
            }
            Value::Array(change) => {
                let before = match fields.remove(key) {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                let merged = merge_list(before, change, key, parents)?;
                fields.insert(key.clone(), Value::Array(merged));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                fields.insert(key.clone(), change.clone());
            }
        }
    }
    for (key, order) in patch {
        if let (Some(list), Some(order)) = (key.strip_prefix("$setElementOrder/"), order.as_array())
            && let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut)
        {
            let rule = merge_key(parents, list);
            *items = reorder(std::mem::take(items), order, rule);
        }
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|key, _| keep.iter().any(|k| k == key));
    }
    Ok(())
}

fn merge_list(
    mut items: Vec<Value>,
    patch: &[Value],
    field: &str,
    parents: &mut Vec<String>,
) -> Result<Vec<Value>, Status> {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    let keys = match merge_key(parents, field) {
        List::Atomic => return Ok(patch.iter().filter(|i| directive(i).is_none()).cloned().collect()),
        List::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
            return Ok(items);
        }
        List::Map(keys) => keys,
    };
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return Ok(patch.iter().filter(|i| directive(i).is_none()).cloned().collect());
    }
    parents.push(field.to_owned());
    for change in patch {
        let missing = keys.iter().find(|key| change.get(**key).is_none());
        if let Some(key) = missing {
            let at = parents.join(".");
            return Err(Status::bad_request(format!(
                "map: {change} does not contain declared merge key: {key} (in {at})"
            )));
        }
        let position =
            items.iter().position(|item| keys.iter().all(|key| item.get(*key) == change.get(*key)));
        if directive(change).as_deref() == Some("delete") {
            if let Some(position) = position {
                items.remove(position);
            }
            continue;
        }
        let change = change.as_object().cloned().unwrap_or_default();
        if let Some(item) = position.and_then(|p| items.get_mut(p)) {
            merge_map(item, &change, parents)?;
        } else {
            let mut item = Value::Null;
            merge_map(&mut item, &change, parents)?;
            items.push(item);
        }
    }
    parents.pop();
    Ok(items)
}

/// Puts the items that the client named into its order; the others keep their place among them.
fn reorder(items: Vec<Value>, order: &[Value], rule: List) -> Vec<Value> {
    let same = |item: &Value, named: &Value| match rule {
        List::Map(keys) => keys.iter().all(|key| item.get(*key) == named.get(*key)),
        List::Set | List::Atomic => item == named,
    };
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        if order.iter().any(|n| same(&item, n)) {
            named.push((index, item));
        } else {
            others.push((index, item));
        }
    }
    named.sort_by_key(|(_, item)| order.iter().position(|n| same(item, n)));
    let mut others = others.into_iter().peekable();
    let mut result = Vec::new();
    for (index, item) in named {
        while others.peek().is_some_and(|(other, _)| *other < index) {
            result.extend(others.next().map(|(_, item)| item));
        }
        result.push(item);
    }
    result.extend(others.map(|(_, item)| item));
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strategic_merge_does_what_its_directives_say() {
        for (row, old, patch, expected) in [
            (
                "env merges by name",
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "9"}, {"name": "Z", "value": "3"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "9"}, {"name": "Y", "value": "2"}, {"name": "Z", "value": "3"}]}]}}),
            ),
            (
                "an item is deleted by its key",
                json!({"status": {"conditions": [{"type": "A"}, {"type": "B"}]}}),
                json!({"status": {"conditions": [{"type": "A", "$patch": "delete"}]}}),
                json!({"status": {"conditions": [{"type": "B"}]}}),
            ),
            (
                "a list is replaced",
                json!({"metadata": {"ownerReferences": [{"uid": "1"}]}}),
                json!({"metadata": {"ownerReferences": [{"$patch": "replace"}, {"uid": "2"}]}}),
                json!({"metadata": {"ownerReferences": [{"uid": "2"}]}}),
            ),
            (
                "a finalizer is removed from the primitive list",
                json!({"metadata": {"finalizers": ["a/b", "c/d"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "$setElementOrder/finalizers": ["c/d"]}}),
                json!({"metadata": {"finalizers": ["c/d"]}}),
            ),
            (
                "elements take the order of the client",
                json!({"metadata": {"finalizers": ["a/b", "s/s", "c/d"]}}),
                json!({"metadata": {"finalizers": ["e/f"], "$setElementOrder/finalizers": ["e/f", "c/d", "a/b"]}}),
                json!({"metadata": {"finalizers": ["s/s", "e/f", "c/d", "a/b"]}}),
            ),
            (
                "a map is replaced",
                json!({"spec": {"selector": {"a": "1"}}}),
                json!({"spec": {"selector": {"$patch": "replace", "b": "2"}}}),
                json!({"spec": {"selector": {"b": "2"}}}),
            ),
            (
                "only the retained keys stay",
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"$retainKeys": ["name", "nfs"], "name": "v", "nfs": {"parents": "/"}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "nfs": {"parents": "/"}}]}}),
            ),
            (
                "other lists are replaced and null removes",
                json!({"spec": {"accessModes": ["a"], "volumeName": "v"}}),
                json!({"spec": {"accessModes": ["b"], "volumeName": null}}),
                json!({"spec": {"accessModes": ["b"]}}),
            ),
        ] {
            let mut value = old;
            merge(&mut value, &patch).unwrap();
            assert_eq!(value, expected, "{row}");
        }
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let mut value = json!({"spec": {"containers": []}});
        assert_eq!(
            merge(&mut value, &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err().code,
            400
        );
    }
}

//! Label and field selectors.
//!
//! Entry point: [`Selection::parse`], [`Selection::matches`]. Selectors on names alone are decided by the key of an
//! object, without parsing it. Deliberately not here: which objects are looked at.

use serde_json::Value;

use crate::{
    object::{self, Object},
    resource::{Kind, Resource},
    status::Status,
};

#[derive(Debug, Clone, PartialEq)]
enum LabelTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Debug, Clone, PartialEq)]
struct FieldTest {
    field: String,
    value: String,
    equal: bool,
}

/// What a list or watch selects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selection {
    labels: Vec<(String, LabelTest)>,
    fields: Vec<FieldTest>,
}

impl Selection {
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Status> {
        let parsed_labels = parse_labels(labels).map_err(|e| {
            Status::bad_request(format!(
                "unable to parse requirement: {e} (in the label selector \"{labels}\")"
            ))
        })?;
        let parsed_fields = parse_fields(fields)
            .map_err(|e| Status::bad_request(format!("invalid field selector: \"{fields}\": {e}")))?;
        for test in &parsed_fields {
            if !is_selectable(resource, &test.field) {
                return Err(Status::bad_request(format!(
                    "Unable to find \"{}/{}, Resource={}\" that match label selector \"{labels}\", field selector \
                     \"{fields}\": field label not supported: {}",
                    resource.group, resource.version, resource.plural, test.field
                )));
            }
        }
        Ok(Self { labels: parsed_labels, fields: parsed_fields })
    }

    /// The selection of a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub(crate) fn of_label_selector(selector: &Value) -> Self {
        let mut labels = Vec::new();
        if let Some(map) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in map {
                labels
                    .push((key.clone(), LabelTest::In(vec![value.as_str().unwrap_or_default().to_owned()])));
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default();
            let test = match object::text(expression, "/operator") {
                "In" => LabelTest::In(values),
                "NotIn" => LabelTest::NotIn(values),
                "Exists" => LabelTest::Exists,
                _ => LabelTest::Absent,
            };
            labels.push((object::text(expression, "/key").to_owned(), test));
        }
        Self { labels, fields: Vec::new() }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, resource: &Resource, object: &Object) -> bool {
        let by_key = self.fields.iter().all(|test| {
            let actual = match test.field.as_str() {
                "metadata.name" => object.name(),
                "metadata.namespace" => object.namespace(),
                _ => return true,
            };
            (actual == test.value) == test.equal
        });
        if !by_key {
            return false;
        }
        let rest =
            self.fields.iter().any(|t| !matches!(t.field.as_str(), "metadata.name" | "metadata.namespace"));
        if self.labels.is_empty() && !rest {
            return true;
        }
        self.matches_value(resource, &object.parse())
    }

    pub(crate) fn matches_labels(&self, value: &Value) -> bool {
        let labels = value.get("metadata").and_then(|m| m.get("labels"));
        self.labels.iter().all(|(key, test)| {
            let actual = labels.and_then(|l| l.get(key)).and_then(Value::as_str);
            match test {
                LabelTest::In(values) => actual.is_some_and(|a| values.iter().any(|v| v == a)),
                LabelTest::NotIn(values) => actual.is_none_or(|a| values.iter().all(|v| v != a)),
                LabelTest::Exists => actual.is_some(),
                LabelTest::Absent => actual.is_none(),
            }
        })
    }

    fn matches_value(&self, resource: &Resource, value: &Value) -> bool {
        self.matches_labels(value)
            && self
                .fields
                .iter()
                .all(|test| (field(resource, value, &test.field) == test.value) == test.equal)
    }
}

fn is_selectable(resource: &Resource, field: &str) -> bool {
    if field == "metadata.name" || (resource.namespaced && field == "metadata.namespace") {
        return true;
    }
    let known: &[&str] = match resource.table {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Node => &["spec.unschedulable"],
        Kind::Namespace => &["status.phase"],
        Kind::Secret => &["type"],
        Kind::Event if resource.is_new_event() => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        Kind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    };
    known.contains(&field)
}

/// The text of a selectable field of a stored object.
fn field(resource: &Resource, value: &Value, name: &str) -> String {
    let at = |pointer: &str| match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    };
    match (resource.table, name) {
        (Kind::Event, "source") => {
            let component = at("/source/component");
            if component.is_empty() { at("/reportingComponent") } else { component }
        }
        (Kind::Event, "reportingController") => at("/reportingComponent"),
        (Kind::Node, "spec.unschedulable") | (Kind::Pod, "spec.hostNetwork") => {
            let flag = at(&format!("/{}", name.replace('.', "/")));
            if flag.is_empty() { "false".into() } else { flag }
        }
        _ => at(&format!("/{}", name.replacen("regarding.", "involvedObject.", 1).replace('.', "/"))),
    }
}

fn parse_labels(text: &str) -> Result<Vec<(String, LabelTest)>, String> {
    split_outside_parentheses(text)
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| {
            if let Some((key, rest)) = part.split_once(" notin ").or_else(|| part.split_once(" notin(")) {
                return Ok((key_of(key)?, LabelTest::NotIn(values_of(rest)?)));
            }
            if let Some((key, rest)) = part.split_once(" in ").or_else(|| part.split_once(" in(")) {
                return Ok((key_of(key)?, LabelTest::In(values_of(rest)?)));
            }
            if let Some((key, value)) = part.split_once("!=") {
                return Ok((key_of(key)?, LabelTest::NotIn(vec![value.trim().to_owned()])));
            }
            if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                return Ok((key_of(key)?, LabelTest::In(vec![value.trim().to_owned()])));
            }
            match part.strip_prefix('!') {
                Some(key) => Ok((key_of(key)?, LabelTest::Absent)),
                None => Ok((key_of(part)?, LabelTest::Exists)),
            }
        })
        .collect()
}

fn key_of(text: &str) -> Result<String, String> {
    let key = text.trim();
    let valid = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if valid { Ok(key.to_owned()) } else { Err(format!("\"{key}\" is no label key")) }
}

fn values_of(text: &str) -> Result<Vec<String>, String> {
    let inner = text.trim().trim_start_matches('(');
    let inner = inner.strip_suffix(')').ok_or_else(|| format!("\"{text}\" is no list in parentheses"))?;
    Ok(inner.split(',').map(|v| v.trim().to_owned()).collect())
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .collect()
}

fn parse_fields(text: &str) -> Result<Vec<FieldTest>, String> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(format!("can't understand \"{part}\""));
            };
            Ok(FieldTest { field: field.to_owned(), value: value.replace('\\', ""), equal })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_select_as_kubectl_users_know_them() {
        let value = json!({"metadata": {"labels": {"app": "db", "tier": "back"}}});
        for (selector, expected) in [
            ("", true),
            ("app=db", true),
            ("app==db,tier=back", true),
            ("app!=db", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db),tier", false),
            ("other notin (web)", true),
            ("tier", true),
            ("!tier", false),
            ("!other", true),
            ("app=", false),
        ] {
            let selection = Selection::parse(Kind::Pod.resource(), selector, "").unwrap();
            assert_eq!(selection.matches_labels(&value), expected, "{selector}");
        }
        assert!(Selection::parse(Kind::Pod.resource(), "a b", "").is_err());
    }

    #[test]
    fn a_field_that_cannot_be_selected_is_refused_by_name() {
        let refused = Selection::parse(Kind::Pod.resource(), "", "spec.foo=1").unwrap_err();
        assert_eq!(refused.code, 400);
        assert!(refused.message.ends_with("field label not supported: spec.foo"), "{}", refused.message);
    }

    #[test]
    fn fields_of_pods_and_events_select() {
        let pod = Object::new(
            "ns/p".into(),
            1,
            &json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}),
        );
        let resource = Kind::Pod.resource();
        for (selector, expected) in [
            ("metadata.name=p", true),
            ("metadata.name=q", false),
            ("metadata.namespace!=ns", false),
            ("spec.nodeName=n1,status.phase!=Failed", true),
            ("spec.hostNetwork=false", true),
        ] {
            let selection = Selection::parse(resource, "", selector).unwrap();
            assert_eq!(selection.matches(resource, &pod), expected, "{selector}");
        }
    }
}

//! Patches: what a patch makes of an object.
//!
//! Entry points: [`Patch::parse`], [`Patch::apply_to`]; server-side apply is [`ownership::apply`](crate::kubectl::ownership::apply). All pure.
//! Deliberately not here: whether the result is valid, and writing it (see `registry`).

pub(crate) mod schema;
pub(crate) mod strategic;

use serde_json::Value;

use crate::status::Status;

/// A patch in one of the forms that change a stored object.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply: the configuration of one manager.
    Apply(Value),
}

impl Patch {
    /// Reads the body of a patch request by its content type.
    pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Self, Status> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let json = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
        };
        match kind {
            "application/json-patch+json" => serde_json::from_slice(body)
                .map(Self::Json)
                .map_err(|e| Status::bad_request(format!("error decoding patch: {e}"))),
            "application/merge-patch+json" => json().map(Self::Merge),
            "application/strategic-merge-patch+json" => json().map(Self::Strategic),
            // YAML is a superset of JSON, and clients that build their configuration send JSON.
            "application/apply-patch+yaml" => serde_json::from_slice(body).map(Self::Apply).map_err(|e| {
                Status::bad_request(format!(
                    "error decoding the configuration to apply (JSON is expected): {e}"
                ))
            }),
            other => Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                     application/strategic-merge-patch+json (got {other})"
                ),
            )),
        }
    }

    /// The object that the patch makes of `old` (with type). Not for server-side apply, which needs owners.
    pub(crate) fn apply_to(&self, old: &Value) -> Result<Value, Status> {
        let mut new = old.clone();
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut new, patch).map_err(|e| {
                    let why = format!("the server rejected our request due to an error in our request: {e}");
                    Status::new(422, "Invalid", why)
                })?;
            }
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Strategic(patch) => strategic::merge(&mut new, patch)?,
            Self::Apply(_) => return Err(Status::internal("server-side apply needs owners")),
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_form_of_patch_changes_the_object_in_its_own_way() {
        let old = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x/y"]}});
        let labels =
            json!({"metadata": {"labels": {"a": null, "b": "2"}, "finalizers": ["z/w"]}}).to_string();
        for (content_type, body, expected) in [
            (
                "application/merge-patch+json",
                labels.as_str(),
                json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["z/w"]}}),
            ),
            (
                "application/strategic-merge-patch+json; charset=utf-8",
                labels.as_str(),
                json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["x/y", "z/w"]}}),
            ),
            (
                "application/json-patch+json",
                r#"[{"op":"test","path":"/metadata/labels/a","value":"1"},{"op":"remove","path":"/metadata/finalizers/0"}]"#,
                json!({"metadata": {"labels": {"a": "1"}, "finalizers": []}}),
            ),
        ] {
            let patch = Patch::parse(content_type, body.as_bytes()).unwrap();
            assert_eq!(patch.apply_to(&old).unwrap(), expected, "{content_type}");
        }
    }

    #[test]
    fn a_json_patch_whose_test_fails_changes_nothing_and_is_unprocessable() {
        let body = br#"[{"op":"test","path":"/a","value":1},{"op":"remove","path":"/a"}]"#;
        let patch = Patch::parse("application/json-patch+json", body).unwrap();
        assert_eq!(patch.apply_to(&json!({"a": 2})).unwrap_err().code, 422);
    }

    #[test]
    fn an_unknown_content_type_is_refused() {
        assert_eq!(Patch::parse("text/plain", b"{}").err().unwrap().code, 415);
    }
}

//! The `Status` object with which an API server refuses a request.
//!
//! Entry point: the constructors of [`Status`], one for each refusal, with the wording of kube-apiserver, since
//! clients (and people) read the message. Deliberately not here: when to refuse.

use serde_json::{Map, Value, json};

use crate::resource::Resource;

/// A refused request: HTTP code, machine-readable reason, message for people, details.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} ({reason}, {code})")]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The reason in one word, such as `NotFound` or `Conflict`; empty when there is none.
    pub reason: String,
    /// The message for people.
    pub message: String,
    /// `details` of the Status object: name, kind, group, causes; `null` when there are none.
    pub details: Value,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u32>,
    /// A continue token that may be used after a `410` to get the rest of the list, inconsistently.
    pub continue_token: Option<String>,
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldError {
    /// The path, as `spec.resources[storage]`.
    pub(crate) field: String,
    /// `FieldValueRequired`, `FieldValueForbidden`, ...
    pub(crate) reason: &'static str,
    /// The message after the path.
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { field: field.into(), reason: "FieldValueForbidden", message: format!("Forbidden: {detail}") }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {value}: {detail}");
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: \"{value}\": supported values: {list}");
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    pub(crate) fn too_long(field: impl Into<String>, limit: usize) -> Self {
        let message = format!("Too long: may not be more than {limit} bytes");
        Self { field: field.into(), reason: "FieldValueTooLong", message }
    }
}

impl Status {
    /// A refusal with nothing but a code, a reason and a message.
    #[must_use]
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: Value::Null,
            retry_after: None,
            continue_token: None,
        }
    }

    /// What the API server answers of its own accord with this code: a busy server, a failing one, a throttled one.
    #[must_use]
    pub fn of_code(code: u16) -> Self {
        let (reason, message) = match code {
            400 => ("BadRequest", "the server rejected our request for an unknown reason"),
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "the server does not allow this request"),
            404 => ("NotFound", "the server could not find the requested resource"),
            409 => ("Conflict", "the server reported a conflict"),
            410 => ("Expired", "The resourceVersion for the provided watch is too old."),
            413 => ("RequestEntityTooLarge", "the request is too large"),
            429 => ("TooManyRequests", "Too many requests, please try again later."),
            500 => ("InternalError", "Internal error occurred: injected fault"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "the server was unable to return a response in the time allotted"),
            _ => ("", "an error on the server has prevented the request from succeeding"),
        };
        Self::new(code, reason, message)
    }

    /// The same refusal with a `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        let mut details = self.details.as_object().cloned().unwrap_or_default();
        details.insert("retryAfterSeconds".into(), json!(seconds));
        self.details = Value::Object(details);
        self
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), json!(name));
        }
        if !resource.group.is_empty() {
            details.insert("group".into(), json!(resource.group));
        }
        details.insert("kind".into(), json!(resource.plural));
        self.details = Value::Object(details);
        self
    }

    fn with_causes(mut self, causes: Vec<Value>) -> Self {
        let mut details = self.details.as_object().cloned().unwrap_or_default();
        details.insert("causes".into(), Value::Array(causes));
        self.details = Value::Object(details);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The write was based on an older version of the object.
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Refused by an admission plug-in.
    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = if name.is_empty() {
            resource.qualified()
        } else {
            format!("{} \"{name}\"", resource.qualified())
        };
        Self::new(403, "Forbidden", format!("{what} is forbidden: {why}")).about(resource, name)
    }

    pub(crate) fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self::forbidden(resource, name, &why).with_causes(vec![json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        })])
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let listed = match errors {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!(
                "[{}]",
                many.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join(", ")
            ),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let causes = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect::<Vec<_>>();
        let mut status = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {listed}"))
            .about(resource, name);
        if let Some(details) = status.details.as_object_mut() {
            details.insert("kind".into(), json!(resource.kind));
        }
        status.with_causes(causes)
    }

    /// List or watch parameters that contradict each other.
    pub(crate) fn invalid_list_options(errors: &[FieldError]) -> Self {
        let listed = match errors {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!(
                "[{}]",
                many.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join(", ")
            ),
        };
        let causes = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect::<Vec<_>>();
        let mut status =
            Self::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {listed}"));
        status.details = json!({"group": "meta.k8s.io", "kind": "ListOptions"});
        status.with_causes(causes)
    }

    /// The history that a watch wanted to start from is gone.
    pub(crate) fn too_old(wanted: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {wanted} ({oldest})"))
    }

    /// The snapshot that a continue token names is gone.
    pub(crate) fn continue_expired(inconsistent: String) -> Self {
        let mut status = Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        );
        status.continue_token = Some(inconsistent);
        status
    }

    /// The client asks for a version that this server has not reached.
    pub(crate) fn too_large_version(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        Self::new(504, "Timeout", message)
            .with_causes(vec![
                json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}),
            ])
            .retry_after(1)
    }

    /// Server-side apply met fields of other managers.
    pub(crate) fn apply_conflict(causes: &[(String, String)]) -> Self {
        let listed = causes.iter().map(|(manager, field)| format!("conflict with {manager}: {field}"));
        let count = causes.len();
        let plural = if count == 1 { "conflict" } else { "conflicts" };
        let message =
            format!("Apply failed with {count} {plural}: {}", listed.collect::<Vec<_>>().join(", "));
        Self::new(409, "Conflict", message).with_causes(
            causes
                .iter()
                .map(|(manager, field)| {
                    json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
                })
                .collect(),
        )
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// The body of the response.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), json!(token));
        }
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if let Some(body) = body.as_object_mut() {
            if !self.reason.is_empty() {
                body.insert("reason".into(), json!(self.reason));
            }
            if !self.details.is_null() {
                body.insert("details".into(), self.details.clone());
            }
        }
        body
    }
}

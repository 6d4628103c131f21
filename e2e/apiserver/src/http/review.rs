//! Reviews: a user asks what it may do, or who it is.
//!
//! Entry point: [`answer`]. Answers come from the same evaluation that decides requests. Deliberately not here:
//! that evaluation (`rbac`).

use http::Response;
use serde_json::{Value, json};

use super::{Body, Call, Server, json};
use crate::{
    object::text,
    rbac::{Action, User},
    status::Status,
};

/// Answers a review, if the call is one.
pub(crate) fn answer(server: &Server, call: &Call) -> Option<Result<Response<Body>, Status>> {
    let action = &call.info.action;
    let review = match (action.group.as_str(), action.resource.as_str()) {
        ("authorization.k8s.io", "selfsubjectaccessreviews") => access,
        ("authorization.k8s.io", "subjectaccessreviews") => access_of_other,
        ("authorization.k8s.io", "selfsubjectrulesreviews") => rules,
        ("authentication.k8s.io", "selfsubjectreviews") => identity,
        _ => return None,
    };
    if action.verb != "create" {
        return Some(Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )));
    }
    Some(call.json().map(|body| json(201, &review(server, call, body))))
}

fn with_status(mut body: Value, status: Value) -> Value {
    if let Some(fields) = body.as_object_mut() {
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.insert("status".into(), status);
    }
    body
}

fn decide(server: &Server, user: &User, spec: &Value) -> Value {
    let action = if let Some(attributes) = spec.get("nonResourceAttributes") {
        Action {
            verb: text(attributes, "/verb").into(),
            path: Some(text(attributes, "/path").into()),
            ..Action::default()
        }
    } else {
        let at = |field: &str| text(spec, &format!("/resourceAttributes/{field}")).to_owned();
        Action {
            verb: at("verb"),
            group: at("group"),
            resource: at("resource"),
            subresource: at("subresource"),
            namespace: at("namespace"),
            name: at("name"),
            path: None,
        }
    };
    match server.authorizer.decide(&server.registry.store, user, &action) {
        Ok(reason) if reason.is_empty() => json!({"allowed": true}),
        Ok(reason) => json!({"allowed": true, "reason": reason}),
        Err(()) => json!({"allowed": false}),
    }
}

fn access(server: &Server, call: &Call, body: Value) -> Value {
    let status = decide(server, &call.user, body.get("spec").unwrap_or(&Value::Null));
    with_status(body, status)
}

fn access_of_other(server: &Server, _: &Call, body: Value) -> Value {
    let spec = body.get("spec").cloned().unwrap_or_default();
    let groups: Vec<String> = spec
        .get("groups")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let status = decide(server, &User::new(text(&spec, "/user"), &groups), &spec);
    with_status(body, status)
}

fn rules(server: &Server, call: &Call, body: Value) -> Value {
    let namespace = text(&body, "/spec/namespace").to_owned();
    let status = server.authorizer.rules(&server.registry.store, &call.user, &namespace);
    with_status(body, status)
}

fn identity(_: &Server, call: &Call, body: Value) -> Value {
    with_status(body, json!({"userInfo": {"username": call.user.name, "groups": call.user.groups}}))
}

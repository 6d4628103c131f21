//! Reading one object and lists.
//!
//! Entry points: [`get`], [`list`], [`scale`]. A list is written from a snapshot, a few hundred objects at a time, as
//! the client takes it. Deliberately not here: watches.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Body, Call, Server, json, json_bytes, render::Rendering};
use crate::{
    object::{self, Object, key_of},
    resource::Resource,
    selector::Selection,
    status::{FieldError, Status},
    store::Snapshot,
};

/// How many objects are written at once.
const BATCH: usize = 256;

/// How long a request for a version that is not there yet waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn rendering(call: &Call) -> Rendering {
    Rendering::of(&call.accept, call.info.query("includeObject"))
}

pub(crate) fn get(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let object = server.registry.get(resource, call.info.namespace(), &call.info.action.name)?;
    Ok(one(200, call, resource, &object))
}

/// An answer that is one object.
pub(crate) fn one(code: u16, call: &Call, resource: &Resource, object: &Object) -> Response<Body> {
    let mut bytes = Vec::with_capacity(object.json.len() + 128);
    rendering(call).write(resource, object, true, &mut bytes);
    json_bytes(code, bytes)
}

/// The scale subresource of a workload.
pub(crate) fn scale(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let object = server.registry.get(resource, call.info.namespace(), &call.info.action.name)?;
    Ok(json(200, &scale_of(&object.parse())))
}

pub(crate) fn scale_of(workload: &Value) -> Value {
    let metadata = workload.get("metadata").cloned().unwrap_or_default();
    let part = |field: &str| metadata.get(field).cloned().unwrap_or_default();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": part("name"),
            "namespace": part("namespace"),
            "uid": part("uid"),
            "resourceVersion": part("resourceVersion"),
            "creationTimestamp": part("creationTimestamp"),
        },
        "spec": {"replicas": workload.pointer("/spec/replicas").cloned().unwrap_or(json!(0))},
        "status": {"replicas": workload.pointer("/status/replicas").cloned().unwrap_or(json!(0))},
    })
}

/// Where a list goes on: the version, the key of the last object, how many there were.
struct Continue {
    /// `None`: the newest version, for a client that takes an inconsistent rest.
    rv: Option<u64>,
    start: String,
    seen: usize,
}

impl Continue {
    fn encode(&self) -> String {
        let rv = self.rv.map_or(-1, |rv| i64::try_from(rv).unwrap_or(i64::MAX));
        let value = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": self.start, "seen": self.seen});
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let wrong = || Status::bad_request("continue key is not valid: it does not come from this server");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        let rv = value.get("rv").and_then(Value::as_i64).ok_or_else(wrong)?;
        Ok(Self {
            rv: u64::try_from(rv).ok(),
            start: value.get("start").and_then(Value::as_str).ok_or_else(wrong)?.to_owned(),
            seen: value
                .get("seen")
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
        })
    }
}

/// Reads a resource version that a client gave.
pub(crate) fn version_of(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        let error = FieldError::invalid("resourceVersion", &Value::from(text), "must be a number");
        Status::new(400, "BadRequest", format!("{}: {}", error.field, error.message))
    })
}

fn check_options(call: &Call) -> Result<(), Status> {
    let (rv, matching) = (call.info.query("resourceVersion"), call.info.query("resourceVersionMatch"));
    let mut errors = Vec::new();
    if call.info.has_query("sendInitialEvents") {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if !matching.is_empty() {
        if !call.info.query("continue").is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
        if rv.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::unsupported(
                "resourceVersionMatch",
                matching,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        if matching == "Exact" && rv == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_list_options(&errors)) }
}

/// The selection of a list or watch.
pub(crate) fn selection(call: &Call, resource: &Resource) -> Result<Selection, Status> {
    Selection::parse(resource, call.info.query("labelSelector"), call.info.query("fieldSelector"))
}

async fn snapshot_for(
    server: &Server,
    resource: &Resource,
    rv: &str,
    matching: &str,
) -> Result<Snapshot, Status> {
    let store = &server.registry.store;
    let table = resource.table;
    match rv {
        "" => Ok(store.snapshot(table)),
        "0" => Ok(store.stale(table).unwrap_or_else(|| store.snapshot(table))),
        text => {
            let wanted = version_of(text)?;
            if !store.reached(table, wanted, PATIENCE).await {
                return Err(Status::too_large_version(wanted, store.version()));
            }
            if matching == "Exact" {
                return store.snapshot_at(table, wanted).map_err(|e| Status::too_old(wanted, e.oldest));
            }
            Ok(store.snapshot(table))
        }
    }
}

pub(crate) async fn list(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    check_options(call)?;
    let selection = selection(call, resource)?;
    let namespace = call.info.namespace().to_owned();
    let store = &server.registry.store;
    let limit: usize = match call.info.query("limit") {
        "" => 0,
        text => text.parse().map_err(|_| Status::bad_request(format!("limit: Invalid value: \"{text}\"")))?,
    };
    let token = call.info.query("continue");
    let (rv, matching) = (call.info.query("resourceVersion"), call.info.query("resourceVersionMatch"));
    let (snapshot, after, seen) = if token.is_empty() {
        (snapshot_for(server, resource, rv, matching).await?, None, 0)
    } else {
        if !rv.is_empty() && rv != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let from = Continue::decode(token)?;
        let snapshot = match from.rv {
            None => store.snapshot(resource.table),
            Some(rv) => store.snapshot_at(resource.table, rv).map_err(|_| {
                let rest = Continue { rv: None, start: from.start.clone(), seen: from.seen };
                Status::continue_expired(rest.encode())
            })?,
        };
        (snapshot, Some(from.start), from.seen)
    };
    // The watch cache, which answers for version 0, knows no pages.
    let limit = if token.is_empty() && rv == "0" { 0 } else { limit };
    let rendering = rendering(call);
    if limit > 0 {
        return Ok(page(
            server,
            resource,
            rendering,
            &snapshot,
            &namespace,
            &selection,
            after.as_deref(),
            seen,
            limit,
        ));
    }
    let metadata = json!({"resourceVersion": snapshot.rv.to_string()});
    let head = rendering.list_head(resource, &metadata);
    Ok(stream(Pages {
        resource,
        rendering,
        snapshot,
        namespace,
        selection,
        after,
        head: Some(head),
        first: true,
        ended: false,
    }))
}

#[allow(clippy::too_many_arguments, reason = "the parts of one request, used once")]
fn page(
    server: &Server,
    resource: &'static Resource,
    rendering: Rendering,
    snapshot: &Snapshot,
    namespace: &str,
    selection: &Selection,
    after: Option<&str>,
    seen: usize,
    limit: usize,
) -> Response<Body> {
    let mut found: Vec<&Arc<Object>> = Vec::with_capacity(limit.min(1024));
    let mut more = false;
    let mut passed = 0;
    for object in snapshot.range(namespace, after) {
        if !selection.matches(resource, object) {
            continue;
        }
        if found.len() == limit {
            more = true;
            break;
        }
        passed += 1;
        found.push(object);
    }
    let mut metadata = json!({"resourceVersion": snapshot.rv.to_string()});
    if more && let (Some(last), Some(fields)) = (found.last(), metadata.as_object_mut()) {
        server.registry.store.keep_snapshot(resource.table, snapshot);
        let seen = seen + passed;
        let token = Continue { rv: Some(snapshot.rv), start: last.key.to_string(), seen };
        fields.insert("continue".into(), json!(token.encode()));
        if selection.is_everything() && namespace.is_empty() {
            let remaining = snapshot.objects.size().saturating_sub(seen);
            fields.insert("remainingItemCount".into(), json!(remaining));
        }
    }
    let mut bytes = rendering.list_head(resource, &metadata).into_bytes();
    for (index, object) in found.into_iter().enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        rendering.write_item(resource, object, &mut bytes);
    }
    bytes.extend_from_slice(b"]}\n");
    json_bytes(200, bytes)
}

struct Pages {
    resource: &'static Resource,
    rendering: Rendering,
    snapshot: Snapshot,
    namespace: String,
    selection: Selection,
    after: Option<String>,
    head: Option<String>,
    first: bool,
    ended: bool,
}

impl Pages {
    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut bytes = self.head.take().map(String::into_bytes).unwrap_or_default();
        let mut last = None;
        let mut count = 0;
        for object in self.snapshot.range(&self.namespace, self.after.as_deref()).take(BATCH) {
            count += 1;
            last = Some(object);
            if self.selection.matches(self.resource, object) {
                if !self.first {
                    bytes.push(b',');
                }
                self.first = false;
                self.rendering.write_item(self.resource, object, &mut bytes);
            }
        }
        self.after = last.map(|object| object.key.to_string()).or(self.after.take());
        if count < BATCH {
            self.ended = true;
            bytes.extend_from_slice(b"]}\n");
        }
        Some(bytes.into())
    }
}

fn stream(pages: Pages) -> Response<Body> {
    let chunks = futures::stream::unfold(pages, |mut pages| async move {
        let bytes = pages.next()?;
        // A long list leaves the worker to others between its parts.
        tokio::task::yield_now().await;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), pages))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The key of the object that a call names.
pub(crate) fn key(call: &Call) -> String {
    key_of(call.info.namespace(), &call.info.action.name)
}

/// The decoded object of a stored one, in the view of the resource, without type.
pub(crate) fn view(resource: &Resource, object: &Object) -> Value {
    let mut value = Rendering::view(resource, object);
    object::strip_type(&mut value);
    value
}

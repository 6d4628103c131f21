//! Watches.
//!
//! Entry point: [`watch`]. A watch is a place in the history of a table: it sends what lies behind it, waits for
//! writes, and ends with an ERROR event when the history has moved past it. Events are copied from the serialized
//! objects in the store. Deliberately not here: the history itself (`store`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::time::Instant;

use super::{Body, Call, Server, WatchControl, read, render::Rendering};
use crate::{
    object::{self, Object},
    resource::Resource,
    selector::Selection,
    status::{FieldError, Status},
    store::{Change, Snapshot, Verb},
};

/// How many objects or changes are written at once.
const BATCH: usize = 256;

#[allow(
    clippy::struct_excessive_bools,
    reason = "what was asked for and what was done already, each its own"
)]
struct Watch {
    server: Arc<Server>,
    resource: &'static Resource,
    rendering: Rendering,
    namespace: String,
    selection: Selection,
    /// Objects to send before the changes, and the key of the last one sent.
    initial: Option<(Snapshot, Option<String>)>,
    /// Bookmark after them.
    mark_initial: bool,
    cursor: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    written: tokio::sync::watch::Receiver<u64>,
    control: tokio::sync::watch::Receiver<WatchControl>,
    headed: bool,
    ended: bool,
}

fn check_options(server: &Server, call: &Call) -> Result<(), Status> {
    let matching = call.info.query("resourceVersionMatch");
    let streaming = call.info.has_query("sendInitialEvents");
    let mut errors = Vec::new();
    if streaming {
        if matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
        if !server.watch_list {
            let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            errors.push(FieldError::forbidden("sendInitialEvents", why));
        }
    }
    if !matching.is_empty() {
        if !streaming {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::unsupported("resourceVersionMatch", matching, &["NotOlderThan"]));
        }
        if !call.info.query("continue").is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_list_options(&errors)) }
}

pub(crate) async fn watch(
    server: &Arc<Server>,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    check_options(server, call)?;
    let mut selection = read::selection(call, resource)?;
    if resource.table == crate::resource::Kind::Namespace && !call.info.action.namespace.is_empty() {
        selection = Selection::parse(resource, "", &format!("metadata.name={}", call.info.action.name))?;
    }
    let store = &server.registry.store;
    let table = resource.table;
    let bookmarks = call.info.flag("allowWatchBookmarks");
    let rv = call.info.query("resourceVersion");
    let streaming = call.info.flag("sendInitialEvents");
    let without_initial = call.info.has_query("sendInitialEvents") && !streaming;
    let written = store.written(table);
    let control = server.watch_control.subscribe();
    let wanted = if rv.is_empty() { 0 } else { read::version_of(rv)? };
    if streaming && !store.reached(table, wanted, read::PATIENCE).await {
        return Err(Status::too_large_version(wanted, store.version()));
    }
    let (initial, cursor) = if streaming || (wanted == 0 && !without_initial) {
        let snapshot =
            if rv == "0" { store.stale(table) } else { None }.unwrap_or_else(|| store.snapshot(table));
        let cursor = snapshot.rv;
        (Some((snapshot, None)), cursor)
    } else if wanted == 0 {
        (None, store.version())
    } else {
        (None, wanted)
    };
    let timeout = match call.info.query("timeoutSeconds") {
        "" => Duration::from_secs(rand::random_range(1800..3600)),
        text => Duration::from_secs(
            text.parse()
                .map_err(|_| Status::bad_request(format!("timeoutSeconds: Invalid value: \"{text}\"")))?,
        ),
    };
    let now = Instant::now();
    let watch = Watch {
        server: Arc::clone(server),
        resource,
        rendering: read::rendering(call),
        namespace: call.info.namespace().to_owned(),
        selection,
        initial,
        mark_initial: streaming && bookmarks,
        cursor,
        bookmarks,
        next_bookmark: now + server.bookmark_interval,
        deadline: now + timeout,
        written,
        control,
        headed: true,
        ended: false,
    };
    let chunks = futures::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watch))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    /// The next bytes to send; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some((snapshot, after)) = self.initial.take() {
            return Some(self.initial_batch(snapshot, after));
        }
        loop {
            self.written.mark_unchanged();
            match self.server.registry.store.changes_since(self.resource.table, self.cursor, BATCH) {
                Ok((changes, upto)) => {
                    self.cursor = upto.max(self.cursor);
                    let mut bytes = Vec::new();
                    for change in &changes {
                        self.write_change(change, &mut bytes);
                    }
                    if !bytes.is_empty() {
                        return Some(bytes.into());
                    }
                    if !changes.is_empty() {
                        continue;
                    }
                }
                Err(expired) => {
                    self.ended = true;
                    return Some(error_event(&Status::too_old(self.cursor, expired.oldest)));
                }
            }
            tokio::select! {
                changed = self.written.changed() => changed.ok()?,
                changed = self.control.changed() => {
                    changed.ok()?;
                    self.ended = true;
                    let control = *self.control.borrow();
                    if control.expired {
                        let oldest = self.server.registry.store.version();
                        return Some(error_event(&Status::too_old(self.cursor, oldest)));
                    }
                    return None;
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + self.server.bookmark_interval;
                    return Some(self.bookmark(false));
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    return self.bookmarks.then(|| self.bookmark(false));
                }
            }
        }
    }

    fn initial_batch(&mut self, snapshot: Snapshot, mut last: Option<String>) -> Bytes {
        let mut bytes = Vec::new();
        let mut count = 0;
        for object in snapshot.range(&self.namespace, last.clone().as_deref()).take(BATCH) {
            count += 1;
            last = Some(object.key.to_string());
            if self.selection.matches(self.resource, object) {
                self.write_event("ADDED", object, &mut bytes);
            }
        }
        if count == BATCH {
            self.initial = Some((snapshot, last));
        } else if self.mark_initial {
            bytes.extend_from_slice(&self.bookmark(true));
        }
        bytes.into()
    }

    fn write_event(&mut self, verb: &str, object: &Object, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(b"{\"type\":\"");
        bytes.extend_from_slice(verb.as_bytes());
        bytes.extend_from_slice(b"\",\"object\":");
        self.rendering.write(self.resource, object, self.headed, bytes);
        self.headed = false;
        bytes.extend_from_slice(b"}\n");
    }

    fn write_change(&mut self, change: &Change, bytes: &mut Vec<u8>) {
        if !self.namespace.is_empty() && change.object.namespace() != self.namespace {
            return;
        }
        let everything = self.selection.is_everything();
        let matches = |object: &Object| everything || self.selection.matches(self.resource, object);
        let before = change.before.as_deref().is_some_and(matches);
        let now = change.verb != Verb::Deleted && matches(&change.object);
        match (before, now) {
            (false, true) => self.write_event("ADDED", &change.object, bytes),
            (true, true) => self.write_event("MODIFIED", &change.object, bytes),
            (true, false) if change.verb == Verb::Deleted => {
                self.write_event("DELETED", &change.object, bytes);
            }
            (true, false) => {
                // It left the selection: what the client knew, at the version at which it left.
                let Some(before) = &change.before else { return };
                let mut value = before.parse();
                object::metadata(&mut value).insert("resourceVersion".into(), json!(change.rv.to_string()));
                let left = Object::new(Arc::clone(&before.key), change.rv, &value);
                self.write_event("DELETED", &left, bytes);
            }
            (false, false) => {}
        }
    }

    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let object = self.rendering.bookmark(self.resource, self.cursor, initial_events_end);
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }
}

fn error_event(status: &Status) -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": status.to_json()})).into()
}

//! The wire: connections, authentication, authorization, faults, audit, and who answers what.
//!
//! Entry points: [`Server`] (what all requests share) and [`serve`] (one listener's life). A request passes, in this
//! order: authentication, faults, authorization, its handler, audit. Deliberately not here: what the handlers do.

mod events;
mod read;
pub(crate) mod render;
mod request;
mod review;
mod watch;
mod write;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::request::RequestInfo;
use crate::{
    audit::{Audit, AuditEntry, AuditKey},
    faults::{Attributes, Fault, Faults},
    kubectl::{discovery, protobuf},
    rbac::{Authorizer, User, Users},
    registry::Registry,
    status::Status,
};

/// The most bytes of a request body.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How the open watches are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WatchControl {
    pub(crate) epoch: u64,
    /// They are told that their version is too old.
    pub(crate) expired: bool,
}

/// What all requests share.
pub(crate) struct Server {
    pub(crate) registry: Registry,
    pub(crate) users: Users,
    pub(crate) authorizer: Authorizer,
    pub(crate) faults: Faults,
    pub(crate) audit: Audit,
    pub(crate) version: String,
    pub(crate) watch_list: bool,
    pub(crate) bookmark_interval: Duration,
    pub(crate) watch_control: tokio::sync::watch::Sender<WatchControl>,
}

/// A request with its body read.
pub(crate) struct Call {
    pub(crate) info: RequestInfo,
    pub(crate) user: Arc<User>,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    pub(crate) body: Bytes,
}

impl Call {
    /// The manager to whom the fields of a write belong.
    pub(crate) fn field_manager(&self) -> String {
        let given = self.info.query("fieldManager");
        if !given.is_empty() {
            return given.to_owned();
        }
        let product = self.user_agent.split('/').next().unwrap_or_default();
        if product.is_empty() { "unknown".to_owned() } else { product.to_owned() }
    }

    pub(crate) fn json(&self) -> Result<Value, Status> {
        let kind = self.content_type.split(';').next().unwrap_or_default().trim();
        let unsupported = |why: &str| {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json ({why})"
            );
            Status::new(415, "UnsupportedMediaType", message)
        };
        if kind == "application/vnd.kubernetes.protobuf" {
            return protobuf::to_json(&self.body).map_err(|why| unsupported(&why));
        }
        if !matches!(kind, "" | "application/json") {
            return Err(unsupported(&format!("got {kind}")));
        }
        serde_json::from_slice(&self.body)
            .map_err(|e| Status::bad_request(format!("the object provided is unrecognized: {e}")))
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken on purpose")]
pub(crate) struct Broken;

/// Accepts and serves connections until the token is cancelled; then they all break.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Small answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(&server);
        let stop = stop.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| handle(Arc::clone(&server), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "connection ended");
                    }
                }
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn handle(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let header = |name: header::HeaderName| {
        head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (in_path, uri) = token_in_path(&head.uri);
    let user = match authenticate(&server, &head.headers, in_path) {
        Ok(user) => user,
        Err(status) => return Ok(failure(&status)),
    };
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => return Ok(failure(&Status::of_code(413))),
    };
    let info = match RequestInfo::parse(&head.method, uri, &body) {
        Ok(info) => info,
        Err(status) => return Ok(failure(&status)),
    };
    let call = Call {
        info,
        user,
        accept: header(header::ACCEPT),
        content_type: header(header::CONTENT_TYPE),
        user_agent: header(header::USER_AGENT),
        body,
    };
    let info = &call.info;
    let verdict = server.faults.judge(&Attributes {
        user: &call.user.name,
        verb: &info.action.verb,
        resource: &info.action.resource,
        subresource: &info.action.subresource,
        namespace: &info.action.namespace,
        name: info.name_in_body.as_deref().unwrap_or(&info.action.name),
    });
    let record = |code: u16| {
        server.audit.record(AuditEntry {
            key: AuditKey {
                user: call.user.name.clone(),
                verb: info.action.verb.clone(),
                resource: info.action.path.clone().unwrap_or_else(|| info.action.resource.clone()),
                subresource: info.action.subresource.clone(),
                code,
            },
            namespace: info.action.namespace.clone(),
            name: info.name_in_body.clone().unwrap_or_else(|| info.action.name.clone()),
            started,
            answered: Instant::now(),
        });
    };
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    let mut drop_after = false;
    match verdict.fault {
        Some((_, Fault::Code(code, retry))) => {
            let status = Status::of_code(code);
            record(code);
            return Ok(failure(&match retry {
                Some(seconds) => status.retry_after(seconds),
                None => status,
            }));
        }
        Some((_, Fault::Refuse(status))) => {
            record(status.code);
            return Ok(failure(&status));
        }
        Some((_, Fault::DropBefore)) => {
            record(0);
            return Err(Broken);
        }
        Some((_, Fault::DropAfter)) => drop_after = true,
        Some((id, Fault::Hang)) => server.faults.until_removed(id).await,
        Some((_, Fault::Delay(_))) | None => {}
    }
    let answer = match answer(&server, &call).await {
        Ok(response) => response,
        Err(status) => failure(&status),
    };
    if drop_after {
        record(0);
        return Err(Broken);
    }
    record(answer.status().as_u16());
    Ok(answer)
}

/// Splits `/as/TOKEN` off an address. client-go sends no tokens without TLS, so a kubeconfig carries them so.
fn token_in_path(uri: &Uri) -> (Option<&str>, &str) {
    let whole = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let Some(rest) = whole.strip_prefix("/as/") else { return (None, whole) };
    match rest.find('/') {
        Some(end) => (rest.get(..end), rest.get(end..).unwrap_or("/")),
        None => (Some(rest), "/"),
    }
}

fn authenticate(
    server: &Server,
    headers: &http::HeaderMap,
    in_path: Option<&str>,
) -> Result<Arc<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let token = match (text("authorization"), in_path) {
        (Some(given), _) => given.strip_prefix("Bearer ").unwrap_or_default().trim(),
        (None, Some(token)) => token,
        (None, None) => return Ok(Arc::new(User::anonymous())),
    };
    let user = server.users.by_token(token).ok_or_else(|| Status::of_code(401))?;
    let Some(name) = text("impersonate-user") else { return Ok(user) };
    let action = crate::rbac::Action {
        verb: "impersonate".into(),
        resource: "users".into(),
        name: name.into(),
        ..crate::rbac::Action::default()
    };
    if server.authorizer.decide(&server.registry.store, &user, &action).is_err() {
        return Err(Status::new(403, "Forbidden", action.refusal(&user.name)));
    }
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .map(str::to_owned)
        .collect();
    Ok(Arc::new(User::new(name, &groups)))
}

async fn answer(server: &Arc<Server>, call: &Call) -> Result<Response<Body>, Status> {
    let action = &call.info.action;
    if server.authorizer.decide(&server.registry.store, &call.user, action).is_err() {
        let mut status = Status::new(403, "Forbidden", action.refusal(&call.user.name));
        let mut details = serde_json::Map::new();
        for (field, text) in [("kind", &action.resource), ("name", &action.name), ("group", &action.group)] {
            if !text.is_empty() {
                details.insert(field.into(), Value::from(text.as_str()));
            }
        }
        status.details = Value::Object(details);
        return Err(status);
    }
    if action.path.is_some() {
        return discovery::answer(server, call);
    }
    if let Some(review) = review::answer(server, call) {
        return review;
    }
    let resource = call
        .info
        .resource
        .ok_or_else(|| Status::new(404, "NotFound", "the server could not find the requested resource"))?;
    match (action.verb.as_str(), action.subresource.as_str()) {
        ("get", "scale") => read::scale(server, call, resource),
        ("get", "" | "status") => read::get(server, call, resource),
        ("list", "") => read::list(server, call, resource).await,
        ("watch", "") => watch::watch(server, call, resource).await,
        ("create", "") => write::create(server, call, resource),
        ("create", "binding") => write::bind(server, call),
        ("update" | "patch", "scale") => write::scale(server, call, resource),
        ("update", "" | "status" | "finalize") => write::update(server, call, resource),
        ("patch", "" | "status") => write::patch(server, call, resource),
        ("delete", "") => write::delete(server, call, resource),
        ("deletecollection", "") => write::delete_collection(server, call, resource),
        _ => Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A response with a JSON body.
pub(crate) fn json_bytes(code: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    json_bytes(code, value.to_string())
}

pub(crate) fn failure(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_json());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The verb of a request to a resource.
fn verb_of(method: &Method, named: bool, watch: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

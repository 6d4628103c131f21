//! A proxy in front of an API server which makes faults: slow, refused, lost and wrong answers,
//! watches that end, requests that stand still until the scenario lets them go.
//!
//! Plain HTTP comes in, the request goes out to the real address with the caller's token. So one
//! scenario makes the same fault on the embedded and on the real control plane, and berth runs
//! unmodified. [`Proxy::start`] is the entry point, [`Proxy::on`] adds a fault, [`Proxy::calls`]
//! tells what came by.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::control_plane::Access;

/// One request, in the API's own terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `create`, `get`, `list`, `watch`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// Plural name, with the subresource after a slash.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty for collections and for `create`.
    pub name: String,
    /// What follows the question mark.
    pub query: String,
}

impl Call {
    fn of(method: &Method, uri: &http::Uri) -> Self {
        let query = uri.query().unwrap_or_default().to_owned();
        let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty());
        let skipped = match segments.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => {
                return Self { verb: "get", query, ..Self::default() };
            }
        };
        let mut rest: Vec<&str> = segments.skip(skipped).collect();
        let mut namespace = String::new();
        if let ["namespaces", of, resource, ..] = rest.as_slice()
            && !["status", "finalize"].contains(resource)
        {
            (*of).clone_into(&mut namespace);
            rest.drain(..2);
        }
        let mut rest = rest.into_iter();
        let mut resource = rest.next().unwrap_or_default().to_owned();
        let name = rest.next().unwrap_or_default().to_owned();
        if let Some(subresource) = rest.next() {
            resource = format!("{resource}/{subresource}");
        }
        let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if watches => "watch",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        Self { verb, resource, namespace, name, query }
    }

    /// True for what changes the API server's data.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }
}

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is passed on this much later.
    Delay(Duration),
    /// It is not passed on; this is the answer.
    Answer {
        /// HTTP status.
        code: u16,
        /// `reason` of the Status object.
        reason: &'static str,
        /// Seconds in `Retry-After`.
        retry_after: Option<u32>,
    },
    /// The connection is closed, the API server never sees it.
    LoseRequest,
    /// The API server does it, the connection is closed instead of the answer.
    LoseAnswer,
    /// It stands still before the API server sees it.
    HoldRequest(Gate),
    /// The API server does it, the answer stands still.
    HoldAnswer(Gate),
    /// For a watch: 200, then one event which says that the resource version is too old.
    ExpireWatch,
}

/// A place where requests stand still until the scenario opens it.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<(usize, bool)>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new((0, false))) }
    }
}

impl Gate {
    /// Waits until `count` requests have arrived here.
    pub async fn reached(&self, count: usize) -> Result<()> {
        let mut state = self.state.subscribe();
        tokio::time::timeout(crate::case::PATIENCE, state.wait_for(|(here, _)| *here >= count))
            .await
            .map_err(|_| anyhow!("fewer than {count} requests reached the gate"))?
            .context("the gate is gone")
            .map(drop)
    }

    /// Lets everybody pass, now and later.
    pub fn open(&self) {
        self.state.send_modify(|(_, open)| *open = true);
    }

    async fn pass(&self) {
        let mut state = self.state.subscribe();
        self.state.send_modify(|(here, _)| *here += 1);
        // Only fails when the sender is gone, which `self` holds.
        if state.wait_for(|(_, open)| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

type Matcher = Box<dyn Fn(&Call) -> bool + Send>;

struct Fault {
    matches: Matcher,
    effect: Effect,
    left: usize,
    fired: Arc<watch::Sender<usize>>,
}

/// How often a fault has struck.
#[derive(Clone, Debug)]
pub struct Fired(Arc<watch::Sender<usize>>);

impl Fired {
    /// Until now.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until it has struck `count` times.
    pub async fn reached(&self, count: usize) -> Result<()> {
        let mut fired = self.0.subscribe();
        tokio::time::timeout(crate::case::PATIENCE, fired.wait_for(|times| *times >= count))
            .await
            .map_err(|_| anyhow!("the fault struck fewer than {count} times"))?
            .context("the fault is gone")
            .map(drop)
    }
}

struct Shared {
    upstream: Client,
    faults: Mutex<Vec<Fault>>,
    calls: Mutex<Vec<Call>>,
    /// Counts how often the running watches were ended.
    watches: watch::Sender<u64>,
}

/// A running proxy. Dropping it closes all its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts a proxy on a loopback port before the API server that `upstream` names.
    pub async fn start(upstream: &Access) -> Result<Self> {
        let nobody = Access { token: String::new(), ..upstream.clone() };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("bind the proxy")?;
        let address = listener.local_addr().context("read the proxy's address")?;
        let shared = Arc::new(Shared {
            upstream: nobody.client().await?,
            faults: Mutex::default(),
            calls: Mutex::default(),
            watches: watch::Sender::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// The same access, by way of this proxy.
    #[must_use]
    pub fn access(&self, direct: &Access) -> Access {
        Access { url: format!("http://{}", self.address), authority: None, token: direct.token.clone() }
    }

    /// From now on, the next `times` requests that `matches` suffer `effect`. The oldest fault that
    /// matches a request strikes; only one does.
    pub fn on(
        &self,
        matches: impl Fn(&Call) -> bool + Send + 'static,
        times: usize,
        effect: Effect,
    ) -> Fired {
        let fired = Arc::new(watch::Sender::new(0));
        lock(&self.shared.faults).push(Fault {
            matches: Box::new(matches),
            effect,
            left: times,
            fired: Arc::clone(&fired),
        });
        Fired(fired)
    }

    /// Forgets all faults. Requests that stand at a gate stay there.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Ends all running watches, as an API server does after a while.
    pub fn end_watches(&self) {
        self.shared.watches.send_modify(|ended| *ended += 1);
    }

    /// What came by since the start, in the order of arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// How often each `verb resource` came by.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in lock(&self.shared.calls).iter() {
            *counts.entry(format!("{} {}", call.verb, call.resource)).or_default() += 1;
        }
        counts
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Aborted with this task, so that a dropped proxy leaves no connection behind.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let service = hyper::service::service_fn(move |request| {
                            answer(Arc::clone(&shared), request)
                        });
                        let connection = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service);
                        if let Err(error) = connection.await {
                            tracing::trace!(%error, "a proxied connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the proxy cannot accept");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

type AnswerBody = UnsyncBoxBody<Bytes, kube::Error>;

/// An error closes the connection without an answer.
async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, anyhow::Error> {
    let call = Call::of(request.method(), request.uri());
    tracing::trace!(?call, "proxied");
    lock(&shared.calls).push(call.clone());
    let effect = strike(&shared.faults, &call);
    match &effect {
        Some(Effect::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(Effect::Answer { code, reason, retry_after }) => return refusal(*code, reason, *retry_after),
        Some(Effect::LoseRequest) => return Err(anyhow!("the request is lost")),
        Some(Effect::HoldRequest(gate)) => gate.pass().await,
        Some(Effect::ExpireWatch) => return expired(),
        Some(Effect::LoseAnswer | Effect::HoldAnswer(_)) | None => {}
    }
    let response = forward(&shared, &call, request).await?;
    match effect {
        Some(Effect::LoseAnswer) => Err(anyhow!("the answer is lost")),
        Some(Effect::HoldAnswer(gate)) => {
            gate.pass().await;
            Ok(response)
        }
        Some(
            Effect::Delay(_)
            | Effect::Answer { .. }
            | Effect::LoseRequest
            | Effect::HoldRequest(_)
            | Effect::ExpireWatch,
        )
        | None => Ok(response),
    }
}

fn strike(faults: &Mutex<Vec<Fault>>, call: &Call) -> Option<Effect> {
    let mut faults = lock(faults);
    let fault = faults.iter_mut().find(|fault| fault.left > 0 && (fault.matches)(call))?;
    fault.left = fault.left.saturating_sub(1);
    fault.fired.send_modify(|fired| *fired += 1);
    Some(fault.effect.clone())
}

async fn forward(shared: &Shared, call: &Call, request: Request<Incoming>) -> Result<Response<AnswerBody>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.context("read the request")?.to_bytes();
    let target = parts.uri.path_and_query().context("a request without a path")?.as_str().to_owned();
    let mut onward = Request::builder().method(parts.method).uri(target);
    if let Some(headers) = onward.headers_mut() {
        *headers = parts.headers;
        // These belong to one connection and not to the request.
        for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
    }
    let onward = onward.body(Body::from(body)).context("make the request")?;
    let (parts, body) = shared.upstream.send(onward).await.context("pass the request on")?.into_parts();
    let body = if call.verb == "watch" {
        let mut ended = shared.watches.subscribe();
        ended.mark_unchanged();
        let end = async move {
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        StreamBody::new(BodyStream::new(body).take_until(Box::pin(end))).boxed_unsync()
    } else {
        body.boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("made by the scenario: {reason}"), "reason": reason, "code": code,
    })
}

fn text(body: String) -> AnswerBody {
    Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
}

fn refusal(code: u16, reason: &str, retry_after: Option<u32>) -> Result<Response<AnswerBody>> {
    let mut response = Response::builder()
        .status(StatusCode::from_u16(code).context("a status code of the scenario")?)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    response.body(text(status(code, reason).to_string())).context("make the answer")
}

fn expired() -> Result<Response<AnswerBody>> {
    let event = json!({ "type": "ERROR", "object": status(410, "Expired") });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(text(format!("{event}\n")))
        .context("make the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_in_the_terms_of_the_api() {
        let rows = [
            ("GET", "/api/v1/persistentvolumes", "list persistentvolumes  "),
            ("GET", "/api/v1/persistentvolumes?watch=true&resourceVersion=3", "watch persistentvolumes  "),
            ("GET", "/api/v1/persistentvolumes/pvc-1", "get persistentvolumes  pvc-1"),
            ("POST", "/api/v1/namespaces/a/events", "create events a "),
            (
                "PATCH",
                "/api/v1/namespaces/a/persistentvolumeclaims/b/status",
                "patch persistentvolumeclaims/status a b",
            ),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update leases a b"),
            ("DELETE", "/api/v1/namespaces/a", "delete namespaces  a"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update namespaces/finalize  a"),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "create selfsubjectaccessreviews  ",
            ),
            ("GET", "/version", "get   "),
        ];
        for (method, uri, expected) in rows {
            let call = Call::of(&method.parse().unwrap(), &uri.parse().unwrap());
            let Call { verb, resource, namespace, name, .. } = &call;
            assert_eq!(format!("{verb} {resource} {namespace} {name}"), expected, "{method} {uri}");
        }
    }
}

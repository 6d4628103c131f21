//! Stands in for the API server where a test needs its faults: a store of JSON objects behind a [`Client`], without sockets,
//! so that time can be stopped.
//!
//! It knows get, create, replace and merge patch with resource versions, delete with a UID, and access reviews. Nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A request as the server understands it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// `get`, `create`, `replace`, `patch`, `delete`.
    pub(super) verb: &'static str,
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) body: Value,
}

/// What goes wrong with a request.
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Answered with this status code, without effect.
    Refuse(u16),
    /// Answered with this status object, without effect.
    Status(Value),
    /// Answered with this object, without effect.
    Answer(Value),
    /// Done, but the connection breaks before the answer.
    LoseAnswer,
    /// Neither done nor answered.
    Hang,
    /// Done after a while.
    Slow(Duration),
}

type Faults = Box<dyn Fn(&Call) -> Fault + Send + Sync>;

#[derive(Clone)]
pub(super) struct Stub {
    inner: Arc<Mutex<Inner>>,
    /// What goes wrong with the requests of this way to the server alone.
    own: Option<Arc<Faults>>,
}

struct Inner {
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    calls: Vec<Call>,
    faults: Faults,
    under_way: usize,
    most_under_way: usize,
}

impl Stub {
    pub(super) fn new() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            version: 0,
            calls: Vec::new(),
            faults: Box::new(|_| Fault::None),
            under_way: 0,
            most_under_way: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), own: None }
    }

    /// From now on, this goes wrong.
    pub(super) fn fail(&self, faults: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        self.inner.lock().faults = Box::new(faults);
    }

    /// The same server, for a client with which this goes wrong.
    pub(super) fn failing(&self, faults: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner: Arc::clone(&self.inner), own: Some(Arc::new(Box::new(faults))) }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.inner.lock().calls.clone()
    }

    /// The most requests that were under way at a time since this was last asked.
    pub(super) fn most_under_way(&self) -> usize {
        std::mem::take(&mut self.inner.lock().most_under_way)
    }

    pub(super) fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.inner.lock().objects.get(&key).cloned()
    }

    pub(super) fn objects(&self, resource: &str) -> Vec<Value> {
        let inner = self.inner.lock();
        inner
            .objects
            .iter()
            .filter(|((of, ..), _)| of == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Writes an object as another client would; `None` deletes it.
    pub(super) fn put(&self, resource: &str, namespace: &str, name: &str, object: Option<Value>) {
        let mut inner = self.inner.lock();
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        match object {
            None => drop(inner.objects.remove(&key)),
            Some(object) => drop(inner.store(key, object)),
        }
    }

    pub(super) fn client(&self) -> Client {
        let stub = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let stub = stub.clone();
            async move { stub.serve(request).await }
        });
        Client::new(service, "default")
    }

    pub(super) async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let call = parse(&parts.method, parts.uri.path(), &body);
        let fault = {
            let mut inner = self.inner.lock();
            inner.calls.push(call.clone());
            inner.under_way += 1;
            inner.most_under_way = inner.most_under_way.max(inner.under_way);
            match self.own.as_ref().map(|own| own(&call)) {
                None | Some(Fault::None) => (inner.faults)(&call),
                Some(fault) => fault,
            }
        };
        let _under_way = UnderWay(self);
        // As on a real connection, something else always gets its turn before the answer is there.
        tokio::task::yield_now().await;
        let (code, answer) = match fault {
            Fault::None => self.inner.lock().answer(call),
            Fault::Refuse(code) => (code, status(code, "a fault of the test")),
            Fault::Answer(object) => (200, object),
            Fault::Status(status) => (u16::try_from(status["code"].as_u64().unwrap()).unwrap(), status),
            Fault::LoseAnswer => {
                self.inner.lock().answer(call);
                return Err(std::io::Error::other("connection reset"));
            }
            Fault::Hang => std::future::pending::<(u16, Value)>().await,
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                self.inner.lock().answer(call)
            }
        };
        Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap())
    }
}

/// Counts a request until it is answered or given up.
struct UnderWay<'a>(&'a Stub);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().under_way -= 1;
    }
}

/// The answer of a server that failed.
pub(super) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code})
}

impl Inner {
    fn answer(&mut self, call: Call) -> (u16, Value) {
        let key = (call.resource, call.namespace, call.name);
        let old = self.objects.get(&key).cloned();
        match (call.verb, old) {
            ("create", _) if key.0 == "selfsubjectaccessreviews" => {
                let mut review = call.body;
                review["status"] = json!({"allowed": true});
                (201, review)
            }
            ("create", Some(_)) => {
                let mut exists = status(409, "already exists");
                exists["reason"] = json!("AlreadyExists");
                (409, exists)
            }
            ("create", None) => (201, self.store(key, call.body)),
            ("get" | "replace" | "patch" | "delete", None) => (404, status(404, "not found")),
            ("get", Some(old)) => (200, old),
            ("delete", Some(old)) => {
                let expected = &call.body["preconditions"]["uid"];
                if !expected.is_null() && *expected != old["metadata"]["uid"] {
                    return (409, status(409, "another UID"));
                }
                self.objects.remove(&key);
                (200, old)
            }
            ("replace", Some(old)) => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if !version(&call.body).is_null() && version(&call.body) != version(&old) {
                    return (409, status(409, "the object has been modified"));
                }
                (200, self.store(key, call.body))
            }
            ("patch", Some(mut old)) => {
                merge(&mut old, call.body);
                (200, self.store(key, old))
            }
            (verb, _) => (405, status(405, verb)),
        }
    }

    fn store(&mut self, key: (String, String, String), mut object: Value) -> Value {
        self.version += 1;
        let uid = self.objects.get(&key).map(|old| old["metadata"]["uid"].clone());
        object["metadata"]["uid"] = uid.unwrap_or_else(|| json!(format!("uid-{}", self.version)));
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["namespace"] = json!(key.1);
        object["metadata"]["name"] = json!(key.2);
        self.objects.insert(key, object.clone());
        object
    }
}

fn merge(object: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            for (name, value) in fields {
                merge(&mut object[name], value);
            }
        }
        value => *object = value,
    }
}

fn parse(method: &Method, path: &str, body: &[u8]) -> Call {
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).unwrap() };
    let mut segments = path.trim_start_matches('/').split('/').collect::<std::collections::VecDeque<_>>();
    let group = if segments.pop_front() == Some("api") { 1 } else { 2 };
    segments.drain(..group);
    let namespace = match segments.front() {
        Some(&"namespaces") if segments.len() > 2 => {
            segments.pop_front();
            segments.pop_front().unwrap()
        }
        _ => "",
    };
    let resource = segments.pop_front().unwrap();
    let name = segments.pop_front().or_else(|| body["metadata"]["name"].as_str()).unwrap_or_default();
    let verb = match method.as_str() {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "replace",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("{other} {path} is not expected"),
    };
    Call { verb, resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned(), body }
}

/// Until `condition` holds, in stopped time.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

//! Counts the requests to the API server: [`CountApiRequests`], a layer around the client's HTTP service. It also hears when
//! the server is not reached, which the log is told of once for all requests.
//!
//! It sees every request of the process, so the counts hold against the API server's own.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tower::{BoxError, Layer, Service};

use super::Metrics;

/// The layer to put around the client's service.
#[derive(Clone, Debug)]
pub struct CountApiRequests {
    metrics: Metrics,
    server: Arc<str>,
}

impl CountApiRequests {
    /// Counts into `metrics` what is asked of the server at this address.
    pub fn new(metrics: Metrics, server: &str) -> Self {
        Self { metrics, server: server.into() }
    }
}

impl<S> Layer<S> for CountApiRequests {
    type Service = ApiRequests<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiRequests { inner, layer: self.clone() }
    }
}

/// The service that counts; made by [`CountApiRequests`].
#[derive(Clone, Debug)]
pub struct ApiRequests<S> {
    inner: S,
    layer: CountApiRequests,
}

impl<S, Q, A> Service<http::Request<Q>> for ApiRequests<S>
where
    S: Service<http::Request<Q>, Response = http::Response<A>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    A: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let (verb, resource) =
            classify(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let CountApiRequests { metrics, server } = self.layer.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            let outage = &metrics.0.outage;
            let code = match &answer {
                Ok(answer) => {
                    match answer.status() {
                        http::StatusCode::UNAUTHORIZED => outage.unauthorized(&server),
                        _ => outage.answered(&server),
                    }
                    answer.status().as_u16()
                }
                Err(error) => {
                    outage.unreached(&server, &**error);
                    0
                }
            };
            metrics.api_request(verb, &resource, code);
            answer
        })
    }
}

/// The verb and the resource of a request, in the words of RBAC; `persistentvolumeclaims/status` for a subresource.
fn classify(method: &http::Method, path: &str, query: &str) -> (&'static str, String) {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let prefix_known = match segments.next() {
        Some("api") => segments.next().is_some(),
        Some("apis") => segments.next().is_some() && segments.next().is_some(),
        Some(_) | None => false,
    };
    let rest: Vec<&str> = segments.collect();
    let rest = match rest.as_slice() {
        // Beneath a namespace; `namespaces/<name>` and its own subresources are not.
        ["namespaces", _, below @ ..] if !below.is_empty() && !matches!(below, ["status" | "finalize"]) => {
            below
        }
        all => all,
    };
    let (resource, named) = match rest {
        [resource] => ((*resource).to_owned(), false),
        [resource, _name] => ((*resource).to_owned(), true),
        [resource, _name, subresource, ..] => (format!("{resource}/{subresource}"), true),
        [] => (String::new(), false),
    };
    if !prefix_known || resource.is_empty() {
        return (nonresource(method), "nonresource".to_owned());
    }
    let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
    let verb = match (method.as_str(), named) {
        ("GET", false) if watches => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "deletecollection",
        ("DELETE", true) => "delete",
        _ => "other",
    };
    (verb, resource)
}

fn nonresource(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "create",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn requests_are_named_as_rbac_names_them() {
        let rows = [
            (Method::GET, "/api/v1/persistentvolumeclaims", "limit=500", "list", "persistentvolumeclaims"),
            (Method::GET, "/api/v1/persistentvolumes", "watch=true&x=y", "watch", "persistentvolumes"),
            (Method::GET, "/api/v1/persistentvolumes/pvc-1", "", "get", "persistentvolumes"),
            (Method::POST, "/api/v1/persistentvolumes", "", "create", "persistentvolumes"),
            (Method::DELETE, "/api/v1/persistentvolumes/pvc-1", "", "delete", "persistentvolumes"),
            (
                Method::PATCH,
                "/api/v1/namespaces/default/persistentvolumeclaims/a/status",
                "",
                "patch",
                "persistentvolumeclaims/status",
            ),
            (Method::POST, "/api/v1/namespaces/default/events", "", "create", "events"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", "", "update", "leases"),
            (Method::GET, "/apis/storage.k8s.io/v1/storageclasses", "", "list", "storageclasses"),
            (Method::GET, "/api/v1/namespaces/default", "", "get", "namespaces"),
            (Method::GET, "/api/v1/namespaces/default/status", "", "get", "namespaces/status"),
            (Method::DELETE, "/api/v1/namespaces/n/events", "", "deletecollection", "events"),
            (Method::GET, "/version", "", "get", "nonresource"),
            (Method::GET, "/api/v1", "", "get", "nonresource"),
            (Method::GET, "/apis/storage.k8s.io/v1", "", "get", "nonresource"),
        ];
        for (method, path, query, verb, resource) in rows {
            let found = classify(&method, path, query);
            assert_eq!((found.0, found.1.as_str()), (verb, resource), "{method} {path}?{query}");
        }
    }

    #[tokio::test]
    async fn answers_and_failures_are_counted() {
        let metrics = Metrics::new();
        let layer = CountApiRequests::new(metrics.clone(), "https://10.0.0.1:6443");
        let mut answers = layer.layer(tower::service_fn(async |request: http::Request<()>| {
            if request.uri().path().ends_with("events") {
                return Err("connection refused");
            }
            Ok(http::Response::builder().status(409).body(()).unwrap())
        }));
        let post = |path: &str| http::Request::post(path).body(()).unwrap();
        answers.call(post("/api/v1/persistentvolumes")).await.unwrap();
        answers.call(post("/api/v1/namespaces/a/events")).await.unwrap_err();
        let text = metrics.text();
        assert!(text.contains(
            "berth_api_requests_total{verb=\"create\",resource=\"persistentvolumes\",code=\"409\"} 1\n"
        ));
        assert!(
            text.contains("berth_api_requests_total{verb=\"create\",resource=\"events\",code=\"error\"} 1\n")
        );
    }
}

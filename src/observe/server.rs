//! The HTTP server of `/livez`, `/readyz` and `/metrics`: [`serve`].
//!
//! Every answer is made from memory, so a hung export or API server never delays a probe. Every client that reaches the port can
//! cost no more than [`MOST_CONNECTIONS`]: a newcomer takes the place of the oldest connection, so that clients which
//! open many and finish none keep no probe from its answer and use up no descriptors.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::{
    Metrics,
    exposition::Exposition,
    health::{self, Verdict},
};

/// Connections at a time; each serves one request.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send the head of its request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last, with the time in which the client reads the answer.
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// The longest head of a request.
const LONGEST_HEAD: usize = 16 * 1024;
/// How long to wait where a connection cannot be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What clients may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    connections: usize,
    head_time: Duration,
    whole_time: Duration,
}

impl Limits {
    pub(super) const USUAL: Self =
        Self { connections: MOST_CONNECTIONS, head_time: HEAD_TIME, whole_time: WHOLE_TIME };

    /// The usual ones, but for the time in which the head of a request must be there.
    #[cfg(test)]
    pub(super) const fn with_head_time(head_time: Duration) -> Self {
        Self { head_time, ..Self::USUAL }
    }
}

/// Serves probes and metrics on `listener` until `stop`.
pub async fn serve(listener: TcpListener, metrics: Metrics, stop: CancellationToken) -> io::Result<()> {
    serve_within(Limits::USUAL, listener, metrics, stop).await
}

/// Serves within these limits. Open connections are answers of a moment; at the end they are dropped.
pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = routes(metrics);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let mut troubled = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {
                oldest_first.retain(|connection| !connection.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if gone_already(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut troubled, true) {
                    tracing::error!(%error, "cannot accept connections for probes and metrics");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        troubled = false;
        if places.available_permits() == 0
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        // Nothing closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let connection = answer_one(stream, routes.clone(), limits);
        oldest_first.push_back(connections.spawn(async move {
            connection.await;
            drop(place);
        }));
    }
}

/// Whether a connection ended before it was accepted, which is its client's business.
fn gone_already(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Reads one request and answers it.
async fn answer_one(stream: TcpStream, routes: Router, limits: Limits) {
    let service = service_fn(move |request: http::Request<Incoming>| routes.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong with a connection concerns its client alone.
    let _ = tokio::time::timeout(limits.whole_time, connection).await;
}

fn routes(metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(metrics)
}

async fn livez(State(metrics): State<Metrics>, RawQuery(query): RawQuery) -> Response {
    answer(&metrics.live(Instant::now()), query.as_deref())
}

async fn readyz(State(metrics): State<Metrics>, RawQuery(query): RawQuery) -> Response {
    answer(&metrics.ready(), query.as_deref())
}

fn answer(verdict: &Verdict, query: Option<&str>) -> Response {
    let verbose = query
        .unwrap_or_default()
        .split('&')
        .any(|pair| pair == "verbose" || pair.starts_with("verbose=") && pair != "verbose=false");
    let status = if verdict.passed() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], verdict.text(verbose)).into_response()
}

async fn scrape(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Exposition::accepted(accept);
    match format.render(&metrics.0.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl Metrics {
    fn live(&self, now: Instant) -> Verdict {
        health::live(self.0.state.reported().heartbeat, now)
    }

    fn ready(&self) -> Verdict {
        let (synced, leadership, missing) = {
            let reported = self.0.state.reported();
            (reported.synced, reported.leadership, reported.rights_missing.clone())
        };
        health::ready(synced, leadership, &self.0.state.stores(), &missing)
    }

    /// The metrics as a scraper without special wishes gets them.
    pub fn text(&self) -> String {
        Exposition::Text.render(&self.0.registry).unwrap_or_default()
    }
}

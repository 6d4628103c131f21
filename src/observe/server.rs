//! The HTTP server of `/livez`, `/readyz` and `/metrics`: [`serve`].
//!
//! Every answer is made from memory, so a hung export or API server never delays a probe.

use std::time::Instant;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Metrics,
    exposition::Exposition,
    health::{self, Verdict},
};

/// Serves probes and metrics on `listener` until `stop`.
pub async fn serve(listener: TcpListener, metrics: Metrics, stop: CancellationToken) -> std::io::Result<()> {
    let server = axum::serve(listener, routes(metrics)).into_future();
    tokio::select! {
        result = server => result,
        // Open connections are scrapes of a moment; nobody waits for them.
        () = stop.cancelled() => Ok(()),
    }
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
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl Metrics {
    fn live(&self, now: Instant) -> Verdict {
        health::live(self.0.state.facts().heartbeat, now)
    }

    fn ready(&self) -> Verdict {
        let (synced, leadership, missing) = {
            let facts = self.0.state.facts();
            (facts.synced, facts.leadership, facts.rights_missing.clone())
        };
        health::ready(synced, leadership, &self.0.state.stores(), &missing)
    }

    /// The metrics as a scraper without special wishes gets them.
    pub fn text(&self) -> String {
        Exposition::Text.render(&self.0.registry).unwrap_or_default()
    }
}

//! `/metrics`, `/healthz` and `/readyz`: for Prometheus, for whoever watches the agent, and for whoever waits for it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::State;
use super::problem::{Problem, Reason};

/// The text format, as Prometheus asks for it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Result<Response, Problem> {
    // Cgroup files are read without waiting for a disk, but there are many.
    let text = state.blocking(|s| s.registry.encode().map_err(|e| Problem::of(Reason::Failed, &e))).await?;
    Ok(([(CONTENT_TYPE, TEXT)], text).into_response())
}

/// The agent answers: that is all that a restart could change.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    let readiness = state.node.readiness().borrow().clone();
    if readiness.ready {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", readiness.reason)).into_response()
}

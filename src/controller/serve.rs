//! `/metrics`, `/healthz` and `/readyz` of the controller. A replica that waits for its turn is ready: it could lead.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::net::TcpListener;

use crate::api::problem::chain;
use crate::metrics::Registry;

/// The text format, as Prometheus asks for it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves for good.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, registry: Registry) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .with_state(registry);
    axum::serve(listener, router).await
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match registry.encode() {
        Ok(text) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, chain(&error)).into_response(),
    }
}

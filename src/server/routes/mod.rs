//! Which request does what. Paths begin with the API's version; a route is never renamed.

mod copy;
mod forward;
mod images;
mod manifests;
mod pods;
mod query;
mod store;
mod workloads;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};

use super::State;
use super::problem::{Problem, Reason};
use super::upgrade::MAX_BODY;

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/v1/info", get(store::info))
        .route("/v1/usage", get(pods::usage))
        .route("/v1/logs", get(pods::logs).post(pods::follow))
        .route("/v1/exec", post(pods::exec))
        .route("/v1/attach", post(pods::attach))
        .route("/v1/port-forward", post(forward::connect))
        .route("/v1/port-forward/{kind}/{namespace}/{name}", get(forward::look))
        .route("/v1/copy", get(copy::out).post(copy::into))
        .route("/v1/run", post(pods::run))
        .route("/v1/wait/{kind}/{namespace}/{name}", get(pods::wait))
        .route("/v1/apply", post(manifests::apply))
        .route("/v1/delete", post(manifests::remove))
        .route("/v1/objects/{kind}/{namespace}/{name}", delete(manifests::remove_one))
        .route("/v1/restart/{kind}/{namespace}/{name}", post(workloads::restart))
        .route("/v1/scale/{kind}/{namespace}/{name}", post(workloads::scale))
        .route("/v1/rollout/undo/{kind}/{namespace}/{name}", post(workloads::undo))
        .route("/v1/rollout/history/{kind}/{namespace}/{name}", get(workloads::history))
        .route("/v1/rollout/status/{kind}/{namespace}/{name}", get(workloads::status))
        .route("/v1/drain", post(workloads::drain).delete(workloads::undo_drain))
        .route("/v1/images/pull", post(images::pull))
        .route("/v1/images/load", post(images::load))
        .route("/v1/images/save", get(images::save))
        .route("/v1/images/tag", post(images::tag))
        .route("/v1/images/remove", post(images::remove))
        .route("/v1/images/pin", post(images::pin))
        .route("/v1/images/unpin", post(images::unpin))
        .route("/v1/history", get(store::history))
        .route("/v1/diff", get(store::diff))
        .route("/v1/export", get(store::export))
        .route("/v1/df", get(store::df))
        .route("/v1/why", get(store::why))
        .route("/v1/gc", post(store::gc))
        .route("/v1/check", post(store::check))
        .route("/v1/describe/{kind}", get(query::describe))
        .route("/v1/{kind}", get(query::list))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

async fn unknown(uri: http::Uri) -> Problem {
    Problem::new(Reason::NotFound, format!("this agent has no {}", uri.path()))
        .hint("the client may be of a newer release than the agent: compare `lamina --version` and `lamina info`")
}

/// A query's or path's refusal in our own shape.
fn invalid(error: &dyn std::error::Error) -> Problem {
    Problem::of(Reason::Invalid, error)
}

//! The store as people look at it: history, differences, disk use, why, collection, soundness; and the agent itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::response::Response;
use serde::Deserialize;

use super::invalid;
use crate::node::GcRequest;
use crate::server::problem::Problem;
use crate::server::report::{self, Collected, History, Info, People, Soundness, Usage, Why};
use crate::server::upgrade::json;
use crate::server::{State, export as exporting, info as about, wire};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subject {
    what: String,
    image: String,
    base: Option<String>,
    namespace: Option<String>,
}

type Wanted = Result<Query<Subject>, QueryRejection>;

fn subject(wanted: Wanted) -> Result<Subject, Problem> {
    Ok(wanted.map_err(|e| invalid(&e))?.0)
}

pub(super) async fn info(Shared(state): Shared<Arc<State>>) -> Result<Json<Info>, Problem> {
    state.blocking(|s| Ok(Json(about::info(s)))).await
}

pub(super) async fn history(Shared(state): Shared<Arc<State>>, wanted: Wanted) -> Result<Json<History>, Problem> {
    let wanted = subject(wanted)?;
    state.blocking(move |s| report::history(s.store(), &wanted.image, &s.pods()).map(Json)).await
}

pub(super) async fn df(Shared(state): Shared<Arc<State>>) -> Result<Json<Usage>, Problem> {
    state
        .blocking(|s| {
            Ok(Json(report::usage(s.store(), &s.node.settings().log_dir, &s.pods(), &s.node.machine().claims.views())))
        })
        .await
}

pub(super) async fn why(Shared(state): Shared<Arc<State>>, wanted: Wanted) -> Result<Json<Why>, Problem> {
    let wanted = subject(wanted)?;
    state.blocking(move |s| report::why(s.store(), &wanted.what, &People::of(&s.pods())).map(Json)).await
}

pub(super) async fn diff(Shared(state): Shared<Arc<State>>, wanted: Wanted) -> Result<Response, Problem> {
    let Subject { what, base, namespace, .. } = subject(wanted)?;
    let namespace = namespace.unwrap_or_else(|| crate::api::ids::DEFAULT_NAMESPACE.to_owned());
    let lines = state.blocking(move |s| exporting::diff(s, &what, &namespace, base.as_deref())).await?;
    Ok(Response::new(Body::from(lines)))
}

pub(super) async fn export(Shared(state): Shared<Arc<State>>, wanted: Wanted) -> Result<Response, Problem> {
    let Subject { what, namespace, .. } = subject(wanted)?;
    let namespace = namespace.unwrap_or_else(|| crate::api::ids::DEFAULT_NAMESPACE.to_owned());
    let tree = state.blocking(move |s| exporting::tree(s, &what, &namespace)).await?;
    Ok(Response::new(Body::from_stream(exporting::tar(tree))))
}

pub(super) async fn gc(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Collected>, Problem> {
    let wire::Gc { dry_run, grace_millis } = json(body).await?;
    let request = GcRequest { dry_run, grace: grace_millis.map(Duration::from_millis) };
    Ok(Json(Collected::of(&state.node.gc(request).await?)))
}

pub(super) async fn check(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Soundness>, Problem> {
    let wire::Check { full, repair } = json(body).await?;
    let mut found = state.blocking(move |s| report::check(s.store(), full)).await?;
    if repair && !found.damage.is_empty() {
        state.node.repair().await?;
        let after = state.blocking(move |s| report::check(s.store(), full)).await?;
        for row in &mut found.damage {
            row.repaired = !after.damage.iter().any(|left| left.what == row.what);
        }
    }
    Ok(Json(found))
}

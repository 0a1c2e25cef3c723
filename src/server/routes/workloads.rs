//! What is done with workloads beside declaring them: restart, scale, rollouts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::invalid;
use crate::api::{Kind, ObjectKey};
use crate::node::DrainOptions;
use crate::server::State;
use crate::server::problem::{Problem, Reason};
use crate::server::wait::rollout;

type Named = Path<(String, String, String)>;

fn target((kind, namespace, name): (String, String, String)) -> Result<ObjectKey, Problem> {
    let parsed: Kind = kind.parse().map_err(|_| {
        Problem::new(Reason::NotFound, format!("there is no kind {kind}"))
            .hint("one of deployment, statefulset, daemonset, pod")
    })?;
    Ok(ObjectKey { kind: parsed, namespace, name })
}

/// What was done to an object, in the shape that apply answers with.
fn answer(key: &ObjectKey, action: &str) -> Json<Value> {
    let (kind, namespace, name) = (key.kind.to_string(), &key.namespace, &key.name);
    Json(json!({"objects": [{"kind": kind, "namespace": namespace, "name": name, "action": action}]}))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Options {
    replicas: Option<u32>,
    revision: Option<u64>,
}

pub(super) async fn restart(Shared(state): Shared<Arc<State>>, named: Named) -> Result<Json<Value>, Problem> {
    let key = target(named.0)?;
    state.node.restart(&key)?;
    Ok(answer(&key, "restarted"))
}

pub(super) async fn scale(
    Shared(state): Shared<Arc<State>>,
    named: Named,
    options: Result<Query<Options>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let key = target(named.0)?;
    let replicas = options.map_err(|e| invalid(&e))?.0.replicas;
    let replicas = replicas.ok_or_else(|| Problem::new(Reason::Invalid, "the number of replicas is missing"))?;
    let (node, of) = (state.node.clone(), key.clone());
    blocking(move || node.scale(&of, replicas)).await?;
    Ok(answer(&key, &format!("scaled to {replicas}")))
}

pub(super) async fn undo(
    Shared(state): Shared<Arc<State>>,
    named: Named,
    options: Result<Query<Options>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let key = target(named.0)?;
    let revision = options.map_err(|e| invalid(&e))?.0.revision;
    let (node, of) = (state.node.clone(), key.clone());
    let undone = blocking(move || node.undo(&of, revision)).await?;
    Ok(answer(&key, &format!("rolled back to the template of revision {}", undone.to)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::node::Error> + Send + 'static,
) -> Result<T, Problem> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|e| Problem::of(Reason::Failed, &e))??)
}

pub(super) async fn history(Shared(state): Shared<Arc<State>>, named: Named) -> Result<Json<Value>, Problem> {
    let key = target(named.0)?;
    if !state.node.workloads().contains_key(&key) {
        return Err(Problem::not_found(&key.kind.as_str().to_lowercase(), &format!("{}/{}", key.namespace, key.name)));
    }
    let memory = state.node.memory(&key);
    let current = memory.revision();
    let revisions = memory.revisions.iter().map(|r| {
        let images: Vec<_> =
            r.template.spec.iter().flat_map(|s| &s.containers).filter_map(|c| c.image.clone()).collect();
        json!({
            "revision": r.number, "since": r.since, "cause": r.cause, "images": images,
            "current": r.number == current, "template": r.template,
        })
    });
    Ok(Json(json!({"revisions": revisions.collect::<Vec<_>>()})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Draining {
    force: bool,
    no_wait: bool,
    grace_seconds: Option<u64>,
}

/// Drains the node; then a line with the pods that are left, at each change of them, until there are none.
pub(super) async fn drain(
    Shared(state): Shared<Arc<State>>,
    how: Result<Query<Draining>, QueryRejection>,
) -> Result<Response, Problem> {
    let Draining { force, no_wait, grace_seconds } = how.map_err(|e| invalid(&e))?.0;
    state.node.drain(DrainOptions { force, grace: grace_seconds.map(Duration::from_secs) }).await?;
    let views = state.node.pods();
    let lines = stream::unfold((state, views, None), move |(state, mut views, last)| async move {
        if last.as_ref().is_some_and(|left: &Vec<String>| left.is_empty() || no_wait) {
            return None;
        }
        loop {
            views.mark_unchanged();
            let left: Vec<String> = state.node.drain_left().iter().map(|v| format!("pod {}", v.key())).collect();
            if last.as_ref() != Some(&left) {
                let line = json!({"left": left}).to_string() + "\n";
                return Some((Ok::<_, Infallible>(Bytes::from(line)), (state, views, Some(left))));
            }
            tokio::select! {
                () = state.stop.cancelled() => return None,
                changed = views.changed() => changed.ok()?,
            }
        }
    });
    Ok(([(CONTENT_TYPE, "application/json-lines")], Body::from_stream(lines)).into_response())
}

pub(super) async fn undo_drain(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({"undone": state.node.undo_drain().await?})))
}

/// Lines of how a rollout gets on, until it is through or stands still.
pub(super) async fn status(Shared(state): Shared<Arc<State>>, named: Named) -> Result<Response, Problem> {
    let key = target(named.0)?;
    rollout::look(&state, &key)?;
    let changes = state.node.workload_changes();
    let start = (state, key, changes, None::<rollout::Stand>);
    let lines = stream::unfold(start, |(state, key, mut changes, last)| async move {
        if last.as_ref().is_some_and(|stand| stand.done || stand.failed) {
            return None;
        }
        loop {
            changes.mark_unchanged();
            let stand = rollout::look(&state, &key).ok()?;
            if last.as_ref() != Some(&stand) {
                let line = serde_json::to_string(&stand).unwrap_or_default() + "\n";
                return Some((Ok::<_, Infallible>(Bytes::from(line)), (state, key, changes, Some(stand))));
            }
            tokio::select! {
                () = state.stop.cancelled() => return None,
                changed = changes.changed() => changed.ok()?,
            }
        }
    });
    Ok(([(CONTENT_TYPE, "application/json-lines")], Body::from_stream(lines)).into_response())
}

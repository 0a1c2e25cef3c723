//! What is done with running pods: run, exec, attach, logs, wait, usage.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::invalid;
use crate::node::{Attach, ContainerRef, ExecRequest, RunRequest, Session};
use crate::server::logs::{self, Wanted};
use crate::server::problem::{Problem, Reason};
use crate::server::stream::Control;
use crate::server::telemetry::usage::Sample;
use crate::server::upgrade::Upgrade;
use crate::server::wait::{self, Goal, Target};
use crate::server::wire::{Exec, Run, Size};
use crate::server::{State, session};

/// Answers with a stream that is connected to a process.
fn connect<T: 'static>(state: &Arc<State>, upgrade: Upgrade<T>, session: Session, size: Option<Size>) -> Response {
    let (response, stream) = upgrade.switch();
    let stop = state.stop.clone();
    let (namespace, name) = session.pod.split_once('/').unwrap_or(("", session.pod.as_str()));
    let started = Control::Started { namespace: namespace.to_owned(), name: name.to_owned() };
    state.tasks.spawn(async move {
        let conversation = async {
            if let Some(stream) = stream.await {
                session::run(stream, session, size, Some(started)).await;
            }
        };
        tokio::select! {
            () = conversation => {}
            () = stop.cancelled() => {}
        }
    });
    response
}

fn target(body: &Exec) -> ContainerRef {
    ContainerRef { namespace: body.namespace.clone(), pod: body.pod.clone(), container: body.container.clone() }
}

fn everything(stdin: bool, tty: bool) -> Attach {
    // With a terminal there is one stream of output.
    Attach { stdin, stdout: true, stderr: !tty, tty }
}

pub(super) async fn exec(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let upgrade = Upgrade::<Exec>::take(request).await?;
    let body = &upgrade.body;
    if body.command.is_empty() {
        return Err(Problem::new(Reason::Invalid, "there is no command to run"));
    }
    let attach = everything(body.stdin, body.tty);
    let request = ExecRequest { target: target(body), command: body.command.clone(), attach };
    let (session, size) = (state.node.exec(request).await?, body.size);
    Ok(connect(&state, upgrade, session, size))
}

pub(super) async fn attach(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let upgrade = Upgrade::<Exec>::take(request).await?;
    let body = &upgrade.body;
    let session = state.node.attach(&target(body), everything(body.stdin, body.tty)).await?;
    let size = body.size;
    Ok(connect(&state, upgrade, session, size))
}

pub(super) async fn run(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let mut upgrade = Upgrade::<Run>::take(request).await?;
    let pod = upgrade.body.pod.take();
    // Through the same door as a manifest: what is wrong with it is said in the same words.
    let parsed = crate::api::parse("the command line", pod.to_string().as_bytes());
    let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(Problem::new(Reason::Invalid, problems.join("\n")));
    }
    let Some(crate::api::Object::Pod(pod)) = parsed.documents.into_iter().next().map(|document| document.object) else {
        return Err(Problem::new(Reason::Invalid, "only a pod can be run"));
    };
    let body = &upgrade.body;
    let attach = if body.detach { Attach::default() } else { everything(body.stdin, body.tty) };
    let (detach, size) = (body.detach, body.size);
    let session = state.node.run(RunRequest { pod: *pod, attach, remove: body.remove })?;
    if !detach {
        return Ok(connect(&state, upgrade, session, size));
    }
    let (response, stream) = upgrade.switch();
    state.tasks.spawn(async move {
        if let Some(mut stream) = stream.await {
            // A client that is gone does not need the answer.
            let _ = stream.writer.control(&Control::Exit { status: 0, result: None }).await;
        }
    });
    Ok(response)
}

pub(super) async fn logs(
    Shared(state): Shared<Arc<State>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let wanted = wanted.map_err(|e| invalid(&e))?.0;
    Ok(Response::new(Body::from_stream(logs::read(&state, &wanted)?)))
}

pub(super) async fn follow(
    Shared(state): Shared<Arc<State>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted = wanted.map_err(|e| invalid(&e))?.0;
    let upgrade = Upgrade::<Value>::take(request).await?;
    logs::check(&state, &wanted)?;
    let (response, stream) = upgrade.switch();
    let shared = Arc::clone(&state);
    state.tasks.spawn(async move {
        if let Some(stream) = stream.await {
            logs::follow(&shared, &wanted, stream).await;
        }
    });
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Until {
    #[serde(rename = "for")]
    goal: Goal,
    timeout_millis: u64,
}

pub(super) async fn wait(
    Shared(state): Shared<Arc<State>>,
    Path((kind, namespace, name)): Path<(String, String, String)>,
    until: Result<Query<Until>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let until = until.map_err(|e| invalid(&e))?.0;
    let kind = kind.parse().map_err(|e| invalid(&e))?;
    let target = Target { kind, namespace, name };
    let answer = wait::until(&state, &target, until.goal, Duration::from_millis(until.timeout_millis)).await?;
    Ok(Json(json!({"reached": answer.reached, "over": answer.over, "state": answer.state})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    namespace: Option<String>,
}

pub(super) async fn usage(
    Shared(state): Shared<Arc<State>>,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<Sample>, Problem> {
    let namespace = place.map_err(|e| invalid(&e))?.0.namespace;
    state.blocking(move |s| Ok(Json(s.telemetry.sample(namespace.as_deref())))).await
}

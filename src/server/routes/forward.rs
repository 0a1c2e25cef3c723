//! `port-forward`: which port is meant, and one stream a connection.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::invalid;
use crate::api::ObjectKey;
use crate::server::State;
use crate::server::problem::{Problem, Reason};
use crate::server::stream::Control;
use crate::server::stream::bridge::{Side, bridge};
use crate::server::upgrade::{Stream, Upgrade};
use crate::server::wire::PortForward;

#[derive(Debug, Deserialize)]
pub(super) struct Port {
    port: String,
}

fn target(kind: &str, namespace: String, name: String) -> Result<ObjectKey, Problem> {
    let kind = kind.parse().map_err(|_| {
        Problem::new(Reason::NotFound, format!("there is no kind {kind}"))
            .hint("one of pod, service, deployment, statefulset, daemonset, job")
    })?;
    Ok(ObjectKey { kind, namespace, name })
}

/// What would be connected to now.
pub(super) async fn look(
    Shared(state): Shared<Arc<State>>,
    Path((kind, namespace, name)): Path<(String, String, String)>,
    port: Result<Query<Port>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let port = port.map_err(|e| invalid(&e))?.0.port;
    let found = state.node.forward_target(&target(&kind, namespace, name)?, &port)?;
    Ok(Json(json!({"namespace": found.pod.namespace, "pod": found.pod.name, "port": found.port})))
}

/// One connection.
pub(super) async fn connect(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let upgrade = Upgrade::<PortForward>::take(request).await?;
    let PortForward { kind, namespace, name, port } = upgrade.body.clone();
    let to = state.node.forward_target(&target(&kind, namespace, name)?, &port)?;
    let tcp = state.node.connect(&to).await?;
    let (response, stream) = upgrade.switch();
    let stop = state.stop.clone();
    state.tasks.spawn(async move {
        let conversation = async {
            let Some(Stream { mut reader, mut writer }) = stream.await else { return };
            let started = Control::Started { namespace: to.pod.namespace.clone(), name: to.pod.name.clone() };
            if writer.control(&started).await.is_err() {
                return;
            }
            if let Err(error) = bridge(Side::Agent, &mut reader, &mut writer, tcp).await {
                tracing::debug!(pod = %to.pod, port = to.port, error = %crate::api::problem::chain(&error), "a forwarded connection broke");
            }
        };
        tokio::select! {
            () = conversation => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(response)
}

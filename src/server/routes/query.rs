//! Lists, watches and descriptions.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::invalid;
use crate::server::objects::{self, Filter, Kind};
use crate::server::problem::Problem;
use crate::server::report::{People, why};
use crate::server::{State, watch};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    namespace: Option<String>,
    name: Option<String>,
    labels: Option<String>,
    watch: bool,
}

impl Which {
    fn filter(&self) -> Result<Filter, Problem> {
        let selector = self.labels.as_deref().unwrap_or_default().parse().map_err(|e| invalid(&e))?;
        Ok(Filter { namespace: self.namespace.clone(), name: self.name.clone(), selector })
    }
}

pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Path(kind): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Problem> {
    let kind = Kind::parse(&kind)?;
    let which = which.map_err(|e| invalid(&e))?.0;
    let filter = which.filter()?;
    if which.watch {
        let body = Body::from_stream(watch::changes(state, kind, filter));
        return Ok(([(CONTENT_TYPE, "application/json-lines")], body).into_response());
    }
    let items = objects::list(&state, kind, &filter)?;
    if let (true, Some(name)) = (items.is_empty(), &which.name) {
        return Err(missing(kind, &filter, name));
    }
    Ok(Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})).into_response())
}

fn missing(kind: Kind, filter: &Filter, name: &str) -> Problem {
    let place = filter.namespace.as_ref().filter(|_| kind.is_namespaced()).map(|n| format!("{n}/")).unwrap_or_default();
    let all = if place.is_empty() { "" } else { " -A" };
    Problem::not_found(kind.singular(), &format!("{place}{name}")).hint(format!("lamina get {}s{all}", kind.singular()))
}

pub(super) async fn describe(
    Shared(state): Shared<Arc<State>>,
    Path(kind): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let kind = Kind::parse(&kind)?;
    let which = which.map_err(|e| invalid(&e))?.0;
    let filter = which.filter()?;
    let name = which.name.clone().unwrap_or_default();
    let object =
        objects::list(&state, kind, &filter)?.into_iter().next().ok_or_else(|| missing(kind, &filter, &name))?;
    let subject = match kind {
        Kind::Containers | Kind::Volumes => object["spec"]["pod"].as_str().unwrap_or_default().to_owned(),
        _ => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    let about = Filter { name: Some(subject), ..filter };
    let events = objects::list(&state, Kind::Events, &about)?;
    let chains = match kind {
        Kind::Images | Kind::Layers => {
            let key = object["status"]["digest"].as_str().or_else(|| object["metadata"]["name"].as_str());
            why(state.store(), key.unwrap_or_default(), &People::of(&state.pods())).map(|why| why.chains)?
        }
        _ => Vec::new(),
    };
    let drained = state.node.drained().filter(|_| kind.runs()).map(|since| format!("{since:.0}"));
    Ok(Json(json!({"object": object, "events": events, "why": chains, "drained": drained})))
}

//! Desired objects: apply and delete.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};

use super::invalid;
use crate::api;
use crate::api::ObjectKey;
use crate::node::{ApplyOptions, ApplyReport, DeleteOptions};
use crate::server::State;
use crate::server::problem::{Problem, Reason};
use crate::server::upgrade::json;
use crate::server::wire::{File, Manifests};
use crate::source::desired::Applied;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Removal {
    grace_seconds: Option<u64>,
    wait: bool,
}

impl Removal {
    fn options(&self) -> DeleteOptions {
        DeleteOptions { grace: self.grace_seconds.map(Duration::from_secs), wait: self.wait }
    }
}

fn answer(reports: Vec<ApplyReport>) -> Json<Value> {
    let objects: Vec<Value> = reports
        .into_iter()
        .flat_map(|report| report.objects)
        .map(|(object, applied)| {
            let action = match applied {
                Applied::Created => "created",
                Applied::Configured => "configured",
                Applied::Unchanged => "unchanged",
                Applied::Deleted => "deleted",
                Applied::Ignored => "ignored",
            };
            json!({"kind": object.kind.to_string(), "namespace": object.namespace, "name": object.name, "action": action})
        })
        .collect();
    Json(json!({"objects": objects}))
}

/// Parses every file before any is applied: one that is wrong is named, and nothing is half done.
fn parse(files: &[File]) -> Result<Vec<api::Parsed>, Problem> {
    let parsed: Vec<_> = files.iter().map(|file| api::parse(&file.name, file.text.as_bytes())).collect();
    let problems: Vec<String> = parsed.iter().flat_map(|p| &p.problems).map(ToString::to_string).collect();
    if problems.is_empty() {
        return Ok(parsed);
    }
    Err(Problem::new(Reason::Invalid, problems.join("\n"))
        .hint("nothing was changed; `lamina explain FIELD` says more"))
}

pub(super) async fn apply(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Value>, Problem> {
    let Manifests { files, set, dry_run, prune } = json(body).await?;
    let parsed = parse(&files)?;
    if dry_run {
        let documents = parsed.into_iter().flat_map(|parsed| parsed.documents).collect();
        let plan = state.node.preview(&set, documents, prune).await?;
        return Ok(Json(serde_json::to_value(plan).map_err(|e| Problem::of(Reason::Failed, &e))?));
    }
    let options = ApplyOptions { dry_run, prune };
    // What one apply keeps, prune must see whole: several files are one text then.
    let files = if prune && files.len() > 1 { vec![joined(&files)] } else { files };
    let mut reports = Vec::new();
    for file in &files {
        reports.push(state.node.apply(&set, file.text.as_bytes(), options).await?);
    }
    Ok(answer(reports))
}

/// Several files as one.
fn joined(files: &[File]) -> File {
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    let texts: Vec<_> = files.iter().map(|file| file.text.trim_end()).collect();
    File { name: names.join(", "), text: texts.join("\n---\n") + "\n" }
}

pub(super) async fn remove(
    Shared(state): Shared<Arc<State>>,
    removal: Result<Query<Removal>, QueryRejection>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let options = removal.map_err(|e| invalid(&e))?.0.options();
    let Manifests { files, .. } = json(body).await?;
    let mut reports = Vec::new();
    for document in parse(&files)?.into_iter().flat_map(|parsed| parsed.documents) {
        let key = document.object.key();
        if key.kind == api::Kind::Ignored {
            continue;
        }
        reports.push(state.node.delete(&key, options).await?);
    }
    Ok(answer(reports))
}

pub(super) async fn remove_one(
    Shared(state): Shared<Arc<State>>,
    Path((kind, namespace, name)): Path<(String, String, String)>,
    removal: Result<Query<Removal>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let options = removal.map_err(|e| invalid(&e))?.0.options();
    let kind: api::Kind = kind.parse().map_err(|e| invalid(&e))?;
    let target = ObjectKey { kind, namespace, name };
    Ok(answer(vec![state.node.delete(&target, options).await?]))
}

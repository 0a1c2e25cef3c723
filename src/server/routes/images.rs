//! Images as people handle them: pull, load, tag, remove, pin.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State as Shared};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::invalid;
use crate::image::{Archive, ArchiveFormat, ImageName, Saved};
use crate::node::GcRequest;
use crate::oci::Reference;
use crate::server::problem::{Problem, Reason};
use crate::server::report::find_image;
use crate::server::upgrade::{Upgrade, json};
use crate::server::wire::{Name, Pull};
use crate::server::{State, export as exporting, pull as pulling};
use crate::store::{RefKind, TagOrigin};

pub(super) async fn pull(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let mut upgrade = Upgrade::<Pull>::take(request).await?;
    let body = std::mem::take(&mut upgrade.body);
    pulling::name(&body.image)?;
    let (response, stream) = upgrade.switch();
    let shared = Arc::clone(&state);
    state.tasks.spawn(async move {
        if let Some(stream) = stream.await {
            pulling::run(&shared, body, stream).await;
        }
    });
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Loading {
    path: Option<PathBuf>,
    tag: Option<String>,
}

/// A file under `staging/` that goes when this does; what a crash leaves there is removed at start.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be removed now is at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes an upload down: an archive is read out of order.
async fn stage(state: &State, body: Body) -> Result<Staged, Problem> {
    let name = format!("load-{:016x}.tar", rand::random::<u64>());
    let staged = Staged(state.store().root().join("staging").join(name));
    let failed = |e: std::io::Error| {
        Problem::new(Reason::Failed, format!("cannot keep the archive in {}: {e}", staged.0.display()))
    };
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&staged.0).await.map_err(failed)?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| Problem::new(Reason::Invalid, format!("the archive broke off: {e}")))?;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(staged)
}

pub(super) async fn load(
    Shared(state): Shared<Arc<State>>,
    wanted: Result<Query<Loading>, QueryRejection>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let wanted = wanted.map_err(|e| invalid(&e))?.0;
    let tag: Option<Reference> =
        wanted.tag.as_deref().map(str::parse).transpose().map_err(|e: crate::oci::ReferenceError| invalid(&e))?;
    let (path, staged) = if let Some(path) = wanted.path {
        (path, None)
    } else {
        let staged = stage(&state, body).await?;
        (staged.0.clone(), Some(staged))
    };
    let loaded = state.node.images().load(&path, None, None).await.map_err(|e| pulling::problem(&e))?;
    if loaded.is_empty() {
        return Err(Problem::new(Reason::Invalid, "the archive holds no image"));
    }
    let mut images = Vec::new();
    let ephemeral = staged.is_some();
    let ids: Vec<_> = loaded.iter().map(|one| (one.pulled.image.id(), one.references.clone())).collect();
    for one in &loaded {
        let name = match (&tag, one.references.first()) {
            (Some(tag), _) => tag.to_string(),
            (None, Some(first)) => first.to_string(),
            (None, None) => one.pulled.image.top.to_string(),
        };
        images.push(pulling::summary(name, &one.pulled));
    }
    if let Some(tag) = tag {
        state
            .blocking(move |s| {
                for (id, references) in &ids {
                    keep(s, &tag, id)?;
                    // A name made from our own temporary file means nothing to anybody.
                    for made in
                        references.iter().filter(|r| ephemeral && r.repository().contains("load-") && **r != tag)
                    {
                        s.store().remove_tag(made).map_err(|e| Problem::of(Reason::Failed, &e))?;
                    }
                }
                Ok(())
            })
            .await?;
    }
    Ok(Json(json!({"images": images})))
}

/// Gives an image a person's name, which holds it.
fn keep(state: &State, reference: &Reference, id: &crate::store::ImageId) -> Result<(), Problem> {
    let failed = |e: crate::store::Error| Problem::of(Reason::Failed, &e);
    let owner = reference.to_string();
    // Held before it is named, so that no sweep comes between; a name that meant another image lets that one go.
    state.store().hold_only(RefKind::Tag, &owner, std::slice::from_ref(&id.manifest)).map_err(failed)?;
    state.store().set_tag(reference, id, TagOrigin::Person).map_err(failed)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Saving {
    /// With commas between: no name has one.
    images: String,
    format: String,
}

pub(super) async fn save(
    Shared(state): Shared<Arc<State>>,
    wanted: Result<Query<Saving>, QueryRejection>,
) -> Result<Response, Problem> {
    let Saving { images, format } = wanted.map_err(|e| invalid(&e))?.0;
    let format = match format.as_str() {
        "oci" => ArchiveFormat::Oci,
        "docker" => ArchiveFormat::Docker,
        other => return Err(Problem::new(Reason::Invalid, format!("there is no archive format {other}"))),
    };
    let archive = state.blocking(move |s| archive(s, &images, format)).await?;
    Ok(Response::new(Body::from_stream(exporting::made(move |out| archive.write(out)))))
}

/// What an archive of these images holds; one that is asked for by digest has the names that it has here.
fn archive(state: &State, images: &str, format: ArchiveFormat) -> Result<Archive, Problem> {
    let store = state.store();
    let mut all = Vec::new();
    for text in images.split(',') {
        let id = find_image(store, text)?;
        let image = store.image(&id.manifest).map_err(|e| Problem::of(Reason::Failed, &e))?;
        let image = image.ok_or_else(|| Problem::not_found("image", text))?;
        let named = text.parse::<ImageName>().ok().and_then(|n| n.reference()).filter(|r| store.tag(r).is_some());
        let names = if let Some(reference) = named {
            vec![reference.to_string()]
        } else {
            let tags = store.tags().into_iter().filter(|tag| tag.image == id);
            tags.map(|tag| tag.reference.to_string()).collect()
        };
        all.push(Saved { image, names });
    }
    Archive::new(store, &all, format).map_err(|e| Problem::of(Reason::Failed, &e))
}

pub(super) async fn tag(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Value>, Problem> {
    let Name { image, target } = json(body).await?;
    let target: Reference = target.unwrap_or_default().parse().map_err(|e| invalid(&e))?;
    state
        .blocking(move |s| {
            let id = find_image(s.store(), &image)?;
            keep(s, &target, &id)
        })
        .await?;
    Ok(Json(json!({})))
}

pub(super) async fn remove(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Value>, Problem> {
    let Name { image, .. } = json(body).await?;
    let (id, untagged) = state.blocking(move |s| untag(s, &image)).await?;
    let swept = state.node.gc(GcRequest::default()).await?;
    let held_by: Vec<String> = match state.store().why_image(&id.manifest) {
        Some(why) => {
            let people = crate::server::report::People::of(&state.pods());
            let who = |chain: &crate::store::Chain| match chain.kind {
                RefKind::Pod => format!("pod {}", people.name(&chain.owner)),
                kind => format!("{kind} {}", chain.owner),
            };
            why.chains.iter().map(who).collect()
        }
        None => Vec::new(),
    };
    Ok(Json(json!({
        "untagged": untagged,
        "freedBytes": swept.freed_bytes,
        "layersFreed": swept.layers.len(),
        "heldBy": held_by,
    })))
}

/// Removes one name, or all names of an image that was given by its digest.
fn untag(state: &State, image: &str) -> Result<(crate::store::ImageId, Vec<String>), Problem> {
    let store = state.store();
    let id = find_image(store, image)?;
    let named = image.parse::<ImageName>().ok().and_then(|n| n.reference()).filter(|r| store.tag(r).is_some());
    let tags = store.tags().into_iter().filter(|tag| match &named {
        Some(reference) => tag.reference == *reference,
        None => tag.image == id,
    });
    let mut untagged = Vec::new();
    for tag in tags {
        store.remove_tag(&tag.reference).map_err(|e| Problem::of(Reason::Failed, &e))?;
        untagged.push(tag.reference.to_string());
    }
    Ok((id, untagged))
}

pub(super) async fn pin(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Value>, Problem> {
    let Name { image, .. } = json(body).await?;
    state
        .blocking(move |s| {
            let id = find_image(s.store(), &image)?;
            let held = s.store().hold(RefKind::Pin, &id.manifest.to_string(), &id.manifest);
            held.map_err(|e| Problem::of(Reason::Failed, &e))
        })
        .await?;
    Ok(Json(json!({})))
}

pub(super) async fn unpin(Shared(state): Shared<Arc<State>>, body: Body) -> Result<Json<Value>, Problem> {
    let Name { image, .. } = json(body).await?;
    state
        .blocking(move |s| {
            let id = find_image(s.store(), &image)?;
            let owner = id.manifest.to_string();
            if !s.store().refs().iter().any(|root| root.kind == RefKind::Pin && root.owner == owner) {
                return Err(Problem::new(Reason::NotFound, format!("{image} is not pinned")));
            }
            s.store().release(RefKind::Pin, &owner).map_err(|e| Problem::of(Reason::Failed, &e))
        })
        .await?;
    // What the pin alone held goes now.
    state.node.gc(GcRequest::default()).await?;
    Ok(Json(json!({})))
}

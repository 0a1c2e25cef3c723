//! One pull, from its request to an image that is held.
//!
//! ```text
//! present? ─yes─▶ may it? ─yes─▶ hold, look again ─▶ done
//!    │ no            │ no: ask the registry
//!    ▼               ▼
//! resolve ─▶ here by digest? ─yes─▶ hold, look again, note proof and tag ─▶ done
//!    │ no
//!    ▼
//! pull ref (durable) ─▶ layers ─▶ hold ─▶ put_image ─▶ tag ─▶ pull ref gone
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::credentials::Keychain;
use super::error::Error;
use super::flight::{self, Landed, Plan};
use super::images::Inner;
use super::layout::Layout;
use super::name::{ImageName, LayoutTag};
use super::request::{Holder, LayerPlan, Progress, PullPolicy, PullRequest, Pulled, PulledLayer};
use super::resolve::Resolved;
use crate::oci::{DiffId, Digest, ImageConfig, Manifest, Platform, Reference};
use crate::store::{self, Access, Image, ImageDocuments, ImageId, LayerKey, Proof, RefKind, Store, TagOrigin};

/// How often a pull begins anew when a sweep takes the image between the look and the hold. Twice in a row is next to
/// impossible.
const LOOKS: usize = 3;

pub(super) async fn pull(inner: &Arc<Inner>, request: PullRequest) -> Result<Pulled, Error> {
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    if request.policy != PullPolicy::Always
        && let Some(pulled) = present(inner, &request, &platform).await?
    {
        return Ok(pulled);
    }
    if request.policy != PullPolicy::Always && !*inner.local.borrow() {
        // It may be in an archive that is about to be loaded. The sender lives as long as we do.
        let _ = inner.local.subscribe().wait_for(|loaded| *loaded).await;
        if let Some(pulled) = present(inner, &request, &platform).await? {
            return Ok(pulled);
        }
    }
    if request.policy == PullPolicy::Never {
        return Err(Error::NotPresent { image: request.image.to_string() });
    }
    let resolved = match &request.image {
        ImageName::Registry(reference) => inner.resolve(reference, &request.secrets, &platform).await?,
        ImageName::Layout { dir, tag } => {
            let layout = open_layout(dir).await?;
            inner.resolve_layout(layout, tag, &platform).await?
        }
    };
    fetch(inner, &request, resolved).await
}

pub(super) async fn open_layout(dir: &Path) -> Result<Layout, Error> {
    let dir = dir.to_owned();
    blocking(move || Layout::open(&dir)).await
}

/// The image, if it is here and the pod may use it.
async fn present(inner: &Arc<Inner>, request: &PullRequest, platform: &Platform) -> Result<Option<Pulled>, Error> {
    let Some(reference) = request.image.reference() else { return Ok(None) };
    if matches!(&request.image, ImageName::Layout { tag, .. } if !matches!(tag, LayoutTag::Digest(_)))
        && inner.store.tag(&reference).is_none()
    {
        return Ok(None);
    }
    for _ in 0..LOOKS {
        let Some(image) = find(inner, &reference, &request.image)? else { return Ok(None) };
        let mut asked = false;
        if !may_use(inner, request, &reference, &image).await? {
            if request.policy == PullPolicy::Never {
                return Err(Error::NotYours { image: reference.to_string(), source: None });
            }
            let by_digest = reference.with_digest(image.top.clone());
            let resolved = inner
                .resolve(&by_digest, &request.secrets, platform)
                .await
                .map_err(|error| Error::NotYours { image: reference.to_string(), source: Some(Box::new(error)) })?;
            let (id, proof) = (image.id(), resolved.proof);
            in_store(inner, &reference.to_string(), move |store| store.record_access(&id, proof)).await?;
            asked = true;
        }
        if let Some(image) = take(inner, request, &image.id(), Name::Found).await? {
            return Ok(Some(reused(inner, image, asked)?));
        }
    }
    Ok(None)
}

/// What `reference` means here, if all of it is here and sound.
pub(super) fn find(inner: &Inner, reference: &Reference, name: &ImageName) -> Result<Option<Image>, Error> {
    let store = &inner.store;
    let digest = match reference.digest() {
        Some(digest) => Some(digest.clone()),
        None => store.tag(reference).map(|tag| tag.image.manifest),
    };
    let Some(digest) = digest else { return Ok(None) };
    let found = store.image(&digest).map_err(|source| Error::Store { what: name.to_string(), source })?;
    Ok(found.filter(|image| is_whole(store, image)))
}

fn is_whole(store: &Store, image: &Image) -> bool {
    image.layers.iter().all(|key| store.layer(key).is_ok())
}

/// Whether the requester could have pulled what is here, by what was proved before.
async fn may_use(inner: &Inner, request: &PullRequest, reference: &Reference, image: &Image) -> Result<bool, Error> {
    // A person with access to the agent's socket is root here.
    if request.by == TagOrigin::Person {
        return Ok(true);
    }
    let keychain = Keychain { config: &inner.config, secrets: &request.secrets };
    let (registry, repository) = (reference.registry(), reference.repository());
    let mut proofs: BTreeSet<Proof> = BTreeSet::from([inner.proof(reference, None)]);
    proofs.extend(keychain.of_pod(registry, repository).iter().map(|c| inner.proof(reference, Some(c))));
    if image.access.allows(&proofs) {
        return Ok(true);
    }
    // Last, for it may have to start a helper.
    let node = keychain
        .of_node(registry, repository)
        .await
        .map_err(|source| Error::Credentials { image: reference.to_string(), source })?;
    Ok(node.is_some_and(|candidate| image.access.allows([&inner.proof(reference, Some(&candidate))])))
}

/// How an image was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// The name means it here. If another has come under that name meanwhile, that is the one.
    Found,
    /// The name means it where it comes from, and does so here from now on.
    Resolved,
}

/// Holds an image that was seen to be here, and looks again: a sweep, or another image of that name, may have come between.
pub(super) async fn take(
    inner: &Inner,
    request: &PullRequest,
    id: &ImageId,
    name: Name,
) -> Result<Option<Image>, Error> {
    let what = request.image.to_string();
    let (holder, id, by) = (request.holder.clone(), id.clone(), request.by);
    let reference = request.image.reference();
    in_store(inner, &what, move |store| {
        if name == Name::Found
            && let Some(reference) = &reference
        {
            match store.confirm_tag(reference, &id, by) {
                Ok(true) => {}
                Ok(false) | Err(store::Error::UnknownImage { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        hold(store, &holder, &id.manifest)?;
        let Some(image) = store.image(&id.manifest)?.filter(|image| is_whole(store, image)) else { return Ok(None) };
        if name == Name::Resolved
            && let Some(reference) = reference
        {
            store.set_tag(&reference, &image.id(), by)?;
        }
        settle(store, &holder, &id.manifest)?;
        Ok(Some(image))
    })
    .await
}

/// Writes the holder's ref.
fn hold(store: &Store, (kind, owner): &Holder, manifest: &Digest) -> Result<(), store::Error> {
    store.hold(*kind, owner, manifest)
}

/// A tag holds one image: the one that it means now. Other holders may hold several.
fn settle(store: &Store, (kind, owner): &Holder, manifest: &Digest) -> Result<(), store::Error> {
    if *kind == RefKind::Tag { store.hold_only(*kind, owner, std::slice::from_ref(manifest)) } else { Ok(()) }
}

/// An image of which nothing had to travel.
fn reused(inner: &Inner, image: Image, asked: bool) -> Result<Pulled, Error> {
    let (manifest, config) = documents(inner, &image)?;
    let layer = |((key, diff_id), descriptor): ((&LayerKey, &DiffId), &crate::oci::Descriptor)| PulledLayer {
        key: key.clone(),
        diff_id: diff_id.clone(),
        size: descriptor.size,
        reused: true,
    };
    let layers = image.layers.iter().zip(&config.diff_ids).zip(&manifest.layers).map(layer).collect();
    Ok(Pulled { asked, fetched_bytes: 0, reused_bytes: manifest.layer_bytes(), layers, image })
}

/// What the store has of an image's manifest and config.
fn documents(inner: &Inner, image: &Image) -> Result<(Manifest, ImageConfig), Error> {
    let what = |source| Error::Store { what: image.manifest.to_string(), source };
    let documents = inner.store.documents(&image.id()).map_err(what)?;
    let refused = |source| Error::Document { image: image.manifest.to_string(), source };
    let manifest = Manifest::parse(&documents.manifest).map_err(refused)?;
    Ok((manifest, ImageConfig::parse(&documents.config).map_err(refused)?))
}

/// Gets what is not here of an image whose documents are known.
pub(super) async fn fetch(inner: &Arc<Inner>, request: &PullRequest, resolved: Resolved) -> Result<Pulled, Error> {
    let diff_ids = resolved.config.diff_ids.clone();
    tell(inner, request, &resolved);
    if inner.store.find_stack(&diff_ids).is_some()
        && inner.store.image(&resolved.id.manifest).ok().flatten().is_some_and(|image| image.id() == resolved.id)
    {
        let (id, proof) = (resolved.id.clone(), resolved.proof.clone());
        let noted = in_store(inner, &resolved.image, move |store| store.record_access(&id, proof)).await;
        if noted.is_ok()
            && let Some(image) = take(inner, request, &resolved.id, Name::Resolved).await?
        {
            return reused(inner, image, true);
        }
    }
    let guard = PullRef::write(inner, &request.holder, &resolved).await?;
    let plan = Arc::new(Plan {
        source: resolved.source.clone(),
        layers: resolved.manifest.layers.clone(),
        diff_ids: diff_ids.clone(),
    });
    let one = |at| {
        let (inner, plan, progress) = (Arc::clone(inner), Arc::clone(&plan), request.progress.clone());
        async move {
            let landed = flight::layer(inner, Arc::clone(&plan), at, progress.clone()).await?;
            if let (Some(progress), Some(diff_id)) = (progress, plan.diff_ids.get(at)) {
                let stored = Progress::Stored { diff_id: diff_id.clone(), disk_bytes: landed.disk_bytes };
                // A receiver that is gone disturbs nothing.
                let _ = progress.send(stored);
            }
            Ok(landed)
        }
    };
    // On the first failure the others are let go.
    let landed: Vec<Landed> = try_join_all((0..diff_ids.len()).map(one)).await?;
    let image = commit(inner, request, &resolved, guard).await?;
    Ok(told(resolved, image, &landed))
}

/// Stores the documents, now that all layers are here, and ends the pull's own ref: the image is held by its holder.
async fn commit(inner: &Inner, request: &PullRequest, resolved: &Resolved, guard: PullRef) -> Result<Image, Error> {
    let documents = ImageDocuments {
        index: resolved.index.as_ref().map(|i| i.to_vec()),
        manifest: resolved.manifest_bytes.to_vec(),
        config: resolved.config_bytes.to_vec(),
        access: Access::by(resolved.proof.clone()),
    };
    let (holder, by, manifest) = (request.holder.clone(), request.by, resolved.id.manifest.clone());
    let reference = request.image.reference();
    in_store(inner, &resolved.image, move |store| {
        hold(store, &holder, &manifest)?;
        let image = store.put_image(documents)?;
        if let Some(reference) = reference {
            store.set_tag(&reference, &image.id(), by)?;
        }
        settle(store, &holder, &manifest)?;
        guard.finish(store)?;
        Ok(image)
    })
    .await
}

/// Tells what the name means, and which layers are here.
fn tell(inner: &Inner, request: &PullRequest, resolved: &Resolved) {
    let Some(progress) = &request.progress else { return };
    // A receiver that is gone disturbs nothing.
    let told = Progress::Resolved { manifest: resolved.id.manifest.clone(), layers: plans(inner, resolved) };
    let _ = progress.send(told);
}

/// The layers of an image, with those that are here.
pub(super) fn plans(inner: &Inner, resolved: &Resolved) -> Vec<LayerPlan> {
    let diff_ids = &resolved.config.diff_ids;
    let layer = |(at, (diff_id, descriptor)): (usize, (&DiffId, &crate::oci::Descriptor))| LayerPlan {
        diff_id: diff_id.clone(),
        blob: descriptor.digest.clone(),
        size: descriptor.size,
        present: diff_ids.get(..=at).is_some_and(|stack| inner.store.find_layer(stack).is_some()),
    };
    diff_ids.iter().zip(&resolved.manifest.layers).enumerate().map(layer).collect()
}

/// The layers of an image that is here.
pub(super) fn reused_plans(inner: &Inner, image: &Image) -> Result<Vec<LayerPlan>, Error> {
    let (manifest, config) = documents(inner, image)?;
    let layer = |(diff_id, descriptor): (DiffId, crate::oci::Descriptor)| LayerPlan {
        diff_id,
        blob: descriptor.digest,
        size: descriptor.size,
        present: true,
    };
    Ok(config.diff_ids.into_iter().zip(manifest.layers).map(layer).collect())
}

fn told(resolved: Resolved, image: Image, landed: &[Landed]) -> Pulled {
    let (mut fetched_bytes, mut reused_bytes, mut layers) = (0, 0, Vec::with_capacity(landed.len()));
    let parts = resolved.config.diff_ids.into_iter().zip(resolved.manifest.layers).zip(landed);
    for ((diff_id, descriptor), one) in parts {
        let reused = one.fetched == 0;
        fetched_bytes += one.fetched;
        reused_bytes += if reused { descriptor.size } else { 0 };
        layers.push(PulledLayer { key: one.key.clone(), diff_id, size: descriptor.size, reused });
    }
    Pulled { image, asked: true, fetched_bytes, reused_bytes, layers }
}

/// The ref of a pull in progress. A person's goes with the pull; a pod's stays after a failure, so that its next
/// attempt finds what this one fetched.
struct PullRef {
    inner: Arc<Inner>,
    owner: String,
    /// Whether this is the pull that entered the owner as active.
    entered: bool,
    kept: bool,
}

/// What the owner of a pod's pull ref begins with.
const POD: &str = "pod.";

impl PullRef {
    async fn write(inner: &Arc<Inner>, (kind, owner): &Holder, resolved: &Resolved) -> Result<Self, Error> {
        let kept = *kind == RefKind::Pod;
        let owner = if kept {
            format!("{POD}{owner}.{}", resolved.id.manifest.short())
        } else {
            format!("{kind}.{:016x}.{}", rand::random::<u64>(), resolved.id.manifest.short())
        };
        let guard = Self { inner: Arc::clone(inner), entered: inner.enter(&owner), kept, owner: owner.clone() };
        let (stack, manifest) = (resolved.config.diff_ids.clone(), resolved.id.manifest.clone());
        // The guard goes along, so that it ends after the write even if nobody waits for that.
        in_store(inner, &resolved.image, move |store| {
            store.hold_pull(&owner, &manifest, &stack)?;
            Ok(guard)
        })
        .await
    }

    /// The image is held by its holder now. Blocks.
    fn finish(mut self, store: &Store) -> Result<(), store::Error> {
        self.kept = true;
        store.release(RefKind::Pull, &self.owner)
    }
}

impl Drop for PullRef {
    fn drop(&mut self) {
        if self.entered {
            self.inner.leave(&self.owner);
        }
        if !self.kept
            && let Err(error) = self.inner.store.release(RefKind::Pull, &self.owner)
        {
            // Images::release_stale will try again.
            tracing::warn!(owner = %self.owner, error = &error as &dyn std::error::Error, "a pull's ref stays");
        }
    }
}

/// The pod whose pull a ref's owner names.
pub(super) fn pod_of(owner: &str) -> Option<&str> {
    owner.strip_prefix(POD)?.rsplit_once('.').map(|(uid, _)| uid)
}

/// Runs what reads or writes the store where it may block.
async fn in_store<T: Send + 'static>(
    inner: &Inner,
    what: &str,
    work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    let store = inner.store.clone();
    let what = what.to_owned();
    let writing = Arc::clone(&inner.writes).read_owned().await;
    // What came of it is dropped before the lock, where nobody waits for it any more.
    let (done, _writing) = blocking(move || Ok((work(&store), writing))).await?;
    done.map_err(|source| Error::Store { what, source })
}

/// Runs what may block on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Cancelled { image: "work on the disk".to_owned() }),
    }
}

//! `lamina load`: every image of a local archive or directory into the store, each under its names.

use std::path::Path;

use tokio::sync::mpsc::UnboundedSender;

use super::error::Error;
use super::images::Images;
use super::layout::{Item, Layout};
use super::name::{ImageName, LayoutTag};
use super::pull::{self, blocking};
use super::request::{Progress, PullPolicy, PullRequest, Pulled};
use crate::oci::{Platform, Reference};
use crate::store::{RefKind, TagOrigin};

/// One loaded image.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image, held by its first name.
    pub pulled: Pulled,
    /// The names that it has now. Never empty: one without any is named after the file.
    pub references: Vec<Reference>,
}

impl Images {
    /// Loads all images of `path` (an OCI layout or a docker archive, a directory or a tar) for `platform`, this node's
    /// if not said. They are a person's: each stays until `rmi` takes its last name.
    ///
    /// # Errors
    /// If the archive or one of its images cannot be read or stored; images before it stay loaded.
    pub async fn load(
        &self,
        path: &Path,
        platform: Option<Platform>,
        progress: Option<UnboundedSender<Progress>>,
    ) -> Result<Vec<Loaded>, Error> {
        let platform = platform.unwrap_or_else(Platform::host);
        let owned = path.to_owned();
        let items = blocking(move || Layout::open(&owned).map(|layout| layout.items().to_vec())).await?;
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let references = references(path, &item);
            let Some(first) = references.first() else { continue };
            let request = PullRequest {
                image: ImageName::Registry(first.clone()),
                policy: PullPolicy::Always,
                secrets: Vec::new(),
                holder: (RefKind::Tag, first.to_string()),
                by: TagOrigin::Person,
                progress: progress.clone(),
                platform: Some(platform.clone()),
            };
            let owned = path.to_owned();
            let layout = blocking(move || Layout::open(&owned)).await?;
            let tag = LayoutTag::Digest(item.descriptor.digest.clone());
            let resolved = self.0.resolve_layout(layout, &tag, &platform).await?;
            let pulled = pull::fetch(&self.0, &request, resolved).await?;
            for reference in references.get(1..).unwrap_or_default() {
                let (store, reference, id) = (self.0.store.clone(), reference.clone(), pulled.image.id());
                let what = reference.to_string();
                blocking(move || {
                    store.set_tag(&reference, &id, TagOrigin::Person).map_err(|source| Error::Store { what, source })
                })
                .await?;
            }
            all.push(Loaded { pulled, references });
        }
        Ok(all)
    }
}

/// What an image will be called: by the archive's names, else by the archive's own.
fn references(path: &Path, item: &Item) -> Vec<Reference> {
    let layout = |tag: &str| {
        let dir = path.to_owned();
        let tag = if tag.is_empty() { LayoutTag::Only } else { LayoutTag::Tag(tag.to_owned()) };
        ImageName::Layout { dir, tag }.reference()
    };
    let named = |name: &String| {
        // A bare word in an OCI layout is a tag; docker writes full references.
        if name.contains(['/', ':']) { name.parse().ok() } else { layout(name) }
    };
    let mut all: Vec<Reference> = item.names.iter().filter_map(named).collect();
    if all.is_empty() {
        all.extend(layout(item.descriptor.digest.short()));
    }
    all.dedup();
    all
}

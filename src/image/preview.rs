//! What a pull would come to, without pulling: documents are asked for where a pull would ask, and nothing is kept.

use std::sync::Arc;

use super::credentials::DockerConfigSecret;
use super::error::Error;
use super::images::{Images, Inner};
use super::name::ImageName;
use super::pull::{find, open_layout, plans, reused_plans};
use super::request::{LayerPlan, PullPolicy};
use crate::oci::{Digest, Platform};

/// What a pull would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The digest of the manifest for this node.
    pub manifest: Digest,
    /// Its layers, lowest first; what is not present would travel.
    pub layers: Vec<LayerPlan>,
}

impl Images {
    /// What a pull of `image` by `policy` would come to now.
    ///
    /// # Errors
    /// As a pull's, as far as it can be told.
    pub async fn preview(
        &self,
        image: &ImageName,
        policy: PullPolicy,
        secrets: &[DockerConfigSecret],
    ) -> Result<Preview, Error> {
        preview(&self.0, image, policy, secrets).await
    }
}

async fn preview(
    inner: &Arc<Inner>,
    image: &ImageName,
    policy: PullPolicy,
    secrets: &[DockerConfigSecret],
) -> Result<Preview, Error> {
    if policy != PullPolicy::Always
        && let Some(reference) = image.reference()
        && let Some(here) = find(inner, &reference, image)?
    {
        return Ok(Preview { manifest: here.manifest.clone(), layers: reused_plans(inner, &here)? });
    }
    if policy == PullPolicy::Never {
        return Err(Error::NotPresent { image: image.to_string() });
    }
    let platform = Platform::host();
    let resolved = match image {
        ImageName::Registry(reference) => inner.resolve(reference, secrets, &platform).await?,
        ImageName::Layout { dir, tag } => inner.resolve_layout(open_layout(dir).await?, tag, &platform).await?,
    };
    let layers = plans(inner, &resolved);
    Ok(Preview { manifest: resolved.id.manifest, layers })
}

//! Repair: what the store reports as damaged is fetched again, by the names under which its images are known.

use super::{Error, Node};
use crate::image::{ImageName, PullPolicy, PullRequest};
use crate::oci::Reference;
use crate::store::{ImageId, RefKind, TagOrigin};

/// Who holds an image while it is repaired.
const HOLDER: &str = "repair";

impl Node {
    /// Fetches again every layer that is known to be damaged. A layer that no registry gives stays marked: the next
    /// check names it.
    ///
    /// # Errors
    /// If an image is damaged and no fetch of it succeeded; the others were tried.
    pub async fn repair(&self) -> Result<(), Error> {
        let (store, mut result) = (self.store(), Ok(()));
        let damaged: Vec<_> = store.damaged_layers().into_iter().map(|(key, _)| key).collect();
        let concerned = store.images().into_iter().filter(|image| image.layers.iter().any(|key| damaged.contains(key)));
        for image in concerned {
            if let Err(error) = self.fetch_again(&image.id).await {
                tracing::warn!(image = %image.id, error = &error as &dyn std::error::Error, "an image stays damaged");
                result = Err(error);
            }
        }
        result
    }

    /// Fetches what is missing or damaged of an image, by digest: a tag may mean another one by now.
    async fn fetch_again(&self, id: &ImageId) -> Result<(), Error> {
        let names = self.store().tags().into_iter().filter(|tag| tag.image == *id).map(|tag| tag.reference);
        // `localhost/` names what came from a directory or an archive: no registry is behind it.
        let names = names.filter(|name| name.registry() != "localhost");
        let mut names: Vec<Reference> = names.map(|name| name.with_digest(id.top.clone())).collect();
        names.dedup();
        let action = || format!("fetch image {id} again");
        let mut result =
            Err(Error::failed(action())("it came from a directory or an archive: pull or load it again by that name"));
        for name in names {
            let holder = (RefKind::Pull, format!("{HOLDER}-{}", id.top.short()));
            let request = PullRequest {
                policy: PullPolicy::Always,
                ..PullRequest::new(ImageName::Registry(name), holder.clone(), TagOrigin::Resolved)
            };
            let pulled = self.images().pull(request).await;
            let released = self.store().release(holder.0, &holder.1);
            result = pulled.map(drop).map_err(Error::failed(action()));
            released.map_err(Error::failed("let go of what was repaired"))?;
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

//! Fetch, Tidy, Release: a container's image, and the refs that hold it.
//!
//! A ref's owner is `<uid>.<container>.<generation>`: what runs and what is to take its place are held side by side.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::look::KEPT_LAYER;
use super::record::blocking;
use super::{Machine, Real, disk, look};
use crate::api::PodUid;
use crate::api::problem::chain;
use crate::image::{self, DockerConfigSecret, ImageName, PullPolicy, PullRequest};
use crate::pod::desired::{Config, Desired};
use crate::pod::engine::{Push, StepError};
use crate::pod::plan::{self, KEPT_ATTEMPTS};
use crate::pod::state::{Image, Observed, Record, Retry};
use crate::store::{RefKind, Store, TagOrigin};

/// What the name of a volume has before it in a ref's owner, where others have the name of a container.
pub(super) const VOLUME: &str = "volume_";

fn owner(uid: &PodUid, container: &str, generation: u32) -> String {
    format!("{uid}.{container}.{generation}")
}

/// The containers and generations for which a pod holds images.
pub(super) fn held(store: &Store, uid: &PodUid) -> Vec<(String, u32)> {
    let ours = store.refs().into_iter().filter(|r| r.kind == RefKind::Pod);
    ours.filter_map(|r| part_of(&r.owner, uid)).collect()
}

/// The container and the generation in a ref's owner, if it is this pod's.
fn part_of(owner: &str, uid: &PodUid) -> Option<(String, u32)> {
    let (container, generation) = owner.strip_prefix(uid.as_str())?.strip_prefix('.')?.rsplit_once('.')?;
    Some((container.to_owned(), generation.parse().ok()?))
}

/// Containers for which a pull was begun that nobody will finish: of an older generation, or of one whose image is
/// here. An agent that died in the middle leaves such.
pub(super) fn forsaken(machine: &Machine, record: &Record) -> Vec<String> {
    let held = held(&machine.store, &record.uid);
    let parts = machine.images.unfinished().into_iter().filter_map(|owner| part_of(&owner, &record.uid));
    parts.filter(|part| is_forsaken(part, record, &held)).map(|(container, _)| container).collect()
}

fn is_forsaken(part: &(String, u32), record: &Record, held: &[(String, u32)]) -> bool {
    if part.0.starts_with(VOLUME) {
        // Its pull ends with the pod at the latest.
        return false;
    }
    record.containers.get(&part.0).is_none_or(|g| g.spec != part.1) || held.contains(part)
}

/// The image that a volume of a pod was fetched as.
pub(super) fn volume_image(store: &Store, uid: &PodUid, volume: &str) -> Option<crate::store::Image> {
    let owner = owner(uid, &format!("{VOLUME}{volume}"), 0);
    let held = store.refs().into_iter().find(|r| r.kind == RefKind::Pod && r.owner == owner)?;
    held.held.manifests.iter().find_map(|digest| store.image(digest).ok().flatten())
}

/// The pod's uid in a ref's owner, for those who explain refs.
pub fn uid_of_owner(owner: &str) -> Option<PodUid> {
    owner.split('.').next()?.parse().ok()
}

impl Real {
    pub(super) fn fetch(
        &mut self,
        record: &Record,
        desired: &Desired,
        container: &str,
        (generation, attempt): (u32, u32),
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let Some(spec) = plan::find(&record.pod, container) else { return Ok(()) };
        let text = spec.image.clone().unwrap_or_default();
        let name: ImageName = text.parse().map_err(|e: image::NameError| StepError {
            retry: Retry::Never,
            reason: "InvalidImageName",
            message: chain(&e),
        })?;
        let policy = pull_policy(spec.image_pull_policy.as_deref(), &name);
        let holder = (RefKind::Pod, owner(&record.uid, container, generation));
        let request = PullRequest {
            policy,
            secrets: secrets(&desired.pod, &desired.config),
            ..PullRequest::new(name, holder, TagOrigin::Resolved)
        };
        let (images, told) = (self.machine.images.clone(), self.fetched.0.clone());
        let (container, digests) = (container.to_owned(), self.digests.clone());
        let failing = seen.containers.get(&container).is_some_and(|c| c.failure.is_some());
        seen.containers.entry(container.clone()).or_default().image = Image::Fetching;
        self.fetches.spawn(async move {
            let result = match images.pull(request).await {
                Ok(pulled) => {
                    super::locked(&digests).insert(container.clone(), (generation, pulled.image.manifest.clone()));
                    Ok(())
                }
                Err(error) => Err(refused(&text, &error, failing)),
            };
            // The engine is gone only if the agent ends.
            let _ = told.send(Box::new(Push::Fetched { container, generation, attempt, result }));
        });
        Ok(())
    }

    /// Fetches the image of a volume.
    pub(super) fn fetch_volume(
        &mut self,
        record: &Record,
        desired: &Desired,
        volume: &str,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let volumes = record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let Some(source) = volumes.filter(|v| v.name == volume).find_map(|v| v.image.as_ref()) else { return Ok(()) };
        let text = source.reference.clone().unwrap_or_default();
        let name: ImageName = text.parse().map_err(|e: image::NameError| StepError {
            retry: Retry::Never,
            reason: "InvalidImageName",
            message: format!("volume {volume}: {}", chain(&e)),
        })?;
        let policy = pull_policy(source.pull_policy.as_deref(), &name);
        let owner = owner(&record.uid, &format!("{VOLUME}{volume}"), 0);
        let request = PullRequest {
            policy,
            secrets: secrets(&desired.pod, &desired.config),
            ..PullRequest::new(name, (RefKind::Pod, owner.clone()), TagOrigin::Resolved)
        };
        let (images, store, told) = (self.machine.images.clone(), self.machine.store.clone(), self.fetched.0.clone());
        let failing = seen.failure.is_some();
        let volume = volume.to_owned();
        seen.volumes.insert(volume.clone(), Image::Fetching);
        self.fetches.spawn(async move {
            let result = match images.pull(request).await {
                // What a tag meant before is of no use any more.
                Ok(pulled) => {
                    let digest = pulled.image.manifest;
                    let hold = move || store.hold_only(RefKind::Pod, &owner, &[digest]).map_err(StoreError);
                    blocking(hold).await
                }
                Err(error) => {
                    let error = refused(&text, &error, failing);
                    Err(StepError { message: format!("volume {volume}: {}", error.message), ..error })
                }
            };
            // The engine is gone only if the agent ends.
            let _ = told.send(Box::new(Push::VolumeFetched { volume, result }));
        });
        Ok(())
    }

    /// Removes attempts that are too old, lets go of images of older generations, and has the shim close the layers
    /// that nothing uses any more, so that their space is free at once.
    pub(super) async fn tidy(
        &mut self,
        record: &Record,
        container: &str,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let current = record.containers.get(container).map_or(0, |g| g.spec);
        let gone = plan::find(&record.pod, container).is_none();
        let attempt = seen.containers.get(container).and_then(|c| c.attempt.clone());
        if let Some(newest) = &attempt {
            self.forget_before(container, newest.number + u32::from(newest.exit.is_some())).await;
        }
        let dir = self.dir(&record.uid);
        let (store, uid, name) = (self.machine.store.clone(), record.uid.clone(), container.to_owned());
        let keep = attempt.as_ref().map_or(0, |a| a.number.saturating_sub(KEPT_ATTEMPTS));
        let (images, whole) = (self.machine.images.clone(), record.clone());
        blocking(move || {
            for (_, numbers) in disk::attempts(&dir)?.into_iter().filter(|(n, _)| *n == name) {
                for number in numbers.into_iter().filter(|n| *n < keep) {
                    disk::remove_tree(&disk::attempt_dir(&dir, &name, number))?;
                }
            }
            for (_, generation) in held(&store, &uid).into_iter().filter(|(c, _)| *c == name) {
                if generation != current || gone {
                    store.release(RefKind::Pod, &owner(&uid, &name, generation)).map_err(StoreError)?;
                }
            }
            let kept = held(&store, &uid);
            let goes_on = |owner: &str| part_of(owner, &uid).is_none_or(|part| !is_forsaken(&part, &whole, &kept));
            images.release_stale(goes_on).map_err(|error| StepError::backoff("Failed", &error))?;
            Ok::<_, StepError>(())
        })
        .await?;
        if let Some(c) = seen.containers.get_mut(container) {
            c.older = c.older.min(KEPT_ATTEMPTS);
            c.stale_refs = false;
        }
        self.drop_unused_layers(record, seen).await;
        Ok(())
    }

    /// Has the shim close the layers that no current attempt is made of.
    async fn drop_unused_layers(&mut self, record: &Record, seen: &Observed) {
        let of_volumes = self.volume_layers(record);
        let attempts = seen.containers.values().filter_map(|c| c.attempt.as_ref()).filter(|a| a.exit.is_none());
        let used: BTreeSet<&String> = attempts.flat_map(|a| a.layers.iter()).chain(&of_volumes).collect();
        let unused: Vec<String> = self.layers.keys().filter(|key| !used.contains(key)).cloned().collect();
        if unused.is_empty() {
            return;
        }
        if let Ok(client) = self.client() {
            let names = unused.iter().map(|key| format!("{KEPT_LAYER}{key}")).collect();
            if let Err(error) = super::answered(&self.key, client.drop_kept(names)).await {
                tracing::warn!(pod = %self.key, error = %chain(&error), "the shim keeps layers that it should not");
            }
        }
        for key in unused {
            self.layers.remove(&key);
        }
    }

    /// The layers of the images of the pod's volumes.
    fn volume_layers(&self, record: &Record) -> Vec<String> {
        let volumes = record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let images = volumes.filter(|v| v.image.is_some());
        let images = images.filter_map(|v| volume_image(&self.machine.store, &record.uid, &v.name));
        images.flat_map(|image| image.layers.iter().map(ToString::to_string).collect::<Vec<_>>()).collect()
    }

    /// Has the shim forget attempts of a container before number `end`.
    pub(super) async fn forget_before(&mut self, container: &str, end: u32) {
        let old: Vec<_> = self.known.iter().filter(|(c, n)| c == container && *n < end).cloned().collect();
        for (name, number) in old {
            if let Ok(client) = self.client()
                && let Err(error) = super::answered(&self.key, client.delete(look::target(&name, number))).await
            {
                tracing::debug!(pod = %self.key, error = %chain(&error), "an old attempt is forgotten already");
            }
            self.known.remove(&(name, number));
        }
    }

    pub(super) async fn release(&mut self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        self.fetches.abort_all();
        while self.fetches.join_next().await.is_some() {}
        // A write that was under way goes on without its pull, and may be of a ref.
        self.machine.images.settled().await;
        let (store, uid) = (self.machine.store.clone(), record.uid.clone());
        blocking(move || {
            for (container, generation) in held(&store, &uid) {
                store.release(RefKind::Pod, &owner(&uid, &container, generation)).map_err(StoreError)?;
            }
            Ok::<_, StepError>(())
        })
        .await?;
        super::locked(&self.digests).clear();
        seen.holds = false;
        Ok(())
    }
}

/// A store's error on its way to the plan.
pub(super) struct StoreError(pub(super) crate::store::Error);

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::backoff("Failed", &error.0)
    }
}

/// When the registry of a container's image is asked.
pub fn pull_policy(policy: Option<&str>, name: &ImageName) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => PullPolicy::default_for(name),
    }
}

/// A pod's `imagePullSecrets`, as far as they are there and can be used.
pub fn secrets(pod: &Pod, config: &Config) -> Vec<DockerConfigSecret> {
    let named = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    named
        .filter_map(|reference| {
            let secret = config.secrets.get(&reference.name)?;
            let data = secret.data.as_ref()?;
            let parsed = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
                (Some(json), _) => DockerConfigSecret::from_config_json(&reference.name, &json.0),
                (None, Some(json)) => DockerConfigSecret::from_dockercfg(&reference.name, &json.0),
                (None, None) => return None,
            };
            // As a kubelet has it: what cannot be used is told of, and the pull is tried without.
            parsed.inspect_err(|error| tracing::warn!(error = %chain(error), "an image pull secret is not used")).ok()
        })
        .collect()
}

fn refused(image: &str, error: &image::Error, again: bool) -> StepError {
    let retry = match (error.class(), error.retry_after()) {
        (image::Retry::Never, _) => Retry::Never,
        (_, Some(least)) => Retry::NotBefore(least),
        // What has to change may change in the registry, of which nobody tells us.
        (image::Retry::Backoff | image::Retry::OnChange, None) => Retry::Backoff,
    };
    let reason = if again { "ImagePullBackOff" } else { "ErrImagePull" };
    StepError { retry, reason, message: format!("cannot pull {image}: {}", chain(error)) }
}

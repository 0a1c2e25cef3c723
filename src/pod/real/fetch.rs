//! Fetch, Tidy, Release: a container's image, and the refs that hold it.
//!
//! A ref's owner is `<uid>.<container>.<generation>`: what runs and what is to take its place are held side by side.

use std::collections::BTreeSet;

use super::look::KEPT_LAYER;
use super::record::blocking;
use super::{Machine, Real, disk, look};
use crate::api::PodUid;
use crate::image::{self, DockerConfigSecret, ImageName, PullPolicy, PullRequest};
use crate::pod::desired::Desired;
use crate::pod::engine::{Push, StepError, chain};
use crate::pod::plan::{self, KEPT_ATTEMPTS};
use crate::pod::state::{Image, Observed, Record, Retry};
use crate::store::{RefKind, Store, TagOrigin};

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
    record.containers.get(&part.0).is_none_or(|g| g.spec != part.1) || held.contains(part)
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
        let Some(spec) = plan::containers(&record.pod).iter().find(|c| c.name == container) else { return Ok(()) };
        let text = spec.image.clone().unwrap_or_default();
        let name: ImageName = text.parse().map_err(|e: image::NameError| StepError {
            retry: Retry::Never,
            reason: "InvalidImageName",
            message: chain(&e),
        })?;
        let policy = match spec.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            _ => PullPolicy::default_for(&name),
        };
        let holder = (RefKind::Pod, owner(&record.uid, container, generation));
        let request =
            PullRequest { policy, secrets: secrets(desired), ..PullRequest::new(name, holder, TagOrigin::Resolved) };
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
            let _ = told.send(Push::Fetched { container, generation, attempt, result });
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
        let gone = !plan::containers(&record.pod).iter().any(|c| c.name == container);
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
        self.drop_unused_layers(seen).await;
        self.machine.released.notify_one();
        Ok(())
    }

    /// Has the shim close the layers that no current attempt is made of.
    async fn drop_unused_layers(&mut self, seen: &Observed) {
        let attempts = seen.containers.values().filter_map(|c| c.attempt.as_ref()).filter(|a| a.exit.is_none());
        let used: BTreeSet<&String> = attempts.flat_map(|a| a.layers.iter()).collect();
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
        let (store, uid) = (self.machine.store.clone(), record.uid.clone());
        let released = blocking(move || {
            let held = held(&store, &uid);
            for (container, generation) in &held {
                store.release(RefKind::Pod, &owner(&uid, container, *generation)).map_err(StoreError)?;
            }
            Ok::<_, StepError>(!held.is_empty())
        })
        .await?;
        super::locked(&self.digests).clear();
        seen.holds = false;
        if released {
            self.machine.released.notify_one();
        }
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

fn secrets(desired: &Desired) -> Vec<DockerConfigSecret> {
    let named = desired.pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    named
        .filter_map(|reference| {
            let secret = desired.config.secrets.get(&reference.name)?;
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
    let retry = match error.class() {
        image::Retry::Never => Retry::Never,
        // What has to change may change in the registry, of which nobody tells us.
        image::Retry::Backoff | image::Retry::OnChange => Retry::Backoff,
    };
    let reason = if again { "ImagePullBackOff" } else { "ErrImagePull" };
    StepError { retry, reason, message: format!("cannot pull {image}: {}", chain(error)) }
}

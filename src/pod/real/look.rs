//! The full look: what the disk, the shim and the store say of a pod.

use super::record::blocking;
use super::{Real, disk, fetch};
use crate::oci::Digest;
use crate::pod::engine::StepError;
use crate::pod::state::{Attempt, Observation, Observed, Record, Sandbox};
use crate::runtime::client::Client;
use crate::runtime::protocol::{ContainerStatus, PodStatus, Target};

/// The names under which the shim keeps things.
pub(super) const KEPT_LAYER: &str = "layer/";
pub(super) const KEPT_VOLUME: &str = "volume/";
/// Where a pod's volumes on disk lie, below its directory.
pub(super) const VOLUMES: &str = "volumes";

impl Real {
    pub(super) async fn full_look(&mut self) -> Result<Observed, StepError> {
        let Some(uid) = self.uid.clone() else { return Ok(Observed::default()) };
        let (dir, live) = (self.machine.dir(&uid), self.machine.live_dir(&uid));
        let record = {
            let dir = dir.clone();
            blocking(move || disk::read_record(&dir)).await?
        };
        let Some(record) = record else { return Ok(Observed::default()) };
        let status = self.reach(&record).await;
        let (mut sandbox, status) = match status {
            // Whoever made it may have been cut off before its volumes were there; making them again is harmless as
            // long as nothing runs on them.
            Some(status) if status.containers.is_empty() => (Sandbox::Begun, status),
            Some(status) => (Sandbox::Up, status),
            None if live.exists() => (Sandbox::Lost, PodStatus::default()),
            None => (Sandbox::Down, PodStatus::default()),
        };
        if sandbox == Sandbox::Lost || !status.containers.is_empty() {
            self.adopt_claims(&record);
        }
        let mut seen = Observed { record: Some(record.clone()), ..Observed::default() };
        let listed = {
            let dir = dir.clone();
            blocking(move || disk::attempts(&dir)).await?
        };
        let mut unended = false;
        for (name, numbers) in listed {
            let known = |n: u32| status.containers.iter().find(|s| s.name == name && s.attempt == n);
            let mut found = Vec::new();
            for number in numbers {
                let path = disk::attempt_dir(&dir, &name, number);
                let attempt = disk::read_attempt(&path);
                match attempt.map(|a| join(&path, a, known(number))) {
                    Some(attempt) if attempt.exit.is_some() || known(number).is_some() => found.push(attempt),
                    Some(attempt) if matches!(sandbox, Sandbox::Down | Sandbox::Lost) => {
                        unended = true;
                        found.push(attempt);
                    }
                    // Its start did not get as far as the shim: as if it had not been.
                    _ => blocking(move || disk::remove_tree(&path)).await?,
                }
            }
            let older = u32::try_from(found.len().saturating_sub(1)).unwrap_or(u32::MAX);
            let attempt = found.pop();
            let observation = Observation { attempt, previous: found.pop(), older, ..Observation::default() };
            seen.containers.insert(name, Box::new(observation));
        }
        if sandbox == Sandbox::Down && unended {
            // The machine went down under them.
            sandbox = Sandbox::Lost;
        }
        if sandbox == Sandbox::Up && status.containers.is_empty() {
            // An agent that ended between the shim and its network left nothing that a container could run in.
            let (machine, record) = (std::sync::Arc::clone(&self.machine), record.clone());
            let attached = move || Ok::<_, StepError>(machine.network.is_attached(&record.pod, &record.uid));
            if !blocking(attached).await? {
                sandbox = Sandbox::Lost;
            }
        }
        seen.sandbox = sandbox;
        seen.bare = sandbox == Sandbox::Up && self.lacks_volumes(&record);
        seen.started = Some(disk::since(record.created));
        if sandbox == Sandbox::Down {
            seen.down();
        } else {
            let last = seen.containers.values().filter_map(|c| c.attempt.as_ref()).map(|a| a.epoch).max();
            seen.epoch = disk::read_epoch(&live).or(last).unwrap_or_default();
        }
        for (container, generation) in fetch::held(&self.machine.store, &record.uid) {
            seen.holds = true;
            if container.starts_with(fetch::VOLUME) {
                continue;
            }
            if record.containers.get(&container).is_none_or(|g| g.spec != generation) {
                seen.containers.entry(container).or_default().stale_refs = true;
            }
        }
        for container in fetch::forsaken(&self.machine, &record) {
            seen.containers.entry(container).or_default().stale_refs = true;
        }
        Ok(seen)
    }

    /// What runs in the pod may have its claims mounted, whoever started it.
    fn adopt_claims(&self, record: &Record) {
        let claims = &self.machine.claims;
        for name in crate::api::claim::named(&record.pod) {
            let key = crate::volume::claim::key(&self.key.namespace, name);
            if !claims.has(&key, &record.uid) {
                claims.adopt(&key, (&record.uid, &self.key.name));
            }
        }
    }

    /// Whether a volume that the pod's shim keeps, or that lies in its directory, is not there.
    fn lacks_volumes(&self, record: &Record) -> bool {
        let directory = self.dir(&record.uid).join(VOLUMES);
        record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|volume| {
            if let Some(claim) = &volume.persistent_volume_claim {
                let key = crate::volume::claim::key(&self.key.namespace, &claim.claim_name);
                !self.machine.claims.has(&key, &record.uid)
            } else if volume.image.is_some() {
                fetch::volume_image(&self.machine.store, &record.uid, &volume.name).is_none()
            } else if crate::volume::is_kept(volume) {
                !self.mounts.contains_key(&volume.name)
            } else {
                volume.empty_dir.is_some() && !directory.join(&volume.name).exists()
            }
        })
    }

    /// Connects to the pod's shim if it is not connected, takes over what it keeps, and asks what it knows.
    async fn reach(&mut self, record: &Record) -> Option<PodStatus> {
        let live = self.machine.live_dir(&record.uid);
        if self.shim.is_none() {
            if !live.exists() {
                return None;
            }
            match Client::connect(&live, record.uid.as_str(), &self.machine.boot).await {
                Ok((client, events)) => self.connected(&record.uid, client, events),
                Err(error) => {
                    tracing::warn!(pod = %self.key, error = %crate::api::problem::chain(&error), "the shim cannot be reached");
                    return None;
                }
            }
        }
        let client = self.client().ok()?.clone();
        match super::answered(&self.key, client.status()).await {
            Ok(status) => {
                if let Err(error) = self.adopt(&client, &status).await {
                    tracing::warn!(pod = %self.key, error = %error, "cannot take over what the shim keeps");
                }
                self.known = status.containers.iter().map(|c| (c.name.clone(), c.attempt)).collect();
                Some(status)
            }
            Err(error) => {
                tracing::warn!(pod = %self.key, error = %crate::api::problem::chain(&error), "the shim does not say what it knows");
                self.disconnected();
                None
            }
        }
    }

    /// Takes over the mounts that the shim kept while there was no agent.
    async fn adopt(&mut self, client: &Client, status: &PodStatus) -> Result<(), String> {
        let missing: Vec<String> = status
            .kept
            .iter()
            .filter(|name| {
                let layer = name.strip_prefix(KEPT_LAYER).is_some_and(|key| !self.layers.contains_key(key));
                let volume = name.strip_prefix(KEPT_VOLUME).is_some_and(|volume| !self.mounts.contains_key(volume));
                layer || volume
            })
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let fds = client.give(&missing).await.map_err(|e| crate::api::problem::chain(&e))?;
        for (name, fd) in missing.iter().zip(fds) {
            if let Some(key) = name.strip_prefix(KEPT_LAYER) {
                let parsed = key.parse().map_err(|_| format!("{key} is not a layer's key"))?;
                let layer = self.machine.layers.adopt(&parsed, fd).map_err(|e| crate::api::problem::chain(&e))?;
                self.layers.insert(key.to_owned(), layer);
            } else if let Some(volume) = name.strip_prefix(KEPT_VOLUME) {
                let mount = crate::sys::mount::Mount::from_fd(fd);
                self.mounts.insert(volume.to_owned(), std::sync::Arc::new(mount));
            }
        }
        Ok(())
    }

    /// The image that a generation of a container was fetched as.
    pub(super) fn image_of(&self, container: &str, generation: u32) -> Option<Digest> {
        let digests = super::locked(&self.digests);
        digests.get(container).filter(|(g, _)| *g == generation).map(|(_, digest)| digest.clone())
    }
}

/// What the disk says of an attempt, and what the shim says of it.
fn join(dir: &std::path::Path, mut attempt: Attempt, status: Option<&ContainerStatus>) -> Attempt {
    if let Some(status) = status {
        if attempt.exit.is_none() {
            attempt.exit = status.exit.as_ref().map(|exit| disk::ended(dir, &attempt, exit));
        }
        attempt.pid = attempt.exit.is_none().then_some(status.pid);
    }
    attempt
}

/// The shim's name for an attempt.
pub(super) fn target(container: &str, attempt: u32) -> Target {
    Target::container(container, attempt)
}

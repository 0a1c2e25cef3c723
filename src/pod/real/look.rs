//! The full look: what the disk, the shim and the store say of a pod.

use super::record::blocking;
use super::{Real, disk, fetch};
use crate::oci::Digest;
use crate::pod::engine::StepError;
use crate::pod::state::{Observation, Observed, Record, Sandbox};
use crate::runtime::client::Client;
use crate::runtime::protocol::{ContainerStatus, PodStatus, Target};

/// The names under which the shim keeps things.
pub(super) const KEPT_LAYER: &str = "layer/";
pub(super) const KEPT_VOLUME: &str = "volume/";

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
            Some(status) => (Sandbox::Up, status),
            None if live.exists() => (Sandbox::Lost, PodStatus::default()),
            None => (Sandbox::Down, PodStatus::default()),
        };
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
                match attempt.map(|a| join(a, known(number))) {
                    Some(attempt) if attempt.exit.is_some() || known(number).is_some() => found.push(attempt),
                    Some(attempt) if sandbox != Sandbox::Up => {
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
            seen.containers.insert(name, observation);
        }
        if sandbox == Sandbox::Down && unended {
            // The machine went down under them.
            sandbox = Sandbox::Lost;
        }
        seen.sandbox = sandbox;
        seen.started = seen.containers.values().filter_map(|c| c.attempt.as_ref()).map(|a| a.started).min();
        for (container, generation) in fetch::held(&self.machine.store, &record.uid) {
            seen.holds = true;
            if record.containers.get(&container).is_none_or(|g| g.spec != generation) {
                seen.containers.entry(container).or_default().stale_refs = true;
            }
        }
        for container in fetch::forsaken(&self.machine, &record) {
            seen.containers.entry(container).or_default().stale_refs = true;
        }
        Ok(seen)
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
                    tracing::warn!(pod = %self.key, error = %crate::pod::engine::chain(&error), "the shim cannot be reached");
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
                tracing::warn!(pod = %self.key, error = %crate::pod::engine::chain(&error), "the shim does not say what it knows");
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
        let fds = client.give(&missing).await.map_err(|e| crate::pod::engine::chain(&e))?;
        for (name, fd) in missing.iter().zip(fds) {
            if let Some(key) = name.strip_prefix(KEPT_LAYER) {
                let parsed = key.parse().map_err(|_| format!("{key} is not a layer's key"))?;
                let layer = self.machine.layers.adopt(&parsed, fd).map_err(|e| crate::pod::engine::chain(&e))?;
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
fn join(mut attempt: crate::pod::state::Attempt, status: Option<&ContainerStatus>) -> crate::pod::state::Attempt {
    if let Some(status) = status {
        if attempt.exit.is_none() {
            attempt.exit = status.exit.as_ref().map(|exit| disk::ended(&attempt, exit));
        }
        attempt.pid = attempt.exit.is_none().then_some(status.pid);
    }
    attempt
}

/// The shim's name for an attempt.
pub(super) fn target(container: &str, attempt: u32) -> Target {
    Target::container(container, attempt)
}

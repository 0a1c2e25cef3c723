//! Start, Stop, Kill, Resize: one attempt of one container.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;

use super::look::{KEPT_LAYER, KEPT_VOLUME, VOLUMES, target};
use super::record::blocking;
use super::{Real, binds, disk, envfile, fetch, message, spec};
use crate::api::Reason;
use crate::api::problem::chain;
use crate::api::view::has_own_users;
use crate::pod::backoff;
use crate::pod::desired::Desired;
use crate::pod::engine::StepError;
use crate::pod::metrics::Phase;
use crate::pod::plan::{self, Why};
use crate::pod::state::{Attempt, AttemptFailure, Health, Image, Observed, Record, Retry, Stop};
use crate::rootfs::{Layer, Writable};
use crate::runtime::protocol::{Attach, FailureKind, Rootfs, StartRequest};
use crate::runtime::spec::{VolumeBind, VolumeSource, wants_default_app_armor};
use crate::runtime::{apparmor, client, selinux};
use crate::store;
use crate::sys::atomic;

/// The signal by which a container is asked to end, unless its image names another.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

impl Real {
    pub(super) async fn start(
        &mut self,
        record: &Record,
        desired: &Desired,
        name: &str,
        (number, level): (u32, u32),
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let begin = Instant::now();
        let Some(container) = plan::find(&record.pod, name) else { return Ok(()) };
        let generations = record.containers.get(name).copied().unwrap_or_default();
        self.forget_before(name, number).await;
        let image = self.image(name, generations.spec, seen)?;
        if let Err(error) = self.keep_layers(&image).await {
            // A layer that is gone or damaged is fetched again before the next try.
            seen.containers.entry(name.to_owned()).or_default().image = Image::Unknown;
            return Err(error);
        }
        self.keep_shared_memory(record).await?;
        let attempt = Attempt {
            number,
            generations,
            level,
            epoch: seen.epoch,
            health: Health::default(),
            started: backoff::now(),
            started_at: jiff::Timestamp::now(),
            image_name: container.image.clone().unwrap_or_default(),
            image: image.manifest.to_string(),
            layers: image.layers.iter().map(ToString::to_string).collect(),
            failure: None,
            log: message::falls_back(container).then(|| self.logs(record, name)),
            pid: None,
            exit: None,
        };
        let default_app_armor = if wants_default_app_armor(&record.pod, container) {
            let load = || blocking(apparmor::load);
            Some(*self.machine.app_armor.get_or_try_init(load).await?)
        } else {
            None
        };
        let selinux = self.machine.policy.labels(&record.pod, container, &record.uid);
        if let Some(labels) = selinux.clone() {
            blocking(move || selinux::check(&labels)).await?;
        }
        let built = spec::build(&spec::Input {
            record,
            desired,
            container,
            image: &image,
            node: &self.machine.node,
            domain: self.machine.network.domain(),
            addresses: self.machine.addresses(&record.pod, &record.uid),
            services: self.machine.network.variables(&record.pod, &record.uid),
            capacity: self.machine.capacity,
            policy: &self.machine.policy,
            default_app_armor,
            selinux: selinux.as_ref(),
            files: &self.env_files(record, container).await?,
        })?;
        let stacks = self.stacks(record, container).await?;
        let around = binds::Around { dir: &self.dir(&record.uid), claims: &self.machine.claims, stacks: &stacks };
        let volumes = binds::of(&record.pod, container, &built.env, around)?;
        let spec_file = self.machine.spec_file(&record.uid, name, number);
        let spec_text =
            serde_json::to_vec(&built.container).map_err(|e| StepError::backoff("CreateContainerError", &e))?;
        let dir = disk::attempt_dir(&self.dir(&record.uid), name, number);
        let writable = {
            let (dir, attempt, is_counted) = (dir.clone(), attempt.clone(), has_own_users(&record.pod));
            blocking(move || {
                // For `exec`, which outlasts this agent; gone with the machine's boot like the container itself.
                atomic::write_volatile(&spec_file, &spec_text, 0o600)?;
                make_attempt(&dir, &attempt, is_counted)
            })
            .await?
        };
        let volumes: Vec<_> = volumes.into_iter().chain(built.binds).chain(message::bind(container, &dir)).collect();
        if let Some(labels) = selinux {
            self.label(&volumes, labels.file).await?;
        }
        let request = StartRequest {
            name: name.to_owned(),
            attempt: number,
            state: dir.clone(),
            container: built.container,
            limits: built.limits,
            root: Rootfs {
                layers: image.layers.iter().rev().map(|key| format!("{KEPT_LAYER}{key}")).collect(),
                upper: writable.upper,
                work: writable.work,
                tier: self.machine.layers.tier(),
            },
            volumes,
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            size: None,
            attach: Attach::default(),
        };
        let started = self.launch(request).await;
        self.took(name, &image, seen);
        let c = seen.containers.entry(name.to_owned()).or_default();
        c.older += u32::from(c.attempt.is_some());
        c.stop = None;
        c.previous = c.attempt.take();
        let mut attempt = attempt;
        match started {
            Ok(pid) => {
                attempt.pid = Some(pid);
                self.known.insert((name.to_owned(), number));
                c.attempt = Some(attempt);
                self.machine.metrics.phase(Phase::Create, begin.elapsed());
                Ok(())
            }
            // A shim that is ending (an earlier agent told it to) says nothing about the container.
            Err(client::Error::Refused(failure)) if failure.kind != FailureKind::NotRunning => {
                // The container itself is at fault, as far as anyone can tell: an ended attempt, restarted by policy.
                let code = match failure.kind {
                    FailureKind::CommandNotFound => 127,
                    FailureKind::CommandNotExecutable => 126,
                    _ => 128,
                };
                let reason = failure.reason.unwrap_or_else(|| "StartError".to_owned());
                let said = AttemptFailure { reason, message: failure.message };
                let ended = blocking(move || disk::write_end(&dir, &mut attempt, code, said).map(|()| attempt)).await?;
                c.attempt = Some(ended);
                Ok(())
            }
            Err(error) => {
                blocking(move || disk::remove_tree(&dir)).await?;
                Err(StepError::backoff("CreateContainerError", &error))
            }
        }
    }

    /// Gives what is mounted into a container its label, but for what is the host's or lies in images.
    async fn label(&self, volumes: &[VolumeBind], label: String) -> Result<(), StepError> {
        let kept = |name: &str| self.mounts.get(name.strip_prefix(KEPT_VOLUME)?).cloned();
        let (mut paths, mut mounts) = (Vec::new(), Vec::new());
        for volume in volumes {
            let target = volume.target.clone();
            match &volume.source {
                VolumeSource::Dir { path } => paths.push((target, PathBuf::from(path))),
                VolumeSource::Kept { name } => mounts.extend(kept(name).map(|mount| (target, mount))),
                VolumeSource::Layers { .. } | VolumeSource::HostPath { .. } => {}
            }
        }
        blocking(move || {
            paths.iter().try_for_each(|(target, path)| selinux::give(target, path, &label))?;
            mounts.iter().try_for_each(|(target, mount)| selinux::give(target, &mount.proc_path(), &label))
        })
        .await
    }

    /// Has the shim keep the layers of the images that a container has as volumes; their names there, top layer first,
    /// by volume.
    async fn stacks(
        &mut self,
        record: &Record,
        container: &Container,
    ) -> Result<BTreeMap<String, Vec<String>>, StepError> {
        let mut stacks = BTreeMap::new();
        let volumes = record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        for volume in volumes.filter(|v| v.image.is_some()) {
            if !container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
                continue;
            }
            let image = fetch::volume_image(&self.machine.store, &record.uid, &volume.name).ok_or_else(|| {
                let message = format!("the image of volume {} is not in the store any more", volume.name);
                StepError { retry: Retry::Backoff, reason: "ErrImageNotInStore", message }
            })?;
            self.keep_layers(&image).await?;
            let names = image.layers.iter().rev().map(|key| format!("{KEPT_LAYER}{key}"));
            stacks.insert(volume.name.clone(), names.collect());
        }
        Ok(stacks)
    }

    /// What a container's environment refers to in files of the pod's volumes.
    async fn env_files(&self, record: &Record, container: &Container) -> Result<spec::EnvFiles, StepError> {
        let from = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.file_key_ref.as_ref());
        let wanted: BTreeSet<(String, String)> = from.map(|key| (key.volume_name.clone(), key.path.clone())).collect();
        if wanted.is_empty() {
            return Ok(spec::EnvFiles::new());
        }
        let (mounts, volumes) = (self.mounts.clone(), self.dir(&record.uid).join(VOLUMES));
        blocking(move || {
            let read = |(volume, path): (String, String)| {
                let root = mounts.get(&volume).map_or_else(|| volumes.join(&volume), |mount| mount.proc_path());
                let text = envfile::read(&root, Path::new(&path));
                ((volume, path), text.map_err(|e| e.to_string()))
            };
            Ok::<_, StepError>(wanted.into_iter().map(read).collect())
        })
        .await
    }

    /// The image that was fetched for a container, from the store.
    fn image(&self, name: &str, generation: u32, seen: &mut Observed) -> Result<store::Image, StepError> {
        let found = self.image_of(name, generation).map(|digest| self.machine.store.image(&digest));
        match found {
            Some(Ok(Some(image))) => Ok(image),
            Some(Err(error)) => Err(StepError::backoff("CreateContainerError", &error)),
            _ => {
                // Gone from under its ref (damage, or a person with rm): fetch it again.
                if let Some(c) = seen.containers.get_mut(name) {
                    c.image = Image::Unknown;
                }
                Err(StepError {
                    retry: Retry::Backoff,
                    reason: "ErrImageNotInStore",
                    message: format!("the image of container {name} is not in the store any more"),
                })
            }
        }
    }

    /// Mounts an image's layers, where they are not mounted yet, and has the shim keep them.
    async fn keep_layers(&mut self, image: &store::Image) -> Result<(), StepError> {
        let missing: Vec<_> =
            image.layers.iter().filter(|key| !self.layers.contains_key(&key.to_string())).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let layers = self.machine.layers.clone();
        let (mounted, named) = blocking(move || {
            let failed = |e: crate::rootfs::Error| StepError::backoff("CreateContainerError", &e);
            let mounted = layers.mount(&missing).map_err(failed)?;
            let mut named = Vec::with_capacity(mounted.len());
            let mut seen = HashSet::new();
            for layer in &mounted {
                if seen.insert(layer.key().clone()) {
                    named.push((format!("{KEPT_LAYER}{}", layer.key()), layer.for_shim().map_err(failed)?));
                }
            }
            Ok::<_, StepError>((mounted, named))
        })
        .await?;
        self.client()?.keep(named).await.map_err(|e| StepError::backoff("CreateContainerError", &e))?;
        for layer in mounted {
            let key: String = layer.key().to_string();
            let layer: Arc<Layer> = layer;
            self.layers.insert(key, layer);
        }
        Ok(())
    }

    /// Where a container's logs lie.
    fn logs(&self, record: &Record, name: &str) -> std::path::PathBuf {
        self.machine.log_dir.join(self.machine.log_name(&self.key, &record.uid)).join(name)
    }

    async fn launch(&self, mut request: StartRequest) -> Result<u32, client::Error> {
        let Some(shim) = &self.shim else {
            return Err(client::Error::Lost { pod: self.key.to_string() });
        };
        let mut fds = Vec::new();
        if request.attempt == 0
            && let Some(pending) = self.machine.take_attach(&self.key)
        {
            request.attach = pending.attach;
            request.size = pending.size;
            fds = pending.fds;
        }
        shim.handle.client.start(request, fds).await.map(|status| status.pid)
    }

    /// With policy `Always` what was resolved is good for one attempt only; the plan sees to that by its number.
    fn took(&self, name: &str, image: &store::Image, seen: &Observed) {
        let record = seen.record.as_ref();
        let restarts = seen.containers.get(name).and_then(|c| c.attempt.as_ref()).map_or(0, |a| a.number);
        tracing::debug!(
            pod = %self.key, container = name, image = %image.manifest, restarts,
            uid = record.map(|r| r.uid.as_str()), "container started"
        );
    }

    pub(super) async fn stop(
        &mut self,
        record: &Record,
        name: &str,
        (grace, why, turn): (Duration, Why, bool),
        seen: &mut Observed,
    ) {
        let now = backoff::now();
        if why == Why::End {
            seen.ending.get_or_insert(now);
        }
        let Some(c) = seen.containers.get_mut(name) else { return };
        let Some(attempt) = c.attempt.clone() else { return };
        self.unprobed(name);
        let hook = self.pre_stop(record, (name, attempt.number), grace);
        let asked = turn && !hook;
        c.stopping(grace, now, (hook, asked));
        // With no grace the plan's next round kills; asking first would only be for show.
        if asked && !grace.is_zero() {
            let signal = self.stop_signal(record, name, &attempt);
            self.signal(name, attempt.number, signal, false).await;
        }
    }

    /// Sends a container its signal, after its hook or when it is its turn.
    pub(super) async fn ask(&self, record: &Record, name: &str, seen: &mut Observed) {
        let Some(c) = seen.containers.get_mut(name) else { return };
        c.asked(plan::LEAST_GRACE, backoff::now());
        let Some(attempt) = &c.attempt else { return };
        let signal = self.stop_signal(record, name, attempt);
        self.signal(name, attempt.number, signal, false).await;
    }

    fn stop_signal(&self, record: &Record, name: &str, attempt: &Attempt) -> i32 {
        let container = plan::find(&record.pod, name);
        let asked = container.and_then(|c: &Container| c.lifecycle.as_ref()).and_then(|l| l.stop_signal.clone());
        let image = attempt.image.parse().ok().and_then(|digest| self.machine.store.image(&digest).ok().flatten());
        let of_image = image.and_then(|i| i.config.config().as_ref().and_then(|c| c.stop_signal().clone()));
        asked.or(of_image).and_then(|text| signal_number(&text)).unwrap_or(SIGTERM)
    }

    pub(super) async fn kill(&self, record: &Record, name: &str, seen: &mut Observed) {
        let _ = record;
        let Some(c) = seen.containers.get_mut(name) else { return };
        let Some(attempt) = &c.attempt else { return };
        let now = backoff::now();
        let deadline = c.stop.map_or(now, |s| s.deadline);
        c.stop = Some(Stop { deadline, killed: Some(now), hook: false, asked: true });
        self.signal(name, attempt.number, SIGKILL, true).await;
    }

    async fn signal(&self, name: &str, attempt: u32, signal: i32, all: bool) {
        let Ok(client) = self.client() else { return };
        let asked = client.signal(target(name, attempt), signal, all);
        if let Err(error) = super::answered(&self.key, asked).await {
            // It ended meanwhile (its exit is on its way), or the shim is lost (which is on its way, too).
            tracing::debug!(pod = %self.key, container = name, error = %chain(&error), "a signal did not arrive");
        }
    }

    pub(super) async fn resize(&self, record: &Record, name: &str, seen: &mut Observed) -> Result<(), StepError> {
        let Some(container) = plan::find(&record.pod, name) else { return Ok(()) };
        let Some(attempt) = seen.containers.get_mut(name).and_then(|c| c.attempt.as_mut()) else { return Ok(()) };
        let limits = spec::limits(&self.machine.policy, &record.pod, container)?;
        self.client()?
            .update(target(name, attempt.number), limits)
            .await
            .map_err(|e| StepError::backoff("FailedResize", &e))?;
        attempt.generations.resources = record.containers.get(name).copied().unwrap_or_default().resources;
        let (dir, attempt) = (disk::attempt_dir(&self.dir(&record.uid), name, attempt.number), attempt.clone());
        blocking(move || disk::write_attempt(&dir, &attempt)).await?;
        tracing::info!(pod = %self.key, container = name, reason = %Reason::Updated, "resources changed");
        Ok(())
    }
}

impl From<selinux::Error> for StepError {
    fn from(error: selinux::Error) -> Self {
        Self::backoff("CreateContainerError", &error)
    }
}

impl From<apparmor::Error> for StepError {
    fn from(error: apparmor::Error) -> Self {
        Self::backoff("CreateContainerError", &error)
    }
}

/// Makes an attempt's directory anew; what an earlier try of the same start left goes.
fn make_attempt(dir: &Path, attempt: &Attempt, is_counted: bool) -> Result<Writable, disk::Error> {
    disk::remove_tree(dir)?;
    let writable = Writable::create(dir, is_counted).map_err(disk::io_error("create", dir))?;
    message::make(dir)?;
    disk::write_attempt(dir, attempt)?;
    Ok(writable)
}

/// A signal by name (`SIGQUIT`, `QUIT`) or number, as images and manifests have it.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+").and_then(|n| n.parse::<i32>().ok()) {
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("sigint", 2)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "SIGRTMIN+31", "no"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}

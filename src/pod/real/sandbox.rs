//! Prepare, Refresh, Teardown, Bury: a pod's shim, its volumes and the files that its containers share.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::look::KEPT_VOLUME;
use super::record::blocking;
use super::{Real, disk};
use crate::network;
use crate::pod::desired::Desired;
use crate::pod::engine::{StepError, chain};
use crate::pod::metrics::Phase;
use crate::pod::state::{AttemptFailure, Observed, Record, Sandbox};
use crate::runtime;
use crate::runtime::client::Client;
use crate::runtime::shim::{Config, Network};
use crate::sys::cgroup::Cgroup;
use crate::sys::mount::Mount;
use crate::volume::{self, Context, Source};

/// The files that all containers of a pod share lie below this directory of it.
pub(super) const SHARED_FILES: &str = "etc";
/// What is said of a container that nobody saw end.
const LOST: &str = "the pod's shim was lost, and with it how the container ended";

impl Real {
    pub(super) async fn prepare(
        &mut self,
        record: &Record,
        desired: &Desired,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let begin = Instant::now();
        if self.shim.is_none() {
            let config = self.shim_config(record);
            let live = config.run.clone();
            blocking(move || disk::make_dir(&live)).await?;
            let (client, events) = Client::spawn(&self.machine.shim.0, &config)
                .await
                .map_err(|e| StepError::backoff("FailedCreatePodSandBox", &e))?;
            self.connected(&record.uid, client, events);
        }
        self.volumes(record, desired).await?;
        seen.sandbox = Sandbox::Up;
        seen.config = Some(desired.config.stamp());
        seen.started.get_or_insert_with(crate::pod::backoff::now);
        self.machine.metrics.phase(Phase::Mount, begin.elapsed());
        Ok(())
    }

    fn shim_config(&self, record: &Record) -> Config {
        let machine = &self.machine;
        let spec = record.pod.spec.as_ref();
        let network = match network::Kind::of(&record.pod) {
            network::Kind::Host => Network::Host,
            network::Kind::Loopback => Network::Loopback,
        };
        let hostname = (network != Network::Host).then(|| network::hostname(&record.pod, &machine.node));
        Config {
            pod: record.uid.as_str().to_owned(),
            title: self.key.to_string(),
            boot: machine.boot.clone(),
            build: machine.shim.1.clone(),
            run: machine.live_dir(&record.uid),
            log_dir: machine.log_dir.clone(),
            log_name: machine.log_name(&self.key, &record.uid),
            cgroup: machine.pod_cgroup(&record.uid).into(),
            network,
            hostname,
            host_ipc: spec.and_then(|s| s.host_ipc).unwrap_or_default(),
            // A quantity that cannot be read fails the pod's containers, with its name; not its sandbox.
            limits: runtime::spec::pod_limits(&record.pod, machine.pod_pids_limit).unwrap_or_default(),
        }
    }

    /// Makes the pod's volumes and shared files, and gives the shim what it must keep.
    async fn volumes(&mut self, record: &Record, desired: &Desired) -> Result<(), StepError> {
        let dir = self.dir(&record.uid);
        let (machine, record, config) = (Arc::clone(&self.machine), record.clone(), Arc::clone(&desired.config));
        let present: Vec<String> = self.mounts.keys().cloned().collect();
        let made = blocking(move || {
            shared_files(&dir.join(SHARED_FILES), &network::files(&record.pod, &machine.node, &machine.host))?;
            let directory = dir.join("volumes");
            disk::make_dir(&directory)?;
            let context = context(&record, &config, &directory);
            let mut made = Vec::new();
            for volume in record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
                if present.contains(&volume.name) {
                    continue;
                }
                if let Source::Mount(mount) = volume::prepare(volume, &context).map_err(|e| refused(&e))? {
                    made.push((volume.name.clone(), mount));
                }
            }
            Ok::<_, StepError>(made)
        })
        .await?;
        let mut named = Vec::new();
        for (name, mount) in made {
            let copy = std::os::fd::AsFd::as_fd(&mount).try_clone_to_owned();
            named.push((format!("{KEPT_VOLUME}{name}"), copy.map_err(|e| StepError::backoff("FailedMount", &e))?));
            self.mounts.insert(name, Arc::new(mount));
        }
        if !named.is_empty() {
            self.client()?.keep(named).await.map_err(|e| StepError::backoff("FailedMount", &e))?;
        }
        Ok(())
    }

    pub(super) async fn refresh(
        &mut self,
        record: &Record,
        desired: &Desired,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let (mounts, config) = (self.mounts.clone(), Arc::clone(&desired.config));
        let (record, directory) = (record.clone(), self.dir(&record.uid).join("volumes"));
        blocking(move || {
            let context = context(&record, &config, &directory);
            for volume in record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
                let mount: Option<&Arc<Mount>> = mounts.get(&volume.name);
                if let Some(mount) = mount.filter(|_| volume::follows_config(volume)) {
                    volume::refresh(volume, mount, &context).map_err(|e| refused(&e))?;
                }
            }
            Ok::<_, StepError>(())
        })
        .await?;
        seen.config = Some(desired.config.stamp());
        Ok(())
    }

    pub(super) async fn teardown(&mut self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        if let Some(shim) = &self.shim
            && let Err(error) = super::answered(&self.key, shim.handle.client.shutdown()).await
        {
            tracing::warn!(pod = %self.key, error = %chain(&error), "the shim did not end by itself; its cgroup is killed");
        }
        self.disconnected();
        self.clear(record).await?;
        seen.sandbox = Sandbox::Down;
        seen.config = None;
        Ok(())
    }

    /// Kills whatever is left of the pod's processes, and removes its cgroup and live state.
    async fn clear(&self, record: &Record) -> Result<(), StepError> {
        let cgroup = Cgroup::open(&self.machine.hierarchies, &self.machine.pod_cgroup(&record.uid));
        let live = self.machine.live_dir(&record.uid);
        blocking(move || {
            if cgroup.exists() {
                let failed = |e| StepError::backoff("Failed", &e);
                cgroup.kill().map_err(failed)?;
                cgroup.remove_with_parents().map_err(failed)?;
            }
            Ok::<_, StepError>(disk::remove_tree(&live)?)
        })
        .await
    }

    pub(super) async fn bury(&mut self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        self.disconnected();
        self.clear(record).await?;
        let dir = self.dir(&record.uid);
        let mut unended: Vec<_> = seen.containers.iter_mut().filter(|(_, c)| c.running()).collect();
        for (name, c) in &mut unended {
            if let Some(attempt) = &mut c.attempt {
                let path = disk::attempt_dir(&dir, name, attempt.number);
                // The shim may have written the exit with its last breath.
                if let Some(known) = disk::read_attempt(&path).filter(|a| a.exit.is_some()) {
                    *attempt = known;
                    continue;
                }
                let failure = AttemptFailure { reason: "ContainerStatusUnknown".to_owned(), message: LOST.to_owned() };
                let (mut ended, at) = (attempt.clone(), path.clone());
                // 128 + SIGKILL: what a kubelet says of one that it lost, too.
                *attempt = blocking(move || disk::write_end(&at, &mut ended, 137, failure).map(|()| ended)).await?;
            }
            c.stop = None;
        }
        seen.sandbox = Sandbox::Down;
        seen.config = None;
        Ok(())
    }
}

fn context<'a>(record: &'a Record, config: &'a crate::pod::desired::Config, directory: &'a Path) -> Context<'a> {
    let security = record.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let fs_group = security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
    Context { directory, config_maps: &config.config_maps, secrets: &config.secrets, fs_group }
}

fn refused(error: &volume::Error) -> StepError {
    if error.awaits_config() {
        StepError::on_change("FailedMount", chain(error))
    } else {
        StepError::backoff("FailedMount", error)
    }
}

/// Writes the shared files; what containers wrote into them meanwhile goes, as the pod begins anew.
fn shared_files(dir: &Path, files: &network::Files) -> Result<(), disk::Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    disk::make_dir(dir)?;
    for (name, text) in [("hosts", &files.hosts), ("hostname", &files.hostname), ("resolv.conf", &files.resolv)] {
        let path = dir.join(name);
        let mut options = std::fs::OpenOptions::new();
        // In place: running containers of the pod may have it mounted.
        let file = options.write(true).create(true).truncate(true).mode(0o644).open(&path);
        file.and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
            .map_err(disk::io_error("write", &path))?;
    }
    Ok(())
}

//! Prepare, Refresh, Teardown, Bury: a pod's shim, its volumes and the files that its containers share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;

use super::binds::SHARED_MEMORY_NAME;
use super::look::{KEPT_VOLUME, VOLUMES};
use super::record::blocking;
use super::{Machine, Real, admit, disk, spec};
use crate::api::PodUid;
use crate::api::env::NodeFacts;
use crate::api::problem::chain;
use crate::network;
use crate::pod::desired::{Claim, Config, Desired};
use crate::pod::engine::StepError;
use crate::pod::metrics::Phase;
use crate::pod::state::{AttemptFailure, Observed, Record, Sandbox};
use crate::runtime;
use crate::runtime::client::Client;
use crate::runtime::shim::{self, Network};
use crate::sys::cgroup::Cgroup;
use crate::sys::mount::Mount;
use crate::volume::claim::Declared;
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
        let fresh = self.shim.is_none();
        if fresh {
            let config = self.shim_config(record);
            let (live, epoch) = (config.run.clone(), seen.epoch);
            blocking(move || {
                disk::make_dir(&live)?;
                disk::write_epoch(&live, epoch)
            })
            .await?;
            let (client, events) = Client::spawn(&self.machine.shim.0, &config)
                .await
                .map_err(|e| StepError::backoff("FailedCreatePodSandBox", &e))?;
            self.connected(&record.uid, client, events);
        }
        if let Err(error) = self.attach(record).await {
            // A sandbox without its network is none.
            if let Err(left) = self.teardown(record, seen).await {
                tracing::warn!(pod = %self.key, error = %left.message, "what is left of a sandbox without its network");
            }
            return Err(error);
        }
        if let Err(error) = self.volumes(record, desired).await {
            if !seen.containers.values().any(|c| c.running()) {
                // It waits for the rest without keeping others from what it has.
                self.let_go(record).await?;
            }
            return Err(error);
        }
        if !fresh {
            // What an earlier try made may be of an older configuration.
            self.refresh(record, desired, seen).await?;
        }
        seen.sandbox = Sandbox::Up;
        seen.bare = false;
        seen.config = Some(desired.stamp());
        self.machine.metrics.phase(Phase::Mount, begin.elapsed());
        Ok(())
    }

    /// Gives the pod its addresses and ports of the host.
    async fn attach(&self, record: &Record) -> Result<(), StepError> {
        let own = network::Kind::of(&record.pod) == network::Kind::Own;
        let namespace = self.client()?.hello().pid;
        let (machine, pod, uid) = (Arc::clone(&self.machine), record.pod.clone(), record.uid.clone());
        blocking(move || {
            let failed = |e: &(dyn std::error::Error + 'static)| StepError::backoff("FailedCreatePodSandBox", e);
            let open = || network::Namespace::open(format!("/proc/{namespace}/ns/net"));
            let namespace = own.then(open).transpose().map_err(|e| failed(&e))?;
            machine.network.attach(&pod, &uid, namespace.as_ref()).map_err(|e| failed(&e))
        })
        .await
    }

    fn shim_config(&self, record: &Record) -> shim::Config {
        let machine = &self.machine;
        let spec = record.pod.spec.as_ref();
        let network = match network::Kind::of(&record.pod) {
            network::Kind::Host => Network::Host,
            network::Kind::Own => Network::Loopback,
        };
        let hostname =
            (network != Network::Host).then(|| network::hostname(&record.pod, &machine.node, machine.network.domain()));
        shim::Config {
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
            share_pid: spec.and_then(|s| s.share_process_namespace).unwrap_or_default(),
            users: record.users,
            sysctls: admit::sysctls(&record.pod),
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
            let addresses = machine.network.addresses(&record.pod, &record.uid);
            let resolvers = machine.network.resolvers(&record.uid);
            let around = network::Around {
                node: &machine.node,
                domain: machine.network.domain(),
                addresses: &addresses,
                resolvers: &resolvers,
            };
            shared_files(&dir.join(SHARED_FILES), &network::files(&record.pod, &around, &machine.host))?;
            let directory = dir.join(VOLUMES);
            disk::make_dir(&directory)?;
            let (pod, node) = (shown(&record), spec::facts(&machine.node, machine.capacity));
            let declared = declared(&config);
            let around = Around { machine: &machine, node: &node, config: &config, declared: &declared };
            let context = around.context(&pod, &record.uid, &directory);
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

    /// Has the shim keep the pod's `/dev/shm`; one that an earlier agent started may not have it.
    pub(super) async fn keep_shared_memory(&mut self, record: &Record) -> Result<(), StepError> {
        let host = record.pod.spec.as_ref().and_then(|s| s.host_ipc) == Some(true);
        if host || self.mounts.contains_key(SHARED_MEMORY_NAME) {
            return Ok(());
        }
        let failed = |e: &(dyn std::error::Error + 'static)| StepError::backoff("FailedCreatePodSandBox", e);
        let mount = shared_memory().map_err(|e| failed(&e))?;
        let copy = std::os::fd::AsFd::as_fd(&mount).try_clone_to_owned().map_err(|e| failed(&e))?;
        let named = vec![(format!("{KEPT_VOLUME}{SHARED_MEMORY_NAME}"), copy)];
        self.client()?.keep(named).await.map_err(|e| failed(&e))?;
        self.mounts.insert(SHARED_MEMORY_NAME.to_owned(), Arc::new(mount));
        Ok(())
    }

    pub(super) async fn refresh(
        &mut self,
        record: &Record,
        desired: &Desired,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let (mounts, config) = (self.mounts.clone(), Arc::clone(&desired.config));
        let (record, directory) = (record.clone(), self.dir(&record.uid).join(VOLUMES));
        let machine = Arc::clone(&self.machine);
        blocking(move || {
            let (pod, node) = (shown(&record), spec::facts(&machine.node, machine.capacity));
            let declared = BTreeMap::new();
            let around = Around { machine: &machine, node: &node, config: &config, declared: &declared };
            let context = around.context(&pod, &record.uid, &directory);
            for volume in record.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
                let mount: Option<&Arc<Mount>> = mounts.get(&volume.name);
                if let Some(mount) = mount.filter(|_| volume::follows_config(volume)) {
                    volume::refresh(volume, mount, &context).map_err(|e| refused(&e))?;
                }
            }
            Ok::<_, StepError>(())
        })
        .await?;
        seen.config = Some(desired.stamp());
        Ok(())
    }

    pub(super) async fn teardown(&mut self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        if self.shim.is_some() {
            // Plugins want to see the namespace, which goes with the shim.
            let (machine, uid) = (Arc::clone(&self.machine), record.uid.clone());
            blocking(move || machine.network.unplug(&uid).map_err(|e| StepError::backoff("Failed", &e))).await?;
        }
        if let Some(shim) = &self.shim
            && let Err(error) = super::answered(&self.key, shim.handle.client.shutdown()).await
        {
            tracing::warn!(pod = %self.key, error = %chain(&error), "the shim did not end by itself; its cgroup is killed");
        }
        self.disconnected();
        self.clear(record).await?;
        if record.ended.as_ref().is_some_and(crate::pod::state::Ended::is_eviction) {
            // The room is what it was evicted for; its logs and how it ended stay.
            let dir = self.dir(&record.uid);
            blocking(move || disk::remove_content(&dir)).await?;
        }
        seen.down();
        Ok(())
    }

    /// Kills whatever is left of the pod's processes, and removes its cgroup and live state.
    async fn clear(&self, record: &Record) -> Result<(), StepError> {
        let cgroup = Cgroup::open(&self.machine.hierarchies, &self.machine.pod_cgroup(&record.uid));
        let live = self.machine.live_dir(&record.uid);
        let (machine, uid) = (Arc::clone(&self.machine), record.uid.clone());
        blocking(move || {
            let failed = |e| StepError::backoff("Failed", &e);
            if cgroup.exists() {
                cgroup.kill().map_err(failed)?;
            }
            // Also where the shim has removed it: the parent may have been in use just then.
            cgroup.remove_with_parents().map_err(failed)?;
            machine.network.detach(&uid).map_err(|e| StepError::backoff("Failed", &e))?;
            disk::remove_tree(&live)?;
            machine.claims.release(&uid);
            Ok::<_, StepError>(())
        })
        .await
    }

    /// Lets go of the pod's claims.
    pub(super) async fn let_go(&self, record: &Record) -> Result<(), StepError> {
        let (machine, uid) = (Arc::clone(&self.machine), record.uid.clone());
        blocking(move || {
            machine.claims.release(&uid);
            Ok::<_, StepError>(())
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
        seen.down();
        Ok(())
    }
}

/// The pod as it shows itself to its containers.
fn shown(record: &Record) -> Pod {
    let mut pod = Pod::clone(&record.pod);
    pod.metadata.uid = Some(record.uid.to_string());
    pod
}

/// What is there for a pod's volumes beside the pod.
#[derive(Clone, Copy)]
struct Around<'a> {
    machine: &'a Machine,
    node: &'a NodeFacts,
    config: &'a Config,
    declared: &'a BTreeMap<String, Declared>,
}

impl<'a> Around<'a> {
    fn context(self, pod: &'a Pod, uid: &'a PodUid, directory: &'a Path) -> Context<'a> {
        let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        Context {
            directory,
            config_maps: &self.config.config_maps,
            secrets: &self.config.secrets,
            claims: &self.machine.claims,
            declared: self.declared,
            pod,
            uid,
            node: self.node,
            fs_group: security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok()),
            group_on_mismatch: security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch"),
        }
    }
}

/// The claims that are declared for a pod, by name.
fn declared(config: &Config) -> BTreeMap<String, Declared> {
    let declared = |(name, claim): (&String, &Claim)| Some((name.clone(), claim.declared.clone()?));
    config.claims.iter().filter_map(declared).collect()
}

/// Memory that a pod's containers share by name, as large as container runtimes make it.
fn shared_memory() -> Result<Mount, crate::sys::mount::Error> {
    use rustix::mount::MountAttrFlags as Flags;
    const SIZE: u64 = 64 << 20;
    let attributes = Flags::MOUNT_ATTR_NOSUID | Flags::MOUNT_ATTR_NODEV | Flags::MOUNT_ATTR_NOEXEC;
    Mount::tmpfs(Some(SIZE), 0o1777, attributes)
}

fn refused(error: &volume::Error) -> StepError {
    if error.awaits_change() {
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

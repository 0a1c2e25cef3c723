//! What all pods of a node share: where things lie, the store, the layers that are mounted, who hears of events.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::OnceCell;

use super::{Policy, UserIds, locked};
use crate::api::{Event, PodKey, PodUid};
use crate::image::Images;
use crate::network::{HostFiles, Network};
use crate::pod::metrics::Metrics;
use crate::pod::pressure::Pressures;
use crate::rootfs::Layers;
use crate::runtime::Client;
use crate::runtime::client::Told;
use crate::runtime::protocol::Attach;
use crate::store::Store;
use crate::sys::cgroup::{Cgroup, Hierarchies};
use crate::sys::sockets::Sockets;
use crate::volume::claim::Claims;

/// What all pods of a node share. Everything in it is fixed for the life of the agent, or has its own lock.
#[derive(Debug)]
pub struct Machine {
    /// `<root>/pods`.
    pub pods: PathBuf,
    /// `<run>/pods`.
    pub live: PathBuf,
    /// `<log-dir>`.
    pub log_dir: PathBuf,
    /// The node's name.
    pub node: String,
    /// The kernel's id of this boot.
    pub boot: String,
    /// The parent of all our cgroups: `/lamina-<instance>`.
    pub cgroup: String,
    /// Where cgroups lie.
    pub hierarchies: Hierarchies,
    /// What shims run, and the id of that build.
    pub shim: (PathBuf, String),
    /// The store.
    pub store: Store,
    /// Pulls.
    pub images: Images,
    /// Mounted layers.
    pub layers: Layers,
    /// Addresses and ports of pods.
    pub network: Arc<Network>,
    /// The host's `/etc/hosts` and `/etc/resolv.conf`.
    pub host: HostFiles,
    /// The machine's memory in bytes, and its cores in thousandths.
    pub capacity: (u64, u64),
    /// Volumes that outlast pods.
    pub claims: Claims,
    /// Metrics of pods.
    pub metrics: Metrics,
    /// How many tasks a pod may have.
    pub pod_pids_limit: u32,
    /// Makes sockets in the network namespaces of pods.
    pub sockets: Sockets,
    /// What is allowed here, and where things lie that manifests name.
    pub policy: Policy,
    /// Who hears of events.
    pub events: tokio::sync::mpsc::UnboundedSender<Event>,
    /// Ids of pods in user namespaces.
    pub users: UserIds,
    /// What the node is short of.
    pub pressures: Pressures,
    /// The AppArmor profile that is meant by `RuntimeDefault`, once it is loaded.
    pub app_armor: OnceCell<&'static str>,
    sandboxes: Mutex<HashMap<PodUid, Handle>>,
    attach: Mutex<HashMap<PodKey, PendingAttach>>,
}

/// The parts of a machine that its maker gives.
#[derive(Debug)]
pub struct Parts {
    /// See [`Machine`].
    pub pods: PathBuf,
    /// See [`Machine`].
    pub live: PathBuf,
    /// See [`Machine`].
    pub log_dir: PathBuf,
    /// See [`Machine`].
    pub node: String,
    /// See [`Machine`].
    pub boot: String,
    /// See [`Machine`].
    pub hierarchies: Hierarchies,
    /// See [`Machine`].
    pub shim: (PathBuf, String),
    /// See [`Machine`].
    pub store: Store,
    /// See [`Machine`].
    pub images: Images,
    /// See [`Machine`].
    pub layers: Layers,
    /// See [`Machine`].
    pub network: Arc<Network>,
    /// See [`Machine`].
    pub claims: Claims,
    /// See [`Machine`].
    pub metrics: Metrics,
    /// See [`Machine`].
    pub pod_pids_limit: u32,
    /// See [`Machine`].
    pub policy: Policy,
    /// See [`Machine`].
    pub events: tokio::sync::mpsc::UnboundedSender<Event>,
}

/// A running sandbox, for those who talk to its processes.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Its shim.
    pub client: Client,
    /// What its shim tells, for whoever listens from now on.
    pub told: Told,
}

/// Streams that a client wants connected before a container's first byte.
#[derive(Debug)]
pub struct PendingAttach {
    /// Which.
    pub attach: Attach,
    /// The shim's ends.
    pub fds: Vec<OwnedFd>,
    /// The size of the terminal.
    pub size: Option<(u16, u16)>,
}

impl Machine {
    /// Puts the parts together.
    ///
    /// # Errors
    /// If the thread that makes sockets cannot be started.
    pub fn new(parts: Parts) -> std::io::Result<Arc<Self>> {
        let Parts {
            pods,
            live,
            log_dir,
            node,
            boot,
            hierarchies,
            shim,
            store,
            images,
            layers,
            network,
            claims,
            metrics,
            pod_pids_limit,
            policy,
            events,
        } = parts;
        let cgroup = format!("/lamina-{}", store.instance());
        let users = UserIds::new(store.instance());
        Ok(Arc::new(Self {
            pods,
            live,
            log_dir,
            node,
            boot,
            cgroup,
            hierarchies,
            shim,
            store,
            images,
            layers,
            network,
            claims,
            host: HostFiles::read(),
            capacity: capacity(),
            metrics,
            pod_pids_limit,
            sockets: Sockets::start()?,
            policy,
            events,
            users,
            pressures: Pressures::default(),
            app_armor: OnceCell::new(),
            sandboxes: Mutex::default(),
            attach: Mutex::default(),
        }))
    }

    /// The running sandbox of a pod.
    pub fn sandbox(&self, uid: &PodUid) -> Option<Handle> {
        locked(&self.sandboxes).get(uid).cloned()
    }

    /// How many sandboxes run.
    pub fn sandbox_count(&self) -> usize {
        locked(&self.sandboxes).len()
    }

    /// The builds that running shims are of.
    pub fn builds_in_use(&self) -> Vec<String> {
        locked(&self.sandboxes).values().map(|h| h.client.hello().build.clone()).collect()
    }

    pub(super) fn set_sandbox(&self, uid: &PodUid, handle: Option<Handle>) {
        let mut sandboxes = locked(&self.sandboxes);
        match handle {
            Some(handle) => sandboxes.insert(uid.clone(), handle),
            None => sandboxes.remove(uid),
        };
    }

    /// Has the first container of the pod `key` connected to these streams when it starts.
    pub fn attach_at_start(&self, key: &PodKey, pending: PendingAttach) {
        locked(&self.attach).insert(key.clone(), pending);
    }

    /// Takes the streams back, if they were not used.
    pub fn take_attach(&self, key: &PodKey) -> Option<PendingAttach> {
        locked(&self.attach).remove(key)
    }

    /// The addresses of a pod, and those of the node, as text.
    pub fn addresses(&self, pod: &Pod, uid: &PodUid) -> (Vec<String>, Vec<String>) {
        let text = |all: &[std::net::IpAddr]| all.iter().map(ToString::to_string).collect();
        (text(&self.network.addresses(pod, uid)), text(self.network.host_addresses()))
    }

    /// The pod's directory in the state directory.
    pub fn dir(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// The pod's directory under `/run`.
    pub fn live_dir(&self, uid: &PodUid) -> PathBuf {
        self.live.join(uid.as_str())
    }

    /// Where the spec of a running attempt is kept.
    pub fn spec_file(&self, uid: &PodUid, container: &str, attempt: u32) -> PathBuf {
        self.live_dir(uid).join(format!("{container}-{attempt}.json"))
    }

    /// The pod's cgroup.
    pub fn pod_cgroup(&self, uid: &PodUid) -> String {
        format!("{}/pod{uid}", self.cgroup)
    }

    /// Removes the parent of all cgroups where no pod is left; it comes back with the next. Blocks.
    pub fn remove_unused_cgroup(&self) {
        let left = Cgroup::open(&self.hierarchies, &self.cgroup).remove_unused();
        if !left.is_empty() {
            tracing::debug!(?left, "the cgroup of all pods is in use");
        }
    }

    /// The name of the pod's log directory.
    pub fn log_name(&self, key: &PodKey, uid: &PodUid) -> PathBuf {
        PathBuf::from(format!("{}_{}_{uid}", key.namespace, key.name))
    }
}

fn capacity() -> (u64, u64) {
    let info = rustix::system::sysinfo();
    let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (memory, u64::try_from(cores).unwrap_or(1) * 1000)
}

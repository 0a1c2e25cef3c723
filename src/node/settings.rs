//! The agent's settings: one field for each row of the settings table, with its default.

use std::path::PathBuf;
use std::time::Duration;

/// How the agent of one node is set up. The command line fills it from flags, the environment and the configuration
/// file; tests fill it by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--root`: the store and pod state.
    pub root: PathBuf,
    /// `--run`: sockets and live state, keyed by boot id.
    pub run: PathBuf,
    /// `--log-dir`: container logs.
    pub log_dir: PathBuf,
    /// `--manifests`: watched directories, the first wins where two declare the same pod.
    pub manifests: Vec<PathBuf>,
    /// `--images`: directories of image archives; what lies there is loaded and held.
    pub images: Vec<PathBuf>,
    /// `--node-name`; the host's name when `None`.
    pub node_name: Option<String>,
    /// `--kubernetes`: the API server of a cluster is a source, too.
    pub kubernetes: Option<Cluster>,
    /// `--store-driver`: `auto`, `erofs` or `directory`.
    pub store_driver: StoreDriver,
    /// `--gc-grace`: how long an unreferenced layer is kept.
    pub gc_grace: Duration,
    /// `--gc-high`: percent of the store's file system above which the longest unused images go.
    pub gc_high: u8,
    /// `--gc-low`: percent down to which they go.
    pub gc_low: u8,
    /// `--gc-image-age`: how long an image that no pod wants any more is kept.
    pub gc_image_age: Duration,
    /// `--eviction-hard`: of what there must be how much, or pods are evicted.
    pub eviction_hard: super::Thresholds,
    /// `--eviction-pressure-transition-period`: how long the node counts as short of something afterwards.
    pub eviction_transition: Duration,
    /// `--memory-throttling-factor`, in thousandths: where between its request and its limit a container is slowed down.
    pub memory_throttling: Option<u64>,
    /// `--registry-config`: mirrors, credentials and certificates of registries.
    pub registry_config: PathBuf,
    /// `--metrics-layers`: how many layers have a series of their own.
    pub metrics_layers: usize,
    /// `--pull-parallel`: layers at once on the node.
    pub pull_parallel: usize,
    /// How many tasks (processes and threads) a pod may have.
    pub pod_pids_limit: u32,
    /// How pods are connected.
    pub network: crate::network::Settings,
    /// `--allowed-unsafe-sysctls`: what pods may set beside the safe ones; names, or beginnings that end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `--cdi-dir`: where files describe devices; the later directory wins.
    pub cdi: Vec<PathBuf>,
    /// `--seccomp-dir`: where profiles of type Localhost lie; `<root>/seccomp` when `None`.
    pub seccomp: Option<PathBuf>,
    /// The file that shims run: the agent's own binary, unless a test says otherwise.
    pub shim: Option<PathBuf>,
}

/// How the cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// `--kubeconfig`; the service account of the agent's own pod when `None`.
    pub kubeconfig: Option<PathBuf>,
    /// `--lease-namespace`: where the node's Lease is.
    pub namespace: String,
    /// Where the agent answers the cluster (`--metrics`), and how it is known there.
    pub endpoint: Option<crate::api::cluster::Endpoint>,
}

/// Which storage driver to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreDriver {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// One EROFS file a layer.
    Erofs,
    /// One directory a layer.
    Directory,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: "/var/lib/lamina".into(),
            run: "/run/lamina".into(),
            log_dir: "/var/log/lamina/pods".into(),
            manifests: vec!["/etc/lamina/manifests".into()],
            images: vec!["/etc/lamina/images".into()],
            node_name: None,
            kubernetes: None,
            store_driver: StoreDriver::Auto,
            gc_grace: Duration::ZERO,
            gc_high: 80,
            gc_low: 75,
            gc_image_age: Duration::ZERO,
            eviction_hard: super::Thresholds::default(),
            eviction_transition: Duration::from_mins(5),
            memory_throttling: None,
            registry_config: "/etc/lamina/registries.yaml".into(),
            metrics_layers: 200,
            pull_parallel: 4,
            // Enough for a large server, and no fork bomb takes the node with it; a kubelet's default is no limit.
            pod_pids_limit: 8192,
            network: crate::network::Settings::default(),
            allowed_unsafe_sysctls: Vec::new(),
            seccomp: None,
            cdi: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            shim: None,
        }
    }
}

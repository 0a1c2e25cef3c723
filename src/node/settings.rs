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
    /// `--node-name`; the host's name when `None`.
    pub node_name: Option<String>,
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
    /// `--registry-config`: mirrors, credentials and certificates of registries.
    pub registry_config: PathBuf,
    /// `--metrics-layers`: how many layers have a series of their own.
    pub metrics_layers: usize,
    /// `--pull-parallel`: layers at once on the node.
    pub pull_parallel: usize,
    /// How many tasks (processes and threads) a pod may have.
    pub pod_pids_limit: u32,
    /// The file that shims run: the agent's own binary, unless a test says otherwise.
    pub shim: Option<PathBuf>,
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
            node_name: None,
            store_driver: StoreDriver::Auto,
            gc_grace: Duration::ZERO,
            gc_high: 80,
            gc_low: 75,
            gc_image_age: Duration::ZERO,
            registry_config: "/etc/lamina/registries.yaml".into(),
            metrics_layers: 200,
            pull_parallel: 4,
            // Enough for a large server, and no fork bomb takes the node with it; a kubelet's default is no limit.
            pod_pids_limit: 8192,
            shim: None,
        }
    }
}

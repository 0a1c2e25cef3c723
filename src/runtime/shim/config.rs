//! What a shim is told when it starts: everything that is the same for the whole life of its pod.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::cgroup::Limits;

/// The socket's name in [`Config::run`].
pub const SOCKET: &str = "shim.sock";

/// Written to the standard input of `lamina shim` as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The pod's uid.
    pub pod: String,
    /// `namespace/name`, shown in process lists.
    pub title: String,
    /// The boot that this is; a shim of another boot cannot be, but its files can.
    pub boot: String,
    /// The build id of the binary.
    pub build: String,
    /// `/run/lamina/pods/<uid>`: the socket and the shim's own log. It must exist.
    pub run: PathBuf,
    /// `<log-dir>`: administrators may have made it a link; nothing below it is followed through one.
    pub log_dir: PathBuf,
    /// `<namespace>_<name>_<uid>`: the pod's directory below it, made by the shim.
    pub log_name: PathBuf,
    /// The pod's cgroup, `/lamina-<instance>/pod<uid>`: below it the shim's own and its containers'.
    pub cgroup: PathBuf,
    /// The pod's network.
    pub network: Network,
    /// The pod's host name; `None` shares the host's.
    pub hostname: Option<String>,
    /// Share the host's System V IPC and message queues.
    #[serde(default)]
    pub host_ipc: bool,
    /// One pid namespace for all containers (`shareProcessNamespace`).
    #[serde(default)]
    pub share_pid: bool,
    /// The host's id of root in a user namespace of the pod's own (`hostUsers: false`).
    #[serde(default)]
    pub users: Option<u32>,
    /// What is written below `/proc/sys` of the pod's namespaces: path and value.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// The limits of the pod's cgroup.
    #[serde(default)]
    pub limits: Limits,
}

/// Which network namespace the pod's containers are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    Host,
    /// One of its own, with nothing but the loopback interface.
    Loopback,
}

impl Config {
    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(&self.run)
    }

    /// Where a container's logs lie.
    pub fn container_logs(&self, container: &str) -> PathBuf {
        self.log_dir.join(&self.log_name).join(container)
    }
}

/// The socket of the shim whose directory is `run`.
pub(crate) fn socket(run: &Path) -> PathBuf {
    run.join(SOCKET)
}

/// The shim's own log in [`Config::run`].
pub(super) const LOG: &str = "shim.log";
/// Where it attaches mounts, in its own mount namespace, on older kernels.
pub(super) const MOUNTS: &str = "mounts";

/// Removes what a shim makes in its directory.
pub(crate) fn remove_files(run: &Path) {
    for file in [SOCKET, LOG] {
        // Nothing depends on these being gone but tidiness: the next shim removes or continues them.
        let _ = std::fs::remove_file(run.join(file));
    }
    let _ = std::fs::remove_dir(run.join(MOUNTS));
}

//! The two large requests: start a container, and run a process in one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Attach;
use crate::runtime::spec::{ContainerSpec, ProcessSpec, VolumeBind};
use crate::sys::cgroup::Limits;
use crate::sys::mount::Tier;

/// One start of one container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container's name, a DNS label.
    pub name: String,
    /// Which start of it: names its cgroup, its state directory and its log file.
    pub attempt: u32,
    /// `pods/<uid>/containers/<name>/<attempt>/`: where the `exit` file goes. It must exist.
    pub state: PathBuf,
    /// What runs and what it may do; `oci.process.terminal` says whether it gets a terminal.
    pub container: ContainerSpec,
    /// The limits of its cgroup.
    #[serde(default)]
    pub limits: Limits,
    /// What its root is made of.
    pub root: Rootfs,
    /// Its volumes, and `/etc/hosts` and its like.
    #[serde(default)]
    pub volumes: Vec<VolumeBind>,
    /// Its standard input stays open for [`super::Request::Attach`]; else it is `/dev/null`. A terminal has one always.
    pub stdin: bool,
    /// The input is closed when the first client that was attached to it goes away.
    pub stdin_once: bool,
    /// The size of the terminal, if there is one: columns, rows.
    pub size: Option<(u16, u16)>,
    /// Streams to connect before the first byte; the descriptors come with the request.
    pub attach: Attach,
}

/// Shared layers and a writable directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// The names under which the layers' mounts are kept, top layer first.
    pub layers: Vec<String>,
    /// The writable directory.
    pub upper: PathBuf,
    /// overlayfs' scratch directory, on the same file system.
    pub work: PathBuf,
    /// How overlays take their layers on this kernel.
    pub tier: Tier,
}

/// A process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's name.
    pub name: String,
    /// Which start of it.
    pub attempt: u32,
    /// What to run, as whom: `process.terminal` says whether it gets a terminal, whose master goes to the client.
    pub process: ProcessSpec,
    /// The size of the terminal, if there is one: columns, rows.
    pub size: Option<(u16, u16)>,
    /// Without a terminal: which streams come with the request; the others are `/dev/null`.
    pub stdio: Stdio,
}

/// Which of a process's three streams come as descriptors, in this order: the very ends that the process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// The read end of its input.
    pub stdin: bool,
    /// The write end of its output.
    pub stdout: bool,
    /// The write end of its errors.
    pub stderr: bool,
}

impl Stdio {
    /// How many descriptors go with it.
    pub fn fds(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

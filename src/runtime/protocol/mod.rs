//! What agent and shim say to each other over a pod's socket.
//!
//! ```text
//!  agent                                shim
//!    │── Hello{versions, build, boot} ──▶│     the smaller of the two newest versions is spoken;
//!    │◀── Hello{versions, build, boot} ──│     no common version: the socket is closed
//!    │── Request{id, …} + fds ──────────▶│     any number under way
//!    │◀── Reply{id, …} + fds ────────────│
//!    │◀── Event{Exited, …} ──────────────│     whenever it happens, to every client
//! ```
//!
//! Messages are JSON in frames ([`frame`]). Every message of version 1 may gain optional fields; a field that changes
//! what a message means needs a new version. The hello itself never changes. An event says what the next
//! [`Request::Status`] would say too, so a client that was away for a while has missed nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sys::cgroup::Limits;

pub mod frame;
mod start;
#[cfg(test)]
mod tests;

pub use start::{ExecRequest, Rootfs, StartRequest, Stdio};

/// The versions that this build speaks: an agent serves shims one release older and newer.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Versions {
    /// The version that both sides speak, the newest such.
    pub fn common(self, other: Self) -> Option<u32> {
        let version = self.newest.min(other.newest);
        (version >= self.oldest.max(other.oldest)).then_some(version)
    }
}

/// The first message of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub versions: Versions,
    /// The build id of its binary.
    pub build: String,
    /// The boot that it lives in: a socket file may be older than that.
    pub boot: String,
    /// The uid of the pod that it is about.
    pub pod: String,
    /// Its process id.
    pub pid: u32,
}

/// What a client sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToShim {
    /// The first message.
    Hello(Hello),
    /// Any later message.
    Request {
        /// Comes back in the reply.
        id: u64,
        /// What is asked.
        request: Request,
    },
}

/// What a shim sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromShim {
    /// The first message.
    Hello(Hello),
    /// The answer to a request.
    Reply {
        /// The request's.
        id: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// Something happened.
    Event(Event),
}

/// What a client asks for. Descriptors that go with a request are named in its doc, in their order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Keep descriptors of mounts for this pod's containers, one a name; a name that is kept already is replaced.
    Keep {
        /// As many as there are descriptors.
        names: Vec<String>,
    },
    /// Hand kept descriptors to the client, which it answers in the order asked; the shim keeps its own.
    Give {
        /// Kept names.
        names: Vec<String>,
    },
    /// Close kept descriptors; a name that is not kept is fine. What a running container has mounted stays so.
    Drop {
        /// Kept names.
        names: Vec<String>,
    },
    /// Start a container. Descriptors: those of [`StartRequest::attach`].
    Start(Box<StartRequest>),
    /// Run a process in a running container. Descriptors: without a terminal, those of [`ExecRequest::stdio`]; the
    /// reply brings the terminal's master where one was asked for.
    Exec(Box<ExecRequest>),
    /// Send a signal.
    Signal {
        /// To whom.
        target: Target,
        /// The number.
        signal: i32,
        /// To every process in the container instead of its first one (only `SIGKILL` reaches all at one instant).
        all: bool,
    },
    /// Tell a terminal its size.
    Resize {
        /// Whose.
        target: Target,
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Connect to a container's streams. Descriptors: those of [`Attach`].
    Attach {
        /// Which container and attempt.
        target: Target,
        /// What to connect.
        attach: Attach,
    },
    /// Close the container's standard input once what is under way has been written.
    CloseStdin {
        /// Which container and attempt.
        target: Target,
    },
    /// Everything that the shim knows.
    Status,
    /// Change a running container's limits in place.
    Update {
        /// Which container and attempt.
        target: Target,
        /// Those that change; `None` leaves what was set.
        limits: Box<Limits>,
    },
    /// Kill what is left of an attempt, remove its cgroup, close its streams and forget it.
    Delete {
        /// Which container and attempt.
        target: Target,
    },
    /// Delete every container, then exit; the reply comes before the last step.
    Shutdown,
}

/// A process that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One attempt of a container: a request that comes late never meets the next attempt.
    Container {
        /// Its name.
        name: String,
        /// Which start of it.
        attempt: u32,
    },
    /// A process started by [`Request::Exec`].
    Exec {
        /// From [`Reply::Execed`].
        id: u64,
    },
}

impl Target {
    /// An attempt of a container.
    pub fn container(name: impl Into<String>, attempt: u32) -> Self {
        Self::Container { name: name.into(), attempt }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Container { name, attempt } => write!(f, "container {name} (attempt {attempt})"),
            Self::Exec { id } => write!(f, "exec {id}"),
        }
    }
}

/// Which of a container's streams to connect, each to one descriptor, in this order: the read end of a pipe whose
/// bytes become its input, the write ends of pipes that receive copies of its output and its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attach {
    /// Connect the input (the container must have been started with one).
    pub stdin: bool,
    /// Connect the output; with a terminal that is all there is.
    pub stdout: bool,
    /// Connect the errors.
    pub stderr: bool,
    /// What happens when the client reads more slowly than the container writes: `true` makes the container wait (for
    /// a client that owns the pod, as `run` does), `false` cuts the client off.
    #[serde(default)]
    pub wait: bool,
}

impl Attach {
    /// How many descriptors go with it.
    pub fn fds(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// What a request brought.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It was done.
    Done,
    /// A container runs.
    Started(ContainerStatus),
    /// A process runs; with a terminal, its master goes with this.
    Execed {
        /// For [`Target::Exec`] and [`Event::ExecExited`].
        id: u64,
        /// As the host sees it.
        pid: u32,
    },
    /// The descriptors asked for, in the order asked.
    Given,
    /// Everything.
    Status(Box<PodStatus>),
}

/// Something that happened without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container's first process ended, and with it all of the container.
    Exited {
        /// Which container.
        name: String,
        /// Which start of it.
        attempt: u32,
        /// How it ended.
        exit: Exit,
    },
    /// A process started by [`Request::Exec`] ended.
    ExecExited {
        /// Which.
        id: u64,
        /// How it ended.
        exit: Exit,
    },
}

/// How a process ended. For a container this is also what its `exit` file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status; 128 + the signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed it, or another process of the container, for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it began (wall clock, for show).
    pub started_at: Timestamp,
    /// When it ended (wall clock, for show).
    pub finished_at: Timestamp,
}

impl Exit {
    /// Reads the `exit` file of an attempt; `None` if there is none, or none that can be read.
    pub fn read(attempt_dir: &std::path::Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(attempt_dir.join(EXIT_FILE)).ok()?).ok()
    }
}

/// The file in `pods/<uid>/containers/<name>/<attempt>/` that says how the attempt ended.
pub const EXIT_FILE: &str = "exit";

/// Everything that a shim knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodStatus {
    /// Every attempt that was not deleted, by name and attempt.
    pub containers: Vec<ContainerStatus>,
    /// Processes started by [`Request::Exec`] that still run: id and pid.
    pub execs: BTreeMap<u64, u32>,
    /// The names of the descriptors it keeps.
    pub kept: Vec<String>,
    /// What could not be had on this machine and was done without: limits, rlimits, oom score.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One attempt of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Which start of it.
    pub attempt: u32,
    /// Its first process, as the host sees it.
    pub pid: u32,
    /// When it began (wall clock, for show).
    pub started_at: Timestamp,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Its cgroup, below the mount of each hierarchy: `/lamina-<instance>/pod<uid>/<name>-<attempt>`.
    pub cgroup: String,
    /// Its log file.
    pub log: PathBuf,
    /// Which kept descriptors its root is made of, top layer first; they must not be dropped while it runs.
    #[serde(default)]
    pub layers: Vec<String>,
    /// What could not be had for it and was done without.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is, for code.
    pub kind: FailureKind,
    /// The one word that a container's status shows as its reason, where the failure has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was attempted and why it failed, for people: the whole chain of causes.
    pub message: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is no such container, attempt, exec or kept descriptor.
    NotFound,
    /// The attempt is there already.
    Exists,
    /// The container has ended.
    NotRunning,
    /// The request makes no sense, or is for a newer shim.
    Invalid,
    /// The command is not in the image: exit status 127.
    CommandNotFound,
    /// The command cannot be executed: exit status 126.
    CommandNotExecutable,
    /// Anything else that this machine, or the image, stands in the way of: exit status 125 or 128.
    Failed,
}

impl Failure {
    /// A failure without a reason of its own.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, reason: None, message: message.into() }
    }
}

impl FailureKind {
    /// The exit status by which command lines tell this failure.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 125,
        }
    }
}

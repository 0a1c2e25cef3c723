//! Why a container's process could not be started, as its parent tells it.

use std::fmt;
use std::io;

use crate::sys::{cgroup, mount};

/// The step of a start that failed; each step's text says what was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Entering the container's cgroup.
    Cgroup,
    /// Entering or making a namespace.
    Namespace,
    /// Mounting the root.
    Root,
    /// Mounting one of the kernel's file systems or making a device.
    Filesystem,
    /// Mounting a volume.
    Volume,
    /// Hiding a path, or making one read-only.
    Mask,
    /// Making the new root the only one.
    Pivot,
    /// Opening the terminal or putting descriptors in place.
    Stdio,
    /// Setting a resource limit, `oom_score_adj` or a kernel parameter.
    Limit,
    /// Finding out who the process runs as.
    User,
    /// Taking capabilities away or loading the system call filter.
    Privileges,
    /// Entering the working directory.
    Directory,
    /// Executing the program.
    Exec,
}

impl Stage {
    /// All of them, in the order of the wire format between a child and its parent (which are the same program).
    pub(super) const ALL: [Self; 13] = [
        Self::Cgroup,
        Self::Namespace,
        Self::Root,
        Self::Filesystem,
        Self::Volume,
        Self::Mask,
        Self::Pivot,
        Self::Stdio,
        Self::Limit,
        Self::User,
        Self::Privileges,
        Self::Directory,
        Self::Exec,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "enter the cgroup",
            Self::Namespace => "enter the namespaces",
            Self::Root => "mount the root",
            Self::Filesystem => "mount",
            Self::Volume => "mount the volume at",
            Self::Mask => "mask",
            Self::Pivot => "change the root",
            Self::Stdio => "open the terminal or standard streams",
            Self::Limit => "set the limit",
            Self::User => "run as user",
            Self::Privileges => "drop privileges",
            Self::Directory => "enter the working directory",
            Self::Exec => "execute",
        })
    }
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fork itself failed.
    #[error("cannot create a process")]
    Fork {
        /// What the kernel said.
        source: io::Error,
    },
    /// A step in the child failed.
    #[error("cannot {stage}{}{subject}", if subject.is_empty() { "" } else { " " })]
    Step {
        /// Which step.
        stage: Stage,
        /// The path, name or option of that step; may be empty.
        subject: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The child was killed, or ended without a word, before its program ran.
    #[error("the process ended before its program was executed")]
    Died,
    /// The child was not done within the time that a start may take, and was killed.
    #[error("the process was not ready within {seconds} s and was killed")]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
}

impl Error {
    /// A mapper for `map_err`.
    pub(super) fn at<E: Into<io::Error>>(stage: Stage, subject: impl ToString) -> impl FnOnce(E) -> Self {
        let subject = subject.to_string();
        move |source| Self::Step { stage, subject, source: source.into() }
    }

    /// A mapper for errors of mounts, which say more than a number.
    pub(super) fn mount(stage: Stage, subject: impl ToString) -> impl FnOnce(mount::Error) -> Self {
        let subject = subject.to_string();
        move |e| Self::Step { stage, subject: format!("{subject} ({e})"), source: e.source }
    }

    /// From an error of a cgroup.
    pub(super) fn cgroup(error: &cgroup::Error) -> Self {
        let source =
            error.source.raw_os_error().map_or_else(|| error.source.kind().into(), io::Error::from_raw_os_error);
        Self::Step { stage: Stage::Cgroup, subject: format!("({error})"), source }
    }

    /// A refusal that no system call made.
    pub(super) fn refuse(stage: Stage, subject: impl ToString, errno: i32) -> Self {
        Self::Step { stage, subject: subject.to_string(), source: io::Error::from_raw_os_error(errno) }
    }

    /// What a shell would report: 127 for a program that is not there, 126 for one that cannot be executed, 128 for a
    /// container that could not be set up.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Step { stage: Stage::Exec, source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => 127,
                _ => 126,
            },
            _ => 128,
        }
    }

    /// The one word that a container's status shows as its reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Step { stage: Stage::User | Stage::Volume, .. } => "CreateContainerConfigError",
            Self::Step { stage: Stage::Exec | Stage::Directory, .. } => "StartError",
            _ => "CreateContainerError",
        }
    }
}

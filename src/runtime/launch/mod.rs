//! Starting a process as a container: the one place where a pod's shim forks.
//!
//! ```text
//!  shim ──clone3(new pid, mount)──▶ child: cgroup → root (overlay) → /proc /sys /dev → volumes → masks → pivot_root
//!    │                                     → limits → user, capabilities, seccomp → exec
//!    └── report socket ◀── "stage, errno, subject" when a step fails · the terminal's master · end of file: exec done
//! ```
//!
//! The caller must be single-threaded: the child runs ordinary code between `clone3` and `exec`. The child inherits the
//! caller's network, IPC and UTS namespaces, which are the pod's. Everything that belongs to the image is untrusted:
//! each path below the new root is resolved by `openat2` inside that root, and mounts are moved onto descriptors, never
//! onto path names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::runtime::spec::{self, ContainerSpec, ProcessSpec, Propagation};
use crate::sys::cgroup::Cgroup;
use crate::sys::process::{self, Forked};

mod devices;
mod error;
mod filesystems;
mod filter;
mod init;
mod join;
mod mapped;
mod mask;
mod program;
mod report;
mod root;
mod terminal;
mod user;
mod volume;

pub use error::{Error, Stage};

/// The lower layers of a root, top layer first.
#[derive(Debug, Clone, Copy)]
pub enum Lower<'a> {
    /// [`Tier::Detached`](crate::sys::mount::Tier::Detached): one mount descriptor a layer.
    Fds(&'a [BorrowedFd<'a>]),
    /// [`Tier::Attached`](crate::sys::mount::Tier::Attached): one directory a layer, in the caller's mount namespace,
    /// and an empty directory to mount the overlay on (in the child's namespace only).
    Paths {
        /// Where the caller attached the layers.
        layers: &'a [PathBuf],
        /// An empty directory, best on a private tmpfs of the caller.
        target: &'a Path,
    },
}

/// A container's root: shared layers and a writable directory of its own.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// The shared layers.
    pub lower: Lower<'a>,
    /// The writable directory.
    pub upper: &'a Path,
    /// overlayfs' scratch directory, on the same file system as `upper`.
    pub work: &'a Path,
}

/// What a volume's content is reached through.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A mount that the caller holds. It is cloned for each container, so it must be attached in the caller's mount
    /// namespace or the kernel must be 6.15 or later; what is mounted below it comes along.
    Mount(BorrowedFd<'a>),
    /// A detached mount that was made for this bind alone: it is used itself. The kernel lets nobody clone one that was
    /// cloned in another mount namespace, as those of host paths are. It has no `sub_path`.
    Own(BorrowedFd<'a>),
    /// As [`Source::Mount`]; with a user namespace, its owners are mapped already.
    Mapped(BorrowedFd<'a>),
    /// A file or directory of the caller's mount namespace.
    Path(&'a Path),
}

/// One volume (or `/etc/hosts` and its like) in a container.
#[derive(Debug, Clone, Copy)]
pub struct Bind<'a> {
    /// Absolute path inside the container; made when missing, as a directory or an empty file as the source asks.
    pub target: &'a str,
    /// What is mounted there.
    pub source: Source<'a>,
    /// A path inside the source that is mounted instead of all of it; resolved without leaving the source.
    pub sub_path: Option<&'a str>,
    /// Whether the container may not write.
    pub read_only: bool,
    /// With `read_only`: also what is mounted below the source.
    pub recursive: bool,
    /// Whether later mounts travel between host and container.
    pub propagation: Propagation,
    /// What else is denied.
    pub options: &'a [spec::MountOption],
}

/// What a new process has as descriptors 0, 1 and 2.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// Three descriptors of the caller; `None` is the container's `/dev/null`.
    Fds {
        /// Standard input.
        stdin: Option<BorrowedFd<'a>>,
        /// Standard output.
        stdout: Option<BorrowedFd<'a>>,
        /// Standard error.
        stderr: Option<BorrowedFd<'a>>,
    },
    /// A new terminal from the container's own `/dev/pts`; its master comes back in [`Child::terminal`].
    Terminal {
        /// Rows and columns to begin with; `None` leaves them 0.
        size: Option<(u16, u16)>,
    },
}

/// A user namespace: its ids 0 to 65535 are those of the host from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    /// By descriptor.
    pub namespace: BorrowedFd<'a>,
    /// The host's id of its root.
    pub first: u32,
}

/// Everything that a start needs.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container as an OCI spec, and who it runs as.
    pub container: &'a ContainerSpec,
    /// Its root.
    pub root: Root<'a>,
    /// Its volumes.
    pub binds: &'a [Bind<'a>],
    /// Its cgroup, made and limited already.
    pub cgroup: &'a Cgroup,
    /// Its descriptors.
    pub stdio: Stdio<'a>,
    /// A process whose pid namespace it is to live in; `None`: as its spec says, one of its own or the caller's.
    pub pid_of: Option<BorrowedFd<'a>>,
    /// The user namespace that it is to live in; `None`: the caller's. Kernel 6.15 or later.
    pub users: Option<Users<'a>>,
}

/// A further process in a running container.
#[derive(Debug)]
pub struct ExecLaunch<'a> {
    /// The container's first process.
    pub init: BorrowedFd<'a>,
    /// What to run: arguments, environment, directory, user, capabilities, filter, terminal.
    pub process: &'a ProcessSpec,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// Its descriptors.
    pub stdio: Stdio<'a>,
    /// The host's id of root in the container's user namespace; `None`: it is in the caller's.
    pub users: Option<u32>,
}

/// A process that runs the program it was started for.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it. The caller is the parent and must reap it.
    pub pid: i32,
    /// The same by descriptor, close-on-exec.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

impl Launch<'_> {
    /// Whether it is to be the first process of a pid namespace.
    fn own_pid(&self) -> bool {
        self.pid_of.is_none() && spec::has_namespace(&self.container.oci, oci_spec::runtime::LinuxNamespaceType::Pid)
    }
}

/// Starts a container's first process; returns once its program was executed.
///
/// # Errors
/// If any step failed; nothing is left of the child then, and it has been reaped. [`Error::exit_code`] is what a shell
/// would report.
pub fn start(launch: &Launch<'_>) -> Result<Child, Error> {
    let directory = launch.cgroup.unified_directory().map_err(|e| Error::cgroup(&e))?;
    let (ours, theirs) = report::channel()?;
    let options = process::Clone {
        mount: true,
        pid: launch.users.is_none() && launch.own_pid(),
        cgroup: directory.as_ref().map(AsFd::as_fd),
        ..process::Clone::default()
    };
    let forked = match launch.pid_of.filter(|_| launch.users.is_none()) {
        Some(process) => join::fork_inside(process, options),
        None => process::fork(options).map_err(|source| Error::Fork { source }),
    };
    match forked? {
        Forked::Child => theirs.run(|report| match launch.users {
            Some(users) => mapped::run(launch, users, report),
            None => init::run(launch, report),
        }),
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            ours.wait(pid, pidfd)
        }
    }
}

/// Starts a further process in a running container; returns once its program was executed.
///
/// # Errors
/// As [`start`].
pub fn exec(launch: &ExecLaunch<'_>) -> Result<Child, Error> {
    let directory = launch.cgroup.unified_directory().map_err(|e| Error::cgroup(&e))?;
    let (ours, theirs) = report::channel()?;
    let inside = |directory: &Option<OwnedFd>| {
        let options = process::Clone { cgroup: directory.as_ref().map(AsFd::as_fd), ..process::Clone::default() };
        join::fork_inside(launch.init, options)
    };
    let forked = match inside(&directory) {
        Err(Error::Fork { source }) if source.raw_os_error() == Some(libc::EBUSY) => {
            let group = join::group_of(launch.init, launch.cgroup.hierarchies()).ok_or(Error::Fork { source })?;
            inside(&group.unified_directory().map_err(|e| Error::cgroup(&e))?)
        }
        forked => forked,
    };
    match forked? {
        Forked::Child => theirs.run(|report| join::run(launch, report)),
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            ours.wait(pid, pidfd)
        }
    }
}

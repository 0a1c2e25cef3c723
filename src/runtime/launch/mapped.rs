//! A container in a user namespace of its pod: its root is nobody on the host.
//!
//! ```text
//!  shim ──clone3──▶ go-between, root of the host: cgroup → overlay of mapped layers, /dev, /sys, mapped volumes
//!    │                   │ enters the user namespace, then clone3(new pid, mount; the shim's child)
//!    │                   └──▶ container: attaches all that → /proc, /dev/pts → … as any other ──▶ program
//!    └── report socket ◀── "stand-in, pid" from the go-between, which ends
//! ```
//!
//! What only the host's root may do is done by the go-between, and reaches the container as mounts that are attached to
//! nothing. The container's mount and pid namespaces are made from inside the user namespace, so they belong to it, and
//! what the copy of the host's mount table holds cannot be touched there. Files keep the ids that they have in the
//! container: layers and volumes are seen through mapped mounts, and nothing is copied or given to somebody else but the
//! one directory that the container writes to.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::report::Reporter;
use super::user;
use super::{Error, Launch, Lower, Stage, Stdio, Users, devices, filesystems, init, volume};
use crate::runtime::spec::UserRequest;
use crate::sys::mount::{self, Mount};
use crate::sys::namespace::{self, Namespace};
use crate::sys::process::{self, Clone, Forked};

/// What only the host's root can make.
pub(super) struct Parts {
    pub(super) root: Mount,
    /// By destination.
    pub(super) filesystems: Vec<(PathBuf, Mount)>,
    /// In the order of the binds.
    pub(super) volumes: Vec<Mount>,
}

/// Runs in the go-between, and then in the child; returns only an error.
pub(super) fn run(launch: &Launch<'_>, users: Users<'_>, report: &Reporter) -> Error {
    match prepare(launch, users, report) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepare(launch: &Launch<'_>, users: Users<'_>, report: &Reporter) -> Result<Infallible, Error> {
    init::enter(launch)?;
    let parts = Parts::make(launch, users)?;
    let root = rustix::fs::openat(&parts.root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::at(Stage::Root, ""))?;
    give_streams(launch.stdio, &launch.container.user, &root, users.first)?;
    let fail = |what: &'static str| Error::at::<std::io::Error>(Stage::Namespace, what);
    if let Some(process) = launch.pid_of {
        namespace::enter_process(process, &[Namespace::Pid]).map_err(fail("(pid)"))?;
    }
    namespace::enter(users.namespace, Namespace::User).map_err(fail("(user)"))?;
    namespace::become_its_root().map_err(fail("(user)"))?;
    let options = Clone { mount: true, pid: launch.own_pid(), sibling: true, ..Clone::default() };
    match process::fork(options).map_err(fail("(mount, pid)"))? {
        Forked::Child => init::inside(launch, Some(parts), report),
        Forked::Parent { pid, pidfd } => {
            if report.stand_in(pid, pidfd.as_fd()).is_err() {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
            process::exit_now(0)
        }
    }
}

impl Parts {
    fn make(launch: &Launch<'_>, users: Users<'_>) -> Result<Self, Error> {
        let oci = &launch.container.oci;
        let mut made = Vec::new();
        for entry in oci.mounts().iter().flatten() {
            let mount = match entry.typ().as_deref() {
                Some("sysfs") => filesystems::make(entry, &[], None)?,
                Some("cgroup" | "cgroup2") => filesystems::cgroups(None, entry, launch.cgroup)?,
                // Devices work only on a file system that the host's root has mounted.
                Some("tmpfs") if entry.destination() == Path::new("/dev") => {
                    let owner = [format!("uid={}", users.first), format!("gid={}", users.first)];
                    let dev = filesystems::make(entry, &owner, filesystems::label(oci))?.into_fd();
                    devices::fill(&dev, oci, launch.container.privileged, Some(users.first))?;
                    Mount::from_fd(dev)
                }
                _ => continue,
            };
            made.push((entry.destination().clone(), mount));
        }
        Ok(Self {
            root: root(launch, users)?,
            filesystems: made,
            volumes: volume::prepare_all(launch.binds, Some(&users))?,
        })
    }
}

/// The overlay. What is copied up, and what is made, lies in the upper directory under the host's ids.
fn root(launch: &Launch<'_>, users: Users<'_>) -> Result<Mount, Error> {
    let Lower::Fds(layers) = launch.root.lower else {
        return Err(Error::refuse(Stage::Root, "with hostUsers: false (this kernel lacks it)", libc::EOPNOTSUPP));
    };
    let mapped = layers.iter().map(|layer| {
        let layer = Mount::clone_at(layer, Path::new(""), false)?;
        layer.map_owners(users.namespace, false)?;
        Ok(layer)
    });
    let mapped = mapped.collect::<Result<Vec<_>, _>>().map_err(Error::mount(Stage::Root, "with hostUsers: false"))?;
    // The root directory is the upper one: it belongs to the container's root.
    let (uid, gid) = (Uid::from_raw(users.first), Gid::from_raw(users.first));
    rustix::fs::chown(launch.root.upper, Some(uid), Some(gid))
        .map_err(Error::at(Stage::Root, launch.root.upper.display()))?;
    let lower: Vec<BorrowedFd<'_>> = mapped.iter().map(|layer| layer.as_fd()).collect();
    let label = filesystems::label(&launch.container.oci);
    mount::overlay(&lower, Some((launch.root.upper, launch.root.work)), label).map_err(Error::mount(Stage::Root, ""))
}

/// Streams belong to the user, who may open `/dev/stdout` again by name; inside, nobody could give them away.
pub(super) fn give_streams(
    stdio: Stdio<'_>,
    user: &UserRequest,
    root: &std::os::fd::OwnedFd,
    first: u32,
) -> Result<(), Error> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(()) };
    let who = user::resolve(user, root).map_err(user::Error::into_launch)?;
    let owner = Uid::from_raw(first.saturating_add(who.uid));
    for fd in [stdin, stdout, stderr].iter().flatten() {
        // Read-only file systems refuse; the stream works without.
        let _ = rustix::fs::fchown(fd, Some(owner), None);
    }
    Ok(())
}

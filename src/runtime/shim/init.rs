//! The first process of a pid namespace that a pod's containers share: it reaps what they leave, and nothing else.
//!
//! It is a copy of the shim that never executes anything. The containers see it and may be its equals in rank, so it
//! has nothing that is worth having: an empty root that cannot be written, no descriptors, no capabilities, a user that
//! nobody is. A signal from inside never ends it, as the kernel has it for the first process; the shim's `SIGKILL` does.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitOptions};

use super::Error;
use crate::sys::capability::{self, Capabilities};
use crate::sys::mount::Mount;
use crate::sys::process::{self, Clone, Forked};

/// Who it runs as: the id that Kubernetes' pause container has.
const USER: u32 = 65_535;

/// A running init.
#[derive(Debug)]
pub(super) struct Init {
    /// As the shim sees it.
    pub(super) pid: i32,
    /// The same by descriptor; children are put into its pid namespace through this.
    pub(super) pidfd: OwnedFd,
}

impl Init {
    /// Starts it, in a pid namespace of its own; with `sibling` the caller's parent is its parent, too.
    pub(super) fn start(sibling: bool) -> Result<Self, Error> {
        let failed = |source| Error::Kernel { action: "start the first process of the pod's pid namespace", source };
        // The child says on this that it has shed everything: a container must not meet it before.
        let (ready, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        match process::fork(Clone { mount: true, pid: true, sibling, ..Clone::default() }).map_err(failed)? {
            Forked::Child => {
                // The other end must be seen to close if this process dies.
                drop(ready);
                let Err(_) = run(&said);
                process::exit_now(1)
            }
            Forked::Parent { pid, pidfd } => {
                drop(said);
                let init = Self { pid, pidfd };
                let mut byte = [0];
                if rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut byte)) == Ok(1) {
                    Ok(init)
                } else {
                    init.end();
                    Err(failed(io::ErrorKind::BrokenPipe.into()))
                }
            }
        }
    }

    /// Kills it, and with it whatever else is in its namespace.
    pub(super) fn end(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd)), WaitIdOptions::EXITED);
    }
}

/// The child: sheds everything, then reaps for ever.
fn run(said: &OwnedFd) -> io::Result<Infallible> {
    process::set_dumpable(false)?;
    let _ = rustix::thread::set_name(c"pause");
    process::reset_signals();
    rustix::process::setsid()?;
    empty_root()?;
    process::close_all_but(0, &[std::os::fd::AsRawFd::as_raw_fd(said)])?;
    capability::bound(Capabilities::EMPTY)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(USER), rustix::fs::Gid::from_raw(USER));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    capability::set(Capabilities::EMPTY, Capabilities::EMPTY)?;
    rustix::thread::set_no_new_privs(true)?;
    // The change of user has made it dumpable again, or not, by a setting of the machine.
    process::set_dumpable(false)?;
    rustix::io::write(said, &[1])?;
    process::close_all_but(0, &[])?;
    let mut ended = SigSet::empty();
    ended.add(nix::sys::signal::Signal::SIGCHLD);
    // Blocked, it waits until it is taken: none is lost between a look and the next sleep.
    ended.thread_block()?;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let _ = ended.wait();
    }
}

/// Leaves every file system but an empty one.
fn empty_root() -> io::Result<()> {
    let other = |e: crate::sys::mount::Error| e.source;
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = Mount::tmpfs(Some(4096), 0o555, attributes).map_err(other)?;
    root.attach(std::path::Path::new("/")).map_err(other)?;
    let root = rustix::fs::openat(&root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

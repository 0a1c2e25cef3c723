//! A pod's user namespace (`hostUsers: false`), and with it those that belong to it: network, IPC, host name.
//!
//! Who enters a user namespace cannot come back, so a child makes them all and waits, and the shim, which stays root of
//! the host, enters or keeps them by descriptor. The child then ends.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::init::Init;
use super::setup::write_sysctls;
use super::{Config, Error};
use crate::api::problem::chain;
use crate::api::view::OWN_USERS;
use crate::sys::namespace::{self, Namespace};
use crate::sys::process::{self, Clone, Forked};

/// The longest complaint of the child.
const COMPLAINT: usize = 1024;

/// What was made.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) namespace: OwnedFd,
    /// The first process of the pid namespace that the containers share, which belongs to the user namespace too.
    pub(super) init: Option<Init>,
}

impl Users {
    /// Makes the namespace and those of `kinds`, and takes the caller into the latter.
    pub(super) fn make(config: &Config, kinds: &[Namespace]) -> Result<Self, Error> {
        let failed = |source| Error::Kernel { action: "make the pod's user namespace", source };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
        let ((go, mapped), (said, tell)) = (pipe()?, pipe()?);
        match process::fork(Clone { user: true, ..Clone::default() }).map_err(failed)? {
            Forked::Child => {
                // The ends that are the other's, so that each sees when the other is gone.
                let _ = process::close_all_but(3, &[go.as_raw_fd(), tell.as_raw_fd()]);
                std::mem::forget((mapped, said));
                let text = match hold(config, kinds, &go, &tell) {
                    Ok(never) => match never {},
                    Err(e) => chain(&e),
                };
                let _ = rustix::io::write(&tell, text.as_bytes());
                process::exit_now(1)
            }
            Forked::Parent { pid, pidfd } => {
                drop((go, tell));
                let first = config.users.unwrap_or_default();
                let made = take(pid, &pidfd, (first, kinds), &mapped, &said);
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                made.map_err(failed)
            }
        }
    }
}

/// The parent: says whose ids they are, waits, enters what was made.
fn take(
    pid: i32,
    child: &OwnedFd,
    (first, kinds): (u32, &[Namespace]),
    mapped: &OwnedFd,
    said: &OwnedFd,
) -> io::Result<Users> {
    let map = format!("0 {first} {OWN_USERS}\n");
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), &map)?;
    }
    rustix::io::write(mapped, &[1])?;
    let mut answer = [0; COMPLAINT];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(said, &mut answer))?;
    let init = match answer.get(..length).unwrap_or_default() {
        [0, a, b, c, d] => match i32::from_le_bytes([*a, *b, *c, *d]) {
            0 => None,
            pid => {
                let number = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
                // A child of ours that nobody has reaped: the number is still its own.
                let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?;
                Some(Init { pid, pidfd })
            }
        },
        complaint => return Err(io::Error::other(String::from_utf8_lossy(complaint).into_owned())),
    };
    let path = format!("/proc/{pid}/ns/user");
    let namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    namespace::enter_process(child.as_fd(), kinds)?;
    Ok(Users { namespace, init })
}

/// The child: makes everything, tells, and keeps it alive until it is killed.
fn hold(config: &Config, kinds: &[Namespace], go: &OwnedFd, tell: &OwnedFd) -> Result<Infallible, Error> {
    let failed = || Error::kernel::<io::Error>("make the pod's namespaces");
    let mut byte = [0];
    if rustix::io::retry_on_intr(|| rustix::io::read(go, &mut byte)) != Ok(1) {
        return Err(failed()(io::ErrorKind::BrokenPipe.into()));
    }
    namespace::become_its_root().map_err(failed())?;
    namespace::unshare(kinds).map_err(failed())?;
    write_sysctls(config)?;
    let init = if config.share_pid { Some(Init::start(true)?) } else { None };
    let mut answer = vec![0];
    answer.extend(init.map_or(0, |init| init.pid).to_le_bytes());
    rustix::io::write(tell, &answer).map_err(|e| failed()(e.into()))?;
    loop {
        // Ends with the parent, if that does not kill it.
        if rustix::io::read(go, &mut byte) == Ok(0) {
            process::exit_now(0);
        }
    }
}

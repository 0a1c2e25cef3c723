//! A further process in a running container, from the fork to its program.

use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::report::Reporter;
use super::{Error, ExecLaunch, Stage, Stdio, init, mapped, program, terminal};
use crate::sys::cgroup::{Cgroup, Hierarchies};
use crate::sys::namespace::{self, Namespace};
use crate::sys::process::{self, Clone, Forked};

/// Forks a child that lives in the pid namespace of the container's first process. Only children are put there, so for
/// the time of the fork that namespace is set for them, and then the caller's own again.
pub(super) fn fork_inside(container: BorrowedFd<'_>, options: Clone<'_>) -> Result<Forked, Error> {
    let fail = || Error::at::<std::io::Error>(Stage::Namespace, "(pid)");
    let own = namespace::own(Namespace::Pid).map_err(fail())?;
    namespace::enter_process(container, &[Namespace::Pid]).map_err(fail())?;
    // The child is in sight of the container's processes at once: none may look into this program's memory or files.
    let hidden = process::set_dumpable(false);
    let forked = hidden.and_then(|()| process::fork(options));
    if matches!(forked, Ok(Forked::Child)) {
        return Ok(Forked::Child);
    }
    let restored = namespace::enter(own.as_fd(), Namespace::Pid);
    let forked = forked.map_err(|source| Error::Fork { source })?;
    match (restored, forked) {
        (Err(e), Forked::Parent { pidfd, .. }) => {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            Err(fail()(e))
        }
        (_, forked) => Ok(forked),
    }
}

/// The v2 group of the container's first process. It differs from the container's own where that has groups below it,
/// made by a service manager inside: no process may enter an inner group then.
pub(super) fn group_of(container: BorrowedFd<'_>, hierarchies: &Hierarchies) -> Option<Cgroup> {
    let read = |name: String| std::fs::read_to_string(name).ok();
    let described = read(format!("/proc/self/fdinfo/{}", container.as_raw_fd()))?;
    let pid: u32 = described.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())?;
    // The number stays that process': the caller is its parent, and does not reap it here.
    let groups = read(format!("/proc/{pid}/cgroup"))?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Cgroup::open(hierarchies, path))
}

/// Runs in the child; returns only an error.
pub(super) fn run(launch: &ExecLaunch<'_>, report: &Reporter) -> Error {
    match prepare(launch, report) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepare(launch: &ExecLaunch<'_>, report: &Reporter) -> Result<std::convert::Infallible, Error> {
    let mut keep = vec![report.as_fd().as_raw_fd(), launch.init.as_raw_fd()];
    if let Stdio::Fds { stdin, stdout, stderr } = launch.stdio {
        keep.extend([stdin, stdout, stderr].iter().flatten().map(AsRawFd::as_raw_fd));
    }
    // Whatever else the caller had open is not to be found below this process' /proc.
    process::close_all_but(3, &keep).map_err(Error::at(Stage::Stdio, "(inherited descriptors)"))?;

    let running = &launch.process.process;
    init::begin(running.oom_score_adj())?;
    launch.cgroup.join_v1().map_err(|e| Error::cgroup(&e))?;
    let kinds = [Namespace::Mount, Namespace::Cgroup, Namespace::Net, Namespace::Ipc, Namespace::Uts];
    namespace::enter_process(launch.init, &kinds).map_err(Error::at(Stage::Namespace, ""))?;
    let root: OwnedFd = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::at(Stage::Namespace, "(root)"))?;
    if let Some(first) = launch.users {
        let fail = || Error::at::<std::io::Error>(Stage::Namespace, "(user)");
        mapped::give_streams(launch.stdio, &launch.process.user, &root, first)?;
        namespace::enter_process(launch.init, &[Namespace::User]).map_err(fail())?;
        namespace::become_its_root().map_err(fail())?;
    }
    let stdio = terminal::open(&root, launch.stdio, report, false)?;
    program::execute(running, &launch.process.user, launch.process.seccomp.as_ref(), stdio, report)
}

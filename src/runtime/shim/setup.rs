//! From a process that the agent started to one that belongs to nobody: sheds what it inherited, then takes its place.
//!
//! The order matters: the host's mount namespace before any path is opened, the cgroup while its file systems are still
//! the host's, the namespaces last, so that everything before is as the host sees it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, openat};
use rustix::process::Signal;

use super::config::LOG;
use super::init::Init;
use super::users::Users;
use super::{Config, Error, Network, READY};
use crate::sys::cgroup::{Cgroup, Hierarchies, Limits};
use crate::sys::host;
use crate::sys::mount;
use crate::sys::namespace::{self, Namespace};
use crate::sys::process::{self, Clone, Forked};

/// The kernel should kill anything of the pod before the process that accounts for it. Best effort: lowering needs a
/// capability.
const OOM_SCORE: &[u8] = b"-998";

/// A user namespace, and the host's id of its root.
type Mapped = (OwnedFd, u32);

/// Where a shim is once it is set up.
#[derive(Debug)]
pub(super) struct Place {
    /// Held for its life: no second shim for the same pod.
    pub(super) _lock: OwnedFd,
    /// Its socket.
    pub(super) listener: UnixListener,
    /// The host's mount namespace.
    pub(super) host_mounts: OwnedFd,
    /// Its own.
    pub(super) own_mounts: OwnedFd,
    /// The machine's cgroup file systems.
    pub(super) hierarchies: Hierarchies,
    /// The pod's cgroup.
    pub(super) pod_cgroup: Cgroup,
    /// Its own cgroup.
    pub(super) own_cgroup: Cgroup,
    /// The pod's user namespace, where it has one, and the host's id of its root.
    pub(super) users: Option<Mapped>,
    /// The first process of the pid namespace that the containers share, where they share one.
    pub(super) init: Option<Init>,
    /// The process that was started, and waits until this one needs it no more.
    pub(super) origin: Option<Origin>,
    /// What could not be had.
    pub(super) warnings: Vec<String>,
}

/// Takes the calling process to its place.
pub(super) fn enter(config: &Config) -> Result<Place, Error> {
    let mut warnings = Vec::new();
    shed()?;
    enter_host_mounts()?;
    let lock = lock(&config.run)?;
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        warnings.push(format!("the shim's oom_score_adj cannot be lowered: {e}"));
    }

    let hierarchies = Hierarchies::probe()?;
    let path = config.cgroup.to_string_lossy();
    let (pod_cgroup, missing) = Cgroup::create(&hierarchies, &path, &config.limits)?;
    warnings.extend(missing.into_iter().map(|w| w.0));
    let (own_cgroup, missing) = Cgroup::create(&hierarchies, &format!("{path}/shim"), &Limits::default())?;
    warnings.extend(missing.into_iter().map(|w| w.0));
    let rest = settle(&own_cgroup).and_then(|origin| {
        let host_mounts = mount_namespace("/proc/self/ns/mnt")?;
        let (users, init) = namespaces(config)?;
        let own_mounts = mount_namespace("/proc/self/ns/mnt")?;
        let listener = listen(config)?;
        Ok((host_mounts, own_mounts, listener, users, init, origin))
    });
    match rest {
        Ok((host_mounts, own_mounts, listener, users, init, origin)) => Ok(Place {
            _lock: lock,
            listener,
            host_mounts,
            own_mounts,
            hierarchies,
            pod_cgroup,
            own_cgroup,
            users,
            init,
            origin,
            warnings,
        }),
        Err(e) => {
            // Nothing may be left of a failed set-up; a group that holds a process has to be left by it first.
            let _ = Cgroup::open(&hierarchies, "/").join();
            let _ = own_cgroup.remove_with_parents();
            Err(e)
        }
    }
}

/// The process that the agent started, of which this one is a copy: what kills it kills the copy, too, until that has
/// been released.
#[derive(Debug)]
pub(super) struct Origin(OwnedFd);

impl Origin {
    /// Lets it end.
    pub(super) fn release(self) {
        // Refused by no kernel; at worst its end is that of the pod, which the agent notices.
        let _ = rustix::process::set_parent_process_death_signal(None);
        drop(self.0);
    }
}

/// Goes on inside the group. Moving a process into a v2 group waits for a lock over all processes of the machine, ten
/// milliseconds or more; to be born in one does not.
fn settle(group: &Cgroup) -> Result<Option<Origin>, Error> {
    let Some(directory) = group.unified_directory()? else { return Ok(group.join_v1().map(|()| None)?) };
    group.join_v1()?;
    let failed = |source| Error::Kernel { action: "begin in the shim's cgroup", source };
    let (end, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let origin = rustix::process::getpid();
    match process::fork(Clone { cgroup: Some(directory.as_fd()), ..Clone::default() }) {
        Ok(Forked::Child) => {
            drop(end);
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| failed(e.into()))?;
            if rustix::process::getppid() != Some(origin) {
                // It was killed before that was set.
                return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
            }
            let _ = rustix::process::setsid();
            reap_orphans()?;
            Ok(Some(Origin(held)))
        }
        Ok(Forked::Parent { .. }) => {
            drop(held);
            // Nobody waits for what this process says; the streams are the copy's.
            let _ = leave_streams();
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&end, &mut [0]));
            process::exit_now(0)
        }
        // Kernels before 5.7, and containers that forbid it.
        Err(_) => Ok(group.join().map(|()| None)?),
    }
}

fn reap_orphans() -> Result<(), Error> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::kernel("become the reaper of orphans"))
}

/// Leaves the agent's session, directory and descriptors.
fn shed() -> Result<(), Error> {
    // It is a group leader already when a person starts it by hand; nothing is lost then.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::chdir("/").map_err(Error::kernel("enter /"))?;
    process::close_all_but(3, &[]).map_err(Error::kernel("close inherited descriptors"))?;
    // A name of its own in process lists, whatever the binary was called by.
    let _ = rustix::thread::set_name(c"lamina-shim");
    reap_orphans()
}

/// An agent may run in a container; mounts, logs and host paths are those of process 1.
fn enter_host_mounts() -> Result<(), Error> {
    let failed = Error::path("enter the mount namespace", "/proc/1/ns/mnt");
    match host::mounts() {
        Ok(None) => Ok(()),
        Ok(Some(host)) => namespace::enter(host.as_fd(), Namespace::Mount).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn mount_namespace(path: &str) -> Result<OwnedFd, Error> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open", path))
}

fn lock(run: &Path) -> Result<OwnedFd, Error> {
    let fd = openat(CWD, run, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", run))?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => Error::Held { path: run.to_owned() },
        e => Error::path("lock", run)(e),
    })?;
    Ok(fd)
}

/// Makes the pod's namespaces; its containers are born into them.
fn namespaces(config: &Config) -> Result<(Option<Mapped>, Option<Init>), Error> {
    let wanted = [
        (Namespace::Net, config.network == Network::Loopback),
        (Namespace::Ipc, !config.host_ipc),
        (Namespace::Uts, config.hostname.is_some()),
    ];
    let kinds: Vec<_> = wanted.into_iter().filter_map(|(kind, wanted)| wanted.then_some(kind)).collect();
    let (mut users, mut init) = (None, None);
    if let Some(first) = config.users {
        let made = Users::make(config, &kinds)?;
        users = Some((made.namespace, first));
        init = made.init;
    } else {
        namespace::unshare(&kinds).map_err(Error::kernel("make the pod's namespaces"))?;
        write_sysctls(config)?;
    }
    mount::private_namespace()?;
    if let Some(name) = &config.hostname {
        namespace::set_host_name(name).map_err(Error::kernel("set the pod's host name"))?;
    }
    if config.network == Network::Loopback {
        namespace::loopback_up().map_err(Error::kernel("bring the loopback interface up"))?;
    }
    if config.share_pid && init.is_none() {
        init = Some(Init::start(false)?);
    }
    Ok((users, init))
}

/// Sets the pod's sysctls. Below `/proc/sys` everyone sees the settings of the namespaces that they are in.
pub(super) fn write_sysctls(config: &Config) -> Result<(), Error> {
    for (path, value) in &config.sysctls {
        let path = Path::new("/proc/sys").join(path);
        std::fs::write(&path, value).map_err(Error::path("set the pod's sysctl", path))?;
    }
    Ok(())
}

fn listen(config: &Config) -> Result<UnixListener, Error> {
    let socket = config.socket();
    // The lock says that whoever listened here is gone.
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::path("remove", socket)(e)),
        _ => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&socket).map_err(Error::path("listen at", &socket));
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true).map_err(Error::path("listen at", socket))?;
    Ok(listener)
}

/// Tells the agent, then lets go of the streams that it gave.
pub(super) fn say_ready() -> Result<(), Error> {
    rustix::io::write(std::io::stdout(), READY.as_bytes()).map_err(Error::kernel("say that the shim is ready"))?;
    leave_streams()
}

fn leave_streams() -> Result<(), Error> {
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", "/dev/null"))?;
    process::place_at(null.as_fd(), 0).map_err(Error::kernel("leave standard input"))?;
    process::place_at(null.as_fd(), 1).map_err(Error::kernel("leave standard output"))
}

/// Sends the shim's own complaints to a file from here on.
pub(super) fn own_log(run: &Path) -> Result<(), Error> {
    let path = run.join(LOG);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = openat(CWD, &path, flags, Mode::from_raw_mode(0o600)).map_err(Error::path("open", &path))?;
    process::place_at(log.as_fd(), 2).map_err(Error::path("write to", path))
}

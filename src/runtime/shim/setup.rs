//! From a process that the agent started to one that belongs to nobody: sheds what it inherited, then takes its place.
//!
//! The order matters: the host's mount namespace before any path is opened, the cgroup while its file systems are still
//! the host's, the namespaces last, so that everything before is as the host sees it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, openat};

use super::config::LOG;
use super::{Config, Error, Network, READY};
use crate::sys::cgroup::{Cgroup, Hierarchies, Limits};
use crate::sys::namespace::{self, Namespace};
use crate::sys::{mount, process};

/// The kernel should kill anything of the pod before the process that accounts for it. Best effort: lowering needs a
/// capability.
const OOM_SCORE: &[u8] = b"-998";

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
    let rest = own_cgroup.join().map_err(Error::from).and_then(|()| {
        let host_mounts = mount_namespace("/proc/self/ns/mnt")?;
        namespaces(config)?;
        let own_mounts = mount_namespace("/proc/self/ns/mnt")?;
        Ok((host_mounts, own_mounts, listen(config)?))
    });
    match rest {
        Ok((host_mounts, own_mounts, listener)) => {
            Ok(Place { _lock: lock, listener, host_mounts, own_mounts, hierarchies, pod_cgroup, own_cgroup, warnings })
        }
        Err(e) => {
            // Nothing may be left of a failed set-up; a group that holds a process has to be left by it first.
            let _ = Cgroup::open(&hierarchies, "/").join();
            let _ = own_cgroup.remove_with_parents();
            Err(e)
        }
    }
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
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::kernel("become the reaper of orphans"))
}

/// An agent may run in a container; mounts, logs and host paths are those of process 1.
fn enter_host_mounts() -> Result<(), Error> {
    let (first, own) = ("/proc/1/ns/mnt", "/proc/self/ns/mnt");
    let same = match (std::fs::read_link(first), std::fs::read_link(own)) {
        (Ok(first), Ok(own)) => first == own,
        // Without a view of process 1 there is no other place to go.
        _ => true,
    };
    if same {
        return Ok(());
    }
    let host = mount_namespace(first)?;
    namespace::enter(host.as_fd(), Namespace::Mount).map_err(Error::path("enter the mount namespace", first))
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
fn namespaces(config: &Config) -> Result<(), Error> {
    let wanted = [
        (Namespace::Net, config.network == Network::Loopback),
        (Namespace::Ipc, !config.host_ipc),
        (Namespace::Uts, config.hostname.is_some()),
    ];
    let kinds: Vec<_> = wanted.into_iter().filter_map(|(kind, wanted)| wanted.then_some(kind)).collect();
    namespace::unshare(&kinds).map_err(Error::kernel("make the pod's namespaces"))?;
    mount::private_namespace()?;
    if let Some(name) = &config.hostname {
        namespace::set_host_name(name).map_err(Error::kernel("set the pod's host name"))?;
    }
    if config.network == Network::Loopback {
        namespace::loopback_up().map_err(Error::kernel("bring the loopback interface up"))?;
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

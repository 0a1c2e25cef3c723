//! Namespaces: entering, leaving, and the few things that are set in one.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Mounts.
    Mount,
    /// Process ids; entering one concerns only children made from then on.
    Pid,
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of the cgroup tree as it is shown.
    Cgroup,
    /// Users, groups and capabilities. One that was entered cannot be left.
    User,
}

impl Namespace {
    const fn flag(self) -> i32 {
        match self {
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::User => libc::CLONE_NEWUSER,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }
}

/// Opens a namespace of the calling thread.
///
/// # Errors
/// If `/proc` is not there.
pub fn own(kind: Namespace) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(format!("/proc/thread-self/ns/{}", kind.name()))?.into())
}

/// Enters a namespace by its own descriptor.
///
/// # Errors
/// If the kernel refuses.
pub fn enter(namespace: BorrowedFd<'_>, kind: Namespace) -> io::Result<()> {
    let kind = match kind {
        Namespace::Mount => LinkNameSpaceType::Mount,
        Namespace::Pid => LinkNameSpaceType::ProcessID,
        Namespace::Net => LinkNameSpaceType::Network,
        Namespace::Ipc => LinkNameSpaceType::InterProcessCommunication,
        Namespace::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        Namespace::Cgroup => LinkNameSpaceType::ControlGroup,
        Namespace::User => LinkNameSpaceType::User,
    };
    Ok(move_into_link_name_space(namespace, Some(kind))?)
}

/// Enters several namespaces of the process behind a pidfd at once.
///
/// # Errors
/// If the process is gone or the kernel refuses.
pub fn enter_process(pidfd: BorrowedFd<'_>, kinds: &[Namespace]) -> io::Result<()> {
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    // SAFETY: `setns` takes no memory. The caller's thread changes its own view only.
    #[expect(unsafe_code, reason = "the wrapper's flags lack those that are wanted here")]
    let result = unsafe { libc::setns(pidfd.as_raw_fd(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread new namespaces. A new mount namespace needs more care: see
/// [`private_namespace`](super::mount::private_namespace).
///
/// # Errors
/// If the kernel refuses.
pub fn unshare(kinds: &[Namespace]) -> io::Result<()> {
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    let flags = UnshareFlags::from_bits_retain(flags.unsigned_abs());
    #[expect(deprecated, reason = "the replacement only adds an unsafe marker for flags that are not used here")]
    Ok(rustix::thread::unshare(flags)?)
}

/// Becomes the root of the user namespace that the calling thread has entered, which is nobody on the host.
///
/// # Errors
/// If the namespace has no such user or the kernel refuses.
pub fn become_its_root() -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Sets the host name of the caller's UTS namespace.
///
/// # Errors
/// If it is longer than 64 bytes or the kernel refuses.
pub fn set_host_name(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Brings the loopback interface of the caller's network namespace up.
///
/// # Errors
/// If the kernel refuses.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: every field of `ifreq` is plain data, for which zero is a value.
    #[expect(unsafe_code, reason = "a structure with a union in it")]
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: the request is a live `ifreq` whose name and flags are set, which is all that SIOCSIFFLAGS reads.
    #[expect(unsafe_code, reason = "an ioctl without a wrapper")]
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

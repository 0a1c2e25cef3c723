//! Processes: `clone3`, signals, descriptors, and what a process gives up before it runs a program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// What a new process gets of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clone<'a> {
    /// A new mount namespace.
    pub mount: bool,
    /// A new pid namespace, in which it is the first process.
    pub pid: bool,
    /// A new user namespace, in which it has every capability and, until somebody says which, no user.
    pub user: bool,
    /// The caller's parent becomes its parent, too.
    pub sibling: bool,
    /// The v2 cgroup that it begins in, by its directory.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which side of a [`fork`] one is on.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// The child by descriptor.
        pidfd: OwnedFd,
    },
}

/// The arguments of `clone3`, `struct clone_args` of `linux/sched.h`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a copy of the calling process, with the namespaces and the cgroup asked for.
///
/// # Errors
/// If the caller has more than one thread (a lock that another thread holds would stay locked in the child for ever),
/// or the kernel refuses.
pub fn fork(options: Clone<'_>) -> io::Result<Forked> {
    use std::os::unix::fs::MetadataExt as _;
    // The directory has one link more than two for each thread.
    if std::fs::metadata("/proc/self/task")?.nlink() != 3 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "only a process of one thread can be copied"));
    }
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD.unsigned_abs();
    let kinds = [
        (options.mount, libc::CLONE_NEWNS),
        (options.pid, libc::CLONE_NEWPID),
        (options.user, libc::CLONE_NEWUSER),
        (options.sibling, libc::CLONE_PARENT),
    ];
    for (wanted, flag) in kinds {
        flags |= if wanted { flag.unsigned_abs() } else { 0 };
    }
    let mut args = CloneArgs {
        flags: u64::from(flags),
        pidfd: (&raw mut pidfd).addr() as u64,
        // A sibling has its maker's.
        exit_signal: if options.sibling { 0 } else { u64::from(libc::SIGCHLD.unsigned_abs()) },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = options.cgroup {
        /// `CLONE_INTO_CGROUP`.
        const INTO_CGROUP: u64 = 1 << 33;
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a `struct clone_args` of the size passed, `pidfd` lives until after the call. Without
    // CLONE_VM and without a stack the child has a copy of all memory, this stack included, as after `fork`; that the
    // copy is consistent was checked above: there is no other thread that could be in the middle of something.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            #[expect(unsafe_code, reason = "takes over a new descriptor")]
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or_default(), pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process at once: no destructors, no handlers, which belong to the process that this one was copied from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    #[expect(unsafe_code, reason = "the standard library's exit runs handlers")]
    unsafe {
        libc::_exit(code)
    }
}

/// Gives every signal its default action and blocks none, as a program expects to find them.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: setting the default action runs no code of ours. Numbers that cannot be changed are refused, which
        // is fine: they have their default action always.
        #[expect(unsafe_code, reason = "no safe wrapper takes every number")]
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    // SAFETY: an empty set is made in a live variable and then only read.
    #[expect(unsafe_code, reason = "no safe wrapper without another dependency")]
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Makes every descriptor from `first` on close when a program is executed.
///
/// # Errors
/// If the kernel refuses (older than 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from `first` on, except those in `keep`. Only for a process that is about to execute a
/// program: whatever owned the closed descriptors must never run again.
///
/// # Errors
/// If the kernel refuses.
pub fn close_all_but(first: u32, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut next = first;
    for fd in keep {
        if fd > next {
            close_range(next, fd - 1, 0)?;
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no memory is passed. Closing the descriptors of other owners is what the callers' documentation says.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a copy of `fd` at number `place`, open across exec; the one that was there is closed.
///
/// # Errors
/// If the kernel refuses.
pub fn place_at(fd: BorrowedFd<'_>, place: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed; the callers replace descriptors 0, 1 and 2 only, which nobody owns in the sense of
    // the standard library.
    #[expect(unsafe_code, reason = "no safe wrapper takes a bare number as the target")]
    let result = unsafe {
        if fd.as_raw_fd() == place { libc::fcntl(place, libc::F_SETFD, 0) } else { libc::dup2(fd.as_raw_fd(), place) }
    };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Executes `program`, which is not looked up anywhere; returns only when that failed.
pub fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the program is a C string, both arrays end with a null pointer and point to C strings that outlive the
    // call.
    #[expect(unsafe_code, reason = "the wrappers allocate again for each place that is tried")]
    unsafe {
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// Leaves the keys of the session that the process came from, for an empty keyring of its own.
///
/// # Errors
/// If the kernel has no keyrings or the quota is used up.
pub fn new_session_keyring() -> io::Result<()> {
    /// `KEYCTL_JOIN_SESSION_KEYRING`.
    const JOIN: libc::c_int = 1;
    // SAFETY: the null pointer asks for an anonymous keyring; nothing else is passed.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<libc::c_char>()) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a resource limit by its OCI name (`RLIMIT_NOFILE`). A hard limit that may not be raised becomes what it was,
/// and the soft one with it; the limits then set are returned if they are not those asked for.
///
/// # Errors
/// If there is no such limit, or soft exceeds hard.
pub fn set_limit(name: &str, soft: u64, hard: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let resource = match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let limit = |n: u64| (n != u64::MAX).then_some(n);
    match setrlimit(resource, Rlimit { current: limit(soft), maximum: limit(hard) }) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::PERM) => {
            let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let (soft, hard) = (soft.min(most), hard.min(most));
            setrlimit(resource, Rlimit { current: limit(soft), maximum: limit(hard) })?;
            Ok(Some((soft, hard)))
        }
        Err(e) => Err(e.into()),
    }
}

/// Whether nobody runs under a process id any more, but at most a process that has ended and was not yet waited for.
pub fn is_gone(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name before it may hold anything.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the process may be traced and its files below `/proc` read by others of its user.
///
/// # Errors
/// If the kernel refuses.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let behavior = if dumpable { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(set_dumpable_behavior(behavior)?)
}

//! The filter that containers get by default: containerd's, as data.
//!
//! Whatever is not named fails with `EPERM`. Beside what is always allowed, some calls come with a capability; without
//! `CAP_SYS_ADMIN` no namespace can be made by `clone`, and `clone3`, whose flags a filter cannot see, does not exist
//! (so that C libraries fall back to `clone`).

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::sys::capability::Capabilities;

/// Allowed to everyone, whatever the arguments.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork \
    fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 \
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid \
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 \
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
    listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall map_shadow_stack mmap \
    mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal \
    pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 \
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr \
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg \
    sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit \
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr shmat shmctl \
    shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat \
    stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate \
    truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice \
    wait4 waitid waitpid write writev";

/// Allowed to everyone on this kind of machine.
const NATIVE: &str = if cfg!(target_arch = "aarch64") {
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
} else {
    "arch_prctl modify_ldt"
};

/// Read and write another process: as safe as `ptrace`, since kernel 4.8 checks what a filter forbids.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Allowed to those who have a capability.
const WITH: [(&str, &str); 14] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// `AF_VSOCK`: speaks to the hypervisor, past every network namespace.
const VSOCK: u64 = 40;

/// The personalities that change nothing that matters: Linux, with 32-bit name, and the question for the current one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEW*`: namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

/// The default filter for a container with these capabilities in its bounding set.
pub(super) fn default_filter(bounding: Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(ALWAYS, None), allow(NATIVE, None), allow(TRACING, None)];
    rules.push(allow("socket", argument(0, LinuxSeccompOperator::ScmpCmpNe, VSOCK, None)));
    for personality in PERSONALITIES {
        rules.push(allow("personality", argument(0, LinuxSeccompOperator::ScmpCmpEq, personality, None)));
    }
    let has = |name| Capabilities::named(name).is_some_and(|capability| bounding.contains(capability));
    for (capability, names) in WITH {
        if has(capability) {
            rules.push(allow(names, None));
        }
    }
    if !has("SYS_ADMIN") {
        rules.push(allow("clone", argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, NAMESPACES, Some(0))));
        rules.push(rule("clone3", LinuxSeccompAction::ScmpActErrno, Some(libc::ENOSYS.unsigned_abs()), None));
    }
    let mut filter = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM.unsigned_abs())
        .build()
        .unwrap_or_default();
    filter.set_syscalls(Some(rules));
    filter
}

fn allow(names: &str, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, argument)
}

fn rule(
    names: &str,
    action: LinuxSeccompAction,
    error: Option<u32>,
    argument: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default().build().unwrap_or_default();
    rule.set_names(names.split_whitespace().map(str::to_owned).collect());
    rule.set_action(action);
    rule.set_errno_ret(error);
    rule.set_args(argument.map(|a| vec![a]));
    rule
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> Option<LinuxSeccompArg> {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let argument = if let Some(second) = second { argument.value_two(second) } else { argument };
    // The builder has a default for every field, so it always builds.
    argument.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_brings_its_calls() {
        let names = |set: Capabilities| -> Vec<String> {
            default_filter(set).syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
        };
        let plain = names(Capabilities::EMPTY);
        assert!(plain.contains(&"openat2".to_owned()) && plain.contains(&"clone3".to_owned()));
        for absent in ["mount", "bpf", "keyctl", "kexec_load", "io_uring_setup", "userfaultfd", "unshare", "setns"] {
            assert!(!plain.contains(&absent.to_owned()), "{absent}");
        }
        let admin = names(Capabilities::named("SYS_ADMIN").unwrap());
        assert!(admin.contains(&"mount".to_owned()) && admin.contains(&"unshare".to_owned()));
    }

    #[test]
    fn the_namespace_flags_are_the_kernels() {
        let flags = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        assert_eq!(u64::from(flags.unsigned_abs()), NAMESPACES);
    }
}

//! System calls that no crate wraps.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Shows the owners of the detached mount that `fd` is the root of, and of everything mounted below it, through the ids
/// of a user namespace.
pub(crate) fn map_owners(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    /// `MOUNT_ATTR_IDMAP`.
    const MAP: u64 = 0x0010_0000;
    let user_namespace = u64::from(namespace.as_raw_fd().unsigned_abs());
    set_attr(fd, &MountAttr { set: MAP, clear: 0, propagation: 0, user_namespace }, recursive)
}

/// Changes the mount that `fd` is the root of, and with `recursive` everything mounted below it.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    set_attr(fd, &MountAttr { set, clear, propagation, user_namespace: 0 }, recursive)
}

fn set_attr(fd: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` is a live `struct mount_attr` whose size is passed, and the call writes
    // to neither.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

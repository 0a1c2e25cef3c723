//! Project quotas: the kernel counts what is in a directory while it is written, so that nobody has to walk it.
//!
//! A directory gets a project of its own, and hands it down to whatever is made below it. The number is kept with the
//! directory, so that nothing has to be remembered elsewhere, and the kernel forgets a project in which nothing is left.
//! Limits are not set; only the count is used. It holds what a walk cannot see: files that have no name any more.
//!
//! **Who may be counted so**: whoever owns a file may give it to another project, unless they are in a user namespace of
//! their own (`fileattr_set_prepare` of `fs/file_attr.c`). So only directories of pods with such a namespace are.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::tree::Usage;

/// `FS_XFLAG_PROJINHERIT` of `linux/fs.h`: what is made in the directory is of its project.
const INHERIT: u32 = 0x200;
/// `Q_GETQUOTA` of `linux/quota.h`. XFS answers it, too.
const GET: i32 = 0x80_0007;
/// `PRJQUOTA` of `linux/quota.h`.
const PROJECT: i32 = 2;
/// Projects of ours: a range of its own, away from the small numbers that administrators give and from those that a
/// kubelet takes (from 1048577 on).
const FIRST: u32 = 0x4c00_0000;
const RANGE: u32 = 0x0400_0000;
/// How many numbers are tried until one is nobody's.
const ATTEMPTS: usize = 16;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` of `linux/quota.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    block_limits: [u64; 2],
    bytes: u64,
    inode_limits: [u64; 2],
    inodes: u64,
    times: [u64; 2],
    valid: u32,
}

/// Numbers and argument types of `linux/fs.h`.
mod ioctl {
    nix::ioctl_read!(get, b'X', 31, super::Attributes);
    nix::ioctl_write_ptr!(set, b'X', 32, super::Attributes);
}

/// Gives an empty directory a project of its own, where its file system counts projects; whether it did. What goes wrong
/// is no error: the directory is walked then, as it would be elsewhere.
pub fn mark(dir: &Path) -> bool {
    let Some(dir) = open(dir) else { return false };
    let Some(attributes) = attributes(dir.as_fd()) else { return false };
    let is_free = |project: &u32| count(dir.as_fd(), *project).is_some_and(|usage| usage.inodes == 0);
    let mut tries = std::iter::repeat_with(|| FIRST + rand::random_range(0..RANGE)).take(ATTEMPTS);
    let Some(project) = tries.find(is_free) else { return false };
    let marked = Attributes { flags: attributes.flags | INHERIT, project, ..attributes };
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, which `Attributes` mirrors field by field; the descriptor is
    // open.
    #[expect(unsafe_code, reason = "an ioctl")]
    let result = unsafe { ioctl::set(dir.as_raw_fd(), &raw const marked) };
    result.is_ok()
}

/// What the project takes that a directory was given by [`mark`]; `None` where it has none, or nobody counts.
pub fn usage(dir: &Path) -> Option<Usage> {
    let dir = open(dir)?;
    let attributes = attributes(dir.as_fd()).filter(|a| a.flags & INHERIT != 0)?;
    if !(FIRST..FIRST + RANGE).contains(&attributes.project) {
        return None;
    }
    // The directory itself is in it: a project with nothing in it is not counted.
    count(dir.as_fd(), attributes.project).filter(|usage| usage.inodes > 0)
}

fn open(dir: &Path) -> Option<OwnedFd> {
    openat(CWD, dir, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn attributes(dir: BorrowedFd<'_>) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, which `Attributes` mirrors field by field; the descriptor is
    // open.
    #[expect(unsafe_code, reason = "an ioctl")]
    unsafe { ioctl::get(dir.as_raw_fd(), &raw mut attributes) }.ok()?;
    Some(attributes)
}

/// What is in a project of the file system on which `dir` is.
fn count(dir: BorrowedFd<'_>, project: u32) -> Option<Usage> {
    let mut count = Count::default();
    // SAFETY: quotactl_fd(2) with Q_GETQUOTA writes one `struct if_dqblk`, which `Count` mirrors field by field; the
    // descriptor is open.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, dir.as_raw_fd(), libc::QCMD(GET, PROJECT), project, &raw mut count)
    };
    (result == 0).then_some(Usage { bytes: count.bytes, inodes: count.inodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Attributes>(), size_of::<Count>()), (28, 72));
    }

    #[test]
    fn a_directory_without_a_project_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(usage(dir.path()), None);
        // Whether this file system counts projects or not: the same answer twice.
        assert_eq!(mark(dir.path()), usage(dir.path()).is_some());
        assert!(!mark(&dir.path().join("missing")));
    }
}

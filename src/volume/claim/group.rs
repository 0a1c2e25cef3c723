//! `fsGroup` on a volume that outlasts its pods: everything in it belongs to the group, which may read and write it.
//!
//! What lies there was made by containers, and another pod may be at work in it: nothing is done by a path that could lead
//! elsewhere, and links are given to the group without being followed.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, chownat, fstat, openat};

use crate::sys::tree;

/// The group may read and write.
const FILE_BITS: u32 = 0o660;
/// And what is made in a directory belongs to it.
const DIRECTORY_BITS: u32 = 0o2770;
/// Gives a volume to a group. With `on_mismatch`, nothing is done when its top is as it should be
/// (`fsGroupChangePolicy: OnRootMismatch`).
pub(super) fn own(root: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    let top = openat(CWD, root, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&top)?;
    if on_mismatch && found.st_gid == group && found.st_mode & DIRECTORY_BITS == DIRECTORY_BITS {
        return Ok(());
    }
    // The top last: as long as it is not done, the next try begins anew.
    tree::each_below(&top, |file, found| give(file, found, group))?;
    give(&top, &found, group)
}

fn give(file: &OwnedFd, found: &Stat, group: u32) -> io::Result<()> {
    let kind = FileType::from_raw_mode(found.st_mode);
    if found.st_gid != group {
        chownat(file.as_fd(), "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let bits = match kind {
        FileType::Symlink => return Ok(()),
        FileType::Directory => DIRECTORY_BITS,
        _ => FILE_BITS,
    };
    // A change of owner takes set-id bits away, so what was there is set again.
    let mode = (found.st_mode & 0o7777) | bits;
    if found.st_mode & 0o7777 != mode || found.st_gid != group {
        // By descriptor: a file that was opened as a place only has no other way.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

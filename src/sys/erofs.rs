//! EROFS images as mounts: straight from the file where the kernel can, through a loop device elsewhere.

use std::path::Path;

use super::loopdev::{self, LoopDevice};
use super::mount::{self, Mount};

/// Why an image cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// It mounts from block devices only, and there was no loop device.
    #[error(transparent)]
    Loop(#[from] loopdev::Error),
}

/// How EROFS files are mounted on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Straight from the file (kernel 6.12 and later, on most file systems).
    File,
    /// Through a read-only loop device.
    Loop,
}

/// A detached read-only mount of an image file, and how the kernel took it; `label` is what SELinux is to know all that is
/// in it by.
///
/// # Errors
/// If the kernel has no EROFS, finds the image damaged, or has neither way to mount a file.
pub fn mount(image: &Path, label: Option<&str>) -> Result<(Mount, Backing), Error> {
    match Mount::erofs(image, label) {
        Err(e) if needs_block_device(&e) => {
            // The device belongs to the mount from here on: it clears itself with it.
            let device = LoopDevice::over(image)?;
            Ok((Mount::erofs(device.path(), label)?, Backing::Loop))
        }
        mounted => Ok((mounted?, Backing::File)),
    }
}

/// ENOTBLK: this kernel, or the file system that the image lies on, mounts EROFS from block devices only.
fn needs_block_device(error: &mount::Error) -> bool {
    error.source.raw_os_error() == Some(libc::ENOTBLK)
}

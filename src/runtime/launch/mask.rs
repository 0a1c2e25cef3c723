//! Paths of `/proc` and `/sys` that a container must not see, or must not write.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::mount::MountAttrFlags;

use super::filesystems::open_own;
use super::{Error, Stage};
use crate::sys::inside;
use crate::sys::mount::Mount;

/// Applies the spec's lists. A path that this kernel does not have is passed over.
pub(super) fn apply(root: &OwnedFd, spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        read_only(root, Path::new(path)).map_err(|e| e.at(path))?;
    }
    let paths = linux.masked_paths().iter().flatten();
    let mut null = None;
    for path in paths {
        hide(root, Path::new(path), &mut null).map_err(|e| e.at(path))?;
    }
    Ok(())
}

/// Either kind of error, before the path is known.
enum Failed {
    Io(std::io::Error),
    Mount(crate::sys::mount::Error),
}

impl Failed {
    fn at(self, path: &str) -> Error {
        match self {
            Self::Io(e) => Error::at(Stage::Mask, path)(e),
            Self::Mount(e) => Error::mount(Stage::Mask, path)(e),
        }
    }
}

impl From<std::io::Error> for Failed {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<crate::sys::mount::Error> for Failed {
    fn from(e: crate::sys::mount::Error) -> Self {
        Self::Mount(e)
    }
}

/// No link is followed: what is masked must be the very thing.
fn find(root: &OwnedFd, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    match inside::open_plain(root, path, OFlags::PATH) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        result => result.map(Some),
    }
}

fn read_only(root: &OwnedFd, path: &Path) -> Result<(), Failed> {
    let Some(place) = find(root, path)? else { return Ok(()) };
    let mount = Mount::clone_at(&place, Path::new(""), true)?;
    mount.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(mount.attach_to(&place)?)
}

fn hide(root: &OwnedFd, path: &Path, null: &mut Option<OwnedFd>) -> Result<(), Failed> {
    let Some(place) = find(root, path)? else { return Ok(()) };
    if FileType::from_raw_mode(fstat(&place).map_err(std::io::Error::from)?.st_mode) == FileType::Directory {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        return Ok(Mount::tmpfs(Some(4096), 0o755, attributes)?.attach_to(&place)?);
    }
    let null = match null {
        Some(null) => null,
        empty => empty.insert(own_null(root)?),
    };
    Ok(Mount::clone_at(null.as_fd(), Path::new(""), false)?.attach_to(&place)?)
}

/// The container's `/dev/null`, proved to be that.
fn own_null(root: &OwnedFd) -> std::io::Result<OwnedFd> {
    let null = open_own(root, "dev/null", OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fstat(&null)?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(std::io::Error::from_raw_os_error(libc::ENODEV)) }
}

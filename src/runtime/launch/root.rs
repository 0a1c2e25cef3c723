//! The container's root: mounted in the child's own mount namespace, then made the only one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::{Error, Lower, Root, Stage};
use crate::sys::mount::{self, Mount};

/// Mounts the overlay where only this process sees it, and gives its root.
pub(super) fn mount(root: &Root<'_>, label: Option<&str>) -> Result<OwnedFd, Error> {
    slave()?;
    match root.lower {
        Lower::Fds(layers) => {
            let overlay = mount::overlay(layers, Some((root.upper, root.work)), label);
            on_top(overlay.map_err(Error::mount(Stage::Root, ""))?)
        }
        Lower::Paths { layers, target } => {
            mount::overlay_at(layers, Some((root.upper, root.work)), label, target)
                .map_err(Error::mount(Stage::Root, ""))?;
            openat(CWD, target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(Error::at(Stage::Root, ""))
        }
    }
}

/// Attaches a root that was mounted by somebody else where only this process sees it.
pub(super) fn attach(root: Mount) -> Result<OwnedFd, Error> {
    slave()?;
    on_top(root)
}

/// Unmounts of the host come through (nothing of it is pinned), nothing goes back.
fn slave() -> Result<(), Error> {
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(Error::at(Stage::Namespace, "(mount)"))
}

/// On top of the old root: a place that is there always, and gone from sight once this is the root.
fn on_top(root: Mount) -> Result<OwnedFd, Error> {
    root.attach(Path::new("/")).map_err(Error::mount(Stage::Root, ""))?;
    Ok(root.into_fd())
}

/// Makes the mounted root the process's only one; with `read_only` nothing of the image can be written from now on.
pub(super) fn pivot(root: &OwnedFd, read_only: bool) -> Result<(), Error> {
    if read_only {
        // The mount behind the descriptor, not those on top of it.
        Mount::from_fd(root.try_clone().map_err(Error::at(Stage::Pivot, ""))?)
            .set_attributes(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY)
            .map_err(Error::mount(Stage::Pivot, "(read-only)"))?;
    }
    rustix::process::fchdir(root.as_fd()).map_err(Error::at(Stage::Pivot, ""))?;
    // The old root ends up on top of the new one, and goes.
    rustix::process::pivot_root(c".", c".").map_err(Error::at(Stage::Pivot, "(pivot_root)"))?;
    unmount(c".", UnmountFlags::DETACH).map_err(Error::at(Stage::Pivot, "(old root)"))?;
    rustix::process::chdir(c"/").map_err(Error::at(Stage::Pivot, "(new root)"))
}

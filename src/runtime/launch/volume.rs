//! Volumes: clones of the caller's mounts, moved onto targets that were resolved inside the root.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat, fstatfs};
use rustix::mount::MountPropagationFlags;

use super::{Bind, Error, Source, Stage};
use crate::runtime::spec::Propagation;
use crate::sys::inside;
use crate::sys::mount::Mount;
use crate::sys::raw::mount_setattr;

/// `MOUNT_ATTR_RDONLY`.
const READ_ONLY: u64 = 1;

/// Mounts all volumes, those that lie deeper after those that they lie in.
pub(super) fn bind_all(root: &OwnedFd, binds: &[Bind<'_>]) -> Result<(), Error> {
    let mut binds: Vec<&Bind<'_>> = binds.iter().collect();
    binds.sort_by_key(|bind| Path::new(bind.target).components().count());
    for bind in binds {
        one(root, bind)?;
    }
    Ok(())
}

fn one(root: &OwnedFd, bind: &Bind<'_>) -> Result<(), Error> {
    let fail = || Error::at::<std::io::Error>(Stage::Volume, bind.target);
    let mount = source(bind)?;
    let is_directory = file_type(&mount).map_err(fail())? == FileType::Directory;
    let target = Path::new(bind.target);
    let place = if is_directory {
        inside::make_directories(root, target, 0o755)
    } else {
        inside::make_file(root, target, 0o644)
    };
    let place = place.map_err(fail())?;
    check_place(root, &place).map_err(fail())?;

    let propagation = match bind.propagation {
        Propagation::None => MountPropagationFlags::PRIVATE,
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        // As the source is: shared, if the host shares it.
        Propagation::Bidirectional => MountPropagationFlags::empty(),
    };
    mount_setattr(mount.as_fd(), 0, 0, u64::from(propagation.bits()), true).map_err(fail())?;
    if bind.read_only {
        mount_setattr(mount.as_fd(), READ_ONLY, 0, 0, bind.recursive).map_err(fail())?;
    }
    mount.attach_to(&place).map_err(Error::mount(Stage::Volume, bind.target))
}

/// A mount of the source, or of the part of it that is asked for.
fn source(bind: &Bind<'_>) -> Result<Mount, Error> {
    let fail = || Error::mount(Stage::Volume, bind.target);
    let Some(below) = bind.sub_path else {
        return match bind.source {
            Source::Mount(fd) => Mount::clone_at(fd, Path::new(""), true).map_err(fail()),
            Source::Own(fd) => {
                Ok(Mount::from_fd(fd.try_clone_to_owned().map_err(Error::at(Stage::Volume, bind.target))?))
            }
            Source::Path(path) => Mount::clone_path(path, true).map_err(fail()),
        };
    };
    let failed = || Error::at::<std::io::Error>(Stage::Volume, format!("{} (subPath {below})", bind.target));
    let whole;
    let top = match bind.source {
        Source::Mount(fd) | Source::Own(fd) => fd,
        Source::Path(path) => {
            whole = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .map_err(|e| failed()(e.into()))?;
            whole.as_fd()
        }
    };
    let below = Path::new(below);
    let part = match inside::open_beneath(top, below, OFlags::PATH) {
        // Kubernetes makes a directory for a subPath that is not there; a link that leads out is never followed here.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => inside::make_directories(top, below, 0o755),
        result => result,
    };
    let part = part.map_err(failed())?;
    Mount::clone_at(&part, Path::new(""), true).map_err(fail())
}

fn file_type(mount: &Mount) -> std::io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(mount)?.st_mode))
}

/// A volume must not hide the root itself, nor anything of `/proc`, on which privileges are dropped and paths masked.
fn check_place(root: &OwnedFd, place: &OwnedFd) -> std::io::Result<()> {
    let (at, top) = (fstat(place)?, fstat(root)?);
    let is_proc = fstatfs(place)?.f_type == libc::PROC_SUPER_MAGIC;
    if is_proc || (at.st_dev, at.st_ino) == (top.st_dev, top.st_ino) {
        return Err(std::io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

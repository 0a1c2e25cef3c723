//! Volumes: clones of the caller's mounts, moved onto targets that were resolved inside the root.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat, fstatfs};
use rustix::mount::MountPropagationFlags;

use super::{Bind, Error, Source, Stage, Users};
use crate::runtime::spec::{MountOption, Propagation};
use crate::sys::inside;
use crate::sys::mount::Mount;
use crate::sys::raw::mount_setattr;

/// `MOUNT_ATTR_*`.
const READ_ONLY: u64 = 1;
const NO_SUID: u64 = 2;
const NO_DEV: u64 = 4;
const NO_EXEC: u64 = 8;

/// The mounts of all volumes, attached to nothing yet, in the order of the binds. With `users`, owners are those that the
/// container's user namespace has under the same numbers.
pub(super) fn prepare_all(binds: &[Bind<'_>], users: Option<&Users<'_>>) -> Result<Vec<Mount>, Error> {
    binds.iter().map(|bind| prepare(bind, users)).collect()
}

/// Attaches all volumes, those that lie deeper after those that they lie in.
pub(super) fn attach_all(root: &OwnedFd, binds: &[Bind<'_>], mounts: Vec<Mount>) -> Result<(), Error> {
    let mut all: Vec<(&Bind<'_>, Mount)> = binds.iter().zip(mounts).collect();
    all.sort_by_key(|(bind, _)| Path::new(bind.target).components().count());
    for (bind, mount) in all {
        attach(root, bind, &mount)?;
    }
    Ok(())
}

fn prepare(bind: &Bind<'_>, users: Option<&Users<'_>>) -> Result<Mount, Error> {
    let fail = || Error::at::<std::io::Error>(Stage::Volume, bind.target);
    let mount = source(bind)?;
    let propagation = match bind.propagation {
        Propagation::None => MountPropagationFlags::PRIVATE,
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        // As the source is: shared, if the host shares it.
        Propagation::Bidirectional => MountPropagationFlags::empty(),
    };
    mount_setattr(mount.as_fd(), 0, 0, u64::from(propagation.bits()), true).map_err(fail())?;
    let denied = bind.options.iter().fold(0, |all, option| {
        all | match option {
            MountOption::NoExec => NO_EXEC,
            MountOption::NoDev => NO_DEV,
            MountOption::NoSuid => NO_SUID,
        }
    });
    if denied != 0 {
        mount_setattr(mount.as_fd(), denied, 0, 0, true).map_err(fail())?;
    }
    if bind.read_only {
        mount_setattr(mount.as_fd(), READ_ONLY, 0, 0, bind.recursive).map_err(fail())?;
    }
    if let Some(users) = users.filter(|_| !matches!(bind.source, Source::Mapped(_))) {
        let fail = Error::mount(Stage::Volume, format!("{} with hostUsers: false", bind.target));
        mount.map_owners(users.namespace, true).map_err(fail)?;
    }
    Ok(mount)
}

fn attach(root: &OwnedFd, bind: &Bind<'_>, mount: &Mount) -> Result<(), Error> {
    let fail = || Error::at::<std::io::Error>(Stage::Volume, bind.target);
    let is_directory = file_type(mount).map_err(fail())? == FileType::Directory;
    let target = Path::new(bind.target);
    let place = if is_directory {
        inside::make_directories(root, target, 0o755)
    } else {
        inside::make_file(root, target, 0o644)
    };
    let place = place.map_err(fail())?;
    check_place(root, &place).map_err(fail())?;

    mount.attach_to(&place).map_err(Error::mount(Stage::Volume, bind.target))
}

/// A mount of the source, or of the part of it that is asked for.
fn source(bind: &Bind<'_>) -> Result<Mount, Error> {
    let fail = || Error::mount(Stage::Volume, bind.target);
    let Some(below) = bind.sub_path else {
        return match bind.source {
            Source::Mount(fd) | Source::Mapped(fd) => Mount::clone_at(fd, Path::new(""), true).map_err(fail()),
            Source::Own(fd) => {
                Ok(Mount::from_fd(fd.try_clone_to_owned().map_err(Error::at(Stage::Volume, bind.target))?))
            }
            Source::Path(path) => Mount::clone_path(path, true).map_err(fail()),
        };
    };
    let failed = || Error::at::<std::io::Error>(Stage::Volume, format!("{} (subPath {below})", bind.target));
    let whole;
    let top = match bind.source {
        Source::Mount(fd) | Source::Mapped(fd) | Source::Own(fd) => fd,
        Source::Path(path) => {
            whole = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .map_err(|e| failed()(e.into()))?;
            whole.as_fd()
        }
    };
    let part = inside::open_or_make_beneath(top, Path::new(below)).map_err(failed())?;
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

//! `/dev` of a container: the devices that every one has, those that the spec names, and the usual links.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, FileType, OFlags, chownat, makedev, mknodat, symlinkat};

use super::filesystems::{mode, open_own};
use super::{Error, Stage};
use crate::sys::inside;

/// Character devices with everything allowed to everyone: their numbers are the kernel's own.
const ALWAYS: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What a privileged container does not take over from the host: its own takes its place.
const OWN: [&str; 10] = ["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "ptmx", "console", "tty"];

/// How deep the host's `/dev` is looked through for a privileged container.
const DEPTH: u32 = 4;

/// Fills `/dev`, which is a fresh tmpfs.
pub(super) fn make(root: &OwnedFd, spec: &Spec, privileged: bool) -> Result<(), Error> {
    let dev = open_own(root, "dev", OFlags::PATH | OFlags::DIRECTORY).map_err(Error::at(Stage::Filesystem, "/dev"))?;
    fill(&dev, spec, privileged, None)
}

/// Fills a fresh tmpfs that is to be a `/dev`; what is made belongs to `owner`.
pub(super) fn fill(dev: &OwnedFd, spec: &Spec, privileged: bool, owner: Option<u32>) -> Result<(), Error> {
    let give = |name: &str| match owner {
        Some(id) => {
            let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
            chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        None => Ok(()),
    };
    for (name, major, minor) in ALWAYS {
        mknodat(dev, name, FileType::CharacterDevice, mode(0o666), makedev(major, minor))
            .and_then(|()| give(name))
            .map_err(Error::at(Stage::Filesystem, format!("/dev/{name}")))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)
            .and_then(|()| give(name))
            .map_err(Error::at(Stage::Filesystem, format!("/dev/{name}")))?;
    }
    if privileged {
        take_over(dev, Path::new("/dev"), Path::new(""), DEPTH)
            .map_err(Error::at(Stage::Filesystem, "/dev (the host's devices)"))?;
    }
    for device in spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()) {
        one(dev, device, owner).map_err(Error::at(Stage::Filesystem, device.path().display()))?;
    }
    Ok(())
}

/// One of the spec's devices, below `/dev`.
fn one(dev: &OwnedFd, device: &oci_spec::runtime::LinuxDevice, owner: Option<u32>) -> std::io::Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(std::io::ErrorKind::InvalidInput.into()),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput));
    let (major, minor) = (number(device.major())?, number(device.minor())?);
    let path = device.path().strip_prefix("/dev").map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let parent = inside::make_directories(dev, path.parent().unwrap_or_else(|| Path::new("")), 0o755)?;
    // One of those that are there always may be named again.
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Err(e) if e != rustix::io::Errno::NOENT => return Err(e.into()),
        _ => {}
    }
    mknodat(&parent, name, kind, mode(device.file_mode().unwrap_or(0o666) & 0o7777), makedev(major, minor))?;
    if device.uid().is_some() || device.gid().is_some() || owner.is_some() {
        // Ids of the container, whose namespace may number them otherwise than the host.
        let id =
            |own: Option<u32>| own.or_else(|| owner.map(|_| 0)).map(|id| id.saturating_add(owner.unwrap_or_default()));
        let uid = id(device.uid()).map(rustix::fs::Uid::from_raw);
        let gid = id(device.gid()).map(rustix::fs::Gid::from_raw);
        chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Makes every device of the host's `/dev` again in the container's, and links as they are.
fn take_over(dev: &OwnedFd, from: &Path, below: &Path, depth: u32) -> std::io::Result<()> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if below.as_os_str().is_empty() && OWN.iter().any(|own| name == *own) {
            continue;
        }
        // What went away meanwhile is not a device any more.
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else { continue };
        let kind = metadata.file_type();
        let path: PathBuf = below.join(&name);
        let node = if kind.is_char_device() {
            FileType::CharacterDevice
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else if kind.is_dir() && depth > 0 {
            take_over(dev, &entry.path(), &path, depth - 1)?;
            continue;
        } else {
            continue;
        };
        let parent = inside::make_directories(dev, below, 0o755)?;
        match mknodat(&parent, &name, node, mode(metadata.mode() & 0o7777), metadata.rdev()) {
            Ok(()) => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(metadata.uid()), rustix::fs::Gid::from_raw(metadata.gid()));
                chownat(&parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

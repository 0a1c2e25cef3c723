//! The kernel's own file systems in a container, in the order of the spec's mounts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount as Entry, Spec};
use rustix::fs::{Mode, OFlags, XattrFlags, fsetxattr, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::{Error, Stage};
use crate::sys::cgroup::Cgroup;
use crate::sys::inside;
use crate::sys::label::ATTRIBUTE;
use crate::sys::mount::{self, Context, Mount};

/// Options of file systems that a spec may use: anything else is refused rather than passed on.
const OPTIONS: [&str; 7] = ["mode", "size", "nr_inodes", "uid", "gid", "ptmxmode", "hidepid"];

/// The v1 controllers that may be shown to a container.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The size of the directory of v1 hierarchies, which holds nothing but directories.
const SMALL: u64 = 64 * 1024;

/// The SELinux label of a container's files.
pub(super) fn label(spec: &Spec) -> Option<&str> {
    spec.linux().as_ref()?.mount_label().as_deref()
}

/// Mounts what the spec asks for. What is among `made`, by its destination, was mounted by somebody else already and is
/// only attached.
pub(super) fn mount_all(
    root: &OwnedFd,
    spec: &Spec,
    cgroup: &Cgroup,
    mut made: Vec<(PathBuf, Mount)>,
) -> Result<(), Error> {
    for entry in spec.mounts().iter().flatten() {
        let found = made.iter().position(|(destination, _)| destination == entry.destination());
        let mount = found.map(|at| made.swap_remove(at).1);
        attach(root, entry, cgroup, (mount, label(spec)))?;
    }
    Ok(())
}

fn attach(
    root: &OwnedFd,
    entry: &Entry,
    cgroup: &Cgroup,
    (made, label): (Option<Mount>, Option<&str>),
) -> Result<(), Error> {
    let destination = entry.destination();
    let subject = &destination.display().to_string();
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    let place = if relative.components().count() == 1 {
        // `/dev`, `/proc`, `/sys`: the image may have a link there.
        inside::real_directory(root, relative, 0o755)
    } else {
        inside::make_directories(root, relative, 0o755)
    };
    let place = place.map_err(Error::at(Stage::Filesystem, subject))?;
    let mount = match made {
        Some(mount) => mount,
        None if matches!(entry.typ().as_deref(), Some("cgroup" | "cgroup2")) => {
            return cgroups(Some(&place), entry, cgroup).map(|_| ());
        }
        None => make(entry, &[], label)?,
    };
    mount.attach_to(&place).map_err(Error::mount(Stage::Filesystem, subject))
}

/// Mounts one file system of the spec, attached to nothing yet; `more` are further options of it, and `label` is what
/// SELinux knows its files by, where they are the container's own and not the kernel's.
pub(super) fn make(entry: &Entry, more: &[String], label: Option<&str>) -> Result<Mount, Error> {
    let subject = &entry.destination().display().to_string();
    let kind = match entry.typ().as_deref() {
        Some("proc") => "proc",
        Some("tmpfs") => "tmpfs",
        Some("devpts") => "devpts",
        Some("mqueue") => "mqueue",
        Some("sysfs") => "sysfs",
        other => {
            let what = format!("{subject}: a file system of type {other:?}");
            return Err(Error::refuse(Stage::Filesystem, what, libc::EINVAL));
        }
    };
    let mut context = Context::open(kind).map_err(Error::mount(Stage::Filesystem, subject))?;
    let mut attributes = MountAttrFlags::empty();
    for option in entry.options().iter().flatten().chain(more) {
        if let Some(attribute) = attribute(option) {
            attributes |= attribute;
            continue;
        }
        let known = option.split_once('=').and_then(|(key, value)| Some((OPTIONS.iter().find(|k| **k == key)?, value)));
        match known {
            Some((key, value)) => context.string(key, value).map_err(Error::mount(Stage::Filesystem, subject))?,
            // Every devpts is an instance of its own by now.
            None if option == "newinstance" => {}
            None => {
                let what = format!("{subject}: option {option}");
                return Err(Error::refuse(Stage::Filesystem, what, libc::EINVAL));
            }
        }
    }
    if let Some(label) = label.filter(|_| matches!(kind, "tmpfs" | "devpts")) {
        context.string(mount::LABEL, label).map_err(Error::mount(Stage::Filesystem, subject))?;
    }
    let made = context.mount(attributes).map_err(Error::mount(Stage::Filesystem, subject))?;
    if let Some(label) = label.filter(|_| kind == "mqueue") {
        // It has no such option.
        mark(&made, label).map_err(Error::at(Stage::Filesystem, subject))?;
    }
    Ok(made)
}

/// Gives a file system's top a label.
fn mark(mount: &Mount, label: &str) -> std::io::Result<()> {
    let top = openat(mount, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match fsetxattr(top, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        // The policy labels it as a whole.
        Err(Errno::NOTSUP) => Ok(()),
        result => Ok(result?),
    }
}

fn attribute(option: &str) -> Option<MountAttrFlags> {
    Some(match option {
        "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
        "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
        "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
        "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        "rw" | "relatime" | "suid" | "dev" | "exec" => MountAttrFlags::empty(),
        _ => return None,
    })
}

/// `/sys/fs/cgroup` as the machine has it: the v2 tree, or a directory with one hierarchy of v1 each. Attached to `place`,
/// where there is one; the kernel fills a directory that is attached nowhere from 6.15 on.
pub(super) fn cgroups(place: Option<&OwnedFd>, entry: &Entry, cgroup: &Cgroup) -> Result<Mount, Error> {
    let fail = || Error::mount(Stage::Filesystem, entry.destination().display());
    let attributes = entry.options().iter().flatten().filter_map(|o| attribute(o)).collect::<MountAttrFlags>();
    if cgroup.hierarchies().is_unified() {
        let tree = Context::open("cgroup2").map_err(fail())?.mount(attributes).map_err(fail())?;
        place.map_or(Ok(()), |place| tree.attach_to(place)).map_err(fail())?;
        return Ok(tree);
    }
    let top = Mount::tmpfs(Some(SMALL), 0o755, attributes - MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(fail())?;
    place.map_or(Ok(()), |place| top.attach_to(place)).map_err(fail())?;
    for (options, name) in cgroup.hierarchies().v1_mounts() {
        let mut context = Context::open("cgroup").map_err(fail())?;
        for option in options.split(',') {
            match (option.strip_prefix("name="), CONTROLLERS.iter().find(|c| **c == option)) {
                (Some(name), _) => {
                    context.flag("none").and_then(|()| context.string("name", name)).map_err(fail())?;
                }
                (None, Some(controller)) => context.flag(controller).map_err(fail())?,
                // An option of the mount and not a controller; the hierarchy is found without it.
                (None, None) => {}
            }
        }
        let directory = inside::real_directory(&top, Path::new(name), 0o755)
            .map_err(Error::at(Stage::Filesystem, entry.destination().display()))?;
        context.mount(attributes).and_then(|tree| tree.attach_to(&directory)).map_err(fail())?;
    }
    top.set_attributes(attributes).map_err(fail())?;
    Ok(top)
}

/// Opens something below the container's own `/dev`, or whichever file system of the kernel it lies in.
pub(super) fn open_own(root: &OwnedFd, path: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
    inside::open_plain(root.as_fd(), Path::new(path), flags)
}

/// Permissions without a file type.
pub(super) const fn mode(bits: u32) -> Mode {
    Mode::from_bits_retain(bits)
}

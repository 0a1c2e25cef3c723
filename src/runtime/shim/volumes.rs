//! The mounts that a shim keeps by name for its containers, and what volumes are opened through.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::requests::failed;
use super::setup::Place;
use crate::runtime::launch::Source;
use crate::runtime::protocol::{Failure, FailureKind};
use crate::runtime::spec::{HostPathKind, VolumeBind, VolumeSource};
use crate::sys::inside;
use crate::sys::mount::{self, Mount, Tier};
use crate::sys::namespace::{self, Namespace};

/// More than any pod needs: an image has at most some hundred layers, a pod some dozen volumes.
const MAX_KEPT: usize = 4096;
/// The file system that kept mounts are attached to on older kernels: it holds nothing but empty directories.
const PLACES: u64 = 1 << 20;

/// Mounts by name.
#[derive(Debug)]
pub(super) struct Mounts {
    kept: BTreeMap<String, Kept>,
    /// Where they are attached, in the shim's own mount namespace, on kernels that cannot use them detached.
    places: PathBuf,
    prepared: bool,
    next: u64,
    /// Stacks of layers that are attached there, on such kernels, by the names of their layers.
    stacks: BTreeMap<(Vec<String>, Option<String>), PathBuf>,
}

#[derive(Debug)]
struct Kept {
    fd: OwnedFd,
    place: Option<PathBuf>,
}

impl Mounts {
    pub(super) fn new(places: PathBuf) -> Self {
        Self { kept: BTreeMap::new(), places, prepared: false, next: 0, stacks: BTreeMap::new() }
    }

    pub(super) fn keep(&mut self, names: Vec<String>, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if names.len() != fds.len() {
            let message = format!("{} names came with {} descriptors", names.len(), fds.len());
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        if self.kept.len() + names.len() > MAX_KEPT {
            return Err(Failure::new(FailureKind::Invalid, format!("more than {MAX_KEPT} mounts cannot be kept")));
        }
        for (name, fd) in names.into_iter().zip(fds) {
            let before = self.kept.insert(name, Kept { fd, place: None });
            before.into_iter().for_each(Kept::leave);
        }
        Ok(())
    }

    pub(super) fn give(&self, names: &[String]) -> Result<Vec<OwnedFd>, Failure> {
        let one = |name: &String| {
            let fd = self.fd(name)?;
            if self.kept.get(name).is_some_and(|kept| kept.place.is_some()) {
                // What is attached here cannot be attached anywhere else; a clone of it can.
                return Ok(Mount::clone_at(fd, Path::new(""), false).map_err(|e| failed(&e))?.into_fd());
            }
            fd.try_clone_to_owned().map_err(|e| failed(&e))
        };
        names.iter().map(one).collect()
    }

    pub(super) fn drop_kept(&mut self, names: &[String]) {
        names.iter().filter_map(|name| self.kept.remove(name)).for_each(Kept::leave);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.kept.keys().cloned().collect()
    }

    /// A kept mount.
    pub(super) fn fd(&self, name: &str) -> Result<BorrowedFd<'_>, Failure> {
        let missing = || Failure::new(FailureKind::NotFound, format!("no mount is kept under the name {name}"));
        self.kept.get(name).map(|kept| kept.fd.as_fd()).ok_or_else(missing)
    }

    /// Makes sure that a kept mount has a place in the shim's mount namespace, and says where.
    pub(super) fn place(&mut self, name: &str) -> Result<PathBuf, Failure> {
        self.fd(name)?;
        self.prepare()?;
        let place = self.places.join(self.next.to_string());
        let Some(kept) = self.kept.get_mut(name) else { return Ok(place) };
        if let Some(place) = &kept.place {
            return Ok(place.clone());
        }
        self.next += 1;
        std::fs::create_dir(&place).map_err(|e| failed(&e))?;
        // The descriptor goes on to be the mount's root.
        let mount = Mount::from_fd(kept.fd.try_clone().map_err(|e| failed(&e))?);
        mount.attach(&place).map_err(|e| failed(&e))?;
        kept.place = Some(place.clone());
        Ok(place)
    }

    /// The layers `names` (top layer first) on another, to be read. With `users`, owners are those that this user
    /// namespace has under the same numbers.
    fn stack(&self, names: &[String], users: Option<BorrowedFd<'_>>, label: Option<&str>) -> Result<OwnedFd, Failure> {
        let mut layers = Vec::new();
        for name in names {
            layers.push(Mount::clone_at(self.fd(name)?, Path::new(""), false).map_err(|e| failed(&e))?);
        }
        if layers.len() == 1 {
            // Overlayfs stacks no less than two, and a layer by itself may have whiteouts.
            layers.push(Mount::tmpfs(Some(PLACES), 0o755, MountAttrFlags::empty()).map_err(|e| failed(&e))?);
        }
        if let Some(users) = users {
            layers.iter().try_for_each(|layer| layer.map_owners(users, false)).map_err(|e| failed(&e))?;
        }
        let layers: Vec<BorrowedFd<'_>> = layers.iter().map(|layer| layer.as_fd()).collect();
        Ok(mount::overlay(&layers, None, label).map_err(|e| failed(&e))?.into_fd())
    }

    /// As [`Self::stack`], attached in the shim's mount namespace for as long as the shim lives.
    fn stack_place(&mut self, names: &[String], label: Option<&str>) -> Result<PathBuf, Failure> {
        let key = (names.to_vec(), label.map(str::to_owned));
        if let Some(place) = self.stacks.get(&key) {
            return Ok(place.clone());
        }
        let mut layers = names.iter().map(|name| self.place(name)).collect::<Result<Vec<_>, _>>()?;
        let mut new = || {
            let place = self.places.join(format!("stack-{}", self.next));
            self.next += 1;
            std::fs::create_dir(&place).map(|()| place).map_err(|e| failed(&e))
        };
        if layers.len() == 1 {
            layers.push(new()?);
        }
        let place = new()?;
        let made = mount::overlay_at(&layers, None, label, &place).map_err(|e| failed(&e));
        // That may have gone to where the layers lie.
        rustix::process::chdir("/").map_err(|e| failed(&std::io::Error::from(e)))?;
        made?;
        self.stacks.insert(key, place.clone());
        Ok(place)
    }

    /// An empty directory in the shim's mount namespace, to mount a root on.
    pub(super) fn root(&mut self) -> Result<PathBuf, Failure> {
        self.prepare()?;
        let root = self.places.join("root");
        match std::fs::create_dir(&root) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(&e)),
            _ => Ok(root),
        }
    }

    fn prepare(&mut self) -> Result<(), Failure> {
        if !self.prepared {
            std::fs::create_dir_all(&self.places).map_err(|e| failed(&e))?;
            let places = Mount::tmpfs(Some(PLACES), 0o700, MountAttrFlags::empty()).map_err(|e| failed(&e))?;
            places.attach(&self.places).map_err(|e| failed(&e))?;
            self.prepared = true;
        }
        Ok(())
    }

    /// Lets go of everything.
    pub(super) fn end(&mut self) {
        for place in std::mem::take(&mut self.stacks).into_values() {
            let _ = mount::detach(&place);
        }
        std::mem::take(&mut self.kept).into_values().for_each(Kept::leave);
        if self.prepared {
            let _ = crate::sys::mount::detach(&self.places);
            let _ = std::fs::remove_dir(&self.places);
        }
    }
}

impl Kept {
    /// Takes it out of the namespace; whoever has it mounted keeps it.
    fn leave(self) {
        if let Some(place) = self.place {
            let _ = crate::sys::mount::detach(&place);
            let _ = std::fs::remove_dir(place);
        }
    }
}

/// A volume's source, open.
#[derive(Debug)]
pub(super) enum Opened {
    /// A mount.
    Mount(OwnedFd),
    /// A mount whose owners are mapped already, where the pod has a user namespace.
    Mapped(OwnedFd),
    /// A mount of the host's, made for one bind, its `sub_path` gone into already.
    Own(OwnedFd),
    /// A path of the shim's mount namespace.
    Path(PathBuf),
}

impl Opened {
    pub(super) fn source(&self) -> Source<'_> {
        match self {
            Self::Mount(fd) => Source::Mount(fd.as_fd()),
            Self::Mapped(fd) => Source::Mapped(fd.as_fd()),
            Self::Own(fd) => Source::Own(fd.as_fd()),
            Self::Path(path) => Source::Path(path),
        }
    }

    /// What of the bind's `sub_path` is left to do.
    pub(super) fn sub_path<'a>(&self, bind: &'a VolumeBind) -> Option<&'a str> {
        if matches!(self, Self::Own(_)) { None } else { bind.sub_path.as_deref() }
    }
}

/// Opens what a volume is made of. `label` is what SELinux knows the container's files by.
pub(super) fn open(
    mounts: &mut Mounts,
    place: &Place,
    bind: &VolumeBind,
    (tier, label): (Tier, Option<&str>),
) -> Result<Opened, Failure> {
    match &bind.source {
        VolumeSource::Kept { name } => {
            if tier == Tier::Attached {
                return mounts.place(name).map(Opened::Path);
            }
            Ok(Opened::Mount(mounts.fd(name)?.try_clone_to_owned().map_err(|e| failed(&e))?))
        }
        VolumeSource::Dir { path } => Ok(Opened::Path(PathBuf::from(path))),
        VolumeSource::Layers { names } if tier == Tier::Attached => mounts.stack_place(names, label).map(Opened::Path),
        VolumeSource::Layers { names } => {
            let users = place.users.as_ref().map(|(namespace, _)| namespace.as_fd());
            mounts.stack(names, users, label).map(Opened::Mapped)
        }
        VolumeSource::HostPath { path, kind } => {
            let opened = on_host(place, || host_path(Path::new(path), *kind, bind.sub_path.as_deref()))?;
            // Older kernels cannot clone a detached mount for a container; the shim's namespace, which hears of mounts
            // on the host, has the same path.
            Ok(if tier == Tier::Attached { Opened::Path(PathBuf::from(path)) } else { Opened::Own(opened) })
        }
    }
}

/// Does something in the host's mount namespace. The shim has one thread, so nobody else is moved along.
fn on_host<T>(place: &Place, action: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    namespace::enter(place.host_mounts.as_fd(), Namespace::Mount).map_err(|e| failed(&e))?;
    let result = action();
    namespace::enter(place.own_mounts.as_fd(), Namespace::Mount).map_err(|e| failed(&e))?;
    result
}

/// Opens a path of the host, or what `below` names inside it, as a mount of its own, with what is mounted there.
fn host_path(path: &Path, kind: HostPathKind, below: Option<&str>) -> Result<OwnedFd, Failure> {
    let refused = |reason: String| Failure {
        kind: FailureKind::Failed,
        reason: Some("CreateContainerConfigError".to_owned()),
        message: format!("hostPath {}: {reason}", path.display()),
    };
    if !path.is_absolute() {
        return Err(refused("not an absolute path".to_owned()));
    }
    let open = || openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let fd = match (open(), kind) {
        (Err(Errno::NOENT), HostPathKind::DirectoryOrCreate) => {
            make_directories(path).map_err(|e| refused(e.to_string()))?;
            open()
        }
        (Err(Errno::NOENT), HostPathKind::FileOrCreate) => {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::from_raw_mode(0o644)).map_err(|e| refused(e.to_string()))?;
            open()
        }
        (opened, _) => opened,
    };
    let fd = fd.map_err(|e| refused(std::io::Error::from(e).to_string()))?;
    let found = fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode)).map_err(|e| refused(e.to_string()))?;
    let wanted = match kind {
        HostPathKind::Any => None,
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => Some((FileType::Directory, "a directory")),
        HostPathKind::File | HostPathKind::FileOrCreate => Some((FileType::RegularFile, "a file")),
        HostPathKind::Socket => Some((FileType::Socket, "a socket")),
        HostPathKind::CharDevice => Some((FileType::CharacterDevice, "a character device")),
        HostPathKind::BlockDevice => Some((FileType::BlockDevice, "a block device")),
    };
    if let Some((wanted, name)) = wanted
        && found != wanted
    {
        return Err(refused(format!("not {name}, as its type demands")));
    }
    let fd = match below.map(Path::new) {
        None => fd,
        Some(below) => inside::open_or_make_beneath(&fd, below)
            .map_err(|e| refused(format!("subPath {}: {e}", below.display())))?,
    };
    Ok(Mount::clone_at(&fd, Path::new(""), true).map_err(|e| refused(crate::api::problem::chain(&e)))?.into_fd())
}

/// Makes a directory and its parents, 0755 whatever the umask.
fn make_directories(path: &Path) -> Result<(), Errno> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::NOENT) => {
            path.parent().map_or(Ok(()), make_directories)?;
            mkdirat(CWD, path, Mode::from_raw_mode(0o755))
        }
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

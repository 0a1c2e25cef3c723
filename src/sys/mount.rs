//! Mounts as file descriptors (`fsopen`, `fsmount`, `open_tree`, `move_mount`): nothing is attached to a path of the
//! host unless a caller says so, and a mount is gone with its last descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// What a mount call attempted, on what, and what the kernel said (with its own log lines where it gave some).
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {subject}{}", detail(log))]
pub struct Error {
    /// The step, as in `mount erofs`.
    pub action: &'static str,
    /// The file, directory or option of that step.
    pub subject: String,
    /// What the kernel wrote to the file system context's log; may be empty.
    pub log: String,
    /// The error number.
    pub source: io::Error,
}

fn detail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}

fn fail(action: &'static str, subject: impl ToString) -> impl FnOnce(rustix::io::Errno) -> Error {
    let subject = subject.to_string();
    move |e| Error { action, subject, log: String::new(), source: e.into() }
}

/// A mount that is known by its descriptor alone; unmounted when the last copy of the descriptor closes, unless it
/// was attached to a path.
#[derive(Debug)]
pub struct Mount(OwnedFd);

impl Mount {
    /// Takes a descriptor that came from elsewhere (another process, [`open_tree`]).
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// A read-only EROFS mount of an image file, or of a block device that holds one.
    ///
    /// # Errors
    /// If the kernel has no EROFS, cannot mount this source without a loop device (`ENOTBLK`), or finds it damaged.
    pub fn erofs(source: &Path) -> Result<Self, Error> {
        let mut fs = Context::open("erofs")?;
        fs.string("source", source)?;
        fs.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
    }

    /// A tmpfs of at most `size` bytes (`None`: the kernel's default, half of memory).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn tmpfs(size: Option<u64>, mode: u32, attributes: MountAttrFlags) -> Result<Self, Error> {
        let mut fs = Context::open("tmpfs")?;
        fs.string("mode", format!("{mode:o}"))?;
        if let Some(size) = size {
            fs.string("size", size.to_string())?;
        }
        fs.mount(attributes)
    }

    /// A detached copy of the tree mounted at `path` (a bind mount without a place).
    ///
    /// # Errors
    /// If `path` cannot be opened or cloned.
    pub fn clone_path(path: &Path, recursive: bool) -> Result<Self, Error> {
        Self::clone_at(rustix::fs::CWD, path, recursive)
    }

    /// As [`Mount::clone_path`], relative to `dir`; an empty path clones what `dir` itself is.
    ///
    /// # Errors
    /// If the path cannot be opened or cloned; cloning a detached mount needs kernel 6.15.
    pub fn clone_at(dir: impl AsFd, path: &Path, recursive: bool) -> Result<Self, Error> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        open_tree(dir, path, flags).map(Self).map_err(fail("clone the mount of", path.display()))
    }

    /// Attaches the mount on top of what `place` (an `O_PATH` descriptor) refers to.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach_to(&self, place: impl AsFd) -> Result<(), Error> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, "", place, "", flags).map_err(fail("attach a mount to", "a resolved place"))
    }

    /// Attaches the mount at `path` of the calling thread's mount namespace.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&self, path: &Path) -> Result<(), Error> {
        move_mount(&self.0, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(fail("attach a mount to", path.display()))
    }

    /// A path through which the mount's root can be reached by this process alone.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One lower directory of an overlay.
#[derive(Debug)]
pub enum Lower<'a> {
    /// A mount by descriptor (kernel 6.13; 6.15 when it is detached).
    Fd(BorrowedFd<'a>),
    /// A directory of the calling thread's mount namespace.
    Path(&'a Path),
}

/// An overlay, top layer first, as findings about kernels ask for it: redirects are not followed, metacopy is off.
///
/// # Errors
/// If the kernel refuses; `log` of the error says why where the kernel tells.
pub fn overlay(lower: &[Lower<'_>], upper: Option<(&Path, &Path)>) -> Result<Mount, Error> {
    let mut fs = Context::open("overlay")?;
    fs.string("source", "lamina")?;
    fs.string("redirect_dir", "nofollow")?;
    fs.string("metacopy", "off")?;
    for layer in lower {
        match layer {
            Lower::Fd(fd) => fs.fd("lowerdir+", *fd)?,
            Lower::Path(path) => fs.string("lowerdir+", *path)?,
        }
    }
    if let Some((upper, work)) = upper {
        fs.string("upperdir", upper)?;
        fs.string("workdir", work)?;
    }
    fs.mount(MountAttrFlags::empty())
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
    kind: &'static str,
}

impl Context {
    /// Starts the configuration of a new file system of type `kind`.
    ///
    /// # Errors
    /// If the kernel does not know the type.
    pub fn open(kind: &'static str) -> Result<Self, Error> {
        let fd = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail("open the file system", kind))?;
        Ok(Self { fd, kind })
    }

    /// Sets `key=value`.
    ///
    /// # Errors
    /// If the file system refuses the option.
    pub fn string(&mut self, key: &'static str, value: impl AsRef<Path>) -> Result<(), Error> {
        let value = value.as_ref();
        let result = fsconfig_set_string(self.fd.as_fd(), key, value);
        self.told("set an option of", format!("{} {key}={}", self.kind, value.display()), result)
    }

    /// Sets a flag.
    ///
    /// # Errors
    /// If the file system refuses the option.
    pub fn flag(&mut self, key: &'static str) -> Result<(), Error> {
        let result = fsconfig_set_flag(self.fd.as_fd(), key);
        self.told("set an option of", format!("{} {key}", self.kind), result)
    }

    /// Sets `key` to a descriptor.
    ///
    /// # Errors
    /// If the file system refuses the option.
    pub fn fd(&mut self, key: &'static str, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let result = fsconfig_set_fd(self.fd.as_fd(), key, fd);
        self.told("set an option of", format!("{} {key}=<fd>", self.kind), result)
    }

    /// Creates the file system and a detached mount of it.
    ///
    /// # Errors
    /// If the kernel cannot create it.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<Mount, Error> {
        self.told("create a file system of type", self.kind.to_owned(), fsconfig_create(self.fd.as_fd()))?;
        let mounted = fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        Ok(Mount(self.told("mount a file system of type", self.kind.to_owned(), mounted)?))
    }

    /// Adds what the kernel wrote to the context's log to an error.
    fn told<T>(&self, action: &'static str, subject: String, result: rustix::io::Result<T>) -> Result<T, Error> {
        result.map_err(|e| {
            let mut log = Vec::new();
            let mut line = [0_u8; 512];
            while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut line) {
                if !log.is_empty() {
                    log.extend_from_slice(b"; ");
                }
                log.extend_from_slice(line.get(..n).unwrap_or_default().trim_ascii_end());
            }
            Error { action, subject, log: String::from_utf8_lossy(&log).into_owned(), source: e.into() }
        })
    }
}

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

    /// A read-only EROFS mount of an image file, or of a block device that holds one; `label` is what SELinux is to know
    /// all that is in it by.
    ///
    /// # Errors
    /// If the kernel has no EROFS, cannot mount this source without a loop device (`ENOTBLK`), or finds it damaged.
    pub fn erofs(source: &Path, label: Option<&str>) -> Result<Self, Error> {
        let mut fs = Context::open("erofs")?;
        fs.string("source", source)?;
        // Of the superblock, not only of the mount: the kernel would open a read-only loop device for writing.
        fs.flag("ro")?;
        if let Some(label) = label {
            fs.string(LABEL, label)?;
        }
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

    /// Files in huge pages of `page` bytes (`None`: the size that the machine prefers), at most `size` bytes of them.
    ///
    /// # Errors
    /// If the kernel refuses, as where it has no pages of that size.
    pub fn huge_pages(
        page: Option<u64>,
        size: Option<u64>,
        mode: u32,
        attributes: MountAttrFlags,
    ) -> Result<Self, Error> {
        let mut fs = Context::open("hugetlbfs")?;
        fs.string("mode", format!("{mode:o}"))?;
        if let Some(page) = page {
            fs.string("pagesize", page.to_string())?;
        }
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

    /// Sets attributes (read-only, nosuid, nodev, noexec) of this mount alone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_attributes(&self, set: MountAttrFlags) -> Result<(), Error> {
        super::raw::mount_setattr(self.0.as_fd(), set.bits().into(), 0, 0, false).map_err(|source| Error {
            action: "set attributes of",
            subject: "a mount".into(),
            log: String::new(),
            source,
        })
    }

    /// Shows its owners (and those of what is mounted below it, if it was cloned with that) through the ids of a user
    /// namespace: what is stored as user 0 belongs to the namespace's root. Only for a detached mount, and only once.
    ///
    /// # Errors
    /// If a file system does not support that, or the kernel refuses.
    pub fn map_owners(&self, namespace: BorrowedFd<'_>, recursive: bool) -> Result<(), Error> {
        super::raw::map_owners(self.0.as_fd(), namespace, recursive).map_err(|source| Error {
            action: "map the owners of",
            subject: "a mount".into(),
            log: String::new(),
            source,
        })
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

/// How overlays take their lower layers on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Kernel 6.15 and later: lower layers are detached mounts, handed over as descriptors; nothing is attached.
    Detached,
    /// Older kernels (5.15 and later): each process attaches the layers it uses inside a mount namespace of its own.
    Attached,
}

impl Tier {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Attached => "attached",
        }
    }

    /// Tries which tier this kernel has, with two empty file systems that nobody else sees.
    ///
    /// # Errors
    /// If not even an empty file system can be made.
    pub fn probe() -> Result<Self, Error> {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let (a, b) = (Mount::tmpfs(Some(4096), 0o755, attributes)?, Mount::tmpfs(Some(4096), 0o755, attributes)?);
        Ok(if overlay(&[a.as_fd(), b.as_fd()], None, None).is_ok() { Self::Detached } else { Self::Attached })
    }
}

/// Options of every overlay: a layer's `trusted.overlay.redirect` and `metacopy` must never be believed.
const OVERLAY_OPTIONS: [(&str, &str); 2] = [("redirect_dir", "nofollow"), ("metacopy", "off")];

/// The option of file systems that takes an SELinux label for all that is in them.
pub const LABEL: &str = "context";

/// A writable layer lives no longer than one start of its container, so nobody ever needs it on disk: `fsync` in it has
/// nothing to do, and its unmount does not wait until the whole file system below it is written (which takes as long as
/// whatever else the node writes).
const UNSYNCED: &str = "volatile";

/// An overlay of `lower` (top layer first) by descriptors: [`Tier::Detached`]. `upper` is the upper and work directory.
///
/// # Errors
/// If the kernel refuses; `log` of the error says why where the kernel tells.
pub fn overlay(lower: &[BorrowedFd<'_>], upper: Option<(&Path, &Path)>, label: Option<&str>) -> Result<Mount, Error> {
    let mut fs = Context::open("overlay")?;
    fs.string("source", "lamina")?;
    for (key, value) in OVERLAY_OPTIONS {
        fs.string(key, value)?;
    }
    for layer in lower {
        fs.fd("lowerdir+", *layer)?;
    }
    if let Some((upper, work)) = upper {
        fs.string("upperdir", upper)?;
        fs.string("workdir", work)?;
        fs.flag(UNSYNCED)?;
    }
    if let Some(label) = label {
        fs.string(LABEL, label)?;
    }
    fs.mount(MountAttrFlags::empty())
}

/// An overlay by paths, for [`Tier::Attached`]: mounted at `target` by `mount(2)`, whose options are one page at most.
/// All paths are absolute and of the caller's mount namespace. Layers that lie in one directory are named relative to
/// it, which becomes the caller's working directory: so there is room for as many as the kernel stacks (500).
///
/// # Errors
/// If the options do not fit or the kernel refuses.
pub fn overlay_at(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    label: Option<&str>,
    target: &Path,
) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt as _;
    // Inside the options ',' ends an option and ':' ends a layer; both can be escaped with '\\'.
    let escaped = |path: &Path| {
        path.as_os_str().as_bytes().iter().fold(Vec::new(), |mut out, b| {
            if matches!(b, b',' | b':' | b'\\') {
                out.push(b'\\');
            }
            out.push(*b);
            out
        })
    };
    let mut options = b"redirect_dir=nofollow,metacopy=off,lowerdir=".to_vec();
    let shared = lower.first().and_then(|first| first.parent());
    let shared = shared.filter(|dir| lower.iter().all(|layer| layer.parent() == Some(dir)));
    if let Some(dir) = shared {
        rustix::process::chdir(dir).map_err(fail("enter", dir.display()))?;
    }
    for (n, layer) in lower.iter().enumerate() {
        if n > 0 {
            options.push(b':');
        }
        options.extend_from_slice(&escaped(shared.and_then(|dir| layer.strip_prefix(dir).ok()).unwrap_or(layer)));
    }
    if let Some((upper, work)) = upper {
        options.extend_from_slice(b",upperdir=");
        options.extend_from_slice(&escaped(upper));
        options.extend_from_slice(b",workdir=");
        options.extend_from_slice(&escaped(work));
        options.push(b',');
        options.extend_from_slice(UNSYNCED.as_bytes());
    }
    if let Some(label) = label {
        // In quotes: there may be commas in it.
        options.extend_from_slice(format!(",{LABEL}=\"{label}\"").as_bytes());
    }
    let refused = |source: io::Error| Error {
        action: "mount overlay at",
        subject: target.display().to_string(),
        log: format!("{} lower layers", lower.len()),
        source,
    };
    let options =
        std::ffi::CString::new(options).map_err(|e| refused(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    rustix::mount::mount(c"lamina", target, c"overlay", rustix::mount::MountFlags::empty(), options.as_c_str())
        .map_err(|e| refused(e.into()))
}

/// Takes the mount at `path` out of the caller's mount namespace; users of it keep it until they are done.
///
/// # Errors
/// If nothing is mounted there.
pub fn detach(path: &Path) -> Result<(), Error> {
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW)
        .map_err(fail("unmount", path.display()))
}

/// Gives the calling thread a mount namespace of its own that still hears of unmounts in the one it came from, so
/// that it never keeps a file system of the host busy.
///
/// # Errors
/// If the kernel refuses.
pub fn private_namespace() -> Result<(), Error> {
    #[expect(deprecated, reason = "the replacement only adds an unsafe marker for flags that are not used here")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).map_err(fail("unshare", "the mount namespace"))?;
    use rustix::mount::MountPropagationFlags as Flags;
    rustix::mount::mount_change(c"/", Flags::DOWNSTREAM | Flags::REC).map_err(fail("make a slave of", "/"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_of_two_detached_mounts_shows_both() {
        let tmpfs = || Mount::tmpfs(Some(1 << 16), 0o755, MountAttrFlags::empty()).unwrap();
        let (low, high) = (tmpfs(), tmpfs());
        std::fs::write(low.proc_path().join("low"), "1").unwrap();
        std::fs::write(high.proc_path().join("high"), "2").unwrap();
        assert_eq!(Tier::probe().unwrap(), Tier::Detached);
        let merged = overlay(&[high.as_fd(), low.as_fd()], None, None).unwrap();
        assert_eq!(std::fs::read(merged.proc_path().join("low")).unwrap(), b"1");
        assert_eq!(std::fs::read(merged.proc_path().join("high")).unwrap(), b"2");
        low.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
        assert!(std::fs::write(low.proc_path().join("more"), "").is_err());
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        let error = Mount::erofs(Path::new("/dev/null"), None).unwrap_err();
        assert_eq!(error.action, "create a file system of type");
        let mut context = Context::open("overlay").unwrap();
        let error = context.string("no_such_option", "1").unwrap_err();
        assert!(error.to_string().contains("no_such_option"), "{error}");
    }

    #[test]
    fn an_overlay_by_paths_leaves_nothing_behind() {
        // On a thread of its own: the namespace goes with it.
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_owned();
        std::thread::spawn(move || {
            private_namespace().unwrap();
            for name in ["a", "b,c:d", "upper", "work", "upper2", "work2", "merged"] {
                std::fs::create_dir(base.join(name)).unwrap();
            }
            std::fs::write(base.join("b,c:d/low"), "1").unwrap();
            let lower = [base.join("a"), base.join("b,c:d")];
            overlay_at(&lower, Some((&base.join("upper"), &base.join("work"))), None, &base.join("merged")).unwrap();
            assert_eq!(std::fs::read(base.join("merged/low")).unwrap(), b"1");
            detach(&base.join("merged")).unwrap();
            overlay_at(&lower, None, None, &base.join("merged")).unwrap();
            assert_eq!(std::fs::read(base.join("merged/low")).unwrap(), b"1");
            assert!(std::fs::write(base.join("merged/new"), "").is_err());
            detach(&base.join("merged")).unwrap();

            let deep = base.join("d".repeat(200));
            let layers: Vec<_> = (0..499).map(|n| deep.join(n.to_string())).collect();
            for layer in &layers {
                std::fs::create_dir_all(layer).unwrap();
            }
            std::fs::write(deep.join("498/lowest"), "1").unwrap();
            overlay_at(&layers, Some((&base.join("upper2"), &base.join("work2"))), None, &base.join("merged")).unwrap();
            assert_eq!(std::fs::read(base.join("merged/lowest")).unwrap(), b"1");
            detach(&base.join("merged")).unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}

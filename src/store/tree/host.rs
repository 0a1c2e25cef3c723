//! A directory of the host as a layer: an unpacked layer, or a container's writable layer, which a running container
//! may change at any moment.
//!
//! Every access resolves its path below the directory's descriptor and through no symbolic link, so whatever a
//! container plants there leads nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Device, Entry, Error, Kind, LayerTree, Node, Time, Xattr};

/// The attribute that makes a directory of an overlay's layer opaque.
const OPAQUE: &str = "trusted.overlay.opaque";

/// An open directory.
#[derive(Debug)]
pub struct HostTree {
    path: PathBuf,
    root: OwnedFd,
    declared: bool,
    /// The host's id of the tree's user 0.
    first: u32,
}

impl HostTree {
    /// Opens the directory `path`, whose own mode and owner count as the root's.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, true)
    }

    /// The tree below a directory that is open, with `O_PATH` or more; `path` is what messages call it.
    pub fn of(root: OwnedFd, path: &Path) -> Self {
        Self { path: path.to_owned(), root, declared: true, first: 0 }
    }

    /// As [`HostTree::open`]; `declared` says whether the root's mode and owner count.
    pub(in crate::store) fn open_as(path: &Path, declared: bool) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path)(e.into()))?;
        Ok(Self { path: path.to_owned(), root, declared, first: 0 })
    }

    /// Ids are those of a user namespace whose id 0 is the host's `first`.
    #[must_use]
    pub fn mapped(mut self, first: u32) -> Self {
        self.first = first;
        self
    }

    fn fail(&self, action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
        let path = self.path.join(path);
        move |e| Error::Io { action, path, source: e.into() }
    }

    fn at(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Error> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            // A parent that is no directory, or a link, is not a way to anything.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.fail("open", path)(e)),
        }
    }

    fn existing(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
        self.at(path, flags)?.ok_or_else(|| Error::Missing { path: path.to_owned() })
    }

    fn describe(&self, path: &Path, fd: &OwnedFd) -> Result<Node, Error> {
        let stat = rustix::fs::fstat(fd).map_err(self.fail("stat", path))?;
        let device = || Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File { size: u64::try_from(stat.st_size).unwrap_or_default() },
            FileType::Directory => {
                let mut value = [0; 1];
                let opaque = rustix::fs::getxattr(proc_path(fd), OPAQUE, &mut value[..]);
                Kind::Directory { opaque: opaque.is_ok() && value == *b"y" }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, "", Vec::new()).map_err(self.fail("read the link", path))?;
                Kind::Symlink { target: target.into_bytes().into() }
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
            FileType::CharacterDevice => Kind::Char { device: device() },
            FileType::BlockDevice => Kind::Block { device: device() },
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Socket,
        };
        Ok(self.node_of(kind, &stat))
    }

    fn node_of(&self, kind: Kind, stat: &Stat) -> Node {
        Node {
            kind,
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
            // Ids that the namespace does not have are nobody's there; here they are shown as they are.
            uid: stat.st_uid.checked_sub(self.first).unwrap_or(stat.st_uid),
            gid: stat.st_gid.checked_sub(self.first).unwrap_or(stat.st_gid),
            mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() },
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            inode: stat.st_ino,
        }
    }
}

/// The way to an `O_PATH` descriptor's file for calls that know paths only.
fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Calls `read` with a buffer that grows until what is read fits.
fn grown(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            // The kernel has no longer ones than 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

impl LayerTree for HostTree {
    fn node(&self, path: &Path) -> Result<Option<Node>, Error> {
        self.at(path, OFlags::PATH)?.map(|fd| self.describe(path, &fd)).transpose()
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, Error> {
        let fd = self.existing(path, OFlags::PATH)?;
        if !matches!(self.describe(path, &fd)?.kind, Kind::Directory { .. }) {
            return Err(Error::Kind { path: path.to_owned(), wanted: "directory" });
        }
        let fd = self.existing(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd).map_err(self.fail("read", path))? {
            let entry = entry.map_err(self.fail("read", path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            // What went away meanwhile is not there.
            if let Some(node) = self.node(&path.join(OsStr::from_bytes(name)))? {
                entries.push(Entry { name: name.into(), node });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, Error> {
        // Looked at first, since opening a pipe or a device would do something.
        let fd = self.existing(path, OFlags::PATH)?;
        if !matches!(self.describe(path, &fd)?.kind, Kind::File { .. }) {
            return Err(Error::Kind { path: path.to_owned(), wanted: "regular file" });
        }
        let file = File::open(proc_path(&fd)).map_err(Error::io("open", path))?;
        Ok(Box::new(file))
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>, Error> {
        let fd = self.existing(path, OFlags::PATH)?;
        let place = proc_path(&fd);
        let names = match grown(|buffer| rustix::fs::listxattr(&place, buffer)) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(self.fail("read the attributes of", path)(e)),
        };
        let mut found = Vec::new();
        // Those that the host gives to its own files are none of the tree's.
        let of_host = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name == b"security.selinux";
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty() && !of_host(n)) {
            let name_os = OsStr::from_bytes(name);
            match grown(|buffer| rustix::fs::getxattr(&place, name_os, buffer)) {
                Ok(value) => found.push((name.into(), value.into())),
                Err(Errno::NODATA) => {}
                Err(e) => return Err(self.fail("read an attribute of", path)(e)),
            }
        }
        found.sort();
        Ok(found)
    }

    fn root_declared(&self) -> bool {
        self.declared
    }
}

//! A tar unpacked below a directory that may be a container's: whatever the tar holds and whatever links lie there,
//! nothing is written outside.
//!
//! Every entry's directory is opened anew below the root and through no symbolic link. What is in the way is replaced, as
//! `tar` does; a regular file is written in place, so that what is mounted on it or linked to it goes on being that file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, futimens, linkat, mkdirat,
    mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::place::names::components;
use super::tar::{Parser, Sink, TarEntry, What};
use super::{Error, Limits};
use crate::store::tree::Time;
use crate::sys::inside;

/// Whose what is unpacked will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the tar says, set-id bits included.
    Kept(Ids),
    /// This user's and group's; set-id bits go, for they would be another's program in this one's name.
    Given(u32, u32),
}

/// A container's ids: what the host calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The host's id of the container's user and group 0.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Ids {
    /// Those of a container that has the host's.
    pub const HOST: Self = Self { first: 0, count: u32::MAX };

    /// What the host calls a user and a group.
    ///
    /// # Errors
    /// If the container has none of that number.
    pub fn host(self, (user, group): (u32, u32)) -> io::Result<(u32, u32)> {
        let one = |id: u32, what| match self.first.checked_add(id) {
            Some(host) if id < self.count => Ok(host),
            _ => Err(io::Error::other(format!(
                "there is no {what} {id} in it: ids are 0 to {}; owners that are not kept are root's",
                self.count - 1
            ))),
        };
        Ok((one(user, "user")?, one(group, "group")?))
    }
}

/// What a file or directory is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u16,
    /// The owner's and the group's number.
    pub owner: (u32, u32),
    /// When its content was last changed.
    pub mtime: Time,
}

/// An unpacking under way.
#[derive(Debug)]
pub struct Unpack {
    parser: Parser,
    tree: Tree,
}

#[derive(Debug)]
struct Tree {
    root: OwnedFd,
    owner: Owner,
    depth: usize,
    /// The file that is being written, and where the next bytes go.
    current: Option<(File, PathBuf, u64, Attributes)>,
    /// Directories get their attributes last, since filling them changes those.
    directories: Vec<(PathBuf, Attributes)>,
    skipped: Vec<PathBuf>,
}

impl Unpack {
    /// Unpacks below the directory `root`.
    pub fn new(root: OwnedFd, owner: Owner) -> Self {
        let limits = Limits::default();
        let tree =
            Tree { root, owner, depth: limits.depth, current: None, directories: Vec::new(), skipped: Vec::new() };
        Self { parser: Parser::new(&limits), tree }
    }

    /// Takes the next bytes of the tar.
    ///
    /// # Errors
    /// If they are not a tar's, or something cannot be written; what was written before stays.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.parser.feed(bytes, &mut self.tree)
    }

    /// Ends it. Gives the names of what was left out: devices, which no copy makes.
    ///
    /// # Errors
    /// If the tar has not come to its end, or a directory's attributes cannot be set.
    pub fn finish(self) -> Result<Vec<PathBuf>, Error> {
        self.parser.finish()?;
        // Bottom up.
        for (path, attributes) in self.tree.directories.iter().rev() {
            let opened = inside::open_plain(&self.tree.root, dot(path), OFlags::RDONLY | OFlags::DIRECTORY);
            opened.and_then(|dir| apply(&dir, *attributes)).map_err(fail("set up", path))?;
        }
        Ok(self.tree.skipped)
    }
}

fn dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Unpack { action, path, source }
}

/// Owner first, since changing it clears modes; times last.
fn apply(file: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let (uid, gid) = attributes.owner;
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(&file, Mode::from_raw_mode(attributes.mode.into()))?;
    Ok(futimens(&file, &times(attributes.mtime))?)
}

fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

impl Tree {
    fn attributes(&self, entry: &TarEntry) -> io::Result<Attributes> {
        let (mode, owner) = match self.owner {
            Owner::Kept(ids) => (entry.mode, ids.host((entry.uid, entry.gid))?),
            Owner::Given(uid, gid) => (entry.mode & 0o1777, (uid, gid)),
        };
        Ok(Attributes { mode, owner, mtime: entry.mtime })
    }

    /// The directory that `path` lies in; what is missing of it is made.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let above = path.parent().unwrap_or_else(|| Path::new(""));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match inside::open_plain(&self.root, dot(above), flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut at = inside::open_plain(&self.root, Path::new("."), flags)?;
        for part in above {
            match mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            at = inside::open_plain(&at, Path::new(part), flags)?;
        }
        Ok(at)
    }

    fn make(&mut self, path: &Path, entry: &TarEntry) -> io::Result<()> {
        let attributes = self.attributes(entry)?;
        let Some(name) = path.file_name() else {
            // The root itself.
            if entry.what == What::Directory {
                self.directories.push((path.to_owned(), attributes));
            }
            return Ok(());
        };
        let parent = self.parent(path)?;
        match entry.what {
            What::File(_) => {
                let file = create(parent.as_fd(), name)?;
                self.current = Some((file, path.to_owned(), 0, attributes));
            }
            What::Directory => {
                match mkdirat(&parent, name, Mode::RWXU) {
                    Err(Errno::EXIST) => {
                        inside::open_plain(&parent, Path::new(name), OFlags::PATH | OFlags::DIRECTORY)?;
                    }
                    made => made?,
                }
                self.directories.push((path.to_owned(), attributes));
            }
            What::Symlink => {
                replacing(parent.as_fd(), name, || symlinkat(OsStr::from_bytes(&entry.link), &parent, name))?;
                self.settle(parent.as_fd(), name, attributes)?;
            }
            What::Fifo => {
                let mode = Mode::from_raw_mode((attributes.mode & 0o777).into());
                replacing(parent.as_fd(), name, || mknodat(&parent, name, FileType::Fifo, mode, 0))?;
                self.settle(parent.as_fd(), name, attributes)?;
            }
            What::HardLink => {
                let target = components(&entry.link, &entry.path, self.depth)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                let target: PathBuf = target.iter().map(|part| OsStr::from_bytes(part)).collect();
                let first = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
                let of_first = self.parent(&target)?;
                replacing(parent.as_fd(), name, || linkat(&of_first, &first, &parent, name, AtFlags::empty()))?;
            }
            What::Char(_) | What::Block(_) => self.skipped.push(path.to_owned()),
        }
        Ok(())
    }

    /// The owner and the time of what has no content.
    #[expect(clippy::unused_self, reason = "read with the other steps of an entry")]
    fn settle(&self, parent: BorrowedFd<'_>, name: &OsStr, attributes: Attributes) -> io::Result<()> {
        let (uid, gid) = attributes.owner;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        Ok(utimensat(parent, name, &times(attributes.mtime), flags)?)
    }
}

/// Does what needs a free name, and takes away what has it; a directory is not taken away.
fn replacing(parent: BorrowedFd<'_>, name: &OsStr, make: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(make()?)
        }
        made => Ok(made?),
    }
}

/// Opens the file `name` for writing from its beginning: the regular file that is there, else a new one.
fn create(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fresh = || openat(parent, name, flags, Mode::from_raw_mode(0o600));
    match fresh() {
        Err(Errno::EXIST) => {}
        made => return Ok(made?.into()),
    }
    let there = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&there)?.st_mode) {
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::RegularFile => match rewrite(&there) {
            // A program that runs is left to those who run it.
            Err(e) if e.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => {}
            opened => return opened,
        },
        _ => {}
    }
    unlinkat(parent, name, AtFlags::empty())?;
    Ok(fresh()?.into())
}

/// The regular file behind an `O_PATH` descriptor, emptied and open for writing: that very file, whatever has its name now.
fn rewrite(file: &OwnedFd) -> io::Result<File> {
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::OpenOptions::new().write(true).truncate(true).open(place)
}

/// Where one file goes.
#[derive(Debug)]
pub enum Target {
    /// This regular file, in place.
    There(OwnedFd),
    /// This name in that directory.
    In(OwnedFd, OsString),
}

/// Writes one file from what `content` gives.
///
/// # Errors
/// If it cannot be read or written; a part of it may be there then.
pub fn write_file(target: &Target, attributes: Attributes, content: &mut dyn Read) -> io::Result<u64> {
    let mut file = match target {
        Target::There(file) => rewrite(file)?,
        Target::In(dir, name) => create(dir.as_fd(), name)?,
    };
    let length = io::copy(content, &mut file)?;
    file.flush()?;
    apply(&file, attributes)?;
    Ok(length)
}

impl Sink for Tree {
    fn raw(&mut self, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn entry(&mut self, entry: TarEntry) -> Result<(), Error> {
        let path: PathBuf =
            components(&entry.path, &entry.path, self.depth)?.iter().map(|part| OsStr::from_bytes(part)).collect();
        self.make(&path, &entry).map_err(fail("write", &path))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some((file, path, at, _)) = &mut self.current {
            file.write_all_at(bytes, *at).map_err(fail("write", path))?;
            *at += bytes.len() as u64;
        }
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        if let Some((file, path, at, _)) = &mut self.current {
            *at += length;
            file.set_len(*at).map_err(fail("write", path))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.current.take() {
            Some((file, path, _, attributes)) => apply(&file, attributes).map_err(fail("set up", &path)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::store::tree::{Merged, directory, write_tar};

    fn packed(from: &Path) -> Vec<u8> {
        let mut tar = Vec::new();
        write_tar(&Merged::new(vec![directory(from, 0).unwrap()]), &mut tar).unwrap();
        tar
    }

    fn unpacked(tar: &[u8], to: &Path, owner: Owner) -> Result<Vec<PathBuf>, Error> {
        let root = File::open(to).unwrap().into();
        let mut unpack = Unpack::new(root, owner);
        for piece in tar.chunks(1000) {
            unpack.feed(piece)?;
        }
        unpack.finish()
    }

    /// A name in a tar, as a header and nothing else.
    fn entry(name: &str, kind: u8, link: &str) -> Vec<u8> {
        let mut b = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| b[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, b"00000000000\0");
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
        b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        b.to_vec()
    }

    #[test]
    fn a_tree_comes_back_with_its_links_modes_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("deep/er/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(from.join("deep/er/file"), from.join("twin")).unwrap();
        fs::set_permissions(from.join("twin"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("deep"), fs::Permissions::from_mode(0o1711)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let me = fs::metadata(&from).unwrap();
        assert!(unpacked(&packed(&from), &to, Owner::Given(me.uid(), me.gid())).unwrap().is_empty());
        assert_eq!(fs::read(to.join("twin")).unwrap(), vec![7; 100_000]);
        let stat = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(stat("twin").ino(), stat("deep/er/file").ino());
        assert_eq!((stat("twin").mode() & 0o7777, stat("deep").mode() & 0o7777), (0o751, 0o1711));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
        let times = |path: &str| (stat(path).mtime(), fs::symlink_metadata(from.join(path)).unwrap().mtime());
        for path in ["deep", "twin", "link"] {
            assert_eq!(times(path).0, times(path).1, "{path}");
        }
        // Once more over what is there: in place.
        let before = stat("twin").ino();
        unpacked(&packed(&from), &to, Owner::Given(me.uid(), me.gid())).unwrap();
        assert_eq!(stat("deep/er/file").ino(), before);
    }

    #[test]
    fn nothing_is_written_outside_whatever_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let (canary, to) = (dir.path().join("canary"), dir.path().join("to"));
        fs::create_dir_all(&canary).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(canary.join("f"), b"whole").unwrap();
        let me = fs::metadata(&to).unwrap();
        let owner = Owner::Given(me.uid(), me.gid());
        let try_to = |tar: &[u8]| unpacked(&[tar, &[0; 1024]].concat(), &to, owner);
        assert!(try_to(&entry("../canary/f", b'0', "")).is_err());
        // An absolute name is one from the root of what is unpacked.
        try_to(&entry("/abs", b'0', "")).unwrap();
        assert!(to.join("abs").exists());
        // A link that is there already, one that the tar brings, and a file that is a link.
        symlink(&canary, to.join("out")).unwrap();
        assert!(try_to(&entry("out/f", b'0', "")).is_err());
        let planted = [entry("own", b'2', canary.to_str().unwrap()), entry("own/f", b'0', "")].concat();
        assert!(try_to(&planted).is_err());
        symlink(canary.join("f"), to.join("file")).unwrap();
        try_to(&entry("file", b'0', "")).unwrap();
        assert!(fs::symlink_metadata(to.join("file")).unwrap().is_file(), "the link was replaced");
        // A hard link reaches no further than a path does.
        assert!(try_to(&entry("hard", b'1', "out/f")).is_err());
        assert!(try_to(&entry("hard", b'1', "../canary/f")).is_err());
        assert_eq!(fs::read(canary.join("f")).unwrap(), b"whole");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
        // Devices are left out, and named.
        assert_eq!(try_to(&entry("dev", b'3', "")).unwrap(), [PathBuf::from("dev")]);
        // What ends early is said to.
        assert!(matches!(unpacked(&entry("x", b'0', "")[..100], &to, owner), Err(Error::Truncated { .. })));
    }
}

//! The directory of one container's logs, by descriptor: names in it are opened, renamed and removed without ever
//! following a link.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::Error;

/// Collectors that run as other users may look for files; the files themselves are for their owner and group.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// An open directory of logs.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens `root/below`, making what is missing. `root` may be a link that an administrator made; a link below it is
    /// removed and a directory put in its place.
    pub(super) fn create(root: &Path, below: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(root).map_err(fail("make", root))?;
        let mut dir = Self::root(root)?;
        for component in below.components() {
            let Component::Normal(name) = component else {
                return Err(fail("open", &root.join(below))(io::ErrorKind::InvalidInput.into()));
            };
            let path = dir.path.join(name);
            let step = |e: Errno| fail("open the log directory", &path)(e.into());
            let fd = match dir.enter(name.as_ref()) {
                Err(Errno::NOENT) => {
                    dir.make(name.as_ref()).map_err(step)?;
                    dir.enter(name.as_ref()).map_err(step)?
                }
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    unlinkat(&dir.fd, name, AtFlags::empty()).map_err(step)?;
                    dir.make(name.as_ref()).map_err(step)?;
                    dir.enter(name.as_ref()).map_err(step)?
                }
                entered => entered.map_err(step)?,
            };
            dir = Self { fd, path };
        }
        Ok(dir)
    }

    /// Opens the directory of a container's logs for reading: `<log-dir>/<pod>/<container>`, of which the last two are
    /// not followed if they are links.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let names: Vec<_> = path.components().rev().take(2).collect();
        let root: PathBuf = {
            let count = path.components().count();
            path.components().take(count.saturating_sub(names.len())).collect()
        };
        let mut dir = Self::root(if root.as_os_str().is_empty() { Path::new(".") } else { &root })?;
        for name in names.into_iter().rev() {
            let path = dir.path.join(name);
            let fd = dir.enter(name.as_ref()).map_err(|e| fail("open the log directory", &path)(e.into()))?;
            dir = Self { fd, path };
        }
        Ok(dir)
    }

    fn root(path: &Path) -> Result<Self, Error> {
        let fd = openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| fail("open the log directory", path)(e.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    fn enter(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.fd, name, flags, Mode::empty())
    }

    fn make(&self, name: &Path) -> Result<(), Errno> {
        match mkdirat(&self.fd, name, DIRECTORY_MODE) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file to append to, with its size. What is not an ordinary file with this as its only name (a link, a
    /// FIFO, somebody else's file by a hard link) is removed first.
    pub(super) fn append(&self, name: &str) -> Result<(File, u64), Error> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(|e| self.fail("stat", name, e))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 {
                    return Ok((File::from(fd), u64::try_from(stat.st_size).unwrap_or(0)));
                }
            }
            // ENXIO: a FIFO or socket that nobody reads.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {}
            Err(e) => return Err(self.fail("open the log", name, e)),
        }
        self.discard(name);
        let fd = openat(&self.fd, name, flags | OFlags::CREATE | OFlags::EXCL, FILE_MODE)
            .map_err(|e| self.fail("make the log", name, e))?;
        Ok((File::from(fd), 0))
    }

    /// Opens a file for reading if there is an ordinary one.
    pub(super) fn read(&self, name: &str) -> Result<Option<File>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(|e| self.fail("stat", name, e))?;
                Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| File::from(fd)))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(e) => Err(self.fail("open the log", name, e)),
        }
    }

    /// The inode that a name stands for, if it is an ordinary file.
    pub(super) fn inode(&self, name: &str) -> Option<u64> {
        let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat.st_ino)
    }

    /// Gives a file another name, whatever has that name; `false` if there was nothing or it cannot be.
    pub(super) fn rename(&self, from: &str, to: &str) -> bool {
        renameat(&self.fd, from, &self.fd, to).is_ok()
    }

    /// Removes a name, or, if it is a directory that somebody made, moves it aside.
    pub(super) fn discard(&self, name: &str) {
        if unlinkat(&self.fd, name, AtFlags::empty()) == Err(Errno::ISDIR) {
            // A directory that is in the way can only be someone's mischief; nothing is lost if this fails, too: then
            // the log cannot be made and its lines are counted as dropped.
            self.rename(name, &format!("{name}.not-a-log"));
        }
    }

    /// The names in it.
    fn names(&self) -> Result<Vec<String>, Error> {
        let list = rustix::fs::Dir::read_from(&self.fd).map_err(|e| self.fail("list", "", e))?;
        let mut names = Vec::new();
        for entry in list {
            let entry = entry.map_err(|e| self.fail("list", "", e))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn fail(&self, action: &'static str, name: &str, e: Errno) -> Error {
        fail(action, &self.path.join(name))(e.into())
    }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { action, path, source }
}

/// The file that is written now.
pub(super) fn current(attempt: u32) -> String {
    format!("{attempt}.log")
}

/// The `n`th before it.
pub(super) fn rotated(attempt: u32, n: u32) -> String {
    format!("{attempt}.log.{n}")
}

/// Removes the logs of every attempt of a container (`<log-dir>/<pod>/<container>`) that `keep` does not want, and the
/// directory and its parent when they have become empty. Files that are not logs stay.
///
/// # Errors
/// If the directory cannot be read; one that is not there is fine.
pub fn remove(container: &Path, keep: impl Fn(u32) -> bool) -> Result<(), Error> {
    let dir = match Directory::open(container) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    for name in dir.names()? {
        let attempt = name.split_once(".log").and_then(|(attempt, _)| attempt.parse().ok());
        if attempt.is_some_and(|attempt| !keep(attempt)) {
            unlinkat(&dir.fd, &name, AtFlags::empty()).map_err(|e| dir.fail("remove", &name, e))?;
        }
    }
    // Fails while anything is in them, and that is right.
    if std::fs::remove_dir(container).is_ok()
        && let Some(pod) = container.parent()
    {
        let _ = std::fs::remove_dir(pod);
    }
    Ok(())
}

//! Files in and out of a running container: its root as its processes see it, volumes included, and paths resolved
//! inside it by the kernel, so that no link in it leads out.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};

use super::{ContainerRef, Error, Node};
use crate::api::view::OWN_USERS;
use crate::store::convert::unpack::{Ids, Target};
use crate::sys::inside;

/// A running container's files.
#[derive(Debug)]
pub struct ContainerFiles {
    /// `namespace/pod/container`, for messages.
    pub name: String,
    /// What the host calls its users and groups.
    pub ids: Ids,
    root: OwnedFd,
}

/// Something in a container that can be copied.
#[derive(Debug)]
pub struct Source {
    /// Open with `O_PATH`.
    pub file: OwnedFd,
    /// What it is.
    pub stat: Stat,
    /// Where it is, for messages.
    pub path: PathBuf,
}

/// Where in a container something goes.
#[derive(Debug)]
pub enum Place {
    /// One file.
    File(Target),
    /// Below this directory.
    Below(OwnedFd),
}

/// What is to be put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A file of that name.
    File(OsString),
    /// A directory of that name.
    Directory(OsString),
    /// Whatever comes: a tar where there is a directory, else a file.
    Anything,
}

impl Node {
    /// The files of a running container.
    ///
    /// # Errors
    /// If it does not run.
    pub fn container_files(&self, target: &ContainerRef) -> Result<ContainerFiles, Error> {
        let (name, pid, first) = self.process_of(target)?;
        let failed = |e: io::Error| Error::failed(format!("look into {name}"))(e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = format!("/proc/{pid}/root");
        let root = rustix::fs::open(place, flags, rustix::fs::Mode::empty()).map_err(|e| failed(e.into()))?;
        // Asked again: a number of a process that has ended meanwhile may be another's.
        if self.process_of(target)?.1 != pid {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let ids = first.map_or(Ids::HOST, |first| Ids { first, count: OWN_USERS });
        Ok(ContainerFiles { name, ids, root })
    }
}

impl ContainerFiles {
    fn fail(&self, action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let action = format!("{action} {} in {}", path.display(), self.name);
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { kind: "file or directory", name: action },
            _ => Error::failed(action)(source),
        }
    }

    /// Opens what is to be copied out; a link is followed, inside.
    ///
    /// # Errors
    /// If there is nothing of that name, or it is neither a file nor a directory.
    pub fn open(&self, path: &Path) -> Result<Source, Error> {
        let file = inside::open(&self.root, path, OFlags::PATH).map_err(self.fail("open", path))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| self.fail("look at", path)(e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(Source { file, stat, path: path.to_owned() }),
            _ => Err(Error::Refused {
                action: "copy",
                name: format!("{} of {}", path.display(), self.name),
                reason: "it is neither a file nor a directory".to_owned(),
            }),
        }
    }

    /// Finds out where something goes, as `cp` would: into a directory that is there, else under the last name of `path`.
    ///
    /// # Errors
    /// If what `path` lies in is not there, or it is of the wrong kind.
    pub fn place(&self, path: &Path, incoming: &Incoming) -> Result<Place, Error> {
        let there = match inside::open(&self.root, path, OFlags::PATH) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(self.fail("open", path)(e)),
        };
        let kind = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let refused = |reason: &str| {
            let name = format!("{} of {}", path.display(), self.name);
            Err(Error::Refused { action: "copy to", name, reason: reason.to_owned() })
        };
        let Some(there) = there else {
            let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
            let Some(name) = path.file_name().filter(|_| !(ends_in_slash && matches!(incoming, Incoming::File(_))))
            else {
                return Err(self.fail("open", path)(io::ErrorKind::NotFound.into()));
            };
            let above = path.parent().unwrap_or_else(|| Path::new("/"));
            let dir =
                inside::open(&self.root, above, OFlags::PATH | OFlags::DIRECTORY).map_err(self.fail("open", above))?;
            return match incoming {
                Incoming::Directory(_) => self.make(&dir, name, path).map(Place::Below),
                Incoming::File(_) | Incoming::Anything => Ok(Place::File(Target::In(dir, name.to_owned()))),
            };
        };
        match (kind(&there).map_err(|e| self.fail("look at", path)(e.into()))?, incoming) {
            (FileType::Directory, Incoming::File(name)) => Ok(Place::File(Target::In(there, name.clone()))),
            (FileType::Directory, Incoming::Directory(name)) => self.make(&there, name, path).map(Place::Below),
            (FileType::Directory, Incoming::Anything) => Ok(Place::Below(there)),
            (FileType::RegularFile, Incoming::File(_) | Incoming::Anything) => Ok(Place::File(Target::There(there))),
            (_, Incoming::Directory(_)) => refused("it is no directory"),
            _ => refused("it is neither a file nor a directory"),
        }
    }

    /// The directory `name` in `dir`, made if it is not there.
    fn make(&self, dir: &OwnedFd, name: &std::ffi::OsStr, path: &Path) -> Result<OwnedFd, Error> {
        let made = match rustix::fs::mkdirat(dir, name, rustix::fs::Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {
                inside::open_plain(dir, Path::new(name), OFlags::PATH | OFlags::DIRECTORY)
            }
            Err(e) => Err(e.into()),
        };
        made.map_err(self.fail("make a directory at", path))
    }
}

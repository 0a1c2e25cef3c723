//! Who a process runs as, from the pod's wishes, the image's `USER`, and the image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files are the image's, so they may be anything: a FIFO, a link to one, a gigabyte. They are opened inside the
//! root without waiting, must be regular files, and are read line by line up to a limit. A user that is not understood
//! is an error, never root.

use std::io::{BufRead, BufReader, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

use super::{Error as LaunchError, Stage};
use crate::runtime::spec::UserRequest;
use crate::sys::inside;

#[cfg(test)]
mod tests;

/// What is read of one file at most; directories of whole companies fit.
const LARGEST_FILE: u64 = 16 << 20;

/// The longest line.
const LONGEST_LINE: usize = 1 << 20;

/// The largest number of a user or group, as other runtimes have it: one more bit and some programs see a negative one.
const LARGEST_ID: u32 = i32::MAX.unsigned_abs();

/// `NGROUPS_MAX`.
const MOST_GROUPS: usize = 65_536;

/// Who it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The primary group first.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Why a user cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{name:?}: no such user in the image's /etc/passwd")]
    UnknownUser { name: String },
    #[error("{name:?}: no such group in the image's /etc/group")]
    UnknownGroup { name: String },
    #[error("{name:?}: not a user id between 0 and {LARGEST_ID}")]
    Range { name: String },
    #[error("0: the pod asks for a user that is not root (runAsNonRoot)")]
    Root,
    #[error("of more than {MOST_GROUPS} groups")]
    Groups,
    #[error("from the image's {path}: {reason}")]
    File { path: &'static str, reason: &'static str },
    #[error("from the image's {path}")]
    Read { path: &'static str, source: std::io::Error },
}

impl Error {
    pub(super) fn into_launch(self) -> LaunchError {
        let number = match &self {
            Self::UnknownUser { .. } | Self::UnknownGroup { .. } => libc::ENOENT,
            Self::Range { .. } => libc::ERANGE,
            Self::Root => libc::EPERM,
            Self::Groups => libc::E2BIG,
            Self::File { .. } => libc::EINVAL,
            Self::Read { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        };
        LaunchError::refuse(Stage::User, self, number)
    }
}

/// Finds out who it is, below the container's root.
pub(super) fn resolve(request: &UserRequest, root: &OwnedFd) -> Result<Resolved, Error> {
    let passwd = Lines::open(root, "/etc/passwd")?;
    let group = Lines::open(root, "/etc/group")?;
    decide(request, passwd, group)
}

fn decide(request: &UserRequest, mut passwd: Lines, mut group: Lines) -> Result<Resolved, Error> {
    let (user, own_group) = match request.image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (request.image_user.as_str(), None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // `runAsUser` replaces the image's user, and with it the group written beside it.
    let (wanted, own_group) = match request.uid {
        Some(uid) => (uid.to_string(), None),
        None => (user.to_owned(), own_group),
    };
    let mut entry = None;
    let number = id(&wanted);
    passwd.each(|line| {
        if let Some(found) = Entry::parse(line) {
            // A name comes before a number, and the first line that fits counts, as in the C library.
            if request.uid.is_none() && found.name == wanted {
                entry = Some((true, found));
            } else if Some(found.uid) == number && entry.is_none() {
                entry = Some((false, found));
            }
        }
        matches!(entry, Some((true, _)))
    })?;
    let entry = entry.map(|(_, entry)| entry);
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(number)) => number,
        (None, None) if wanted.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'+') => {
            return Err(Error::Range { name: wanted });
        }
        (None, None) => return Err(Error::UnknownUser { name: wanted }),
    };
    if uid > LARGEST_ID {
        return Err(Error::Range { name: wanted });
    }
    if request.non_root && uid == 0 {
        return Err(Error::Root);
    }

    let mut gid = request.gid.or_else(|| entry.as_ref().filter(|_| own_group.is_none()).map(|e| e.gid));
    let by_name = own_group.filter(|_| request.gid.is_none());
    let own_number = by_name.and_then(id);
    let mut named = None;
    let mut groups = Vec::new();
    let member = entry.as_ref().map(|e| e.name.clone()).filter(|_| !request.strict_groups);
    group.each(|line| {
        let mut fields = line.split(':');
        let (Some(name), Some(id), members) = (fields.next(), fields.nth(1).and_then(id), fields.next()) else {
            return false;
        };
        if named.is_none() && by_name == Some(name) {
            named = Some(id);
        }
        if member.as_deref().is_some_and(|user| members.unwrap_or_default().split(',').any(|m| m == user)) {
            groups.push(id);
        }
        groups.len() > MOST_GROUPS
    })?;
    if let Some(name) = by_name {
        let found = named.or(own_number).ok_or_else(|| Error::UnknownGroup { name: name.to_owned() })?;
        gid = Some(found);
    }
    let gid = gid.unwrap_or(0);
    if gid > LARGEST_ID {
        return Err(Error::Range { name: gid.to_string() });
    }
    // The primary group among the others too: a rule that denies a group must hold for those who are in it that way.
    let mut all = vec![gid];
    for group in request.groups.iter().copied().chain(groups) {
        if !all.contains(&group) {
            all.push(group);
        }
    }
    if all.len() > MOST_GROUPS {
        return Err(Error::Groups);
    }
    let home = entry.map(|e| e.home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Resolved { uid, gid, groups: all, home })
}

/// One line of `/etc/passwd`.
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(Self { name, uid, gid, home })
    }
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|n| *n <= LARGEST_ID)
}

/// The lines of one of the image's files; a file that is not there has none.
struct Lines {
    path: &'static str,
    file: Option<BufReader<std::io::Take<Box<dyn std::io::Read>>>>,
}

impl Lines {
    fn open(root: impl AsFd, path: &'static str) -> Result<Self, Error> {
        // NONBLOCK: opening a FIFO must not wait for somebody to write.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match inside::open(root, Path::new(path), flags) {
            Ok(file) => file,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                return Ok(Self { path, file: None });
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        let stat = fstat(&file).map_err(|e| Error::Read { path, source: e.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::File { path, reason: "not a regular file" });
        }
        Ok(Self::read(path, std::fs::File::from(file)))
    }

    fn read(path: &'static str, reader: impl std::io::Read + 'static) -> Self {
        let reader: Box<dyn std::io::Read> = Box::new(reader);
        Self { path, file: Some(BufReader::new(reader.take(LARGEST_FILE + 1))) }
    }

    /// Calls `f` with each line until it says that it has seen enough.
    fn each(&mut self, mut f: impl FnMut(&str) -> bool) -> Result<(), Error> {
        let path = self.path;
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = Vec::new();
        let mut total = 0;
        loop {
            line.clear();
            let length = file
                .by_ref()
                .take(LONGEST_LINE as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(|source| Error::Read { path, source })?;
            if length == 0 {
                return Ok(());
            }
            total += length as u64;
            if length > LONGEST_LINE {
                return Err(Error::File { path, reason: "a line is too long" });
            }
            if total > LARGEST_FILE {
                return Err(Error::File { path, reason: "too large" });
            }
            let text = String::from_utf8_lossy(&line);
            if f(text.trim_end_matches(['\n', '\r'])) {
                return Ok(());
            }
        }
    }
}

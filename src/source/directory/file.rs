//! Reads one manifest file, whatever it turns out to be, without ever waiting for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::api::text::MAX_FILE;
use crate::sys::lease;

/// How old a change must be for the stamp to be trusted: a second change within the clock's grain would look the same.
const GRAIN: Duration = Duration::from_secs(2);

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let m = file.metadata()?;
        Ok(Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }

    /// Whether the last change is long enough ago.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        now > changed + GRAIN
    }
}

/// What a look at a file gave.
#[derive(Debug)]
pub(super) enum Look {
    /// It is as it was.
    Same,
    /// It is new or changed; nothing for the stamp if the next look must not trust it.
    Content(Vec<u8>, Option<Stamp>),
    /// Somebody is writing it.
    Writing,
    /// It is gone.
    Gone,
    /// It cannot be used; why.
    Bad(String),
}

/// Looks at the file `name` in a directory; `known` is the stamp of what is known of it.
pub(super) fn look(dir: &OwnedFd, name: &OsStr, known: Option<&Stamp>) -> Look {
    match rustix::fs::statat(dir.as_fd(), name, AtFlags::empty()) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            kind => return Look::Bad(format!("is {}, not a file", name_of(kind))),
        },
        // There is an entry that leads nowhere, or none.
        Err(Errno::NOENT) => return missing(dir, name),
        Err(error) => return Look::Bad(format!("cannot be read: {}", io::Error::from(error))),
    }
    match read(dir, name, known) {
        Ok(look) => look,
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(dir, name),
        Err(error) => Look::Bad(format!("cannot be read: {error}")),
    }
}

fn missing(dir: &OwnedFd, name: &OsStr) -> Look {
    match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Look::Gone,
        Ok(_) => Look::Bad("is a link that leads nowhere".to_owned()),
        Err(error) => Look::Bad(format!("cannot be read: {}", io::Error::from(error))),
    }
}

fn read(dir: &OwnedFd, name: &OsStr, known: Option<&Stamp>) -> io::Result<Look> {
    // It was a regular file a moment ago. Should it be a FIFO by now, NONBLOCK keeps the open from waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Ok(Look::Bad("is not a file".to_owned()));
    }
    let before = Stamp::of(&file)?;
    if known == Some(&before) {
        return Ok(Look::Same);
    }
    if before.size > MAX_FILE as u64 {
        return Ok(Look::Bad(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    if lease::has_writer(&file)? {
        return Ok(Look::Writing);
    }
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    let after = Stamp::of(&file)?;
    if after != before {
        return Ok(Look::Writing);
    }
    let settled = after.is_settled();
    Ok(Look::Content(bytes, settled.then_some(after)))
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

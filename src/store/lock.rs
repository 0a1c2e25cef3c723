//! One agent a store: an exclusive `flock` on `lock`, which the kernel drops with its holder, however that dies.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use super::layout::FILE_MODE;

/// The longest text that is read from a lock file: a pid and its line end.
const MAX_PID: u64 = 32;

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes this process's id into it.
    ///
    /// # Errors
    /// [`Error::Locked`] if someone else has it.
    pub(super) fn take(root: &Path, path: &Path) -> Result<Self, Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)
            .map_err(Error::at("open", path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only for the message: an unreadable holder is an unknown holder.
                let _ = (&file).take(MAX_PID).read_to_string(&mut text);
                return Err(Error::Locked { root: root.to_owned(), holder: text.trim().parse().ok() });
            }
            Err(e) => return Err(Error::at("lock", path)(e.into())),
        }
        // Advisory too: on a full disk the store must still open, so that it can be collected.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

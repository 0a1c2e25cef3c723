//! One agent a store: an exclusive `flock` on `lock`, which the kernel drops with its holder, however that dies.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use super::layout::FILE_MODE;
use crate::sys::process;

/// The longest text that is read from a lock file: a pid and its line end.
const MAX_PID: u64 = 32;

/// How long a lock is waited for whose holder has ended, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

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
        let begin = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(Error::at("lock", path)(e.into())),
            }
            let mut text = String::new();
            // An unreadable holder is an unknown holder.
            let _ = file.rewind().and_then(|()| (&file).take(MAX_PID).read_to_string(&mut text));
            let holder: Option<u32> = text.trim().parse().ok();
            let is_gone = holder.and_then(|pid| i32::try_from(pid).ok()).is_some_and(process::is_gone);
            // A child of one that was killed has the file too, until it becomes another program.
            if !is_gone || begin.elapsed() > PATIENCE {
                return Err(Error::Locked { root: root.to_owned(), holder });
            }
            thread::sleep(LOOK);
        }
        // Advisory too: on a full disk the store must still open, so that it can be collected.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_killed_agent_was_about_to_start_is_waited_for_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::take(dir.path(), &path).unwrap();
        let own = std::process::id();
        assert!(matches!(Lock::take(dir.path(), &path), Err(Error::Locked { holder: Some(pid), .. }) if pid == own));

        let mut ended = Command::new("true").spawn().unwrap();
        std::fs::write(&path, ended.id().to_string()).unwrap();
        ended.wait().unwrap();
        #[expect(clippy::used_underscore_binding, reason = "nobody else needs it")]
        rustix::io::fcntl_setfd(&lock._file, rustix::io::FdFlags::empty()).unwrap();
        let mut child = Command::new("sleep").arg("0.3").spawn().unwrap();
        drop(lock);
        Lock::take(dir.path(), &path).unwrap();
        assert!(child.try_wait().unwrap().is_some(), "it was held until then");
    }
}

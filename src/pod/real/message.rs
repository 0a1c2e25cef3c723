//! Termination messages: what a container leaves, in a file of its own, for whoever asks why it ended; or else the end of
//! its log.
//!
//! The file lies beside the attempt's `exit`, and is mounted where the manifest says. The container sees that one file and
//! nothing beside it; still, whatever lies there is read as if somebody else had put it there.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::disk;
use crate::pod::state::Attempt;
use crate::runtime::logs;
use crate::runtime::protocol;
use crate::runtime::spec::{Propagation, VolumeBind, VolumeSource};

/// The file in an attempt's directory.
const FILE: &str = "termination-log";
/// Whoever the container runs as may write to it.
const MODE: u32 = 0o666;
/// Where it is mounted unless the manifest says otherwise.
const DEFAULT_PATH: &str = "/dev/termination-log";
/// How much of it counts, and of the log instead: what a kubelet takes.
const MOST: u64 = 4096;
const MOST_LOG: usize = 2048;
const MOST_LINES: usize = 80;

/// Whether a container wants the end of its log as its message when it fails without one.
pub(super) fn falls_back(container: &Container) -> bool {
    container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
}

/// Makes the file in an attempt's directory.
pub(super) fn make(dir: &Path) -> Result<(), disk::Error> {
    let path = dir.join(FILE);
    let made = fs::File::create_new(&path).and_then(|file| {
        // Whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(MODE))
    });
    made.map_err(disk::io_error("create", &path))
}

/// Mounts the file into its container, where no volume is in its place.
pub(super) fn bind(container: &Container, dir: &Path) -> Option<VolumeBind> {
    let target = container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH);
    let mut mounts = container.volume_mounts.iter().flatten();
    if mounts.any(|m| m.mount_path.trim_end_matches('/') == target.trim_end_matches('/')) {
        return None;
    }
    Some(VolumeBind {
        target: target.to_owned(),
        source: VolumeSource::Dir { path: dir.join(FILE).to_string_lossy().into_owned() },
        sub_path: None,
        read_only: false,
        recursive: false,
        propagation: Propagation::None,
        options: Vec::new(),
    })
}

/// What an attempt that has ended says of its end.
pub(super) fn of(dir: &Path, attempt: &Attempt, exit: &protocol::Exit) -> Option<String> {
    let own = match read(&dir.join(FILE)) {
        Ok(own) => own,
        Err(error) => return Some(format!("cannot read its termination message: {error}")),
    };
    let failed = exit.code != 0 && attempt.failure.is_none();
    let bytes = match &attempt.log {
        Some(log) if own.is_empty() && failed => match logs::last(log, attempt.number, MOST_LINES, MOST_LOG) {
            Ok(end) => end,
            Err(error) => {
                return Some(format!("cannot read the end of its log: {}", crate::api::problem::chain(&error)));
            }
        },
        _ => own,
    };
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a message file; an attempt of an earlier agent has none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file any more"));
    }
    let mut bytes = vec![0; usize::try_from(MOST).unwrap_or(0)];
    let read = file.read_at(&mut bytes, found.len().saturating_sub(MOST))?;
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_is_read_and_nothing_that_took_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join(FILE)).unwrap(), b"");
        make(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        fs::write(&path, format!("{}{}", "a".repeat(100), "b".repeat(4096))).unwrap();
        assert_eq!(read(&path).unwrap(), "b".repeat(4096).as_bytes());
        // As large as can be said, and read no further than its end.
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path).unwrap(), [0; 4096]);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(read(&path).is_err());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is not a file any more");
    }
}

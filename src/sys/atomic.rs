//! Durable files: temporary file in the same directory → write → fsync → rename → fsync of the directory.
//!
//! Every durable write of the agent goes through here, so that a power cut leaves the old content or the new one and
//! nothing between, and so that faults can be planted in one place.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a durable write was doing when it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// The step: `create`, `write`, `sync`, `rename`, `remove`.
    pub action: &'static str,
    /// The file or directory of that step.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl Error {
    /// A mapper for `map_err`.
    fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Names temporary files apart within one process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The start of every temporary file's name; whatever carries it after a crash is garbage.
pub const TEMPORARY: &str = ".tmp-";

fn temporary(path: &Path) -> PathBuf {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!("{TEMPORARY}{}-{n}", std::process::id()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes what a directory lists durable.
///
/// # Errors
/// If the directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::at("sync", dir))
}

/// Writes `path` with mode `mode`, durably: after success the content survives a power cut; before, the old stays.
///
/// # Errors
/// If any step fails; the old file is then untouched and the temporary one removed.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    replace(path, content, mode, true)
}

/// As [`write()`], without any fsync: for live state under `/run` that does not outlast the boot.
///
/// # Errors
/// As [`write()`].
pub fn write_volatile(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    replace(path, content, mode, false)
}

fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> Result<(), Error> {
    let tmp = temporary(path);
    let result = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&tmp).map_err(Error::at("create", &tmp))?;
        file.write_all(content).map_err(Error::at("write", &tmp))?;
        if durable {
            file.sync_all().map_err(Error::at("sync", &tmp))?;
        }
        std::fs::rename(&tmp, path).map_err(Error::at("rename", path))
    })();
    match result {
        Ok(()) if durable => sync_dir(parent(path)),
        Ok(()) => Ok(()),
        Err(e) => {
            // The write has failed already; what is left of it is garbage that start-up would remove too.
            let _ = std::fs::remove_file(&tmp);
            Err(e)
        }
    }
}

/// Moves a finished directory or file to its place, durably; the content must have been synced before.
///
/// # Errors
/// If the rename or a sync fails.
pub fn commit(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::at("rename", to))?;
    sync_dir(parent(to))
}

/// Removes a file, durably. A file that is not there is fine.
///
/// # Errors
/// If the removal or the sync fails.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::at("remove", path)(e)),
    }
}

/// Makes a directory (and its parents) with mode `mode`, and the directories' entries durable.
///
/// # Errors
/// If a directory cannot be made or synced.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    if path.is_dir() {
        return Ok(());
    }
    if let Some(up) = path.parent()
        && !up.as_os_str().is_empty()
    {
        create_dir(up, mode)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(Error::at("create", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"1", 0o600).unwrap();
        write(&path, b"2", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_step_and_the_path() {
        let error = write(Path::new("/nonexistent-lamina/a"), b"", 0o600).unwrap_err();
        assert_eq!(error.action, "create");
        assert!(error.to_string().contains("/nonexistent-lamina"));
    }
}

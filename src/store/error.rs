//! What can go wrong in the store, each with the path, digest or name that it is about.

use std::io;
use std::path::PathBuf;

use super::key::LayerKey;
use crate::oci::{DiffId, Digest};
use crate::sys::atomic;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another agent has the store open.
    #[error("the store {} is in use by another agent{}", root.display(), holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The store's directory.
        root: PathBuf,
        /// The other agent's process id, where the lock file tells it.
        holder: Option<u32>,
    },
    /// The store was written by a newer release.
    #[error("the store {} needs {what}, which this release does not know", root.display())]
    Format {
        /// The store's directory.
        root: PathBuf,
        /// The version or feature.
        what: String,
    },
    /// The store was opened for reading only.
    #[error("cannot {action}: the store is open for reading only")]
    ReadOnly {
        /// What was attempted.
        action: &'static str,
    },
    /// A file could not be written, moved or removed.
    #[error(transparent)]
    File(#[from] atomic::Error),
    /// A document of the store is not what it should be.
    #[error("cannot read {}: it is not valid", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A ref or tag cannot be read, so nobody knows what it needs: nothing is collected.
    #[error("cannot tell what {} needs: {problem}", path.display())]
    UnknownRoot {
        /// The ref's or tag's file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A manifest, index or config that is to be stored is not valid.
    #[error("the image's {what} is not valid: {reason}")]
    Image {
        /// `index`, `manifest` or `config`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that arrived are not those that were named.
    #[error("{what} has digest {got}, expected {want}")]
    Digest {
        /// `layer blob`, `layer content`, `config`.
        what: &'static str,
        /// The digest that was named.
        want: Digest,
        /// The digest of what arrived.
        got: Digest,
    },
    /// A blob has another size than its descriptor says.
    #[error("blob {digest} has {got} bytes{}, expected {want}", if got > want { " or more" } else { "" })]
    Size {
        /// The blob.
        digest: Digest,
        /// The size that its descriptor names.
        want: u64,
        /// How many bytes arrived (or: arrived before it was stopped).
        got: u64,
    },
    /// A layer that an image needs is not in the store.
    #[error("layer {diff_id} is not in the store")]
    MissingLayer {
        /// The layer.
        diff_id: DiffId,
    },
    /// There is no layer of that key.
    #[error("there is no layer {key}")]
    UnknownLayer {
        /// The key.
        key: LayerKey,
    },
    /// There is no image of that digest.
    #[error("there is no image {digest}")]
    UnknownImage {
        /// The digest of its index or manifest.
        digest: Digest,
    },
    /// A stored layer is not what was committed.
    #[error("layer {key} is damaged: {problem}")]
    Damaged {
        /// The layer.
        key: LayerKey,
        /// What was found.
        problem: String,
    },
    /// A layer's bytes could not be made into a stored layer.
    #[error("cannot convert layer {diff_id}")]
    Convert {
        /// The layer.
        diff_id: DiffId,
        /// What the conversion said.
        source: super::convert::Error,
    },
    /// A layer's blob could not be expanded.
    #[error("cannot expand layer {diff_id}")]
    Inflate {
        /// The layer.
        diff_id: DiffId,
        /// What was found.
        source: super::convert::inflate::InflateError,
    },
    /// The storage driver failed.
    #[error("the storage driver failed on {}", path.display())]
    Driver {
        /// The layer's directory, or the store's.
        path: PathBuf,
        /// What the driver said.
        source: super::driver::Error,
    },
    /// A layer was given up before its last byte.
    #[error("the transfer of layer {diff_id} was given up")]
    Abandoned {
        /// The layer.
        diff_id: DiffId,
    },
    /// No thread could be started for a layer's pipeline.
    #[error("cannot start a thread for layer {diff_id}")]
    Thread {
        /// The layer.
        diff_id: DiffId,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// A mapper for `map_err` on plain file operations.
    pub(super) fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File(atomic::Error { action, path, source })
    }

    /// Whether the disk (or its inodes, or a quota) was full: collecting may help.
    pub fn is_space(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            {
                return true;
            }
            next = error.source();
        }
        false
    }
}

//! A layer's tar stream becomes a layer on disk, in one pass.
//!
//! ```text
//!   compressed bytes ──▶ Inflate ──▶ tar bytes ──▶ Conversion::feed ──▶ staging/…/{layer.erofs | tree/, tar.zst}
//! ```

use std::path::Path;

use crate::store::driver::{self, Driver, Seal};
use crate::store::tree::{self, Merged};

pub mod inflate;

pub use inflate::{Compression, Inflate};

/// Why a tar did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Driver(#[from] driver::Error),
    /// The layers below could not be read.
    #[error("cannot read the layers below")]
    Tree(#[from] tree::Error),
    /// The layers below could not be had.
    #[error("the layers below are not there")]
    Below(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How much an untrusted tar may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Bytes of all files together, holes of sparse files counted.
    pub content_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of names, link targets and extended attributes that are held in memory.
    pub metadata_bytes: u64,
    /// Bytes of one extension header (pax, GNU long name).
    pub header_bytes: u64,
    /// Bytes of one entry's extended attributes.
    pub xattr_bytes: usize,
    /// Segments of one sparse file.
    pub segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 128 << 30,
            content_bytes: 64 << 30,
            entries: 2_000_000,
            depth: 1_024,
            metadata_bytes: 256 << 20,
            header_bytes: 1 << 20,
            xattr_bytes: 128 << 10,
            segments: 1 << 18,
        }
    }
}

/// A finished conversion; the files lie synced in the staging directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Whether the tar declares every parent and holds every hard link's target, so that the layer fits any stack.
    pub stands_alone: bool,
    /// Bytes that the layer takes on disk.
    pub disk_bytes: u64,
    /// Bytes of file content, holes counted.
    pub content_bytes: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// For `layer.json`.
    pub seal: Seal,
}

/// A conversion under way. Dropping it leaves its files in the staging directory, which the owner removes.
#[derive(Debug)]
pub struct Conversion {}

impl Conversion {
    /// Starts a layer in the existing, empty directory `staging`.
    ///
    /// # Errors
    /// If the files cannot be made.
    pub fn begin(_driver: Driver, _staging: &Path, _limits: &Limits) -> Result<Self, Error> {
        todo!()
    }

    /// Takes the next bytes of the uncompressed tar, in pieces of any size.
    ///
    /// # Errors
    /// If the tar is malformed, hostile or beyond a limit, or a write fails; the conversion is then over.
    pub fn feed(&mut self, _tar: &[u8]) -> Result<(), Error> {
        todo!()
    }

    /// Whether the layer stands alone so far; final once all bytes were fed.
    pub fn stands_alone(&self) -> bool {
        todo!()
    }

    /// Ends the layer: metadata written, everything synced. `identity` becomes the file system's UUID and must differ
    /// between layers that are mounted in one stack. `below` is called only for a layer that does not stand alone,
    /// and gives the merged tree of the layers under it.
    ///
    /// # Errors
    /// If the tar ends early, a write fails, or an entry cannot be placed on the tree below.
    pub fn finish(
        self,
        _identity: [u8; 16],
        _below: &mut dyn FnMut() -> Result<Merged, Error>,
    ) -> Result<Converted, Error> {
        todo!()
    }
}

//! A layer's tar stream becomes a layer on disk, in one pass.
//!
//! ```text
//!   compressed ──▶ Inflate ──▶ tar bytes ──▶ Parser ─┬─ file data ──────────▶ LayerWriter ──▶ layer.erofs │ tree/
//!                                                    ├─ entries ──▶ Placer ──▶ Draft ──┘
//!                                                    └─ headers, padding, order ──▶ Recorder ──▶ tar.zst
//! ```
//!
//! One thread, no I/O but appending; memory grows with the number of entries, never with file data. Nothing is
//! followed or resolved on the host's file system. A conversion that failed leaves files in its staging directory only.

use std::path::Path;

use crate::store::driver::draft::FileId;
use crate::store::driver::record::Recorder;
use crate::store::driver::{Driver, LayerWriter, Seal};
use crate::store::tree::Merged;
use place::Placer;
use tar::{Parser, Sink, TarEntry, What};

mod error;
pub mod inflate;
mod place;
mod tar;
pub mod unpack;

pub use error::Error;
pub use inflate::{Compression, Inflate, InflateError};

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
pub struct Conversion {
    parser: Parser,
    state: Layer,
}

/// Everything but the parser, which it is the sink of.
#[derive(Debug)]
struct Layer {
    placer: Placer,
    writer: Box<dyn LayerWriter>,
    recorder: Recorder,
    content_bytes: u64,
    limits: Limits,
    /// The file whose data comes next, and how much of it has come.
    file: Option<(FileId, u64)>,
}

impl Conversion {
    /// Starts a layer in the existing, empty directory `staging`.
    ///
    /// # Errors
    /// If the files cannot be made.
    pub fn begin(driver: Driver, staging: &Path, limits: &Limits) -> Result<Self, Error> {
        let state = Layer {
            placer: Placer::new(limits),
            writer: driver.begin(staging)?,
            recorder: Recorder::create(staging)?,
            content_bytes: 0,
            limits: limits.clone(),
            file: None,
        };
        Ok(Self { parser: Parser::new(limits), state })
    }

    /// Takes the next bytes of the uncompressed tar, in pieces of any size; large ones are fastest.
    ///
    /// # Errors
    /// If the tar is malformed, hostile or beyond a limit, or a write fails; the conversion is then over.
    pub fn feed(&mut self, tar: &[u8]) -> Result<(), Error> {
        self.parser.feed(tar, &mut self.state)
    }

    /// Whether the layer stands alone so far; final once all bytes were fed.
    pub fn stands_alone(&self) -> bool {
        self.state.placer.stands_alone()
    }

    /// Ends the layer: metadata written, everything synced. `identity` becomes the file system's UUID and must differ
    /// between layers that are mounted in one stack. `below` is called only for a layer that does not stand alone,
    /// and gives the merged tree of the layers under it.
    ///
    /// # Errors
    /// If the tar ends early, a write fails, or an entry cannot be placed on the tree below.
    pub fn finish(
        self,
        identity: [u8; 16],
        below: &mut dyn FnMut() -> Result<Merged, Error>,
    ) -> Result<Converted, Error> {
        self.parser.finish()?;
        let entries = self.parser.entries();
        let Layer { placer, mut writer, recorder, mut content_bytes, limits, .. } = self.state;
        let stands_alone = placer.stands_alone();
        let draft = if stands_alone {
            placer.finish()
        } else {
            let mut copier = place::Copier { writer: &mut *writer, content_bytes: &mut content_bytes, limits: &limits };
            placer.finish_on(below()?, &mut copier)?
        };
        let (tar_bytes, tar_disk) = recorder.finish()?;
        let sealed = writer.finish(&draft, identity)?;
        Ok(Converted {
            stands_alone,
            disk_bytes: sealed.disk_bytes + tar_disk,
            content_bytes,
            entries,
            seal: Seal { bytes: sealed.bytes, metadata: sealed.metadata, checksum: sealed.checksum, tar_bytes },
        })
    }
}

impl Layer {
    fn count(&mut self, size: u64) -> Result<(), Error> {
        spend_content(&mut self.content_bytes, size, &self.limits)
    }
}

fn spend_content(spent: &mut u64, size: u64, limits: &Limits) -> Result<(), Error> {
    *spent = spent
        .checked_add(size)
        .filter(|all| *all <= limits.content_bytes)
        .ok_or(Error::Limit { what: "bytes of file content", limit: limits.content_bytes })?;
    Ok(())
}

impl Sink for Layer {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.recorder.literal(bytes)?)
    }

    fn entry(&mut self, entry: TarEntry) -> Result<(), Error> {
        let What::File(size) = entry.what else { return self.placer.take(entry, None) };
        self.count(size)?;
        let file = self.writer.begin_file()?;
        self.file = Some((file, 0));
        self.placer.take(entry, Some(file))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some((file, at)) = &mut self.file {
            self.recorder.data(*file, *at, bytes.len() as u64)?;
            *at += bytes.len() as u64;
        }
        Ok(self.writer.data(bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        if let Some((_, at)) = &mut self.file {
            *at += length;
        }
        Ok(self.writer.hole(length)?)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.file = None;
        Ok(self.writer.end_file()?)
    }
}

#[cfg(test)]
pub(in crate::store) mod testing;
#[cfg(test)]
mod tests;

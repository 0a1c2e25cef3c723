//! The EROFS driver: one plain, uncompressed EROFS file a layer, written by us, read by the kernel or by us.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Error, Seal, crc32c, record};
use record::Record;

mod format;
mod out;
mod read;
mod write;

pub(super) use read::Tree;
pub(super) use write::Writer;

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// Compares length, superblock and metadata of the layer file at `path` with its seal.
pub(super) fn verify_seal(path: &Path, seal: &Seal) -> Result<(), Error> {
    let damaged = |what: &str| Error::Damaged { path: path.to_owned(), what: what.to_owned() };
    let file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("stat", path))?.len();
    if length != seal.bytes {
        return Err(damaged(&format!("it has {length} bytes and not {}", seal.bytes)));
    }
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, 0).map_err(Error::io("read", path))?;
    format::Superblock::decode(&block).map_err(damaged)?;
    let (mut at, mut sum) = (seal.metadata, crc32c::START);
    let mut chunk = vec![0; CHUNK];
    while at < length {
        let want = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        let part = chunk.get_mut(..want).unwrap_or_default();
        file.read_exact_at(part, at).map_err(Error::io("read", path))?;
        sum = crc32c::update(sum, part);
        at += want as u64;
    }
    if sum == seal.checksum { Ok(()) } else { Err(damaged("its metadata has changed")) }
}

/// Writes the tar that the layer at `path` was made from.
pub(super) fn rebuild(layer_dir: &Path, path: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut chunk = vec![0; CHUNK];
    record::replay(layer_dir, &mut |record| match record {
        Record::Literal(bytes) => out.write_all(bytes).map_err(Error::Out),
        Record::Data { file: block, offset, length } => {
            let at = block.0.checked_mul(format::BLOCK).and_then(|at| at.checked_add(offset));
            let start = at.ok_or_else(|| Error::Damaged {
                path: path.to_owned(),
                what: "its record points outside of it".to_owned(),
            })?;
            record::copy(&file, path, start, length, &mut chunk, out)
        }
    })
}

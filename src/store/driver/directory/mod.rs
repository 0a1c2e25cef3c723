//! The directory driver: a layer unpacked into a directory, for kernels without EROFS.
//!
//! The names of a tar never meet the host's file system before the whole tree is known: file data goes to numbered
//! files first, and is renamed to its place, one component at a time, in a directory that only this driver has made.
//! The tree is overlayfs's: whiteouts are devices 0:0, opaque directories have the attribute.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Error, Seal, crc32c, record};
use crate::store::convert::inflate::{Compression, Inflate, InflateError};
use crate::store::tree::{HostTree, Kind, LayerTree as _, Node};
use record::Record;

mod write;

pub(super) use write::Writer;

/// The unpacked layer.
const TREE: &str = "tree";
/// Files that have no place in the tree, by number.
const DATA: &str = "data";
/// The path of each numbered file in the tree, ended by NUL, empty for one under [`DATA`]; compressed with zstd.
const FILES: &str = "files.zst";
/// Marks a layer whose tar does not say what its root directory is.
const UNDECLARED: &str = "undeclared";

/// The layer's tree.
pub(super) fn open(layer_dir: &Path) -> Result<HostTree, Error> {
    let declared = layer_dir.join(UNDECLARED).symlink_metadata().is_err();
    Ok(HostTree::open_as(&layer_dir.join(TREE), declared)?)
}

/// What a seal says of a tree: bytes of its files, number of names, checksum over names and metadata.
fn measure(layer_dir: &Path) -> Result<(u64, u64, u32), Error> {
    let tree = open(layer_dir)?;
    let (mut bytes, mut names, mut sum) = (0, 0, crc32c::START);
    let mut pending = vec![PathBuf::new()];
    let mut row = Vec::new();
    if let Some(root) = tree.node(Path::new(""))? {
        describe(&mut row, b"", &root);
        sum = crc32c::update(sum, &row);
    }
    while let Some(path) = pending.pop() {
        for entry in tree.read_dir(&path)? {
            names += 1;
            row.clear();
            describe(&mut row, &entry.name, &entry.node);
            sum = crc32c::update(sum, &row);
            match entry.node.kind {
                Kind::File { size } => bytes += size,
                Kind::Directory { .. } => pending.push(path.join(OsStr::from_bytes(&entry.name))),
                _ => {}
            }
        }
    }
    Ok((bytes, names, sum))
}

fn describe(out: &mut Vec<u8>, name: &[u8], node: &Node) {
    out.extend_from_slice(name);
    out.push(0);
    let (kind, number) = match &node.kind {
        Kind::File { size } => (1, *size),
        Kind::Directory { opaque } => (2, u64::from(*opaque)),
        Kind::Symlink { target } => {
            out.extend_from_slice(target);
            (3, target.len() as u64)
        }
        Kind::Char { device } => (4, u64::from(device.major) << 32 | u64::from(device.minor)),
        Kind::Block { device } => (5, u64::from(device.major) << 32 | u64::from(device.minor)),
        Kind::Fifo => (6, 0),
        Kind::Socket => (7, 0),
        Kind::Whiteout => (8, 0),
    };
    out.push(kind);
    for n in [number, u64::from(node.mode), u64::from(node.uid), u64::from(node.gid)] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&node.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&node.mtime.nanoseconds.to_le_bytes());
}

/// Compares the tree's names and metadata with its seal.
pub(super) fn verify_seal(layer_dir: &Path, seal: &Seal) -> Result<(), Error> {
    if measure(layer_dir)? == (seal.bytes, seal.metadata, seal.checksum) {
        return Ok(());
    }
    Err(Error::Damaged { path: layer_dir.join(TREE), what: "names or metadata have changed".to_owned() })
}

/// Where each numbered file lies.
fn places(layer_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = layer_dir.join(FILES);
    let damaged = |e: InflateError| Error::Damaged { path: path.clone(), what: e.to_string() };
    let packed = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let mut list = Vec::new();
    let mut inflate = Inflate::new(Some(Compression::Zstd), u64::MAX);
    inflate
        .feed(&packed, &mut |bytes| {
            list.extend_from_slice(bytes);
            Ok(())
        })
        .map_err(damaged)?;
    inflate.finish().map_err(damaged)?;
    let names = list.split(|b| *b == 0).enumerate();
    Ok(names
        .map(|(number, name)| match name {
            b"" => layer_dir.join(DATA).join(number.to_string()),
            name => layer_dir.join(TREE).join(OsStr::from_bytes(name)),
        })
        .collect())
}

/// Writes the tar that the layer was made from.
pub(super) fn rebuild(layer_dir: &Path, out: &mut dyn Write) -> Result<(), Error> {
    /// How much is read at once.
    const CHUNK: usize = 256 << 10;
    let places = places(layer_dir)?;
    let mut chunk = vec![0; CHUNK];
    record::replay(layer_dir, &mut |record| match record {
        Record::Literal(bytes) => out.write_all(bytes).map_err(Error::Out),
        Record::Data { file, offset, length } => {
            let place = usize::try_from(file.0).ok().and_then(|n| places.get(n)).ok_or_else(|| Error::Damaged {
                path: layer_dir.join(FILES),
                what: "its record names a file that is not there".to_owned(),
            })?;
            let file = File::open(place).map_err(Error::io("open", place))?;
            record::copy(&file, place, offset, length, &mut chunk, out)
        }
    })
}

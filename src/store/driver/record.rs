//! `tar.zst`: what rebuilds a layer's tar bit for bit.
//!
//! A zstd stream with a checksum. Inside, after a magic line, one record follows another until the end record:
//!
//! ```text
//!   0 length bytes…             bytes of the tar that are not file data: headers, padding, end blocks
//!   1 file offset length        bytes of a file that lie in the layer, also of files that later entries replaced
//!   2 length                    the end, and how long the tar is
//! ```
//!
//! Numbers are LEB128.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::draft::FileId;
use crate::store::convert::inflate::{Compression, Inflate};

/// The file's name in the layer's directory.
pub(in crate::store) const FILE: &str = "tar.zst";
const MAGIC: &[u8] = b"lamina tar 1\n";
/// Headers are gathered up to this much.
const GATHER: usize = 64 << 10;
/// Fast; headers and padding shrink to a thirtieth already.
const LEVEL: i32 = 1;

const LITERAL: u64 = 0;
const DATA: u64 = 1;
const END: u64 = 2;

/// Writes a record file.
pub(in crate::store) struct Recorder {
    path: PathBuf,
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    literal: Vec<u8>,
    data: Option<(FileId, u64, u64)>,
    length: u64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}

fn number(out: &mut dyn Write, mut n: u64) -> io::Result<()> {
    let mut bytes = [0_u8; 10];
    let mut used = 0;
    for byte in &mut bytes {
        let low = u8::try_from(n & 0x7f).unwrap_or_default();
        n >>= 7;
        used += 1;
        *byte = if n > 0 { low | 0x80 } else { low };
        if n == 0 {
            break;
        }
    }
    out.write_all(bytes.get(..used).unwrap_or_default())
}

impl Recorder {
    pub(in crate::store) fn create(layer_dir: &Path) -> Result<Self, Error> {
        let path = layer_dir.join(FILE);
        let io = Error::io("create", &path);
        let made = (|| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
            let mut out = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
            out.include_checksum(true)?;
            out.write_all(MAGIC)?;
            Ok(out)
        })();
        Ok(Self { out: made.map_err(io)?, path, literal: Vec::with_capacity(GATHER), data: None, length: 0 })
    }

    fn at<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(Error::io("write", &self.path))
    }

    /// The next bytes are not file data.
    pub(in crate::store) fn literal(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.end_data()?;
        self.length += bytes.len() as u64;
        self.literal.extend_from_slice(bytes);
        if self.literal.len() >= GATHER { self.end_literal() } else { Ok(()) }
    }

    /// The next `length` bytes are those of `file` from `offset` on.
    pub(in crate::store) fn data(&mut self, file: FileId, offset: u64, length: u64) -> Result<(), Error> {
        self.length += length;
        match &mut self.data {
            Some((id, start, len)) if *id == file && *start + *len == offset => *len += length,
            _ => {
                self.end_literal()?;
                self.end_data()?;
                self.data = Some((file, offset, length));
            }
        }
        Ok(())
    }

    fn end_literal(&mut self) -> Result<(), Error> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.literal);
        let result = (|| {
            number(&mut self.out, LITERAL)?;
            number(&mut self.out, bytes.len() as u64)?;
            self.out.write_all(&bytes)
        })();
        self.at(result)?;
        self.literal = bytes;
        self.literal.clear();
        Ok(())
    }

    fn end_data(&mut self) -> Result<(), Error> {
        let Some((file, offset, length)) = self.data.take() else { return Ok(()) };
        let result = [DATA, file.0, offset, length].into_iter().try_for_each(|n| number(&mut self.out, n));
        self.at(result)
    }

    /// Ends and syncs the file; gives its length and its size on disk.
    pub(in crate::store) fn finish(mut self) -> Result<(u64, u64), Error> {
        use std::os::unix::fs::MetadataExt as _;
        self.end_data()?;
        self.end_literal()?;
        let io = Error::io("write", &self.path);
        let ended = (|| {
            number(&mut self.out, END)?;
            number(&mut self.out, self.length)?;
            let file = self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            file.metadata()
        })();
        ended.map(|m| (m.len(), m.blocks() * 512)).map_err(io)
    }
}

/// One record, as it is read.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Literal(&'a [u8]),
    Data { file: FileId, offset: u64, length: u64 },
}

/// Reads the record file in `layer_dir` and hands each record on.
pub(super) fn replay(layer_dir: &Path, take: &mut dyn FnMut(Record<'_>) -> Result<(), Error>) -> Result<(), Error> {
    use std::io::Read as _;
    let path = layer_dir.join(FILE);
    let damaged = |what: &str| Error::Damaged { path: path.clone(), what: what.to_owned() };
    let mut file = File::open(&path).map_err(Error::io("open", &path))?;
    // Written by this module only, so its length needs no budget of its own.
    let mut inflate = Inflate::new(Some(Compression::Zstd), u64::MAX);
    let mut parser = Parser::default();
    let (mut input, mut chunk) = (vec![0; GATHER], vec![0; 4 * GATHER]);
    loop {
        let n = file.read(&mut input).map_err(Error::io("read", &path))?;
        let mut rest = input.get(..n).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        loop {
            let given = inflate.fill(&mut rest, &mut chunk).map_err(|e| damaged(&e.to_string()))?;
            parser.feed(chunk.get(..given).unwrap_or_default(), &damaged, take)?;
            if given < chunk.len() {
                break;
            }
        }
    }
    inflate.finish().map_err(|e| damaged(&e.to_string()))?;
    if parser.ended { Ok(()) } else { Err(damaged("it has no end record")) }
}

/// How long the tar is that the record file in `layer_dir` rebuilds.
pub(in crate::store) fn length(layer_dir: &Path) -> Result<u64, Error> {
    let mut length = 0_u64;
    replay(layer_dir, &mut |record| {
        length = length.saturating_add(match record {
            Record::Literal(bytes) => bytes.len() as u64,
            Record::Data { length, .. } => length,
        });
        Ok(())
    })?;
    Ok(length)
}

/// Cuts the inflated stream into records.
#[derive(Debug, Default)]
struct Parser {
    /// Bytes not understood yet; a few numbers at most, or the magic line.
    pending: Vec<u8>,
    started: bool,
    ended: bool,
    /// Bytes left of a literal.
    literal: u64,
    length: u64,
}

impl Parser {
    fn feed(
        &mut self,
        bytes: &[u8],
        damaged: &dyn Fn(&str) -> Error,
        take: &mut dyn FnMut(Record<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let joined = [std::mem::take(&mut self.pending).as_slice(), bytes].concat();
        let mut rest = joined.as_slice();
        if !self.started {
            if rest.len() < MAGIC.len() {
                self.pending = joined;
                return Ok(());
            }
            rest = rest.strip_prefix(MAGIC).ok_or_else(|| damaged("it is of another format"))?;
            self.started = true;
        }
        while !rest.is_empty() {
            if self.literal > 0 {
                let n = usize::try_from(self.literal).unwrap_or(usize::MAX).min(rest.len());
                let (part, tail) = rest.split_at(n);
                self.literal -= n as u64;
                take(Record::Literal(part))?;
                rest = tail;
                continue;
            }
            if self.ended {
                return Err(damaged("something follows the end record"));
            }
            let mut at = rest;
            let Some(kind) = read_number(&mut at) else { break };
            let wanted = match kind {
                LITERAL | END => 1,
                DATA => 3,
                _ => return Err(damaged("it has a record of a kind that is not known")),
            };
            let mut numbers = [0; 3];
            let Some(()) = numbers.iter_mut().take(wanted).try_for_each(|n| read_number(&mut at).map(|v| *n = v))
            else {
                break;
            };
            rest = at;
            let [first, second, third] = numbers;
            let add = if kind == DATA { third } else { first };
            match kind {
                END if first == self.length => self.ended = true,
                END => return Err(damaged("the records do not add up to the tar's length")),
                _ => self.length = self.length.checked_add(add).ok_or_else(|| damaged("its lengths overflow"))?,
            }
            match kind {
                LITERAL => self.literal = first,
                DATA => take(Record::Data { file: FileId(first), offset: second, length: third })?,
                _ => {}
            }
        }
        /// Four numbers of ten bytes: more than that, and a record can be read.
        const LONGEST: usize = 40;
        if rest.len() > LONGEST {
            return Err(damaged("it has a number that is too long"));
        }
        self.pending = rest.to_vec();
        Ok(())
    }
}

/// A number from the front of `bytes`; `None` when it is not all there.
fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            *bytes = bytes.get(at + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Copies `length` bytes of `file` from `at` on to `out`.
pub(super) fn copy(
    file: &File,
    path: &Path,
    mut at: u64,
    mut length: u64,
    chunk: &mut [u8],
    out: &mut dyn Write,
) -> Result<(), Error> {
    use std::os::unix::fs::FileExt as _;
    while length > 0 {
        let want = usize::try_from(length).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..want).unwrap_or_default();
        file.read_exact_at(part, at).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged { path: path.to_owned(), what: "it is cut off".to_owned() },
            _ => Error::io("read", path)(e),
        })?;
        out.write_all(part).map_err(Error::Out)?;
        at += want as u64;
        length -= want as u64;
    }
    Ok(())
}

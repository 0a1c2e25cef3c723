//! A tar parser that is pushed: any split of the stream gives the same calls on the [`Sink`].
//!
//! ```text
//!   Header ─┬─▶ Extension (pax, GNU long names) ─▶ Padding ─▶ Header
//!           ├─▶ OldSparse (continuation blocks) ─┐
//!           ├─▶ SparseMap (pax 1.0) ─────────────┴─▶ Data ─▶ Padding ─▶ Header
//!           └─▶ End (after two blocks of zeros)
//! ```
//!
//! Every byte goes to the sink exactly once and in order, as file data ([`Sink::data`]) or as anything else
//! ([`Sink::raw`]), so that what the sink records can be put together again bit for bit.
//!
//! Formats: v7, ustar, star, GNU (long names, old sparse), pax (global headers, sparse 0.0, 0.1 and 1.0, extended
//! attributes). Where they leave a choice this does as Go's `archive/tar`: links and devices never carry data, a lone
//! block of zeros is an error, a stream may end without end blocks.

use super::{Error, Limits};
use crate::store::tree::{Device, Time, Xattr};
use header::{BLOCK, Fault, Header};
use pax::Pax;

mod header;
mod pax;
mod sparse;

/// What an entry declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A regular file of that length, holes counted.
    File(u64),
    /// A directory.
    Directory,
    /// Another name for the entry that `link` names.
    HardLink,
    /// A symbolic link to `link`.
    Symlink,
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
}

/// One entry, its extended headers applied.
#[derive(Debug, Clone)]
pub(super) struct TarEntry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) what: What,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<Xattr>,
}

/// Who takes what the parser finds. For each entry: `entry`, and for a file `data` and `hole` in order, then `end`.
pub(super) trait Sink {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), Error>;
    fn entry(&mut self, entry: TarEntry) -> Result<(), Error>;
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error>;
    fn hole(&mut self, length: u64) -> Result<(), Error>;
    fn end(&mut self) -> Result<(), Error>;
}

/// What an extension header's bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    Pax,
    Global,
    LongName,
    LongLink,
}

#[derive(Debug)]
enum State {
    Header,
    Extension { kind: Extension, left: u64, padding: u64 },
    OldSparse { pending: Pending },
    SparseMap { pending: Pending, map: sparse::Map },
    Data { body: sparse::Body, padding: u64 },
    Padding { left: u64 },
    End,
}

/// A sparse file whose map is not complete yet.
#[derive(Debug)]
struct Pending {
    entry: Box<TarEntry>,
    /// Bytes in the tar.
    stored: u64,
    /// Bytes of the file.
    size: u64,
    segments: Vec<(u64, u64)>,
}

/// The parser. After an error it must not be fed again.
#[derive(Debug)]
pub(super) struct Parser {
    state: State,
    block: Vec<u8>,
    extension: Vec<u8>,
    zeros: bool,
    pax: Option<Pax>,
    global: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    offset: u64,
    header_at: u64,
    entries: u64,
    limits: Limits,
}

/// Bytes up to the next multiple of a block.
const fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// The first `left` bytes of `bytes`, which lose them.
fn take<'a>(bytes: &mut &'a [u8], left: u64) -> (&'a [u8], u64) {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let (head, tail) = bytes.split_at(n);
    *bytes = tail;
    (head, u64::try_from(n).unwrap_or(u64::MAX))
}

impl Parser {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            extension: Vec::new(),
            zeros: false,
            pax: None,
            global: Pax::default(),
            long_name: None,
            long_link: None,
            offset: 0,
            header_at: 0,
            entries: 0,
            limits: limits.clone(),
        }
    }

    /// Entries seen so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes the next bytes.
    pub(super) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), Error> {
        self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.offset > self.limits.tar_bytes {
            return Err(Error::Limit { what: "bytes", limit: self.limits.tar_bytes });
        }
        while !bytes.is_empty() {
            self.step(&mut bytes, sink)?;
        }
        Ok(())
    }

    /// Ends the stream. Neither the blocks of zeros at the end need be there nor what fills the last entry's last block:
    /// some tools write neither, and Go's reader, by which other runtimes unpack, does not miss them.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let open = self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some();
        match self.state {
            State::End => Ok(()),
            State::Header if self.block.is_empty() && !open => Ok(()),
            State::Padding { .. } if !open => Ok(()),
            _ => Err(Error::Truncated { offset: self.offset }),
        }
    }

    fn malformed(&self, what: Fault) -> Error {
        Error::Malformed { offset: self.header_at, what }
    }

    fn step<S: Sink>(&mut self, bytes: &mut &[u8], sink: &mut S) -> Result<(), Error> {
        match &mut self.state {
            State::Header | State::OldSparse { .. } => {
                if self.block.is_empty()
                    && let Some((block, rest)) = bytes.split_first_chunk::<BLOCK>()
                {
                    self.header_at = self.offset.saturating_sub(u64::try_from(bytes.len()).unwrap_or_default());
                    *bytes = rest;
                    return self.block(block, sink);
                }
                let (part, _) = take(bytes, (BLOCK - self.block.len()) as u64);
                self.block.extend_from_slice(part);
                if let Some((block, _)) = self.block.split_first_chunk::<BLOCK>() {
                    let block = *block;
                    let after = u64::try_from(bytes.len()).unwrap_or_default() + BLOCK as u64;
                    self.header_at = self.offset.saturating_sub(after);
                    self.block.clear();
                    return self.block(&block, sink);
                }
                Ok(())
            }
            State::Extension { kind, left, padding } => {
                let (part, n) = take(bytes, *left);
                sink.raw(part)?;
                self.extension.extend_from_slice(part);
                *left -= n;
                if *left > 0 {
                    return Ok(());
                }
                let (kind, padding) = (*kind, *padding);
                self.skip(padding);
                self.extension(kind).map_err(|what| self.malformed(what))
            }
            State::SparseMap { map, .. } => {
                let (used, done) = map.feed(bytes, self.limits.segments).map_err(|what| self.malformed(what))?;
                let (part, rest) = bytes.split_at(used);
                *bytes = rest;
                sink.raw(part)?;
                if done { self.mapped(sink) } else { Ok(()) }
            }
            State::Data { body, padding } => {
                let n = body.feed(bytes, sink)?;
                *bytes = bytes.get(n..).unwrap_or_default();
                if body.done() {
                    let padding = *padding;
                    sink.end()?;
                    self.skip(padding);
                }
                Ok(())
            }
            State::Padding { left } => {
                let (part, n) = take(bytes, *left);
                *left -= n;
                if *left == 0 {
                    self.state = State::Header;
                }
                sink.raw(part)
            }
            State::End => sink.raw(std::mem::take(bytes)),
        }
    }

    fn skip(&mut self, left: u64) {
        self.state = if left == 0 { State::Header } else { State::Padding { left } };
    }

    /// One whole header or continuation block.
    fn block<S: Sink>(&mut self, block: &[u8; BLOCK], sink: &mut S) -> Result<(), Error> {
        sink.raw(block)?;
        let header = Header(block);
        match std::mem::replace(&mut self.state, State::Header) {
            State::OldSparse { mut pending } => {
                let more = header.sparse_more(&mut pending.segments).map_err(|what| self.malformed(what))?;
                self.old_sparse(pending, more, sink)
            }
            _ if header.is_zero() => {
                if self.zeros {
                    self.state = State::End;
                }
                self.zeros = true;
                Ok(())
            }
            _ if self.zeros => Err(self.malformed("a lone block of zeros is followed by something else")),
            _ => {
                header.check().map_err(|what| self.malformed(what))?;
                self.header(header, sink)
            }
        }
    }

    fn old_sparse<S: Sink>(&mut self, pending: Pending, more: bool, sink: &mut S) -> Result<(), Error> {
        if pending.segments.len() > self.limits.segments {
            return Err(self.malformed("a sparse file has too many segments"));
        }
        if more {
            self.state = State::OldSparse { pending };
            return Ok(());
        }
        self.file(pending, sink)
    }

    /// The map of a pax 1.0 sparse file is complete.
    fn mapped<S: Sink>(&mut self, sink: &mut S) -> Result<(), Error> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::SparseMap { mut pending, map } => {
                let (segments, read) = map.into_segments();
                pending.stored = pending
                    .stored
                    .checked_sub(read)
                    .ok_or_else(|| self.malformed("a sparse map is longer than its file"))?;
                pending.segments = segments;
                self.file(pending, sink)
            }
            _ => Ok(()),
        }
    }

    /// Starts the data of a sparse file.
    fn file<S: Sink>(&mut self, pending: Pending, sink: &mut S) -> Result<(), Error> {
        let Pending { entry, stored, size, segments } = pending;
        let body = sparse::Body::sparse(segments, size, stored).map_err(|what| self.malformed(what))?;
        self.start(*entry, body, padding(stored), sink)
    }

    fn start<S: Sink>(&mut self, entry: TarEntry, body: sparse::Body, pad: u64, sink: &mut S) -> Result<(), Error> {
        sink.entry(entry)?;
        self.state = State::Data { body, padding: pad };
        // A file without data has no byte to wait for.
        if let State::Data { body, .. } = &mut self.state {
            body.feed(&[], sink)?;
            if body.done() {
                sink.end()?;
                self.skip(pad);
            }
        }
        Ok(())
    }

    fn header<S: Sink>(&mut self, header: Header<'_>, sink: &mut S) -> Result<(), Error> {
        let size = header.size().map_err(|what| self.malformed(what))?;
        let extension = match header.kind() {
            b'x' | b'X' => Some(Extension::Pax),
            b'g' => Some(Extension::Global),
            b'L' => Some(Extension::LongName),
            b'K' => Some(Extension::LongLink),
            _ => None,
        };
        if let Some(kind) = extension {
            if size > self.limits.header_bytes {
                return Err(Error::Limit { what: "bytes in an extended header", limit: self.limits.header_bytes });
            }
            self.extension.clear();
            if size == 0 {
                return self.extension(kind).map_err(|what| self.malformed(what));
            }
            self.state = State::Extension { kind, left: size, padding: padding(size) };
            return Ok(());
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        self.declared(header, size, sink)
    }

    fn extension(&mut self, kind: Extension) -> Result<(), Fault> {
        let bytes = std::mem::take(&mut self.extension);
        let limit = self.limits.segments;
        match kind {
            Extension::LongName => self.long_name = Some(header::text(&bytes).to_vec()),
            Extension::LongLink => self.long_link = Some(header::text(&bytes).to_vec()),
            Extension::Global => pax::parse(&bytes, true, limit, &mut self.global)?,
            Extension::Pax => {
                let mut pax = self.global.clone();
                pax::parse(&bytes, false, limit, &mut pax)?;
                self.pax = Some(pax);
            }
        }
        Ok(())
    }

    /// An entry's own header, after its extensions.
    fn declared<S: Sink>(&mut self, header: Header<'_>, size: u64, sink: &mut S) -> Result<(), Error> {
        let pax = self.pax.take().unwrap_or_else(|| self.global.clone());
        let (long_name, long_link) = (self.long_name.take(), self.long_link.take());
        let malformed = |what| Error::Malformed { offset: self.header_at, what };
        let size = pax.size.unwrap_or(size);
        let path = match (&pax.sparse.name, long_name, pax.path) {
            (Some(real), ..) => real.clone(),
            (None, Some(long), _) => long,
            (None, None, Some(path)) => path,
            (None, None, None) => header.path(),
        };
        let owner = |given: Option<u64>, field: Result<u64, Fault>| {
            let id = given.map_or(field, Ok).map_err(malformed)?;
            // The last number means "no change" to chown and "nobody" to the kernel.
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| Error::refused(&path, "its owner or group is out of range"))
        };
        let (uid, gid) = (owner(pax.uid, header.uid())?, owner(pax.gid, header.gid())?);
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time { seconds: header.mtime().map_err(malformed)?, nanoseconds: 0 },
        };
        let device = || {
            let (major, minor) = header.device().map_err(malformed)?;
            match (u32::try_from(major), u32::try_from(minor)) {
                (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) => Ok(Device { major, minor }),
                _ => Err(Error::refused(&path, "its device number is out of range")),
            }
        };
        let what = match header.kind() {
            // Before ustar, a directory was a file with a slash at its end.
            0 | b'0' if path.ends_with(b"/") && size == 0 => What::Directory,
            0 | b'0' | b'7' | b'S' => What::File(size),
            b'1' => What::HardLink,
            b'2' => What::Symlink,
            b'3' => What::Char(device()?),
            b'4' => What::Block(device()?),
            b'5' => What::Directory,
            b'6' => What::Fifo,
            _ => return Err(Error::refused(&path, "its type is not one that a layer may hold")),
        };
        let link = long_link.or(pax.link).unwrap_or_else(|| header.link());
        let mode = header.mode().map_err(malformed)?;
        let mut entry = TarEntry { path, link, what, mode, uid, gid, mtime, xattrs: pax.xattrs };
        let What::File(_) = what else { return sink.entry(entry) };

        let sparse = pax.sparse;
        if header.kind() == b'S' {
            let real = header.sparse_size().map_err(malformed)?;
            let mut segments = Vec::new();
            let more = header.sparse(&mut segments).map_err(malformed)?;
            entry.what = What::File(real);
            let pending = Pending { entry: Box::new(entry), stored: size, size: real, segments };
            return self.old_sparse(pending, more, sink);
        }
        let (version, map) = ((sparse.major, sparse.minor), sparse.map);
        match (version, map) {
            ((None, None), None) => self.start(entry, sparse::Body::plain(size), padding(size), sink),
            (version, map) => {
                let real = sparse.size.ok_or_else(|| malformed("a sparse file does not say its length"))?;
                entry.what = What::File(real);
                let entry = Box::new(entry);
                match (version, map) {
                    ((None | Some(0), _), Some(segments)) => {
                        self.file(Pending { entry, stored: size, size: real, segments }, sink)
                    }
                    ((Some(1), Some(0)), _) => {
                        let pending = Pending { entry, stored: size, size: real, segments: Vec::new() };
                        self.state = State::SparseMap { pending, map: sparse::Map::default() };
                        Ok(())
                    }
                    _ => Err(malformed("a sparse file is of a version that is not known")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

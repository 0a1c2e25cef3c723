//! Reads a layer's EROFS file without mounting it.
//!
//! Everything that is read is checked against the file's bounds, so that a damaged layer gives an error and nothing
//! else. The inode area is held in memory (about 100 bytes an inode), directories and file data are read as asked for.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::format::{self, BLOCK, DIRENT, INODE, RawInode, SLOT, Superblock, XATTR_HEADER, mode, u16_at, u64_at};
use crate::store::tree::{Entry, Error, Kind, LayerTree, Node, Xattr};

/// An open layer.
#[derive(Debug)]
pub(in crate::store::driver) struct Tree {
    path: PathBuf,
    file: Arc<File>,
    superblock: Superblock,
    inodes: Vec<u8>,
}

/// Bytes of a block, for slices.
const BLOCK_LEN: usize = 4096;

impl Tree {
    pub(in crate::store::driver) fn open(path: PathBuf) -> Result<Self, Error> {
        let io = |action| Error::io(action, &path);
        let file = File::open(&path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("stat"))?.len();
        let mut block = vec![0; BLOCK_LEN];
        let damaged = |what| Error::Damaged { path: path.clone(), what };
        if length < BLOCK {
            return Err(damaged("it is cut off"));
        }
        file.read_exact_at(&mut block, 0).map_err(io("read"))?;
        let superblock = Superblock::decode(&block).map_err(damaged)?;
        let (start, end) = (u64::from(superblock.inode_block) * BLOCK, u64::from(superblock.blocks) * BLOCK);
        if end != length || start >= end {
            return Err(damaged("its length is not what it says"));
        }
        let size = usize::try_from(end - start).map_err(|_| damaged("its metadata is too large"))?;
        let mut inodes = vec![0; size];
        file.read_exact_at(&mut inodes, start).map_err(io("read"))?;
        Ok(Self { file: Arc::new(file), superblock, inodes, path })
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), what }
    }

    fn bytes(&self, at: u64, length: u64) -> Result<&[u8], Error> {
        let range = usize::try_from(at).ok().zip(usize::try_from(length).ok());
        range
            .and_then(|(at, length)| self.inodes.get(at..at.checked_add(length)?))
            .ok_or_else(|| self.damaged("an inode lies outside the metadata"))
    }

    fn raw(&self, slot: u64) -> Result<RawInode, Error> {
        let at = slot.checked_mul(SLOT).ok_or_else(|| self.damaged("an inode number is too large"))?;
        RawInode::decode(self.bytes(at, INODE)?).map_err(|what| self.damaged(what))
    }

    fn attributes(&self, slot: u64, inode: &RawInode) -> Result<Vec<Xattr>, Error> {
        let mut found = Vec::new();
        if inode.xattrs == 0 {
            return Ok(found);
        }
        let body = self.bytes(slot * SLOT + INODE, inode.xattrs as u64)?;
        let mut rest = body.get(XATTR_HEADER..).unwrap_or_default();
        let wrong = || self.damaged("an extended attribute lies outside its inode");
        while let [name_len, prefix, a, b, tail @ ..] = rest {
            let name_len = usize::from(*name_len);
            let value_len = usize::from(u16::from_le_bytes([*a, *b]));
            let name = tail.get(..name_len).ok_or_else(wrong)?;
            let value = tail.get(name_len..name_len + value_len).ok_or_else(wrong)?;
            found.push((format::join_name(*prefix, name).ok_or_else(wrong)?, value.into()));
            rest = rest.get((4 + name_len + value_len).next_multiple_of(4)..).unwrap_or_default();
        }
        found.sort();
        Ok(found)
    }

    /// `length` bytes of an inode's data from `at` on.
    fn data(&self, slot: u64, inode: &RawInode, at: u64, length: u64) -> Result<Cow<'_, [u8]>, Error> {
        if inode.inline {
            let start = slot * SLOT + INODE + inode.xattrs as u64;
            return Ok(Cow::Borrowed(self.bytes(start.saturating_add(at), length)?));
        }
        let start = u64::from(inode.place) * BLOCK + at;
        let end = u64::from(self.superblock.inode_block) * BLOCK;
        if start.checked_add(length).is_none_or(|e| e > end) {
            return Err(self.damaged("data lies outside the file"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.damaged("data is too long"))?];
        self.file.read_exact_at(&mut bytes, start).map_err(Error::io("read", &self.path))?;
        Ok(Cow::Owned(bytes))
    }

    /// One block of a directory.
    fn block(&self, slot: u64, inode: &RawInode, number: u64) -> Result<Cow<'_, [u8]>, Error> {
        let at = number * BLOCK;
        self.data(slot, inode, at, inode.size.saturating_sub(at).min(BLOCK))
    }

    fn names<'b>(&self, block: &'b [u8]) -> Result<Vec<(&'b [u8], u64)>, Error> {
        let wrong = || self.damaged("a directory's entries do not fit their block");
        let first = usize::from(u16_at(block, 8).ok_or_else(wrong)?);
        if first == 0 || !first.is_multiple_of(DIRENT) {
            return Err(wrong());
        }
        let start = |at: usize| u16_at(block, at * DIRENT + 8).map(usize::from);
        let count = first / DIRENT;
        (0..count)
            .map(|at| {
                let from = start(at).ok_or_else(wrong)?;
                let to = if at + 1 < count { start(at + 1).ok_or_else(wrong)? } else { block.len() };
                let name = block.get(from..to).ok_or_else(wrong)?;
                // The last name of a full block is padded with NULs.
                let name = name.split(|b| *b == 0).next().unwrap_or_default();
                Ok((name, u64_at(block, at * DIRENT).ok_or_else(wrong)?))
            })
            .collect()
    }

    fn lookup(&self, slot: u64, inode: &RawInode, name: &[u8]) -> Result<Option<u64>, Error> {
        let (mut low, mut high) = (0, inode.size.div_ceil(BLOCK));
        // The last block whose first name is not after the one that is looked for.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let block = self.block(slot, inode, middle)?;
            if self.names(&block)?.first().is_some_and(|(first, _)| *first <= name) {
                low = middle;
            } else {
                high = middle;
            }
        }
        if high == 0 {
            return Ok(None);
        }
        let block = self.block(slot, inode, low)?;
        let names = self.names(&block)?;
        Ok(names.binary_search_by(|(n, _)| (*n).cmp(name)).ok().and_then(|at| names.get(at)).map(|(_, slot)| *slot))
    }

    fn find(&self, path: &Path) -> Result<Option<(u64, RawInode)>, Error> {
        let mut at = (0, self.raw(0)?);
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let (slot, inode) = at;
            if inode.mode & mode::TYPE != mode::DIRECTORY {
                return Ok(None);
            }
            match self.lookup(slot, &inode, name.as_bytes())? {
                Some(slot) => at = (slot, self.raw(slot)?),
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn existing(&self, path: &Path) -> Result<(u64, RawInode), Error> {
        self.find(path)?.ok_or_else(|| Error::Missing { path: path.to_owned() })
    }

    fn describe(&self, slot: u64, inode: &RawInode) -> Result<Node, Error> {
        let kind = match inode.mode & mode::TYPE {
            mode::FILE => Kind::File { size: inode.size },
            mode::DIRECTORY => {
                let opaque = |(n, v): &Xattr| **n == *format::OPAQUE && **v == *b"y";
                Kind::Directory { opaque: self.attributes(slot, inode)?.iter().any(opaque) }
            }
            mode::SYMLINK => {
                Kind::Symlink { target: self.data(slot, inode, 0, inode.size.min(BLOCK))?.into_owned().into() }
            }
            mode::CHAR if inode.place == 0 => Kind::Whiteout,
            mode::CHAR => Kind::Char { device: format::decode_device(inode.place) },
            mode::BLOCK => Kind::Block { device: format::decode_device(inode.place) },
            mode::FIFO => Kind::Fifo,
            _ => return Err(self.damaged("an inode is of a type that no layer has")),
        };
        Ok(Node {
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            links: inode.links,
            inode: slot,
        })
    }
}

impl LayerTree for Tree {
    fn node(&self, path: &Path) -> Result<Option<Node>, Error> {
        self.find(path)?.map(|(slot, inode)| self.describe(slot, &inode)).transpose()
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, Error> {
        let (slot, inode) = self.existing(path)?;
        if inode.mode & mode::TYPE != mode::DIRECTORY {
            return Err(Error::Kind { path: path.to_owned(), wanted: "directory" });
        }
        let mut entries = Vec::new();
        for number in 0..inode.size.div_ceil(BLOCK) {
            let block = self.block(slot, &inode, number)?;
            for (name, slot) in self.names(&block)? {
                if name != b"." && name != b".." {
                    entries.push(Entry { name: name.into(), node: self.describe(slot, &self.raw(slot)?)? });
                }
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, Error> {
        let (_, inode) = self.existing(path)?;
        if inode.mode & mode::TYPE != mode::FILE || inode.inline {
            return Err(Error::Kind { path: path.to_owned(), wanted: "regular file" });
        }
        let at = u64::from(inode.place) * BLOCK;
        if at.checked_add(inode.size).is_none_or(|end| end > u64::from(self.superblock.inode_block) * BLOCK) {
            return Err(self.damaged("data lies outside the file"));
        }
        Ok(Box::new(Content { file: Arc::clone(&self.file), at, left: inode.size }))
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>, Error> {
        let (slot, inode) = self.existing(path)?;
        let mut found = self.attributes(slot, &inode)?;
        found.retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
        Ok(found)
    }

    fn root_declared(&self) -> bool {
        self.superblock.label == format::LABEL_ROOT
    }
}

/// One file's bytes.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(buffer.get_mut(..want).unwrap_or_default(), self.at)?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

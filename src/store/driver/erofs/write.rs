//! Writes a layer as EROFS in one pass: file data as it comes, metadata when the tree is known, the superblock last.
//!
//! ```text
//!   block 0      1 …                       metadata …                                  end
//!   superblock │ files, each from a block │ directories that need blocks │ inodes with │
//!              │ of its own               │ long symbolic links          │ attributes, │
//!              │                          │                              │ small tails │
//! ```
//!
//! File data never shares a block: reading is faster for it, and a page of the file is a page of the image. Only small
//! directories and symbolic links lie inline after their inode.

use std::path::{Path, PathBuf};

use super::format::{self, BLOCK, DIRENT, INODE, RawInode, SLOT, Superblock, XATTR_HEADER, mode};
use super::out::Out;
use crate::store::driver::draft::{Content, Directory, Draft, FileId, Inode, InodeId};
use crate::store::driver::{Error, LayerWriter, Sealed};

/// Larger directories get blocks of their own, where a lookup is a search of blocks.
const INLINE_DIRECTORY: u64 = 2048;

/// The writer.
#[derive(Debug)]
pub(in crate::store::driver) struct Writer {
    out: Out,
    path: PathBuf,
}

/// What is settled about an inode before anything of it is written. Indexed by [`InodeId::index`].
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Slot of the inode from the inode area's start.
    slot: u64,
    /// Bytes of data; for a directory its encoded size.
    size: u64,
    /// First block of data that lies in blocks.
    block: u32,
    /// Whether data follows the inode.
    inline: bool,
    links: u32,
}

impl Writer {
    pub(in crate::store::driver) fn create(path: PathBuf) -> Result<Self, Error> {
        let out = Out::create(&path).map_err(Error::io("create", &path))?;
        Ok(Self { out, path })
    }

    fn io<T>(&self, result: std::io::Result<T>) -> Result<T, Error> {
        result.map_err(Error::io("write", &self.path))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let result = self.out.put(bytes);
        self.io(result)
    }

    fn align(&mut self) -> Result<(), Error> {
        let result = self.out.align();
        self.io(result)
    }

    fn block(&self) -> Result<u32, Error> {
        block_number(self.out.position() / BLOCK)
    }
}

impl LayerWriter for Writer {
    fn begin_file(&mut self) -> Result<FileId, Error> {
        Ok(FileId(u64::from(self.block()?)))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.put(bytes)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        // Checked here, since a hole costs nothing until then.
        block_number((self.out.position().saturating_add(length)) / BLOCK)?;
        let result = self.out.hole(length);
        self.io(result)
    }

    fn end_file(&mut self) -> Result<(), Error> {
        self.align()
    }

    fn finish(mut self: Box<Self>, draft: &Draft, identity: [u8; 16]) -> Result<Sealed, Error> {
        self.align()?;
        let metadata = self.out.position();
        self.out.start_checksum();
        let (places, inode_block, inodes) = arrange(draft, self.block()?)?;
        let place = |id: InodeId| places.get(id.index()).copied().unwrap_or_default();
        for (id, inode) in draft.live() {
            let p = place(id);
            match &inode.content {
                Content::Directory(d) if !p.inline => self.put(&directory(draft, id, d, &place))?,
                Content::Symlink(target) if !p.inline => self.put(target)?,
                _ => continue,
            }
            self.align()?;
        }
        let base = self.out.position();
        if base != u64::from(inode_block) * BLOCK {
            return Err(Error::TooLarge { what: "its metadata does not lie where it was to lie" });
        }
        for (id, inode) in draft.live() {
            let p = place(id);
            let gap = (base + p.slot * SLOT).saturating_sub(self.out.position());
            let result = self.out.hole(gap);
            self.io(result)?;
            self.put(&raw(id, inode, p).encode())?;
            self.put(&attributes(inode))?;
            match &inode.content {
                Content::Directory(d) if p.inline => self.put(&directory(draft, id, d, &place))?,
                Content::Symlink(target) if p.inline => self.put(target)?,
                _ => {}
            }
        }
        self.align()?;
        let bytes = self.out.position();
        let declared = draft.directory(Draft::ROOT).is_some_and(|d| !d.implicit);
        let superblock = Superblock {
            inodes,
            blocks: self.block()?,
            inode_block,
            uuid: identity,
            label: if declared { format::LABEL_ROOT } else { format::LABEL },
        };
        let checksum = self.out.checksum();
        let Self { out, path } = *self;
        let file = out.finish(&superblock.encode()).map_err(Error::io("write", &path))?;
        let disk_bytes = disk_bytes(&file, &path)?;
        Ok(Sealed { bytes, metadata, checksum, disk_bytes })
    }
}

fn disk_bytes(file: &std::fs::File, path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().map(|m| m.blocks() * 512).map_err(Error::io("stat", path))
}

fn block_number(block: u64) -> Result<u32, Error> {
    // The last number stands for a hole.
    u32::try_from(block)
        .ok()
        .filter(|n| *n != u32::MAX)
        .ok_or(Error::TooLarge { what: "it needs more blocks than EROFS can number" })
}

/// Settles where everything lies: data in blocks from `block` on, then the inode area; gives its first block and the
/// number of inodes. The root comes first, as its number has 16 bits.
fn arrange(draft: &Draft, mut block: u32) -> Result<(Vec<Place>, u32, u64), Error> {
    let mut places = vec![Place::default(); draft.len()];
    let mut end = 0_u64;
    let mut inodes = 0;
    for (id, inode) in draft.live() {
        let head = INODE + attributes(inode).len() as u64;
        let (size, packed, links) = match &inode.content {
            Content::Directory(d) => {
                let size = directory_size(d);
                let below = d.children.values().filter(|c| draft.directory(**c).is_some()).count();
                (size, size <= INLINE_DIRECTORY, u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2))
            }
            Content::Symlink(target) => (target.len() as u64, true, inode.links),
            Content::File { size, .. } => (*size, false, inode.links),
            _ => (0, false, inode.links),
        };
        // The kernel wants inline data in one block, and this writer an inode's first 64 bytes too.
        let inline = packed && head + size <= BLOCK;
        let tail = if inline { size } else { 0 };
        let mut at = end.next_multiple_of(SLOT);
        let fits = |at: u64| at % BLOCK + INODE <= BLOCK && (tail == 0 || (at + head) % BLOCK + tail <= BLOCK);
        while !fits(at) {
            at += SLOT;
        }
        let mut place = Place { slot: at / SLOT, size, block: 0, inline, links };
        if matches!(inode.content, Content::Directory(_) | Content::Symlink(_)) && !inline {
            place.block = block;
            block = block_number(u64::from(block) + size.div_ceil(BLOCK))?;
        }
        if let Some(row) = places.get_mut(id.index()) {
            *row = place;
        }
        end = at + head + tail;
        inodes += 1;
    }
    block_number(u64::from(block) + end.div_ceil(BLOCK))?;
    Ok((places, block, inodes))
}

fn raw(id: InodeId, inode: &Inode, p: Place) -> RawInode {
    let (kind, place) = match &inode.content {
        // An empty file has no block.
        Content::File { size: 0, .. } => (mode::FILE, 0),
        // Block numbers were checked when the file began.
        Content::File { data, .. } => (mode::FILE, u32::try_from(data.0).unwrap_or(u32::MAX)),
        Content::Directory(_) => (mode::DIRECTORY, p.block),
        Content::Symlink(_) => (mode::SYMLINK, p.block),
        Content::Char(device) => (mode::CHAR, format::encode_device(*device)),
        Content::Block(device) => (mode::BLOCK, format::encode_device(*device)),
        Content::Fifo => (mode::FIFO, 0),
        Content::Whiteout => (mode::CHAR, 0),
    };
    RawInode {
        inline: p.inline,
        xattrs: attributes(inode).len(),
        mode: kind | inode.mode,
        size: p.size,
        place,
        number: id.number(),
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        links: p.links,
    }
}

/// A header without shared attributes, then length of name, prefix, length of value, name, value for each; nothing at
/// all for an inode without any.
fn attributes(inode: &Inode) -> Vec<u8> {
    let opaque = inode.directory().is_some_and(|d| d.opaque).then_some((format::OPAQUE, &b"y"[..]));
    let kept = inode.xattrs.iter().flatten().map(|(name, value)| (&**name, &**value));
    let mut out = Vec::new();
    for (name, value) in opaque.into_iter().chain(kept) {
        // Conversion lets no other names and lengths through.
        let Some((prefix, rest)) = format::split_name(name) else { continue };
        if out.is_empty() {
            out.resize(XATTR_HEADER, 0);
        }
        out.push(u8::try_from(rest.len()).unwrap_or(u8::MAX));
        out.push(prefix);
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// The names of a directory as they are stored: sorted by bytes, `.` and `..` in their place among the others.
fn names(directory: &Directory) -> impl Iterator<Item = (&[u8], Option<InodeId>)> {
    let mut dots = [&b"."[..], b".."].into_iter().peekable();
    let mut children = directory.children.iter().peekable();
    std::iter::from_fn(move || {
        let dot_first = match (dots.peek(), children.peek()) {
            (Some(dot), Some((name, _))) => **dot < ***name,
            (dot, _) => dot.is_some(),
        };
        if dot_first { dots.next().map(|d| (d, None)) } else { children.next().map(|(n, id)| (&**n, Some(*id))) }
    })
}

/// Bytes of the encoded directory: whole blocks, but for the last.
fn directory_size(directory: &Directory) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for (name, _) in names(directory) {
        let need = (DIRENT + name.len()) as u64;
        if used + need > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += need;
    }
    blocks * BLOCK + used
}

/// A directory's data: each block starts with its entries, then their names.
fn directory(draft: &Draft, id: InodeId, directory: &Directory, place: &dyn Fn(InodeId) -> Place) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut block: Vec<(&[u8], InodeId)> = Vec::new();
    let mut used = 0;
    let mut flush = |block: &mut Vec<(&[u8], InodeId)>| {
        let start = out.len().next_multiple_of(4096);
        out.resize(start, 0);
        let mut name_at = DIRENT * block.len();
        for (name, child) in block.iter() {
            let inode = draft.get(*child);
            out.extend_from_slice(&place(*child).slot.to_le_bytes());
            out.extend_from_slice(&u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
            out.push(format::entry_type(raw_kind(&inode.content)));
            out.push(0);
            name_at += name.len();
        }
        for (name, _) in block.drain(..) {
            out.extend_from_slice(name);
        }
    };
    for (name, child) in names(directory) {
        let target = child.unwrap_or_else(|| if name == b"." { id } else { draft.parent(id) });
        let need = (DIRENT + name.len()) as u64;
        if used + need > BLOCK {
            flush(&mut block);
            used = 0;
        }
        used += need;
        block.push((name, target));
    }
    flush(&mut block);
    out
}

fn raw_kind(content: &Content) -> u16 {
    match content {
        Content::File { .. } => mode::FILE,
        Content::Directory(_) => mode::DIRECTORY,
        Content::Symlink(_) => mode::SYMLINK,
        Content::Char(_) | Content::Whiteout => mode::CHAR,
        Content::Block(_) => mode::BLOCK,
        Content::Fifo => mode::FIFO,
    }
}

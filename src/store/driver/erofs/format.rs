//! The part of the EROFS on-disk format that layers use (kernel `fs/erofs/erofs_fs.h`): 4 KiB blocks, extended inodes,
//! plain or tail-packed data, inline extended attributes. Little endian.

use crate::store::tree::{Device, Time};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Its binary logarithm, as the superblock has it.
const BLOCK_BITS: u8 = 12;
/// Where the superblock starts.
pub(super) const SUPERBLOCK: usize = 1024;
/// What it starts with.
const MAGIC: u32 = 0xe0f5_e1e2;
/// It has a checksum, and times are modification times.
const FEATURES: u32 = 1 | 2;
/// Inodes are addressed in units of this.
pub(super) const SLOT: u64 = 32;
/// Bytes of an extended inode.
pub(super) const INODE: u64 = 64;
/// Bytes before the entries of inline extended attributes.
pub(super) const XATTR_HEADER: usize = 12;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;

/// A layer's superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// Block at which inode 0, the root, lies.
    pub(super) inode_block: u32,
    pub(super) uuid: [u8; 16],
    pub(super) label: [u8; 16],
}

fn put<const N: usize>(block: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = block.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    get(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    get(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    get(bytes, at).map(u64::from_le_bytes)
}

impl Superblock {
    /// Block 0.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; 4096];
        let s = SUPERBLOCK;
        put(&mut block, s, MAGIC.to_le_bytes());
        put(&mut block, s + 8, FEATURES.to_le_bytes());
        put(&mut block, s + 12, [BLOCK_BITS]);
        put(&mut block, s + 16, self.inodes.to_le_bytes());
        put(&mut block, s + 36, self.blocks.to_le_bytes());
        put(&mut block, s + 40, self.inode_block.to_le_bytes());
        put(&mut block, s + 48, self.uuid);
        put(&mut block, s + 64, self.label);
        let sum = Self::checksum(&block);
        put(&mut block, s + 4, sum.to_le_bytes());
        block
    }

    /// Over the rest of block 0 from the superblock on, the checksum's own place taken as zero.
    fn checksum(block: &[u8]) -> u32 {
        use super::super::crc32c::{START, update};
        let part = |range| block.get::<std::ops::Range<usize>>(range).unwrap_or_default();
        let sum = update(START, part(SUPERBLOCK..SUPERBLOCK + 4));
        update(update(sum, &[0; 4]), part(SUPERBLOCK + 8..block.len()))
    }

    /// Reads block 0 of a layer; only what [`Superblock::encode`] writes is accepted.
    pub(super) fn decode(block: &[u8]) -> Result<Self, &'static str> {
        let s = SUPERBLOCK;
        if u32_at(block, s) != Some(MAGIC) {
            return Err("it has no EROFS superblock");
        }
        if u32_at(block, s + 4) != Some(Self::checksum(block)) {
            return Err("the superblock's checksum is wrong");
        }
        let short = "the superblock is cut off";
        let features = u32_at(block, s + 8).ok_or(short)?;
        let bits = get::<1>(block, s + 12).ok_or(short)?;
        if features != FEATURES || bits != [BLOCK_BITS] || u32_at(block, s + 80) != Some(0) {
            return Err("the superblock has features that no layer has");
        }
        Ok(Self {
            inodes: u64_at(block, s + 16).ok_or(short)?,
            blocks: u32_at(block, s + 36).ok_or(short)?,
            inode_block: u32_at(block, s + 40).ok_or(short)?,
            uuid: get(block, s + 48).ok_or(short)?,
            label: get(block, s + 64).ok_or(short)?,
        })
    }
}

/// File type bits of a mode.
pub(super) mod mode {
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHAR: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const TYPE: u16 = 0o170_000;
}

/// The type byte of a directory entry.
pub(super) fn entry_type(mode: u16) -> u8 {
    match mode & mode::TYPE {
        mode::FILE => 1,
        mode::DIRECTORY => 2,
        mode::CHAR => 3,
        mode::BLOCK => 4,
        mode::FIFO => 5,
        mode::SYMLINK => 7,
        _ => 0,
    }
}

/// An extended inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawInode {
    /// Whether the data follows the inode instead of lying in blocks.
    pub(super) inline: bool,
    /// Bytes of inline extended attributes with their header; 0 or at least 12, a multiple of 4.
    pub(super) xattrs: usize,
    pub(super) mode: u16,
    pub(super) size: u64,
    /// First block, or the device's number.
    pub(super) place: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) links: u32,
}

impl RawInode {
    pub(super) fn encode(&self) -> [u8; 64] {
        let mut b = [0; 64];
        // Bit 0: extended; from bit 1: 0 plain, 2 tail-packed.
        let format: u16 = if self.inline { 1 | 2 << 1 } else { 1 };
        let count = self.xattrs.checked_sub(XATTR_HEADER).map_or(0, |body| body / 4 + 1);
        put(&mut b, 0, format.to_le_bytes());
        put(&mut b, 2, u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        put(&mut b, 4, self.mode.to_le_bytes());
        put(&mut b, 8, self.size.to_le_bytes());
        put(&mut b, 16, self.place.to_le_bytes());
        put(&mut b, 20, self.number.to_le_bytes());
        put(&mut b, 24, self.uid.to_le_bytes());
        put(&mut b, 28, self.gid.to_le_bytes());
        put(&mut b, 32, self.mtime.seconds.to_le_bytes());
        put(&mut b, 40, self.mtime.nanoseconds.to_le_bytes());
        put(&mut b, 44, self.links.to_le_bytes());
        b
    }

    pub(super) fn decode(b: &[u8]) -> Result<Self, &'static str> {
        let short = "an inode lies outside the metadata";
        let inline = match u16_at(b, 0).ok_or(short)? {
            1 => false,
            5 => true,
            _ => return Err("an inode is of a form that no layer has"),
        };
        let count = usize::from(u16_at(b, 2).ok_or(short)?);
        Ok(Self {
            inline,
            xattrs: count.checked_sub(1).map_or(0, |n| n * 4 + XATTR_HEADER),
            mode: u16_at(b, 4).ok_or(short)?,
            size: u64_at(b, 8).ok_or(short)?,
            place: u32_at(b, 16).ok_or(short)?,
            number: u32_at(b, 20).ok_or(short)?,
            uid: u32_at(b, 24).ok_or(short)?,
            gid: u32_at(b, 28).ok_or(short)?,
            mtime: Time {
                seconds: u64_at(b, 32).ok_or(short)?.cast_signed(),
                nanoseconds: u32_at(b, 40).ok_or(short)?,
            },
            links: u32_at(b, 44).ok_or(short)?,
        })
    }
}

/// The kernel's `new_encode_dev`: 12 bits of major, 20 of minor.
pub(super) fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & 0xf_ff00) << 12)
}

/// The reverse of [`encode_device`].
pub(super) fn decode_device(number: u32) -> Device {
    Device { major: (number >> 8) & 0xfff, minor: (number & 0xff) | ((number >> 12) & 0xf_ff00) }
}

/// Attribute name prefixes and their numbers; the two access control lists are whole names.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// A name as prefix number and rest; `None` for a namespace that EROFS does not have.
pub(super) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        (rest.is_empty() == matches!(index, 2 | 3)).then_some((*index, rest))
    })
}

/// The reverse of [`split_name`].
pub(super) fn join_name(index: u8, rest: &[u8]) -> Option<Box<[u8]>> {
    let (_, prefix) = PREFIXES.iter().find(|(i, _)| *i == index)?;
    Some([prefix, rest].concat().into())
}

/// The attribute by which a directory hides those of the same name in lower layers; its value is `y`.
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The value that marks a layer whose tar says what its root directory is.
pub(super) const LABEL_ROOT: [u8; 16] = *b"lamina-root\0\0\0\0\0";
/// The value for any other layer.
pub(super) const LABEL: [u8; 16] = *b"lamina\0\0\0\0\0\0\0\0\0\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_read_back_and_a_flipped_bit_found() {
        let superblock =
            Superblock { inodes: 7, blocks: 9, inode_block: 3, uuid: *b"0123456789abcdef", label: LABEL_ROOT };
        let mut block = superblock.encode();
        assert_eq!(Superblock::decode(&block), Ok(superblock));
        for at in [SUPERBLOCK, SUPERBLOCK + 5, SUPERBLOCK + 40, 4095] {
            block[at] ^= 4;
            assert!(Superblock::decode(&block).is_err(), "{at}");
            block[at] ^= 4;
        }
    }

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(0, 0), (1, 3), (4095, 1_048_575), (8, 256)] {
            let device = Device { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }
}

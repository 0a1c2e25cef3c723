//! One 512-byte tar header: v7, POSIX ustar, GNU and star.
//!
//! Where formats leave a choice, this reads as Go's `archive/tar` does, with which images are made and unpacked.

/// Every header and every padding is a multiple of this.
pub(super) const BLOCK: usize = 512;

/// Header fields, as `start..end`.
const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
/// star keeps times after a shorter prefix, and says so at the end of the block.
const STAR_PREFIX: std::ops::Range<usize> = 345..476;
const STAR_MARK: std::ops::Range<usize> = 508..512;
/// Old GNU sparse: four segments, whether more blocks follow, and the file's real length.
const SPARSE: std::ops::Range<usize> = 386..482;
const SPARSE_MORE: usize = 482;
const SPARSE_SIZE: std::ops::Range<usize> = 483..495;
/// A continuation block of old GNU sparse: 21 segments and the same flag.
const MORE: std::ops::Range<usize> = 0..504;
const MORE_MORE: usize = 504;

/// A view of one header block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

/// What is wrong with a header.
pub(super) type Fault = &'static str;

impl<'a> Header<'a> {
    fn field(self, range: std::ops::Range<usize>) -> &'a [u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// Two such blocks end a tar.
    pub(super) fn is_zero(self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Compares the checksum, which some old programs made of signed bytes.
    pub(super) fn check(self) -> Result<(), Fault> {
        let stored = octal(self.field(CHECKSUM)).ok_or("its checksum is not a number")?;
        let (mut plain, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
            plain += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        let stored = i64::try_from(stored).unwrap_or(-1);
        if stored == plain || stored == signed { Ok(()) } else { Err("a header's checksum is wrong") }
    }

    /// The type flag.
    pub(super) fn kind(self) -> u8 {
        self.byte(TYPE)
    }

    /// Bytes that follow the header, before any pax override.
    pub(super) fn size(self) -> Result<u64, Fault> {
        positive(self.field(SIZE)).ok_or("a size is not a number")
    }

    /// The name, with ustar's or star's prefix.
    pub(super) fn path(self) -> Vec<u8> {
        let name = text(self.field(NAME));
        let prefix = match (self.field(MAGIC), self.field(STAR_MARK)) {
            (b"ustar\0", b"tar\0") => text(self.field(STAR_PREFIX)),
            (b"ustar\0", _) => text(self.field(PREFIX)),
            _ => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The target of a link.
    pub(super) fn link(self) -> Vec<u8> {
        text(self.field(LINK)).to_vec()
    }

    /// Permission bits with setuid, setgid and sticky.
    pub(super) fn mode(self) -> Result<u16, Fault> {
        let mode = positive(self.field(MODE)).ok_or("a mode is not a number")?;
        Ok(u16::try_from(mode & 0o7777).unwrap_or_default())
    }

    /// Owner.
    pub(super) fn uid(self) -> Result<u64, Fault> {
        positive(self.field(UID)).ok_or("an owner is not a number")
    }

    /// Group.
    pub(super) fn gid(self) -> Result<u64, Fault> {
        positive(self.field(GID)).ok_or("a group is not a number")
    }

    /// Seconds since 1970.
    pub(super) fn mtime(self) -> Result<i64, Fault> {
        number(self.field(MTIME)).ok_or("a time is not a number")
    }

    /// Major and minor number of a device.
    pub(super) fn device(self) -> Result<(u64, u64), Fault> {
        let number = |range| positive(self.field(range)).ok_or("a device number is not a number");
        Ok((number(MAJOR)?, number(MINOR)?))
    }

    /// Segments that the header of an old GNU sparse file names, and whether continuation blocks follow.
    pub(super) fn sparse(self, into: &mut Vec<(u64, u64)>) -> Result<bool, Fault> {
        segments(self.field(SPARSE), into)?;
        Ok(self.byte(SPARSE_MORE) != 0)
    }

    /// The length of an old GNU sparse file with its holes.
    pub(super) fn sparse_size(self) -> Result<u64, Fault> {
        positive(self.field(SPARSE_SIZE)).ok_or("a sparse file's length is not a number")
    }

    /// As [`Header::sparse`], for a continuation block.
    pub(super) fn sparse_more(self, into: &mut Vec<(u64, u64)>) -> Result<bool, Fault> {
        segments(self.field(MORE), into)?;
        Ok(self.byte(MORE_MORE) != 0)
    }
}

fn segments(field: &[u8], into: &mut Vec<(u64, u64)>) -> Result<(), Fault> {
    for pair in field.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        let fault = "a sparse segment is not a number";
        into.push((positive(offset).ok_or(fault)?, positive(length).ok_or(fault)?));
    }
    Ok(())
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits between spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(|b| matches!(b, b' ' | 0)).unwrap_or(digits.len());
    digits.get(..end)?.iter().try_fold(0_u64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// Octal, or GNU's big-endian base 256 when the top bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    // The second bit is the sign; fields are at most 12 bytes, so 96 bits fit.
    let start = if first & 0x40 == 0 { 0_i128 } else { -1 };
    let value = rest.iter().fold((start << 6) | i128::from(first & 0x3f), |value, b| (value << 8) | i128::from(*b));
    i64::try_from(value).ok()
}

fn positive(field: &[u8]) -> Option<u64> {
    number(field).and_then(|n| u64::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_notation() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0]), Some(4_000_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"12x\0\0\0\0\0"), None);
        let mut huge = [0; 12];
        huge[0] = 0x80;
        huge[1] = 1;
        assert_eq!(number(&huge), None);
    }
}

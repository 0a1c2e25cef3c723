//! Inflating gzip (RFC 1952) with ISA-L, a third faster than anything in Rust. A pull of a large layer takes as long as
//! this does.
//!
//! A member's header is read here: ISA-L forgets what it has read of one that comes in pieces.

use isal_sys::igzip_lib as isal;

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of the input that were used.
    pub(crate) taken: usize,
    /// Bytes of the output that were written.
    pub(crate) given: usize,
    /// Whether the member has ended; its length and checksum are right then.
    pub(crate) ended: bool,
}

/// Where in a member's header (RFC 1952, 2.3) the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// One of the first ten.
    Fixed(u8),
    ExtraLength(u8),
    Extra(u16),
    Name,
    Comment,
    Checksum(u8),
    /// Behind it.
    Body,
}

/// Reads a header byte by byte.
#[derive(Debug)]
struct Header {
    field: Field,
    flags: u8,
    extra: u16,
}

impl Header {
    const CHECKSUM: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const RESERVED: u8 = 0b1110_0000;

    const fn new() -> Self {
        Self { field: Field::Fixed(0), flags: 0, extra: 0 }
    }

    /// The first field that there is, of those from `field` on.
    const fn there_is(&self, field: Field) -> Field {
        let mut field = field;
        loop {
            let (flag, next) = match field {
                Field::ExtraLength(0) => (Self::EXTRA, Field::Name),
                Field::Name => (Self::NAME, Field::Comment),
                Field::Comment => (Self::COMMENT, Field::Checksum(0)),
                Field::Checksum(0) => (Self::CHECKSUM, Field::Body),
                field => return field,
            };
            if self.flags & flag != 0 {
                return field;
            }
            field = next;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), &'static str> {
        self.field = match self.field {
            Field::Fixed(at) => {
                match (at, byte) {
                    (0, 0x1f) | (1, 0x8b) | (2, 8) | (4.., _) => {}
                    (3, flags) if flags & Self::RESERVED == 0 => self.flags = flags,
                    (2, _) => return Err("it is not compressed by deflate"),
                    _ => return Err("its header is not that of gzip"),
                }
                if at < 9 { Field::Fixed(at + 1) } else { self.there_is(Field::ExtraLength(0)) }
            }
            Field::ExtraLength(0) => {
                self.extra = u16::from(byte);
                Field::ExtraLength(1)
            }
            Field::ExtraLength(_) => {
                self.extra |= u16::from(byte) << 8;
                if self.extra == 0 { self.there_is(Field::Name) } else { Field::Extra(self.extra) }
            }
            Field::Extra(1) => self.there_is(Field::Name),
            Field::Extra(left) => Field::Extra(left - 1),
            Field::Name if byte == 0 => self.there_is(Field::Comment),
            Field::Comment if byte == 0 => self.there_is(Field::Checksum(0)),
            // Nobody has to check it, and the data has a checksum of its own.
            Field::Checksum(0) => Field::Checksum(1),
            Field::Checksum(_) => Field::Body,
            field @ (Field::Name | Field::Comment | Field::Body) => field,
        };
        Ok(())
    }
}

/// One gzip member after another.
pub(crate) struct Gunzip {
    header: Header,
    /// On the heap, and never moved: 90 KB.
    state: Box<isal::inflate_state>,
}

// SAFETY: the state's two pointers are set at the beginning of each step and not followed outside of it.
#[expect(unsafe_code, reason = "the bindings have raw pointers")]
unsafe impl Send for Gunzip {}

impl Gunzip {
    /// Ready for a member's first byte.
    pub(crate) fn new() -> Self {
        // SAFETY: the state is plain old data of C: numbers, arrays of numbers, and pointers that may be null.
        #[expect(unsafe_code, reason = "the type has no other constructor")]
        let mut state = unsafe { Box::<isal::inflate_state>::new_zeroed().assume_init() };
        // SAFETY: the state is a live one, which is all that this asks for.
        #[expect(unsafe_code, reason = "a foreign function")]
        unsafe {
            isal::isal_inflate_init(&raw mut *state);
        }
        state.crc_flag = isal::ISAL_GZIP_NO_HDR_VER;
        Self { header: Header::new(), state }
    }

    /// Makes ready for the next member.
    pub(crate) fn reset(&mut self) {
        self.header = Header::new();
        // SAFETY: the state was initialised by `new`.
        #[expect(unsafe_code, reason = "a foreign function")]
        unsafe {
            isal::isal_inflate_reset(&raw mut *self.state);
        }
    }

    /// Expands from `input` to `out`, until either is used up or the member ends.
    ///
    /// # Errors
    /// If the member is damaged; it says how.
    pub(crate) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, &'static str> {
        let mut body = input;
        while self.header.field != Field::Body {
            let Some((byte, rest)) = body.split_first() else {
                return Ok(Step { taken: input.len(), given: 0, ended: false });
            };
            self.header.take(*byte)?;
            body = rest;
        }
        let head = input.len() - body.len();
        // Lengths are 32 bits wide there; what is longer is done in several steps.
        let (most_in, most_out) = (bounded(body.len()), bounded(out.len()));
        self.state.next_in = body.as_ptr().cast_mut();
        self.state.avail_in = most_in;
        self.state.next_out = out.as_mut_ptr();
        self.state.avail_out = most_out;
        // SAFETY: `next_in` points to `avail_in` bytes that are only read, `next_out` to `avail_out` bytes that nobody
        // else sees; both outlive the call. The state was initialised by `new` and is used by one thread at a time.
        #[expect(unsafe_code, reason = "a foreign function")]
        let result = unsafe { isal::isal_inflate(&raw mut *self.state) };
        // Not to be found in it by anybody later.
        self.state.next_in = std::ptr::null_mut();
        self.state.next_out = std::ptr::null_mut();
        let used = |before: u32, after: u32| before.saturating_sub(after) as usize;
        match result {
            0 => Ok(Step {
                taken: head + used(most_in, self.state.avail_in),
                given: used(most_out, self.state.avail_out),
                ended: self.state.block_state == isal::isal_block_state_ISAL_BLOCK_FINISH,
            }),
            isal::ISAL_INVALID_BLOCK => Err("a block's header is not valid"),
            isal::ISAL_INVALID_SYMBOL => Err("a code is not valid"),
            isal::ISAL_INVALID_LOOKBACK => Err("it refers to what is before its beginning"),
            isal::ISAL_INCORRECT_CHECKSUM => Err("its checksum or length is another"),
            _ => Err("it is not valid"),
        }
    }
}

fn bounded(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    fn all(mut input: &[u8], piece: usize) -> Option<Vec<u8>> {
        let (mut gunzip, mut out, mut room) = (Gunzip::new(), Vec::new(), vec![0; piece]);
        loop {
            let now = &input[..input.len().min(piece)];
            let step = gunzip.step(now, &mut room).ok()?;
            input = &input[step.taken..];
            out.extend_from_slice(&room[..step.given]);
            if step.ended {
                return input.is_empty().then_some(out);
            }
            if step.taken == 0 && step.given == 0 {
                return None;
            }
        }
    }

    /// What another implementation makes of one member.
    fn reference(input: &[u8]) -> Option<Vec<u8>> {
        let mut decoder = flate2::bufread::GzDecoder::new(input);
        let mut out = Vec::new();
        decoder.read_to_end(&mut out).ok()?;
        decoder.into_inner().is_empty().then_some(out)
    }

    fn gzip(data: &[u8], level: u32, fields: u8) -> Vec<u8> {
        let mut header = flate2::GzBuilder::new();
        for (bit, field) in [(1, "a name"), (2, "a comment")] {
            header = match (fields & bit, bit) {
                (0, _) => header,
                (_, 1) => header.filename(field),
                _ => header.comment(field),
            };
        }
        if fields & 4 != 0 {
            header = header.extra([1, 2, 3]);
        }
        let mut encoder = header.write(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_header_is_read_to_its_end_and_no_reserved_bit_is_accepted() {
        let mut blob = gzip(b"data", 6, 7);
        assert!(Gunzip::new().step(&[&blob[..3], &[0x80]].concat(), &mut []).is_err());
        let end = 10 + (2 + 3) + "a name".len() + "a comment".len() + 2;
        blob[3] |= Header::CHECKSUM;
        blob.splice(end..end, [1, 2]);
        for piece in [1, 1000] {
            assert_eq!(all(&blob, piece).unwrap(), b"data");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_another_implementation(
            words in prop::collection::vec("[a-z]{1,40}", 0..300),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            level in 0_u32..=9,
            fields in 0_u8..8,
            piece in prop::sample::select(vec![1_usize, 7, 512, 70_000]),
        ) {
            let data = [words.join(" ").into_bytes(), noise].concat();
            prop_assert_eq!(all(&gzip(&data, level, fields), piece), Some(data));
        }

        #[test]
        fn what_is_damaged_is_refused_as_by_another_implementation(
            words in prop::collection::vec("[a-z]{1,40}", 1..100),
            level in 0_u32..=9,
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut blob = gzip(words.join(" ").as_bytes(), level, 7);
            for (place, value) in places {
                // Behind the header, of which not all is looked at by everybody.
                let body = 10 + (2 + 3) + "a name".len() + "a comment".len() + 2;
                let at = body + place.index(blob.len() - body);
                blob[at] ^= value;
            }
            if let Some(cut) = cut {
                blob.truncate(cut.index(blob.len()));
            }
            prop_assert_eq!(all(&blob, 1000), reference(&blob));
        }
    }
}

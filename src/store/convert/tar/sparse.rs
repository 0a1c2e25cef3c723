//! The data of a file: all of it, or segments with holes between them.

use super::super::Error;
use super::header::{BLOCK, Fault};
use super::{Sink, pax, take};

/// What is left of a file's data.
#[derive(Debug)]
pub(super) struct Body {
    /// Segments after the current one: offset and length.
    segments: std::vec::IntoIter<(u64, u64)>,
    /// Bytes left of the current segment.
    left: u64,
    /// Where the file stands, holes counted.
    at: u64,
    size: u64,
}

impl Body {
    /// A file without holes.
    pub(super) fn plain(size: u64) -> Self {
        Self { segments: Vec::new().into_iter(), left: size, at: 0, size }
    }

    /// A file with holes; the segments must rise, lie inside it, and be as long together as what the tar stores.
    pub(super) fn sparse(segments: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, Fault> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &segments {
            let next = offset.checked_add(*length).ok_or("a sparse segment ends beyond all numbers")?;
            if *offset < end || next > size {
                return Err("sparse segments overlap or lie outside their file");
            }
            end = next;
            sum += length;
        }
        if sum != stored {
            return Err("sparse segments do not add up to what is stored");
        }
        Ok(Self { segments: segments.into_iter(), left: 0, at: 0, size })
    }

    /// Gives as much of `bytes` to the sink as belongs to the file; the number of bytes used.
    pub(super) fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        let mut rest = bytes;
        loop {
            if self.left > 0 {
                let (part, n) = take(&mut rest, self.left);
                if !part.is_empty() {
                    sink.data(part)?;
                }
                self.left -= n;
                self.at += n;
                if self.left > 0 {
                    return Ok(bytes.len() - rest.len());
                }
            }
            let Some((offset, length)) = self.segments.next() else {
                self.hole_to(self.size, sink)?;
                return Ok(bytes.len() - rest.len());
            };
            self.hole_to(offset, sink)?;
            self.left = length;
        }
    }

    fn hole_to<S: Sink>(&mut self, offset: u64, sink: &mut S) -> Result<(), Error> {
        if offset > self.at {
            sink.hole(offset - self.at)?;
            self.at = offset;
        }
        Ok(())
    }

    /// Whether the file is complete.
    pub(super) fn done(&self) -> bool {
        self.at == self.size && self.left == 0 && self.segments.len() == 0
    }
}

/// The map before the data of a pax 1.0 sparse file: a count, then offset and length of each segment, a number a
/// line, padded to a block.
#[derive(Debug, Default)]
pub(super) struct Map {
    number: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<(u64, u64)>,
    read: u64,
}

/// Digits of the largest number that 64 bits hold.
const DIGITS: usize = 20;

impl Map {
    /// Bytes used of `bytes`, and whether the map with its padding is complete.
    pub(super) fn feed(&mut self, bytes: &[u8], limit: usize) -> Result<(usize, bool), Fault> {
        for (at, byte) in bytes.iter().enumerate() {
            self.read += 1;
            if !self.complete() {
                match byte {
                    b'\n' => self.line(limit)?,
                    _ if self.number.len() < DIGITS => self.number.push(*byte),
                    _ => return Err("a sparse map is not made of numbers"),
                }
            }
            if self.complete() && self.read.is_multiple_of(BLOCK as u64) {
                return Ok((at + 1, true));
            }
        }
        Ok((bytes.len(), false))
    }

    fn complete(&self) -> bool {
        let have = u64::try_from(self.segments.len()).unwrap_or(u64::MAX);
        self.count.is_some_and(|count| have >= count)
    }

    fn line(&mut self, limit: usize) -> Result<(), Fault> {
        let number = pax::decimal(&self.number).ok_or("a sparse map is not made of numbers")?;
        self.number.clear();
        match (self.count, self.offset.take()) {
            (None, _) if number > u64::try_from(limit).unwrap_or(u64::MAX) => {
                return Err("a sparse file has too many segments");
            }
            (None, _) => self.count = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.segments.push((offset, number)),
        }
        Ok(())
    }

    /// The segments, and the bytes that the map took.
    pub(super) fn into_segments(self) -> (Vec<(u64, u64)>, u64) {
        (self.segments, self.read)
    }
}

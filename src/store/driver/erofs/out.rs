//! The file that a layer is appended to: few large aligned writes, blocks of zeros left as holes, write-back started
//! as it goes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::format::BLOCK;
use crate::store::driver::crc32c;
use crate::sys::writeback;

/// Smaller pieces are gathered, larger ones written from where they are.
const GATHER: usize = 256 << 10;
/// How much lies between two starts of write-back: large enough for sequential I/O, small enough that the last fsync
/// finds little to do.
const WRITE_BACK: u64 = 16 << 20;
/// As `usize`, for slices.
const BLOCK_LEN: usize = 4096;

/// An append-only file. Block 0 is left for last.
#[derive(Debug)]
pub(super) struct Out {
    file: File,
    /// Bytes from `base` on that are not written yet.
    buffer: Vec<u8>,
    /// A multiple of the block size.
    base: u64,
    started: u64,
    /// CRC-32C of what is appended, once asked for.
    checksum: Option<u32>,
}

impl Out {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o400).open(path)?;
        Ok(Self { file, buffer: Vec::with_capacity(GATHER + BLOCK_LEN), base: BLOCK, started: 0, checksum: None })
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    /// From here on, what is appended goes into a checksum.
    pub(super) fn start_checksum(&mut self) {
        self.checksum = Some(crc32c::START);
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum.unwrap_or(crc32c::START)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(sum) = self.checksum {
            self.checksum = Some(crc32c::update(sum, bytes));
        }
        if self.buffer.len() + bytes.len() <= GATHER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        // Complete the block that is begun, write all whole blocks, keep the rest.
        let (head, rest) = bytes.split_at(bytes.len().min(missing(self.buffer.len())));
        self.buffer.extend_from_slice(head);
        let whole = rest.len() - rest.len() % BLOCK_LEN;
        let (middle, tail) = rest.split_at(whole);
        self.flush()?;
        self.write(middle)?;
        self.buffer.extend_from_slice(tail);
        Ok(())
    }

    /// Appends zeros up to the next block.
    pub(super) fn align(&mut self) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        let missing = missing(self.buffer.len());
        self.put(ZEROS.get(..missing).unwrap_or_default())
    }

    /// Appends `length` zeros that take no room on disk.
    pub(super) fn hole(&mut self, mut length: u64) -> io::Result<()> {
        let head = (missing(self.buffer.len()) as u64).min(length);
        self.zeros(head)?;
        length -= head;
        let whole = length - length % BLOCK;
        if whole > 0 {
            self.flush()?;
            self.base += whole;
        }
        self.zeros(length - whole)
    }

    fn zeros(&mut self, length: u64) -> io::Result<()> {
        let zeros = [0; BLOCK_LEN];
        self.put(zeros.get(..usize::try_from(length).unwrap_or(BLOCK_LEN)).unwrap_or_default())
    }

    /// Writes what is gathered; the buffer must end at a block.
    fn flush(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    /// Writes whole blocks at the end, but no run of zeros.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut data = 0..0;
        for (at, block) in (0..).step_by(BLOCK_LEN).zip(bytes.chunks(BLOCK_LEN)) {
            if is_zero(block) {
                self.write_run(bytes, data)?;
                data = at + block.len()..at + block.len();
            } else {
                data.end = at + block.len();
            }
        }
        self.write_run(bytes, data)?;
        self.base += bytes.len() as u64;
        if self.base - self.started >= WRITE_BACK {
            writeback::start(&self.file, self.started, self.base - self.started);
            self.started = self.base;
        }
        Ok(())
    }

    fn write_run(&self, bytes: &[u8], run: std::ops::Range<usize>) -> io::Result<()> {
        let at = self.base + run.start as u64;
        match bytes.get(run) {
            Some(run) if !run.is_empty() => self.file.write_all_at(run, at),
            _ => Ok(()),
        }
    }

    /// Ends the file: everything written, block 0 last, synced.
    pub(super) fn finish(mut self, block0: &[u8]) -> io::Result<File> {
        self.align()?;
        self.flush()?;
        self.file.set_len(self.base)?;
        self.file.write_all_at(block0, 0)?;
        self.file.sync_all()?;
        Ok(self.file)
    }
}

/// Bytes up to the next block.
const fn missing(length: usize) -> usize {
    (BLOCK_LEN - length % BLOCK_LEN) % BLOCK_LEN
}

/// Most blocks differ from zero in their first or last byte, so few are read twice.
fn is_zero(block: &[u8]) -> bool {
    block.first() == Some(&0) && block.last() == Some(&0) && block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_there_whatever_the_pieces() {
        let data: Vec<u8> =
            (0..3_000_000_u32).map(|n| if n % 50_000 < 20_000 { 0 } else { n.to_le_bytes()[0] }).collect();
        let dir = tempfile::tempdir().unwrap();
        for step in [1_000, 4_096, 70_000, 262_144, 262_145, 1_000_000, 5_000_000] {
            let path = dir.path().join(step.to_string());
            let mut out = Out::create(&path).unwrap();
            out.start_checksum();
            for piece in data.chunks(step) {
                out.put(piece).unwrap();
            }
            let sum = out.checksum();
            out.hole(9_999).unwrap();
            out.put(b"end").unwrap();
            out.finish(&[7; 4096]).unwrap();
            let got = std::fs::read(&path).unwrap();
            assert!(got[4096..4096 + data.len()] == data, "{step}");
            assert_eq!(&got[4096 + data.len() + 9_999..][..3], b"end");
            assert_eq!((got.len() % 4096, sum), (0, crc32c::update(crc32c::START, &data)));
        }
    }
}

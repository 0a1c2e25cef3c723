//! The file that a layer is appended to: large writes past the page cache, by a thread of their own, blocks of zeros left
//! as holes.
//!
//! ```text
//!   put ──▶ buffer ──full──▶ [ queue ] ──▶ writer ──pwrite, O_DIRECT──▶ disk
//!              ▲                              │
//!              └──────────── empty ───────────┘
//! ```
//!
//! What is pulled is not what runs next: through the page cache it would cost a copy of everything, and push out what
//! running pods have there. A layer smaller than a buffer has no thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::format::BLOCK;
use crate::store::driver::crc32c;
use crate::sys::writeback;

/// How much is written at once. Two of them lie in memory: one is filled while the other is written.
const CHUNK: usize = 1 << 20;
/// How many buffers there are.
const BUFFERS: usize = 2;
/// How much lies between two starts of write-back where the file system has no direct I/O: large enough for sequential
/// I/O, small enough that the last fsync finds little to do.
const WRITE_BACK: u64 = 16 << 20;
/// Zeros that are fewer are written: a write costs as much as this many.
const HOLE: usize = 64 << 10;
/// As `usize`, for slices.
const BLOCK_LEN: usize = 4096;

/// An append-only file. Block 0 is left for last.
#[derive(Debug)]
pub(super) struct Out {
    buffer: Buffer,
    /// Where the buffer goes, a multiple of the block size.
    base: u64,
    /// CRC-32C of what is appended, once asked for.
    checksum: Option<u32>,
    writing: Writing,
}

/// Who writes.
#[derive(Debug)]
enum Writing {
    /// Nobody yet: all that there is fits the buffer.
    Here(Target),
    /// A thread. It gives the target back at its end.
    Thread { full: SyncSender<(Buffer, u64)>, empty: Receiver<Buffer>, thread: JoinHandle<io::Result<Target>> },
    /// Nobody any more, after an error.
    Failed,
}

/// Memory that direct I/O takes.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    filled: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; CHUNK + BLOCK_LEN];
        let start = memory.as_ptr().align_offset(BLOCK_LEN).min(BLOCK_LEN);
        Self { memory, start, filled: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.filled).unwrap_or_default()
    }

    /// Takes as many bytes as there is room for; how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(CHUNK - self.filled);
        let at = self.start + self.filled;
        if let (Some(room), Some(bytes)) = (self.memory.get_mut(at..at + length), bytes.get(..length)) {
            room.copy_from_slice(bytes);
        }
        self.filled += length;
        length
    }
}

impl Out {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let target = Target::create(path)?;
        Ok(Self { buffer: Buffer::new(), base: BLOCK, checksum: None, writing: Writing::Here(target) })
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.base + self.buffer.filled as u64
    }

    /// From here on, what is appended goes into a checksum.
    pub(super) fn start_checksum(&mut self) {
        self.checksum = Some(crc32c::START);
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum.unwrap_or(crc32c::START)
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(sum) = self.checksum {
            self.checksum = Some(crc32c::update(sum, bytes));
        }
        loop {
            let taken = self.buffer.take(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            self.flush()?;
        }
    }

    /// Appends zeros up to the next block.
    pub(super) fn align(&mut self) -> io::Result<()> {
        self.zeros(missing(self.buffer.filled) as u64)
    }

    /// Appends `length` zeros that take no room on disk.
    pub(super) fn hole(&mut self, mut length: u64) -> io::Result<()> {
        let head = (missing(self.buffer.filled) as u64).min(length);
        self.zeros(head)?;
        length -= head;
        let whole = length - length % BLOCK;
        if whole > 0 {
            self.flush()?;
            self.base += whole;
        }
        self.zeros(length - whole)
    }

    /// Less than a block of them.
    fn zeros(&mut self, length: u64) -> io::Result<()> {
        let zeros = [0; BLOCK_LEN];
        self.put(zeros.get(..usize::try_from(length).unwrap_or(BLOCK_LEN)).unwrap_or_default())
    }

    /// Has the buffer, which must end at a block, written, and goes on with an empty one.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.filled == 0 {
            return Ok(());
        }
        if let Writing::Here(_) = self.writing {
            self.writing = match std::mem::replace(&mut self.writing, Writing::Failed) {
                Writing::Here(target) => start(target)?,
                other => other,
            };
        }
        let Writing::Thread { full, empty, .. } = &self.writing else { return Err(gone()) };
        let Ok(next) = empty.recv() else { return Err(self.failure()) };
        let ready = std::mem::replace(&mut self.buffer, next);
        let at = self.base;
        self.base += ready.filled as u64;
        if full.send((ready, at)).is_err() { Err(self.failure()) } else { Ok(()) }
    }

    /// Why the thread has ended early.
    fn failure(&mut self) -> io::Error {
        match std::mem::replace(&mut self.writing, Writing::Failed) {
            Writing::Thread { full, thread, .. } => {
                drop(full);
                thread.join().map_or_else(|_| gone(), |result| result.err().unwrap_or_else(gone))
            }
            _ => gone(),
        }
    }

    /// Ends the file: everything written, block 0 last, synced.
    pub(super) fn finish(mut self, block0: &[u8]) -> io::Result<File> {
        self.align()?;
        let mut target = match std::mem::replace(&mut self.writing, Writing::Failed) {
            Writing::Here(target) => target,
            Writing::Thread { full, thread, .. } => {
                drop(full);
                thread.join().map_err(|_| gone())??
            }
            Writing::Failed => return Err(gone()),
        };
        target.write(self.buffer.bytes(), self.base)?;
        let end = self.base + self.buffer.filled as u64;
        target.end(end, block0)
    }
}

fn gone() -> io::Error {
    io::Error::other("an earlier write failed")
}

fn start(mut target: Target) -> io::Result<Writing> {
    let (full, buffers) = sync_channel::<(Buffer, u64)>(BUFFERS);
    let (back, empty) = sync_channel(BUFFERS);
    for _ in 1..BUFFERS {
        // There is room for all that there are.
        let _ = back.send(Buffer::new());
    }
    let thread = std::thread::Builder::new().name("layer-write".to_owned()).spawn(move || {
        for (mut buffer, at) in buffers {
            target.write(buffer.bytes(), at)?;
            buffer.filled = 0;
            // Nobody waits for the last ones.
            let _ = back.send(buffer);
        }
        Ok(target)
    })?;
    Ok(Writing::Thread { full, empty, thread })
}

/// The file.
#[derive(Debug)]
struct Target {
    file: File,
    /// Whether it is written past the page cache.
    direct: bool,
    /// Up to where write-back was started, where it is not.
    started: u64,
}

impl Target {
    fn create(path: &Path) -> io::Result<Self> {
        let open = |flags| {
            OpenOptions::new().write(true).read(true).create_new(true).mode(0o400).custom_flags(flags).open(path)
        };
        match open(libc::O_DIRECT) {
            Ok(file) => Ok(Self { file, direct: true, started: 0 }),
            // Not every file system has it; some have made the file by now.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                match std::fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                Ok(Self { file: open(0)?, direct: false, started: 0 })
            }
            Err(e) => Err(e),
        }
    }

    /// Writes whole blocks at `at`, but no long run of zeros.
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        // `data` is what is to be written, and behind it lie `zeros` bytes of zeros.
        let (mut data, mut zeros) = (0..0, 0);
        for (begin, block) in (0..).step_by(BLOCK_LEN).zip(bytes.chunks(BLOCK_LEN)) {
            if is_zero(block) {
                zeros += block.len();
                continue;
            }
            if zeros >= HOLE || data.is_empty() {
                self.write_run(bytes, data, at)?;
                data = begin..begin;
            }
            (data.end, zeros) = (begin + block.len(), 0);
        }
        self.write_run(bytes, data, at)?;
        let end = at + bytes.len() as u64;
        if !self.direct && end - self.started >= WRITE_BACK {
            writeback::start(&self.file, self.started, end - self.started);
            self.started = end;
        }
        Ok(())
    }

    fn write_run(&mut self, bytes: &[u8], run: std::ops::Range<usize>, at: u64) -> io::Result<()> {
        let at = at + run.start as u64;
        let Some(run) = bytes.get(run).filter(|run| !run.is_empty()) else { return Ok(()) };
        match self.file.write_all_at(run, at) {
            // A disk with larger blocks than ours, or a file system that says only now that it has none of this.
            Err(e) if self.direct && e.raw_os_error() == Some(libc::EINVAL) => {
                self.through_the_cache()?;
                self.file.write_all_at(run, at)
            }
            result => result,
        }
    }

    fn through_the_cache(&mut self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags - rustix::fs::OFlags::DIRECT)?;
        self.direct = false;
        Ok(())
    }

    /// Block 0 and the length, then all of it durable.
    fn end(mut self, length: u64, block0: &[u8]) -> io::Result<File> {
        // Whoever reads it reads as it pleases.
        if self.direct {
            self.through_the_cache()?;
        }
        self.file.set_len(length)?;
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

    fn put_in_pieces(dir: &Path, direct: bool) {
        let data: Vec<u8> =
            (0..3_000_000_u32).map(|n| if n % 150_000 < 90_000 { 0 } else { n.to_le_bytes()[0] }).collect();
        for step in [1_000, 4_096, 70_000, 262_144, 262_145, 1_000_000, 5_000_000] {
            let path = dir.join(step.to_string());
            let mut out = Out::create(&path).unwrap();
            assert!(matches!(&out.writing, Writing::Here(target) if target.direct == direct));
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
            let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
            // Of a file in memory alone, the kernel counts its length.
            assert!(!direct || blocks * 512 < 2_300_000, "zeros take room: {blocks}");
        }
    }

    #[test]
    fn what_is_put_is_there_whatever_the_pieces() {
        put_in_pieces(tempfile::tempdir().unwrap().path(), true);
    }

    #[test]
    fn a_file_system_without_direct_io_is_written_through_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        // On a thread of its own: the mount goes with it.
        let work = move || {
            crate::sys::mount::private_namespace().unwrap();
            rustix::mount::mount(c"test", &at, c"ramfs", rustix::mount::MountFlags::empty(), None).unwrap();
            put_in_pieces(&at, false);
        };
        std::thread::spawn(work).join().unwrap();
    }
}

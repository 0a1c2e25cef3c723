//! Writing a container's log: lines out of whatever pieces its pipes give, in bounded memory, in files of bounded size.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::directory::{Directory, current, rotated};
use super::{Error, MAX_LINE, Stream, record};

/// Records are collected up to this size before they are written: one system call for many short lines, and yet small
/// memory however fast a container writes.
const BATCH: usize = 32 << 10;
/// How often, at most, the file is looked at: someone may have removed or truncated it, or the disk may be full.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a log is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// No file becomes larger than this many bytes.
    pub size: u64,
    /// How many files there are at most, the one that is written included.
    pub files: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { size: 10 << 20, files: 5 }
    }
}

/// Writes the log of one attempt.
#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    attempt: u32,
    rotation: Rotation,
    /// `None` while it cannot be opened.
    file: Option<File>,
    size: u64,
    looked: Instant,
    /// Beginnings of lines whose end has not come yet.
    held: [Vec<u8>; 2],
    batch: Vec<u8>,
    dropped: u64,
}

impl Writer {
    /// Opens `<log_dir>/<below>/<attempt>.log`; an existing one is continued.
    ///
    /// # Errors
    /// If a directory or the file cannot be made.
    pub fn open(log_dir: &Path, below: &Path, attempt: u32, rotation: Rotation) -> Result<Self, Error> {
        let directory = Directory::create(log_dir, below)?;
        let (file, size) = directory.append(&current(attempt))?;
        Ok(Self {
            directory,
            attempt,
            rotation,
            file: Some(file),
            size,
            looked: Instant::now(),
            held: [Vec::new(), Vec::new()],
            batch: Vec::new(),
            dropped: 0,
        })
    }

    /// The file that is written now.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(current(self.attempt))
    }

    /// How many bytes of records could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes what a container wrote. What cannot be written is dropped and counted: a full disk stops no container.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now: Timestamp) {
        let stamp = record::stamp(now);
        let mut held = std::mem::take(self.held_mut(stream));
        while !bytes.is_empty() {
            let room = MAX_LINE - held.len();
            let window = bytes.get(..room).unwrap_or(bytes);
            let (text, partial, used) = match window.iter().position(|b| *b == b'\n') {
                Some(end) => (window.get(..end), false, end + 1),
                None if window.len() == room => (Some(window), true, room),
                None => break,
            };
            record::append(&mut self.batch, &stamp, stream, partial, [&held, text.unwrap_or_default()]);
            held.clear();
            bytes = bytes.get(used..).unwrap_or_default();
            if self.batch.len() >= BATCH {
                self.flush();
            }
        }
        held.extend_from_slice(bytes);
        if held.is_empty() {
            // Most of the time, most containers say nothing: no memory for that.
            held = Vec::new();
        }
        *self.held_mut(stream) = held;
        self.flush();
        self.batch = Vec::new();
    }

    /// Ends a stream: a line that has no end yet is written as it is.
    pub fn end(&mut self, stream: Stream, now: Timestamp) {
        let held = std::mem::take(self.held_mut(stream));
        if !held.is_empty() {
            record::append(&mut self.batch, &record::stamp(now), stream, false, [&held, b""]);
            self.flush();
            self.batch = Vec::new();
        }
    }

    fn held_mut(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.held;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.look();
        let length = u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
        if self.file.is_some() && self.size > 0 && self.size.saturating_add(length) > self.rotation.size {
            self.rotate();
        }
        let written = self.file.as_mut().map(|file| {
            let written = file.write_all(&self.batch);
            if written.is_err() {
                // A torn record would spoil the next one.
                let _ = file.set_len(self.size);
            }
            written
        });
        match written {
            Some(Ok(())) => self.size = self.size.saturating_add(length),
            Some(Err(_)) | None => self.dropped = self.dropped.saturating_add(length),
        }
        self.batch.clear();
    }

    /// Sees whether the file is still the one that has its name, and how long it is.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        match self.file.as_ref().map(File::metadata) {
            Some(Ok(now)) if now.nlink() > 0 => self.size = now.len(),
            _ => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        self.file = None;
        if let Ok((file, size)) = self.directory.append(&current(self.attempt)) {
            self.file = Some(file);
            self.size = size;
        }
    }

    fn rotate(&mut self) {
        let name = |n| if n == 0 { current(self.attempt) } else { rotated(self.attempt, n) };
        let oldest = self.rotation.files.saturating_sub(1);
        for n in (0..oldest).rev() {
            self.directory.rename(&name(n), &name(n + 1));
        }
        // Whatever still has the name (files = 1, a rename that failed, a link planted between) goes: the bound on
        // space holds.
        self.directory.discard(&name(0));
        self.reopen();
        self.looked = Instant::now();
    }
}

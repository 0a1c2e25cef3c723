//! Reading what an attempt has written so far, over all of its files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::directory::{Directory, current, rotated};
use super::{Error, Line, MAX_LINE};

/// More files than a writer ever keeps; a bound on looking for them.
const MAX_FILES: u32 = 100;
/// A record is a line of at most [`MAX_LINE`] and some fields before it. What is longer is no record.
const MAX_RECORD: u64 = 1024 + MAX_LINE as u64;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Query {
    /// Only this many at the end.
    pub tail: Option<usize>,
    /// Only those from this time on.
    pub since: Option<Timestamp>,
}

/// How far reading has come: the file and the place in it.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) file: File,
    pub(super) inode: u64,
    pub(super) offset: u64,
}

/// Gives every line that is wanted to `each`, the oldest first, until it breaks. `container` is
/// `<log-dir>/<pod>/<container>`. No log at all is no error.
///
/// # Errors
/// If a file cannot be read.
pub fn read(
    container: &Path,
    attempt: u32,
    query: &Query,
    each: &mut dyn FnMut(Line) -> ControlFlow<()>,
) -> Result<(), Error> {
    let directory = match Directory::open(container) {
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    so_far(&directory, attempt, query, each).map(drop)
}

/// As [`read`], and says where it stopped; `None` if there is no file yet.
pub(super) fn so_far(
    directory: &Directory,
    attempt: u32,
    query: &Query,
    each: &mut dyn FnMut(Line) -> ControlFlow<()>,
) -> Result<Option<Position>, Error> {
    let files = files(directory, attempt)?;
    let failed = |source| Error { action: "read the log", path: directory.path().join(current(attempt)), source };
    let skip = match query.tail {
        Some(tail) => start_of_tail(&files, tail, query.since).map_err(failed)?,
        None => (0, 0),
    };
    let mut last = None;
    for (n, file) in files.into_iter().enumerate() {
        if n < skip.0 {
            continue;
        }
        let inode = file.metadata().map_err(failed)?.ino();
        let mut offset = if n == skip.0 { skip.1 } else { 0 };
        let mut flow = ControlFlow::Continue(());
        let read = records(&file, offset, &mut |line, next| {
            offset = next;
            if wanted(&line, query.since) {
                flow = each(line);
            }
            flow
        });
        read.map_err(failed)?;
        last = Some(Position { file, inode, offset });
        if flow.is_break() {
            break;
        }
    }
    Ok(last)
}

fn wanted(line: &Line, since: Option<Timestamp>) -> bool {
    since.is_none_or(|since| line.time >= since)
}

/// The files of an attempt, the oldest first. They are opened the newest first: a rotation in between then shows a file
/// twice, which is noticed, and never hides one.
pub(super) fn files(directory: &Directory, attempt: u32) -> Result<Vec<File>, Error> {
    let mut files: VecDeque<(u64, File)> = VecDeque::new();
    for n in 0..MAX_FILES {
        let name = if n == 0 { current(attempt) } else { rotated(attempt, n) };
        match directory.read(&name)? {
            Some(file) => {
                let source = |source| Error { action: "stat", path: directory.path().join(&name), source };
                let inode = file.metadata().map_err(source)?.ino();
                if files.iter().all(|(other, _)| *other != inode) {
                    files.push_front((inode, file));
                }
            }
            // The newest may be missing for an instant while it is rotated.
            None if n == 0 => {}
            None => break,
        }
    }
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

/// Gives each record from `offset` on, with the offset behind it. The end of a record that is still being written is
/// left for the next time.
pub(super) fn records(
    file: &File,
    offset: u64,
    each: &mut dyn FnMut(Line, u64) -> ControlFlow<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    reader.seek(SeekFrom::Start(offset))?;
    let (mut record, mut next) = (Vec::new(), offset);
    loop {
        record.clear();
        let got = reader.by_ref().take(MAX_RECORD).read_until(b'\n', &mut record)?;
        if got == 0 {
            return Ok(());
        }
        if record.last() != Some(&b'\n') {
            if u64::try_from(got).is_ok_and(|got| got < MAX_RECORD) {
                return Ok(());
            }
            // Not ours: on to the next newline.
            got_past_junk(&mut reader, &mut next, got)?;
            continue;
        }
        next = next.saturating_add(got.try_into().unwrap_or(u64::MAX));
        record.pop();
        if let Some(line) = Line::parse(&record)
            && each(line, next).is_break()
        {
            return Ok(());
        }
    }
}

fn got_past_junk(reader: &mut BufReader<&File>, next: &mut u64, got: usize) -> std::io::Result<()> {
    *next = next.saturating_add(got.try_into().unwrap_or(u64::MAX));
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        *next = next.saturating_add(used.try_into().unwrap_or(u64::MAX));
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Where the last `tail` whole lines begin: the file's number and the offset in it. Memory grows with `tail`, not with
/// the log.
fn start_of_tail(files: &[File], tail: usize, since: Option<Timestamp>) -> std::io::Result<(usize, u64)> {
    let mut starts: VecDeque<(usize, u64)> = VecDeque::new();
    let mut end = (0, 0);
    // A line of several records begins with the first that follows a whole one of its stream.
    let mut going_on = [false, false];
    for (n, file) in files.iter().enumerate() {
        let mut start = 0;
        records(file, 0, &mut |line, next| {
            let stream = match line.stream {
                super::Stream::Stdout => going_on.first_mut(),
                super::Stream::Stderr => going_on.last_mut(),
            };
            let begins = stream.is_none_or(|going_on| !std::mem::replace(going_on, line.partial));
            if begins && wanted(&line, since) {
                if starts.len() == tail {
                    starts.pop_front();
                }
                if tail > 0 {
                    starts.push_back((n, start));
                }
            }
            start = next;
            ControlFlow::Continue(())
        })?;
        end = (n, start);
    }
    Ok(starts.front().copied().unwrap_or(end))
}

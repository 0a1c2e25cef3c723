//! The end of a log, read from its end: what it costs does not grow with the log.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::directory::{Directory, current};
use super::read::files;
use super::{Error, Line};

/// What stands before the text of a record, and the newline behind it.
const RECORD_OVERHEAD: u64 = 64;

/// The last `lines` lines of an attempt's log, and of these the last `bytes` bytes, with their newlines. `container` is
/// `<log-dir>/<pod>/<container>`. No log at all is an empty one.
///
/// # Errors
/// If a file cannot be read.
pub fn last(container: &Path, attempt: u32, lines: usize, bytes: usize) -> Result<Vec<u8>, Error> {
    let directory = match Directory::open(container) {
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    // Enough for `bytes` records of one byte each, and for `lines` empty lines.
    let mut left = u64::try_from(bytes.max(lines)).unwrap_or(u64::MAX).saturating_mul(RECORD_OVERHEAD + 1);
    let mut pieces = VecDeque::new();
    for file in files(&directory, attempt)?.into_iter().rev() {
        let failed = |source| Error { action: "read the log", path: directory.path().join(current(attempt)), source };
        let length = file.metadata().map_err(failed)?.len();
        let start = length.saturating_sub(left);
        let mut piece = vec![0; usize::try_from(length - start).unwrap_or(0)];
        // The attempt is over: what is read here is not written to any more.
        file.read_exact_at(&mut piece, start).map_err(failed)?;
        if start > 0 {
            let whole = piece.iter().position(|b| *b == b'\n').map_or(piece.len(), |end| end + 1);
            piece.drain(..whole);
        }
        pieces.push_front(piece);
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
    let records = pieces.iter().flat_map(|piece| piece.split(|b| *b == b'\n')).filter_map(Line::parse);
    let mut text = Vec::new();
    for record in records {
        // Writing to a vector cannot fail.
        let _ = record.print(&mut text, false);
    }
    let start = start_of_lines(&text, lines).max(text.len().saturating_sub(bytes));
    text.drain(..start);
    Ok(text)
}

/// Where the last `lines` lines of a text begin.
fn start_of_lines(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut ends = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    match lines {
        0 => text.len(),
        lines => ends.nth(lines - 1).unwrap_or(0),
    }
}

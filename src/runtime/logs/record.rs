//! One record of a log: `<time> <stream> <F|P> <text>`.

use std::io::{self, Write};

use jiff::Timestamp;

use super::Stream;

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was read from the container (wall clock).
    pub time: Timestamp,
    /// Where it was written.
    pub stream: Stream,
    /// Whether the next record of this stream goes on with the same line.
    pub partial: bool,
    /// What was written, without the newline.
    pub text: Vec<u8>,
}

impl Line {
    /// Writes the text, with a newline unless the line goes on, and before it the time if that is asked for.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn print(&self, out: &mut impl Write, timestamps: bool) -> io::Result<()> {
        if timestamps {
            write!(out, "{:.9} ", self.time)?;
        }
        out.write_all(&self.text)?;
        if self.partial { Ok(()) } else { out.write_all(b"\n") }
    }

    /// Reads a record without its newline; `None` if it is none (an agent may die in the middle of a write).
    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        let mut fields = record.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match fields.next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, stream, partial, text: fields.next()?.to_vec() })
    }
}

/// A time as it stands in records: always with nine digits, so that all are of one length.
pub(super) fn stamp(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// Appends a record made of two pieces of text.
pub(super) fn append(out: &mut Vec<u8>, stamp: &str, stream: Stream, partial: bool, text: [&[u8]; 2]) {
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(match (stream, partial) {
        (Stream::Stdout, false) => b" stdout F ",
        (Stream::Stdout, true) => b" stdout P ",
        (Stream::Stderr, false) => b" stderr F ",
        (Stream::Stderr, true) => b" stderr P ",
    });
    for text in text {
        out.extend_from_slice(text);
    }
    out.push(b'\n');
}

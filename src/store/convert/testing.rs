//! Builds tars for tests, odd and hostile ones too, and converts them.

use std::path::Path;

use super::{Conversion, Converted, Error, Limits};
use crate::store::driver::Driver;
use crate::store::tree::Merged;

/// A tar being built; every method appends.
#[derive(Debug, Default, Clone)]
pub(in crate::store) struct Tar(pub(in crate::store) Vec<u8>);

/// An entry's header fields; see [`Tar::entry`].
#[derive(Debug, Clone)]
pub(in crate::store) struct Head<'a> {
    pub(in crate::store) name: &'a str,
    pub(in crate::store) kind: u8,
    pub(in crate::store) mode: u32,
    pub(in crate::store) uid: u32,
    pub(in crate::store) gid: u32,
    pub(in crate::store) mtime: u64,
    pub(in crate::store) link: &'a str,
    pub(in crate::store) device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self { name: "", kind: b'0', mode: 0o644, uid: 0, gid: 0, mtime: 1_000_000_000, link: "", device: (0, 0) }
    }
}

fn put(block: &mut [u8], at: usize, text: &[u8]) {
    block[at..at + text.len()].copy_from_slice(text);
}

/// Puts the right checksum into a header.
pub(in crate::store) fn seal(block: &mut [u8]) {
    put(block, 148, b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

impl Tar {
    pub(in crate::store) fn new() -> Self {
        Self::default()
    }

    /// A ustar header block with `size`, whatever it says about the rest.
    pub(in crate::store) fn header(head: &Head<'_>, size: u64) -> [u8; 512] {
        let mut b = [0_u8; 512];
        assert!(head.name.len() <= 100 && head.link.len() <= 100, "use pax for long names");
        put(&mut b, 0, head.name.as_bytes());
        put(&mut b, 100, format!("{:07o}\0", head.mode).as_bytes());
        put(&mut b, 108, format!("{:07o}\0", head.uid).as_bytes());
        put(&mut b, 116, format!("{:07o}\0", head.gid).as_bytes());
        put(&mut b, 124, format!("{size:011o}\0").as_bytes());
        put(&mut b, 136, format!("{:011o}\0", head.mtime).as_bytes());
        b[156] = head.kind;
        put(&mut b, 157, head.link.as_bytes());
        put(&mut b, 257, b"ustar\x0000");
        put(&mut b, 329, format!("{:07o}\0", head.device.0).as_bytes());
        put(&mut b, 337, format!("{:07o}\0", head.device.1).as_bytes());
        seal(&mut b);
        b
    }

    pub(in crate::store) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn padded(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(in crate::store) fn entry(self, head: &Head<'_>, data: &[u8]) -> Self {
        self.raw(&Self::header(head, data.len() as u64)).padded(data)
    }

    pub(in crate::store) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(&Head { name, ..Head::default() }, data)
    }

    pub(in crate::store) fn dir(self, name: &str) -> Self {
        self.entry(&Head { name, kind: b'5', mode: 0o755, ..Head::default() }, b"")
    }

    pub(in crate::store) fn symlink(self, name: &str, link: &str) -> Self {
        self.entry(&Head { name, link, kind: b'2', mode: 0o777, ..Head::default() }, b"")
    }

    pub(in crate::store) fn hard_link(self, name: &str, link: &str) -> Self {
        self.entry(&Head { name, link, kind: b'1', ..Head::default() }, b"")
    }

    pub(in crate::store) fn device(self, name: &str, kind: u8, device: (u32, u32)) -> Self {
        self.entry(&Head { name, kind, device, ..Head::default() }, b"")
    }

    /// A pax header for the next entry.
    pub(in crate::store) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    pub(in crate::store) fn extended(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(&Head { name: "pax", kind, ..Head::default() }, &body)
    }

    /// Two blocks of zeros.
    pub(in crate::store) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// Converts `tar`, fed in pieces of `step` bytes.
pub(in crate::store) fn convert_in(
    driver: Driver,
    staging: &Path,
    tar: &[u8],
    step: usize,
    limits: &Limits,
    below: &Merged,
) -> Result<Converted, Error> {
    let mut conversion = Conversion::begin(driver, staging, limits)?;
    for piece in tar.chunks(step) {
        conversion.feed(piece)?;
    }
    conversion.finish(*b"0123456789abcdef", &mut || Ok(below.clone()))
}

/// Converts `tar` by itself in a fresh directory.
pub(in crate::store) fn convert(driver: Driver, tar: &[u8]) -> Result<(tempfile::TempDir, Converted), Error> {
    convert_on(driver, tar, &Merged::default())
}

/// Converts `tar` on the layers `below`.
pub(in crate::store) fn convert_on(
    driver: Driver,
    tar: &[u8],
    below: &Merged,
) -> Result<(tempfile::TempDir, Converted), Error> {
    let dir = tempfile::tempdir().unwrap();
    let converted = convert_in(driver, dir.path(), tar, 64 << 10, &Limits::default(), below)?;
    Ok((dir, converted))
}

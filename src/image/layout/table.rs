//! Which files a tar holds and where their bytes are. For archives of images only: layers' tars go through
//! [`crate::store::convert`], which knows all that tars may hold.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The size of a header and the unit of everything in a tar.
const BLOCK: u64 = 512;
/// The most entries: an archive has some for each layer of each image.
const MAX_ENTRIES: usize = 100_000;
/// The longest name that an extended header may give.
const MAX_EXTENDED: u64 = 64 << 10;
/// How many links a name may lead through.
const MAX_LINKS: usize = 8;

/// Why a file's table cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error("it cannot be read ({0})")]
    Read(#[from] io::Error),
    #[error("it is no tar, nor one that gzip or zstd has compressed")]
    NotTar,
    #[error("its headers are not valid")]
    Header,
    #[error("it has too many or too large entries")]
    Limit,
}

/// An entry that may be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File { start: u64, length: u64 },
    Link { target: String },
}

/// The files of one tar by their names.
#[derive(Debug, Default)]
pub(super) struct Table(HashMap<String, Entry>);

impl Table {
    /// Reads the headers of `file`, which is `length` bytes long, and skips all else.
    pub(super) fn read(file: &File, length: u64) -> Result<Self, TableError> {
        let mut entries = HashMap::new();
        let (mut at, mut long_name, mut long_link) = (0, None, None);
        let mut count = 0_usize;
        while at + BLOCK <= length {
            let mut header = [0; 512];
            file.read_exact_at(&mut header, at)?;
            if header.iter().all(|b| *b == 0) {
                break;
            }
            if !checksum_ok(&header) {
                return Err(if at == 0 { TableError::NotTar } else { TableError::Header });
            }
            count += 1;
            let size = number(&header[124..136]).ok_or(TableError::Header)?;
            let start = at + BLOCK;
            let end = start.checked_add(size).filter(|end| *end <= length).ok_or(TableError::Header)?;
            at = end.checked_next_multiple_of(BLOCK).ok_or(TableError::Header)?;
            if count > MAX_ENTRIES {
                return Err(TableError::Limit);
            }
            let extended = |()| -> Result<Vec<u8>, TableError> {
                if size > MAX_EXTENDED {
                    return Err(TableError::Limit);
                }
                let mut text = vec![0; usize::try_from(size).map_err(|_| TableError::Limit)?];
                file.read_exact_at(&mut text, start)?;
                Ok(text)
            };
            match header[156] {
                b'L' => long_name = Some(text(&extended(())?)),
                b'K' => long_link = Some(text(&extended(())?)),
                b'x' => {
                    for (key, value) in pax(&extended(())?) {
                        match key.as_str() {
                            "path" => long_name = Some(value),
                            "linkpath" => long_link = Some(value),
                            // Files of 8 GiB and more: our base-256 or a pax size; the latter no tool writes here.
                            "size" if value.parse() != Ok(size) => return Err(TableError::Limit),
                            _ => {}
                        }
                    }
                }
                b'g' => {}
                kind => {
                    let name = long_name.take().unwrap_or_else(|| short_name(&header));
                    let target = long_link.take().unwrap_or_else(|| text(&header[157..257]));
                    let entry = match kind {
                        b'0' | 0 | b'7' => Some(Entry::File { start, length: size }),
                        b'1' => normal("", &target).map(|target| Entry::Link { target }),
                        b'2' => {
                            let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                            normal(dir, &target).map(|target| Entry::Link { target })
                        }
                        _ => None,
                    };
                    if let (Some(name), Some(entry)) = (normal("", &name), entry) {
                        entries.insert(name, entry);
                    }
                }
            }
        }
        Ok(Self(entries))
    }

    /// Where a file's bytes begin and how many there are.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal("", name)?;
        for _ in 0..=MAX_LINKS {
            match self.0.get(&name)? {
                Entry::File { start, length } => return Some((*start, *length)),
                Entry::Link { target } => name.clone_from(target),
            }
        }
        None
    }
}

/// A name without `.`, `..` and empty parts, seen from `dir`; `None` where it leads out.
fn normal(dir: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn checksum_ok(header: &[u8; 512]) -> bool {
    let sum: u64 =
        header.iter().enumerate().map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
    number(&header[148..156]) == Some(sum)
}

/// A number of a header: octal digits, or base-256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        return rest.iter().try_fold(u64::from(first & 0x7f), |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(*byte))
        });
    }
    let text = field.iter().copied().filter(|b| !matches!(b, b' ' | 0));
    text.into_iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value | u64::from(digit - b'0')),
        _ => None,
    })
}

/// Text up to its first NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn short_name(header: &[u8; 512]) -> String {
    let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
    // Only POSIX headers have a prefix; GNU's keep times there.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

/// The records of a pax header: `length key=value\n`.
fn pax(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut records = Vec::new();
    while let Some(space) = bytes.iter().position(|b| *b == b' ') {
        let Some(length) = std::str::from_utf8(&bytes[..space]).ok().and_then(|t| t.parse::<usize>().ok()) else {
            break;
        };
        let Some(record) = bytes.get(space + 1..length) else { break };
        let record = String::from_utf8_lossy(record);
        if let Some((key, value)) = record.trim_end_matches('\n').split_once('=') {
            records.push((key.to_owned(), value.to_owned()));
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out() {
        assert_eq!(normal("", "./a//b/../c").as_deref(), Some("a/c"));
        assert_eq!(normal("x", "../y/layer.tar").as_deref(), Some("y/layer.tar"));
        assert_eq!(normal("", "../a"), None);
        assert_eq!(normal("a/b", "../../../c"), None);
    }

    #[test]
    fn numbers_are_octal_or_base_256_and_never_overflow() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), None);
        assert_eq!(number(b"9"), None);
    }

    #[test]
    fn pax_records_with_wrong_lengths_end_the_reading() {
        assert_eq!(pax(b"12 path=abc\n"), [("path".to_owned(), "abc".to_owned())]);
        for nonsense in [&b"0 a=b\n"[..], b"99999999999999999999 a=b", b"x a=b", b"3 ", b" "] {
            assert!(pax(nonsense).is_empty(), "{nonsense:?}");
        }
    }
}

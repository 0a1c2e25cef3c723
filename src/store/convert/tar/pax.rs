//! pax extended headers (POSIX.1-2017, "pax Extended Header"), with the keys of GNU tar, star and libarchive.

use base64::Engine as _;

use super::header::Fault;
use crate::store::tree::{Time, Xattr};

/// What extended headers say about the next entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Sparse,
}

/// GNU's sparse files in pax form; three versions.
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    /// 1.0 keeps its map before the data.
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// The real name, where the header has one made up.
    pub(super) name: Option<Vec<u8>>,
    /// The length with holes.
    pub(super) size: Option<u64>,
    /// 0.0 and 0.1 keep their map here.
    pub(super) map: Option<Vec<(u64, u64)>>,
    /// The offset of a 0.0 segment whose length has not come yet.
    offset: Option<u64>,
}

/// Parses one extended header; `global` ones may not change where an entry lies or how long it is, since unpackers
/// differ in whether they heed that.
pub(super) fn parse(mut records: &[u8], global: bool, segments: usize, into: &mut Pax) -> Result<(), Fault> {
    while !records.is_empty() {
        let space = records.iter().position(|b| *b == b' ').ok_or("a pax record has no length")?;
        let digits = records.get(..space).unwrap_or_default();
        let length =
            decimal(digits).and_then(|n| usize::try_from(n).ok()).ok_or("a pax record's length is no number")?;
        let record = records
            .get(space + 1..length)
            .and_then(|r| r.strip_suffix(b"\n"))
            .ok_or("a pax record's length does not fit")?;
        let equals = record.iter().position(|b| *b == b'=').ok_or("a pax record has no value")?;
        let (key, value) = record.split_at(equals);
        set(key, value.get(1..).unwrap_or_default(), global, segments, into)?;
        records = records.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn set(key: &[u8], value: &[u8], global: bool, segments: usize, into: &mut Pax) -> Result<(), Fault> {
    let structural = matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.");
    if global && structural {
        return Err("a global pax header changes names or lengths");
    }
    // An empty value takes an earlier one back.
    let given = (!value.is_empty()).then_some(value);
    let count = || given.map(|v| decimal(v).ok_or("a pax number is not one")).transpose();
    match key {
        b"path" => into.path = name(given)?,
        b"linkpath" => into.link = name(given)?,
        b"size" => into.size = count()?,
        b"uid" => into.uid = count()?,
        b"gid" => into.gid = count()?,
        b"mtime" => into.mtime = given.map(|v| time(v).ok_or("a pax time is not one")).transpose()?,
        b"GNU.sparse.major" => into.sparse.major = count()?,
        b"GNU.sparse.minor" => into.sparse.minor = count()?,
        b"GNU.sparse.name" => into.sparse.name = name(given)?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => into.sparse.size = count()?,
        b"GNU.sparse.offset" => into.sparse.offset = count()?,
        b"GNU.sparse.numblocks" => into.sparse.map = Some(Vec::new()),
        b"GNU.sparse.numbytes" => {
            let (Some(offset), Some(length)) = (into.sparse.offset.take(), count()?) else {
                return Err("a sparse segment has no offset or no length");
            };
            push(into.sparse.map.get_or_insert_default(), (offset, length), segments)?;
        }
        b"GNU.sparse.map" => into.sparse.map = Some(map(value, segments)?),
        _ => {
            if let Some(key) = key.strip_prefix(b"SCHILY.xattr.") {
                attribute(&mut into.xattrs, key.to_vec(), value.to_vec(), true);
            } else if let Some(key) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let fault = "an extended attribute is not encoded as libarchive does";
                let value = base64(value).ok_or(fault)?;
                attribute(&mut into.xattrs, percent(key).ok_or(fault)?, value, false);
            }
        }
    }
    Ok(())
}

/// One value a name; the exact encoding goes before libarchive's.
fn attribute(xattrs: &mut Vec<Xattr>, key: Vec<u8>, value: Vec<u8>, exact: bool) {
    match xattrs.iter_mut().find(|(k, _)| **k == *key) {
        Some((_, old)) if exact => *old = value.into(),
        Some(_) => {}
        None => xattrs.push((key.into(), value.into())),
    }
}

fn push(map: &mut Vec<(u64, u64)>, segment: (u64, u64), limit: usize) -> Result<(), Fault> {
    if map.len() >= limit {
        return Err("a sparse file has too many segments");
    }
    map.push(segment);
    Ok(())
}

/// `offset,length,offset,length…`
fn map(value: &[u8], limit: usize) -> Result<Vec<(u64, u64)>, Fault> {
    let (mut map, mut offset) = (Vec::new(), None);
    for number in value.split(|b| *b == b',').filter(|_| !value.is_empty()) {
        let number = decimal(number).ok_or("a sparse map is not made of numbers")?;
        match offset.take() {
            None => offset = Some(number),
            Some(offset) => push(&mut map, (offset, number), limit)?,
        }
    }
    if offset.is_some() { Err("a sparse map ends in mid-segment") } else { Ok(map) }
}

fn name(value: Option<&[u8]>) -> Result<Option<Vec<u8>>, Fault> {
    match value {
        Some(v) if v.contains(&0) => Err("a name holds a NUL"),
        other => Ok(other.map(<[u8]>::to_vec)),
    }
}

/// Digits only; no sign, no spaces.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, b| match b {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// Seconds with a decimal fraction, cut to nanoseconds towards the past.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = value.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0_u32, |n, b| n * 10 + u32::from(b - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn base64(value: &[u8]) -> Option<Vec<u8>> {
    let bare = value.trim_ascii_end();
    let end = bare.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare.get(..end)?).ok()
}

fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            out.push(*first);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(records: &[u8]) -> Result<Pax, Fault> {
        let mut pax = Pax::default();
        parse(records, false, 3, &mut pax).map(|()| pax)
    }

    #[test]
    fn times_keep_their_fraction_on_both_sides_of_1970() {
        let at = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(time(b"1.5"), at(1, 500_000_000));
        assert_eq!(time(b"-1.5"), at(-2, 500_000_000));
        assert_eq!(time(b"-2"), at(-2, 0));
        assert_eq!(time(b"1.0000000019"), at(1, 1));
        assert_eq!(time(b"1."), at(1, 0));
        assert_eq!(time(b"x"), None);
        assert_eq!(time(b"1.5x"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        for bad in
            [&b"9 path=a\n\0"[..], b"99 path=a\n", b"0 path=a\n", b"path=a\n", b"7 path\n", b"8 path=a\n", b"2 \n"]
        {
            assert!(one(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(one(b"11 path=a\n").unwrap_err(), "a pax record's length does not fit");
        assert_eq!(one(b"9 path=a\n").unwrap().path.unwrap(), b"a");
    }

    #[test]
    fn values_may_hold_newlines_and_equal_signs() {
        let pax = one(b"29 SCHILY.xattr.user.a=b\n=c\0\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.a"[..].into(), b"b\n=c\0"[..].into())]);
    }

    #[test]
    fn an_empty_value_takes_an_earlier_one_back() {
        assert_eq!(one(b"9 path=a\n8 path=\n").unwrap().path, None);
    }

    #[test]
    fn the_encoding_of_libarchive_is_read_and_the_plain_one_goes_before() {
        let pax = one(b"36 LIBARCHIVE.xattr.user.a%3db=YWI=\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.a=b"[..].into(), b"ab"[..].into())]);
        let both = one(b"25 SCHILY.xattr.user.a=x\n32 LIBARCHIVE.xattr.user.a=YWI=\n").unwrap();
        assert_eq!(both.xattrs, [(b"user.a"[..].into(), b"x"[..].into())]);
    }

    #[test]
    fn a_map_has_at_most_as_many_segments_as_allowed() {
        assert!(map(b"0,1,2,3,4,5", 3).is_ok());
        assert!(map(b"0,1,2,3,4,5,6,7", 3).is_err());
        assert!(map(b"0,1,2", 3).is_err());
    }
}

//! Paths and names out of a tar, taken apart and checked.

use super::super::Error;

/// Longest name of one component, as in the kernel.
const NAME: usize = 255;
/// Longest path, as in the kernel.
const PATH: usize = 4096;

/// The components of `path`, without empty ones and `.`. An absolute path is one from the layer's root. `entry` is
/// the entry's name, for the message.
pub(in crate::store::convert) fn components<'a>(
    path: &'a [u8],
    entry: &[u8],
    depth: usize,
) -> Result<Vec<&'a [u8]>, Error> {
    let refuse = |what| Err(Error::refused(entry, what));
    if path.is_empty() {
        return refuse("it has no name");
    }
    if path.len() > PATH {
        return refuse("its path is too long");
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("its path has a .. in it"),
            part if part.len() > NAME => return refuse("a name in its path is too long"),
            part if part.contains(&0) => return refuse("a name in its path holds a NUL"),
            part => parts.push(part),
        }
    }
    if parts.len() > depth {
        return refuse("it lies too deep");
    }
    Ok(parts)
}

/// What the last component of an entry's path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// An entry of that name.
    Plain(&'a [u8]),
    /// Hide that name of the layers below.
    Whiteout(&'a [u8]),
    /// Hide everything of the layers below in this directory.
    Opaque,
    /// Left over from aufs; means nothing.
    Ignored,
}

impl<'a> Name<'a> {
    /// Reads a component; `entry` is the whole name, for the message.
    pub(super) fn parse(name: &'a [u8], entry: &[u8]) -> Result<Self, Error> {
        let Some(rest) = name.strip_prefix(b".wh.") else { return Ok(Self::Plain(name)) };
        match rest {
            b".wh..opq" => Ok(Self::Opaque),
            b"" | b"." | b".." => Err(Error::refused(entry, "it hides a name that nothing can have")),
            rest if rest.starts_with(b".wh.") => Ok(Self::Ignored),
            rest => Ok(Self::Whiteout(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_hostile_ones_refused() {
        assert_eq!(components(b"/./a//b/", b"", 2).unwrap(), [b"a", b"b"]);
        assert_eq!(components(b"./", b"", 0).unwrap(), [b""; 0]);
        for bad in [&b""[..], b"..", b"a/../b", b"/..", b"a/b/c", &[b'a'; 256], &b"a/".repeat(2049), b"a\0b"] {
            assert!(components(bad, b"", 2).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(components(&[b'a'; 255], b"", 1).is_ok());
    }

    #[test]
    fn whiteouts_of_dots_are_refused() {
        assert_eq!(Name::parse(b".wh.a", b"").unwrap(), Name::Whiteout(b"a"));
        assert_eq!(Name::parse(b".wh.-", b"").unwrap(), Name::Whiteout(b"-"));
        assert_eq!(Name::parse(b".wh..wh..opq", b"").unwrap(), Name::Opaque);
        assert_eq!(Name::parse(b".wh..wh.plnk", b"").unwrap(), Name::Ignored);
        assert_eq!(Name::parse(b".wha", b"").unwrap(), Name::Plain(b".wha"));
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(Name::parse(bad, b"").is_err());
        }
    }
}

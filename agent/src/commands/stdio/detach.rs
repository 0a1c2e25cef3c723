//! The keys that leave a session and let what runs in it go on: `ctrl-p,ctrl-q`, as docker and podman have them.

use std::str::FromStr;

/// A sequence of keys; none: nothing detaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl Keys {
    /// Nothing detaches.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }
}

impl FromStr for Keys {
    type Err = String;

    /// Single characters and `ctrl-X`, with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let key = |key: &str| {
            let control = key.strip_prefix("ctrl-").or_else(|| key.strip_prefix("Ctrl-"));
            match (control.unwrap_or(key).as_bytes(), control.is_some()) {
                ([byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')], true) => Some(byte & 0x1f),
                ([byte], false) if byte.is_ascii_graphic() => Some(*byte),
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| "expected keys like ctrl-p,ctrl-q or ctrl-a,d".to_owned())
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct Watch {
    keys: Keys,
    /// How many of them were typed last, and are held back.
    held: usize,
}

impl Watch {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, held: 0 }
    }

    /// What of `typed` is to be sent, and whether the sequence was typed to its end: then nothing after it counts.
    pub(super) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if keys.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(keys.get(..self.held).unwrap_or_default());
            self.held = usize::from(keys.len() > 1 && keys.first() == Some(&byte));
            if self.held == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(Keys::default()));
        assert_eq!("ctrl-a,d".parse(), Ok(Keys(vec![1, b'd'])));
        assert_eq!("".parse(), Ok(Keys(vec![])));
        for text in ["ctrl-", "ctrl-pq", "ab", "ctrl-p,", "ä"] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_whole_sequence_is_taken_out() {
        let mut watch = Watch::new(Keys::default());
        assert_eq!(watch.feed(b"ls\r"), (b"ls\r".to_vec(), false));
        // The first key waits for the next, and is sent with it if that is another.
        assert_eq!(watch.feed(&[16]), (vec![], false));
        assert_eq!(watch.feed(b"x"), (vec![16, b'x'], false));
        assert_eq!(watch.feed(&[16, 16]), (vec![16], false));
        assert_eq!(watch.feed(&[17, b'y']), (vec![], true));
        assert_eq!(Watch::new("".parse().unwrap()).feed(&[16, 17]), (vec![16, 17], false));
        assert_eq!(Watch::new("~".parse().unwrap()).feed(b"a~b"), (b"a".to_vec(), true));
    }
}

//! Names of what the store keeps, parsed before they meet a path: a layer's key, an image's identity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::oci::{ChainId, DiffId, Digest, DigestError};

/// What a chain key begins with, to tell it from a diffID.
const CHAIN: &str = "chain-";

/// The name of a stored layer, which is also the name of its directory.
///
/// A layer whose tar stands alone (every parent directory declared, every hardlink target held) is stored once by its
/// diffID, whatever lies below it. Any other depends on what it was unpacked over, and has its chainID as key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerKey {
    /// `sha256-<hex>`: the same on every base.
    Diff(DiffId),
    /// `chain-sha256-<hex>`: right only above the stack that the chainID names.
    Chain(ChainId),
}

impl LayerKey {
    /// The digest behind the key.
    pub const fn digest(&self) -> &Digest {
        match self {
            Self::Diff(DiffId(digest)) | Self::Chain(ChainId(digest)) => digest,
        }
    }

    /// The first twelve hexadecimal digits, for people and for metric labels.
    pub fn short(&self) -> &str {
        self.digest().short()
    }

    /// The keys under which the uppermost layer of `stack` (lowest first) can be stored, the better first.
    pub fn candidates(stack: &[DiffId]) -> Option<(Self, Self)> {
        let top = stack.last()?;
        Some((Self::Diff(top.clone()), Self::Chain(ChainId::of(stack)?)))
    }

    /// Sixteen bytes that only this key has, for file systems that carry an identity (EROFS' UUID).
    pub fn identity(&self) -> [u8; 16] {
        let text = Digest::sha256_of(format!("lamina layer {self}").as_bytes());
        let mut identity = [0; 16];
        for (byte, pair) in identity.iter_mut().zip(text.hex().as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| (value << 4) | hex_value(*digit));
        }
        identity
    }
}

/// The value of one lower-case hexadecimal digit, which a [`Digest`] is made of.
const fn hex_value(digit: u8) -> u8 {
    match digit {
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit & 0xf,
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diff(id) => f.write_str(&id.0.file_name()),
            Self::Chain(id) => write!(f, "{CHAIN}{}", id.0.file_name()),
        }
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LayerKey {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.strip_prefix(CHAIN) {
            Some(rest) => Digest::from_file_name(rest).map(|digest| Self::Chain(ChainId(digest))),
            None => Digest::from_file_name(text).map(|digest| Self::Diff(DiffId(digest))),
        }
    }
}

impl Serialize for LayerKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LayerKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An image as the store keeps it: the digest that a registry names it by (of its index, where it has one), and the
/// manifest that was chosen for this node. Both are the same for an image without an index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId {
    /// The digest of the index, or of the manifest where there is no index.
    pub top: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.top.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_directory_name() {
        let id = Digest::sha256_of(b"1");
        for key in [LayerKey::Diff(DiffId(id.clone())), LayerKey::Chain(ChainId(id))] {
            assert_eq!(key.to_string().parse::<LayerKey>().unwrap(), key);
        }
    }

    #[test]
    fn no_path_is_a_key() {
        for text in ["", "..", "chain-", "sha256-../x", "chain-chain-sha256-", "sha256:", "tags"] {
            assert!(text.parse::<LayerKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_diff_key_and_a_chain_key_of_one_digest_have_different_identities() {
        let one = [DiffId(Digest::sha256_of(b"1"))];
        let (diff, chain) = LayerKey::candidates(&one).unwrap();
        assert_eq!(diff.digest(), chain.digest());
        assert_ne!(diff.identity(), chain.identity());
        assert_ne!(diff.identity(), [0; 16]);
    }
}

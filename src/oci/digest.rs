//! Content digests as image-spec `descriptor.md#digests` defines them, parsed before their text ever meets a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A hash function that a digest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("digest {text:?} has no algorithm; expected sha256:<64 hexadecimal digits>")]
    NoAlgorithm {
        /// The text, cut to a bounded length.
        text: String,
    },
    /// The algorithm is none that a registry may use.
    #[error("digest algorithm {name:?} is not supported; expected sha256 or sha512")]
    Algorithm {
        /// The name before the colon, cut to a bounded length.
        name: String,
    },
    /// The part after the colon is not the right number of lower-case hexadecimal digits.
    #[error("digest {text:?} needs {want} lower-case hexadecimal digits after {algorithm}:")]
    Hex {
        /// The text, cut to a bounded length.
        text: String,
        /// How many digits the algorithm has.
        want: usize,
        /// The algorithm's name.
        algorithm: &'static str,
    },
}

/// `sha256:<hex>` or `sha512:<hex>`; only lower-case digits, so it is safe as a file name once `:` is replaced.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_sha256(&sha2::Sha256::digest(bytes).into())
    }

    /// The digest for a finished SHA-256 value.
    pub fn from_sha256(value: &[u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: to_hex(value).into() }
    }

    /// The digest for a finished SHA-512 value.
    pub fn from_sha512(value: &[u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hex: to_hex(value).into() }
    }

    /// The digest of `bytes` by `algorithm`, to compare with one that names it.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::sha256_of(bytes),
            Algorithm::Sha512 => Self::from_sha512(&sha2::Sha512::digest(bytes).into()),
        }
    }

    /// The hash function.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case hexadecimal digits after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, for people and for metric labels.
    pub fn short(&self) -> &str {
        self.hex.get(..12).unwrap_or(&self.hex)
    }

    /// `sha256-<hex>`: the digest as one path component.
    pub fn file_name(&self) -> String {
        format!("{}-{}", self.algorithm.name(), self.hex)
    }

    /// Reads what [`Digest::file_name`] wrote.
    ///
    /// # Errors
    /// As [`Digest::from_str`].
    pub fn from_file_name(name: &str) -> Result<Self, DigestError> {
        name.replacen('-', ":", 1).parse()
    }
}

/// Lower-case hexadecimal digits of `bytes`.
fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// At most 80 characters of an untrusted text, for an error message.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm { text: cut(text) })?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm { name: cut(name) }),
        };
        let want = algorithm.hex_len();
        if hex.len() != want || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Hex { text: cut(text), want, algorithm: algorithm.name() });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a layer's uncompressed tar (image-spec `config.md`, `rootfs.diff_ids`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The digest of a stack of layers applied one on another (image-spec `config.md#layer-chainid`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chainID of `stack`, lowest layer first; `None` for an empty stack.
    pub fn of(stack: &[DiffId]) -> Option<Self> {
        let (first, rest) = stack.split_first()?;
        Some(rest.iter().fold(Self(first.0.clone()), |below, next| below.above(next)))
    }

    /// The chainID of this stack with one more layer on it.
    pub fn above(&self, next: &DiffId) -> Self {
        Self(Digest::sha256_of(format!("{} {}", self.0, next.0).as_bytes()))
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_digest_is_refused() {
        for text in ["sha256:../../x", "sha256", "md5:00", "sha256:", &format!("sha256:{}", "A".repeat(64))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_digest_survives_its_file_name() {
        let digest = Digest::sha256_of(b"lamina");
        assert_eq!(Digest::from_file_name(&digest.file_name()).unwrap(), digest);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn a_stack_of_one_has_its_diff_id_as_chain_id() {
        let one = DiffId(Digest::sha256_of(b"1"));
        assert_eq!(ChainId::of(std::slice::from_ref(&one)).unwrap().0, one.0);
        assert!(ChainId::of(&[]).is_none());
    }
}

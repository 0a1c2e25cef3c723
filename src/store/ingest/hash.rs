//! A digest over bytes as they pass, by the algorithm that the expected digest names.

use std::fmt;

use sha2::Digest as _;

use crate::oci::{Algorithm, Digest};

/// A digest that is being computed.
pub(super) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(_) => f.write_str("sha256"),
            Self::Sha512(_) => f.write_str("sha512"),
        }
    }
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::from_sha256(&hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::from_sha512(&hasher.finalize().into()),
        }
    }
}

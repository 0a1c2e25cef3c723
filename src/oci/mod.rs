//! Image names and documents, parsed from untrusted text: digests, references, manifests, indexes, configs. No I/O.

mod digest;
mod reference;

pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError};
pub use reference::{Reference, ReferenceError};

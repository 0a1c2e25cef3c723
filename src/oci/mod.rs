//! Image names and documents, parsed from untrusted text: digests, references, manifests, indexes, configs. No I/O.

mod config;
mod digest;
mod manifest;
pub mod media_type;
mod platform;
mod reference;

pub use config::{ImageConfig, ImageSummary};
pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError};
pub use manifest::{
    Descriptor, Document, DocumentError, Index, IndexEntry, MAX_CONFIG_BYTES, MAX_INDEX_ENTRIES, MAX_LAYER_BYTES,
    MAX_LAYERS, MAX_MANIFEST_BYTES, Manifest,
};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};

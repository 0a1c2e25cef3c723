//! Bytes from a registry (or a file) into the store.
//!
//! ```text
//! PullRequest ─▶ resolve: name → manifest, config ─▶ hold ─▶ layers, each by a shared flight ─▶ put_image ─▶ tag
//!                   │ client: auth, mirrors, retries            │ one fetch a diffID on the whole node
//!                   └ layout: an OCI directory                  └ client::Blob ─▶ store::Ingest
//! ```
//!
//! Invariants: a pull's ref is on disk before its first layer is; nothing is used by a tag after it was resolved, only
//! by digest; a cached private image is given only to who could have pulled it ([`crate::store::Proof`]). Layers are
//! shared by digest: who can name a layer's digest in a manifest of his own is taken to have its content, as in every
//! content-addressed store.
//!
//! Concurrency: any number of pulls at once; dropping a pull's future cancels that pull, and a fetch that nobody
//! waits for any more ends with it.

mod client;
mod config;
mod credentials;
mod error;
mod flight;
mod images;
mod layout;
mod load;
mod metrics;
mod name;
mod preview;
mod pull;
mod request;
mod resolve;
mod save;
#[cfg(test)]
mod tests;

pub use client::{ClientError, Fault};
pub use config::{ConfigError, RegistryConfig};
pub use credentials::{Credential, DockerConfigSecret, Secret, SecretError};
pub use error::{Error, Reason, Retry};
pub use images::Images;
pub use load::Loaded;
pub use name::{ImageName, LayoutTag, NameError};
pub use preview::Preview;
pub use request::{Holder, LayerPlan, Progress, PullPolicy, PullRequest, Pulled, PulledLayer};
pub use save::{Archive, ArchiveFormat, SaveError, Saved};

/// Registers the families of pulls without anything that moves them, for documentation.
///
/// # Errors
/// If a name is taken.
pub(crate) fn describe(registry: &crate::metrics::Registry) -> Result<(), crate::metrics::Error> {
    metrics::Metrics::new(registry).map(drop)
}

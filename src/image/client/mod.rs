//! The registry client (distribution-spec, "Pull"): one repository, its manifests and blobs.
//!
//! ```text
//! Repository ──▶ Site (a mirror, or the registry itself): its credential and token
//!     │            └─▶ convince: challenge → token server
//!     ├─▶ manifest, small_blob: each site in turn, each a few times
//!     └─▶ Blob: a stream that resumes
//!                  └─▶ Transport: one request, its redirects, TLS, reach, waits
//! ```

mod auth;
mod blob;
mod challenge;
mod error;
mod reach;
mod repository;
mod retry;
mod transport;

pub(super) use blob::Blob;
pub use error::{ClientError, Fault};
pub(super) use repository::{Fetched, Repository};
pub(super) use retry::Timing;
pub(super) use transport::Transport;

//! Why an image could not be had, and whether asking again will help.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::client::{ClientError, Fault};
use super::config::ConfigError;
use crate::oci::{Digest, DocumentError};
use crate::store;

/// Whether and when the same request is worth making again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before the image's name, the pod's secrets or the node's configuration change: asking again gives the same.
    OnChange,
    /// With growing waits: the registry, the network or the disk may be better later.
    Backoff,
    /// Not at all: the content itself is refused, and its digest will always name that content.
    Never,
}

/// Why a pull failed, as `lamina_image_pulls_total` labels it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The registry's name has no address.
    Dns,
    /// No connection, or one that broke.
    Connect,
    /// A certificate or a handshake.
    Tls,
    /// Credentials are missing, wrong or not enough.
    Auth,
    /// No such repository, tag or blob.
    NotFound,
    /// The registry wants to be asked less often.
    RateLimited,
    /// Bytes that are not what their digest names.
    Digest,
    /// A document or a layer that is refused.
    Unpack,
    /// The disk is full.
    Space,
    /// Given up by who asked.
    Cancelled,
    /// Anything else.
    Other,
}

impl Reason {
    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::NotFound => "notfound",
            Self::RateLimited => "ratelimited",
            Self::Digest => "digest",
            Self::Unpack => "unpack",
            Self::Space => "space",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry did not give it.
    #[error("cannot fetch {what}")]
    Registry {
        /// The image or layer.
        what: String,
        /// Why not.
        source: ClientError,
    },
    /// The node's credentials or configuration cannot be used.
    #[error("cannot find credentials for {image}")]
    Credentials {
        /// The image.
        image: String,
        /// Why not.
        source: ConfigError,
    },
    /// The node's configuration cannot be used for this registry.
    #[error("cannot ask for {image}")]
    Config {
        /// The image.
        image: String,
        /// Why not.
        source: ConfigError,
    },
    /// A manifest, an index or a config is refused.
    #[error("{image} is refused")]
    Document {
        /// The image.
        image: String,
        /// Why.
        source: DocumentError,
    },
    /// A document is not what its digest names.
    #[error("the {what} of {image} has digest {got}, expected {want}")]
    Digest {
        /// `manifest` or `config`.
        what: &'static str,
        /// The image.
        image: String,
        /// The digest that was named.
        want: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// The image is not here, and its pull policy forbids to fetch it.
    #[error("{image} is not present, and its pull policy is Never")]
    NotPresent {
        /// The image.
        image: String,
    },
    /// The image is here, but was got with credentials that the pod does not have.
    #[error("{image} is present, but this pod has no credentials for it")]
    NotYours {
        /// The image.
        image: String,
        /// What the registry said when it was asked, if it was.
        source: Option<Box<Error>>,
    },
    /// The store refused or failed.
    #[error("cannot store {what}")]
    Store {
        /// The image or layer.
        what: String,
        /// Why.
        source: store::Error,
    },
    /// A local file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A local file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A local file or directory is no image.
    #[error("{} is not an OCI layout or docker archive: {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A fetch that this pull shared with others, failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// The pull was given up.
    #[error("the pull of {image} was given up")]
    Cancelled {
        /// The image or layer.
        image: String,
    },
}

impl Error {
    /// Whether and when to try again.
    pub fn class(&self) -> Retry {
        match self {
            Self::Registry { source, .. } => class_of(source),
            Self::Config { .. } | Self::NotPresent { .. } => Retry::OnChange,
            Self::Document { .. } | Self::Archive { .. } => Retry::Never,
            Self::Credentials { .. }
            | Self::Digest { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Cancelled { .. } => Retry::Backoff,
            Self::NotYours { source, .. } => source.as_ref().map_or(Retry::OnChange, |e| e.class()),
            Self::Store { source, .. } => match source {
                store::Error::Image { .. } => Retry::Never,
                store::Error::Convert { .. } if !source.is_space() => Retry::Never,
                _ => Retry::Backoff,
            },
            Self::Shared(shared) => shared.class(),
        }
    }

    /// The metric's label.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Registry { source, .. } => reason_of(source),
            Self::Credentials { .. } | Self::NotYours { .. } => Reason::Auth,
            Self::Document { .. } | Self::Archive { .. } => Reason::Unpack,
            Self::Digest { .. } => Reason::Digest,
            Self::NotPresent { .. } => Reason::NotFound,
            Self::Store { source, .. } if source.is_space() => Reason::Space,
            Self::Store { source, .. } => match source {
                store::Error::Digest { .. } | store::Error::Size { .. } => Reason::Digest,
                store::Error::Convert { .. } | store::Error::Image { .. } => Reason::Unpack,
                _ => Reason::Other,
            },
            Self::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Reason::Space,
            Self::Config { .. } | Self::Read { .. } | Self::Write { .. } => Reason::Other,
            Self::Shared(shared) => shared.reason(),
            Self::Cancelled { .. } => Reason::Cancelled,
        }
    }

    /// For how long the registry asked to be left alone: no earlier attempt is welcome. At most ten minutes.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Registry { source, .. } => source.retry_after(),
            Self::NotYours { source, .. } => source.as_ref()?.retry_after(),
            Self::Shared(shared) => shared.retry_after(),
            _ => None,
        }
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match (self, self.reason()) {
            (Self::NotPresent { .. }, _) => Some("pull or load it first, or set imagePullPolicy: IfNotPresent"),
            (_, Reason::Auth) => {
                Some("give credentials: imagePullSecrets in the pod, or registries.yaml or ~/.docker/config.json here")
            }
            (_, Reason::NotFound) => Some("check the image's name and tag"),
            (_, Reason::Tls) => Some("name the registry's CA in registries.yaml (ca:), or check this node's clock"),
            (_, Reason::Dns | Reason::Connect) => Some("check the registry's name and this node's network"),
            (_, Reason::Space) => Some("free space with `lamina gc`, or see what takes it with `lamina df`"),
            _ => None,
        }
    }
}

fn class_of(error: &ClientError) -> Retry {
    match error {
        ClientError::ForeignRealm { .. } | ClientError::Setup { .. } => Retry::OnChange,
        // Someone may push the tag or grant the right any minute; Kubernetes backs off as well.
        _ => Retry::Backoff,
    }
}

fn reason_of(error: &ClientError) -> Reason {
    match error {
        ClientError::Transport { fault: Fault::Dns, .. } => Reason::Dns,
        ClientError::Transport { fault: Fault::Tls, .. } | ClientError::Setup { .. } => Reason::Tls,
        ClientError::Transport { .. } | ClientError::Stalled { .. } => Reason::Connect,
        ClientError::Unauthorized { .. } | ClientError::ForeignRealm { .. } => Reason::Auth,
        ClientError::Status { status, .. } => match status.as_u16() {
            404 => Reason::NotFound,
            429 => Reason::RateLimited,
            _ => Reason::Other,
        },
        ClientError::Redirect { .. } | ClientError::TooLarge { .. } | ClientError::Protocol { .. } => Reason::Other,
    }
}

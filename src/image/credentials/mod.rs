//! Credentials: what they are, where they come from, and for which repository each was given.
//!
//! ```text
//! pod's imagePullSecrets ─▶ registries.yaml ─▶ its helper ─▶ ~/.docker/config.json: credHelpers, auths, credsStore
//! ```
//!
//! A pod's secrets that match are tried first, the most exact first, and the node's own after them. A secret never
//! starts a program: only the node's administrator names helpers.

mod docker;
mod helper;
mod keychain;

use std::fmt;

use serde::Deserialize;

pub use docker::{DockerConfigSecret, SecretError};
pub(super) use helper::helper_name_ok;
pub(super) use keychain::{Candidate, Keychain, Origin};

/// A text that is never shown: not by `Debug`, not in an error.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password, for Basic or for a token server.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token, which a token server makes access tokens of.
    Identity {
        /// The token.
        token: Secret,
    },
    /// A bearer token to be sent as it is.
    Bearer {
        /// The token.
        token: Secret,
    },
}

impl Credential {
    /// A name and a secret that tell this credential from any other, for proofs of access.
    pub(super) fn parts(&self) -> (&str, &str) {
        match self {
            Self::Basic { username, password } => (username, password.expose()),
            // No user can be called so: a colon ends a Basic user name.
            Self::Identity { token } => ("identity:", token.expose()),
            Self::Bearer { token } => ("bearer:", token.expose()),
        }
    }
}

//! Image references: `[registry[:port]/]repository[:tag][@digest]`, as the distribution project's grammar has them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError, cut};

/// The longest repository name the grammar allows.
const MAX_REPOSITORY: usize = 255;
/// The longest tag the grammar allows.
const MAX_TAG: usize = 128;
/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A part of the name breaks the grammar.
    #[error("image name {text:?}: {reason}")]
    Grammar {
        /// The text, cut to a bounded length.
        text: String,
        /// Which part and what is wrong with it.
        reason: &'static str,
    },
    /// The part after `@` is not a digest.
    #[error("image name {text:?} has a bad digest")]
    Digest {
        /// The text, cut to a bounded length.
        text: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

/// A full image reference; a name without a registry means docker.io, one without tag and digest means `latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host and, where one is written, port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one is written or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one is written.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether Kubernetes would pull it always by default: tag `latest`, written or implied, and no digest.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }

    /// The same repository by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

fn repository_ok(path: &str) -> bool {
    // component := [a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*
    path.split('/').all(|component| {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = component.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        alnum(*first)
            && alnum(*last)
            && bytes.split(|b| alnum(*b)).all(|sep| {
                sep.is_empty() || sep == b"." || sep == b"_" || sep == b"__" || sep.iter().all(|b| *b == b'-')
            })
    })
}

fn tag_ok(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

fn registry_ok(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0));
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    port_ok && host_ok
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = |reason| ReferenceError::Grammar { text: cut(text), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest { text: cut(text), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':', '[']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !registry_ok(registry) {
            return Err(bad("the registry is not a host name, an address or either with a port"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !repository_ok(repository) {
            return Err(bad("the repository must be lower-case words separated by '/', '.', '_' or '-'"));
        }
        if repository.len() > MAX_REPOSITORY {
            return Err(bad("the repository is longer than 255 characters"));
        }
        if tag.is_some_and(|t| !tag_ok(t)) {
            return Err(bad("the tag must be 1 to 128 letters, digits, '_', '.' or '-'"));
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_ascii_lowercase(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_elsewhere() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/b", "localhost/b:latest"),
            ("127.0.0.1:5000/game:1", "127.0.0.1:5000/game:1"),
            ("[::1]:5000/x/y", "[::1]:5000/x/y:latest"),
            ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for text in ["", "A", "a//b", "../x", "a:", "a:..", "a@sha256:0", "a.b/", "x_-y", "h:99999/a", "a b", "-a"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}

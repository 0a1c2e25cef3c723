//! The platform of an image and the choice among those of an index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::cut;

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {text:?} is not os/architecture or os/architecture/variant, such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError {
    /// The text, cut to a bounded length.
    pub text: String,
}

/// An operating system, an architecture by Go's names and, where it matters, a variant of that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// The platform of this node.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// A platform from its parts as a document has them, in the normal form: `arm64/v8` is `arm64`, `x86_64` is `amd64`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (architecture, variant.filter(|v| !v.is_empty())) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", None) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", None) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("i386", variant) => ("386", variant),
            other => other,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// How well an image for `self` runs on `node`: 0 is best, `None` not at all.
    ///
    /// A 32-bit arm node runs older variants too, the newest first. A variant that the node does not name (amd64/v3,
    /// say) needs more than the architecture promises.
    pub fn fit(&self, node: &Self) -> Option<u8> {
        if self.os != node.os || self.architecture != node.architecture {
            return None;
        }
        if self.variant == node.variant {
            return Some(0);
        }
        let Some(image) = self.variant.as_deref() else { return Some(u8::MAX) };
        let number = |v: &str| v.strip_prefix('v').and_then(|n| n.parse::<u8>().ok());
        number(node.variant.as_deref()?)?.checked_sub(number(image)?)
    }
}

impl Platform {
    /// Whether what says it is for `self` can be for a machine like `node` at all: the same system and architecture,
    /// where it says so (images that were imported from a tar may not).
    pub fn is_for_machine(&self, node: &Self) -> bool {
        let same = |image: &str, node: &str| image.is_empty() || image == node;
        same(&self.os, &node.os) && same(&self.architecture, &node.architecture)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError { text: cut(text) };
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next().ok_or_else(bad)?, parts.next().ok_or_else(bad)?);
        let variant = parts.next();
        let word =
            |s: &str| !s.is_empty() && s.len() <= 32 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if parts.next().is_some() || ![Some(os), Some(architecture), variant].into_iter().flatten().all(word) {
            return Err(bad());
        }
        Ok(Self::new(os, architecture, variant))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_of_one_platform_are_equal() {
        assert_eq!(platform("linux/arm64/v8"), platform("linux/aarch64"));
        assert_eq!(platform("linux/amd64/v1"), platform("linux/x86_64"));
        assert_eq!(platform("linux/arm/7").to_string(), "linux/arm/v7");
    }

    #[test]
    fn an_arm_node_runs_older_variants_and_never_newer_ones() {
        let node = platform("linux/arm/v7");
        assert_eq!(platform("linux/arm/v7").fit(&node), Some(0));
        assert_eq!(platform("linux/arm/v6").fit(&node), Some(1));
        assert_eq!(platform("linux/arm/v8").fit(&node), None);
    }

    #[test]
    fn a_variant_that_needs_more_than_the_node_promises_does_not_run() {
        assert_eq!(platform("linux/amd64/v3").fit(&platform("linux/amd64")), None);
        assert_eq!(platform("windows/amd64").fit(&platform("linux/amd64")), None);
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "linux/arm/v7/x", "linux/../x", "/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}

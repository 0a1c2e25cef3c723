//! The image names that a person or a manifest may write: a reference into a registry, or a local OCI layout directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::oci::{Digest, Reference, ReferenceError};

/// What a name of an OCI layout directory begins with.
const LAYOUT: &str = "oci:";

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// `oci:` without a usable directory.
    #[error("image name {text:?}: expected oci:/absolute/directory:tag or oci:/absolute/directory@digest")]
    Layout {
        /// The text, cut to a bounded length.
        text: String,
    },
}

/// Which image of an OCI layout directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LayoutTag {
    /// The only one there is.
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

/// A reference into a registry (`game:1`), or `oci:DIR[:TAG]`, an OCI layout directory on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageName {
    /// In a registry.
    Registry(Reference),
    /// In a directory.
    Layout {
        /// The layout directory, absolute.
        dir: PathBuf,
        /// Which of its images.
        tag: LayoutTag,
    },
}

impl ImageName {
    /// Whether Kubernetes would pull it always unless told otherwise: `latest`, written or implied.
    pub fn is_latest(&self) -> bool {
        match self {
            Self::Registry(reference) => reference.is_latest(),
            // A directory is at hand: looking costs nothing, and what changed there is wanted.
            Self::Layout { tag, .. } => !matches!(tag, LayoutTag::Digest(_)),
        }
    }

    /// The reference under which the image is tagged in the store.
    ///
    /// A layout's image is `localhost/<last part of the directory>:<tag>`, so that it can be named without its
    /// directory. Characters that no repository may have become `-`; a tag that no reference may have gives `None`.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Self::Registry(reference) => Some(reference.clone()),
            Self::Layout { dir, tag } => {
                let base = repository_of(dir);
                let text = match tag {
                    LayoutTag::Only => format!("localhost/{base}"),
                    LayoutTag::Tag(tag) => format!("localhost/{base}:{tag}"),
                    LayoutTag::Digest(digest) => format!("localhost/{base}@{digest}"),
                };
                text.parse().ok()
            }
        }
    }
}

/// A repository's name for a directory or an archive.
fn repository_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".tar").unwrap_or(&name);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let words: Vec<_> = name.split('.').map(|w| w.chars().map(plain).collect::<String>()).collect();
    let joined = words.iter().map(|w| w.trim_matches('-')).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(".");
    if joined.is_empty() { "image".to_owned() } else { joined }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(rest) = text.strip_prefix(LAYOUT) else { return Ok(Self::Registry(text.parse()?)) };
        let bad = || NameError::Layout { text: text.chars().take(80).collect() };
        let (dir, tag) = if let Some((dir, digest)) = rest.rsplit_once('@') {
            (dir, LayoutTag::Digest(digest.parse().map_err(|_| bad())?))
        } else {
            match rest.rsplit_once(':') {
                Some((dir, tag)) if !tag.is_empty() && !tag.contains('/') => (dir, LayoutTag::Tag(tag.to_owned())),
                Some(_) => return Err(bad()),
                None => (rest, LayoutTag::Only),
            }
        };
        if !Path::new(dir).is_absolute() || dir.contains('\0') {
            return Err(bad());
        }
        Ok(Self::Layout { dir: dir.into(), tag })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { dir, tag } => {
                write!(f, "{LAYOUT}{}", dir.display())?;
                match tag {
                    LayoutTag::Only => Ok(()),
                    LayoutTag::Tag(tag) => write!(f, ":{tag}"),
                    LayoutTag::Digest(digest) => write!(f, "@{digest}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_name_survives_its_text() {
        let digest = Digest::sha256_of(b"x");
        for text in ["oci:/srv/game:1.0", "oci:/srv/game", &format!("oci:/srv/game@{digest}")] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert!(matches!(name, ImageName::Layout { .. }));
        }
    }

    #[test]
    fn a_layout_image_is_tagged_by_its_directory() {
        let name: ImageName = "oci:/srv/Game:1.0".parse().unwrap();
        assert_eq!(name.reference().unwrap().to_string(), "localhost/game:1.0");
        let odd: ImageName = "oci:/srv/.a b_C..tar:1".parse().unwrap();
        assert_eq!(odd.reference().unwrap().to_string(), "localhost/a-b-c:1");
    }

    #[test]
    fn a_relative_or_tagless_layout_is_refused() {
        for text in ["oci:", "oci:srv:1", "oci:/srv:", "oci:/srv@sha256:0", "oci:./x:1"] {
            assert!(matches!(text.parse::<ImageName>(), Err(NameError::Layout { .. })), "{text}");
        }
    }
}

//! Manifests and indexes (image-spec `manifest.md`, `image-index.md`; Docker's schema 2), read from untrusted bytes.
//!
//! [`Document::parse`] decides by the document's own `mediaType`, then by what the transport said, then by its shape. A
//! document that could be read as both kinds is refused (CVE-2021-41190): two readers of one digest must see one image.

use serde::Deserialize;

use super::digest::{Digest, DigestError, cut};
use super::media_type::MediaKind;
use super::platform::Platform;

/// The largest manifest or index: what distribution-spec asks registries to take at least, and containerd at most.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest image configuration. Real ones are below 100 KiB.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The most layers: overlayfs stacks 500 lower directories at most (`OVL_MAX_STACK`), and the 500th is kept free.
pub const MAX_LAYERS: usize = 499;
/// The most manifests in one index. Real ones have some dozens.
pub const MAX_INDEX_ENTRIES: usize = 1000;
/// The largest compressed layer. The largest real ones (models, data sets) are some ten GiB.
pub const MAX_LAYER_BYTES: u64 = 128 << 30;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is longer than its kind may be.
    #[error("the {kind} is larger than {max} bytes")]
    TooLarge {
        /// `manifest`, `index` or `config`.
        kind: &'static str,
        /// The limit.
        max: u64,
    },
    /// It is not JSON of the expected shape.
    #[error("the {kind} is not valid JSON of its kind")]
    Json {
        /// `manifest`, `index` or `config`.
        kind: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is both a manifest and an index, or neither.
    #[error("the document can be read as {0}")]
    Ambiguous(&'static str),
    /// Docker's schema 1, withdrawn and unsafe.
    #[error("docker schema 1 images are not supported; push the image again with a current tool")]
    Schema1,
    /// A media type that Lamina does not read in this place.
    #[error("media type {media_type:?} is not supported for {what}")]
    MediaType {
        /// `a manifest`, `a layer`, `an image config` or `an index entry`.
        what: &'static str,
        /// The media type, cut to a bounded length.
        media_type: String,
    },
    /// A digest in it is malformed.
    #[error("{what} has a bad digest")]
    Digest {
        /// Which descriptor.
        what: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// More parts than any real image has.
    #[error("{count} {what} are more than the {max} allowed")]
    TooMany {
        /// `layers` or `manifests in an index`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A part of a size beyond its limit.
    #[error("{what} of {size} bytes is larger than the {max} allowed")]
    TooBig {
        /// `a layer`, `the image config` or `a manifest`.
        what: &'static str,
        /// What the descriptor says.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// Manifest and config disagree.
    #[error("the manifest has {layers} layers and the config {diff_ids} diff_ids")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// diffIDs in the config.
        diff_ids: usize,
    },
    /// No manifest of the index runs here.
    #[error("the index has no image for {platform}, only for {available}")]
    NoPlatform {
        /// What was wanted.
        platform: Platform,
        /// What there is, comma-separated and bounded.
        available: String,
    },
    /// An index within an index.
    #[error("the index holds another index for {platform}; nested indexes are not supported")]
    NestedIndex {
        /// The platform whose entry it is.
        platform: Platform,
    },
}

/// What a manifest says about one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type, one that [`MediaKind::of`] knows.
    pub media_type: String,
    /// The digest of its bytes as they travel.
    pub digest: Digest,
    /// How many bytes travel.
    pub size: u64,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// What it points to.
    pub descriptor: Descriptor,
    /// For which platform; `None` where it does not say.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name` or Docker's name: the tag, in the index of an OCI layout directory.
    pub name: Option<String>,
}

/// One manifest a platform. Entries that are no images (attestations, artifacts) are kept and never chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The entries in their order.
    pub manifests: Vec<IndexEntry>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// As much of a document as tells its kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    media_type: Option<String>,
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a manifest or an index; `hint` is the media type by which it came, for documents that do not say theirs.
    ///
    /// # Errors
    /// For anything but one well-formed document within the limits of this module.
    pub fn parse(bytes: &[u8], hint: Option<&str>) -> Result<Self, DocumentError> {
        within(bytes, "manifest", MAX_MANIFEST_BYTES)?;
        let probe: Probe = json(bytes, "manifest")?;
        if probe.schema_version == Some(1) || probe.fs_layers.is_some() {
            return Err(DocumentError::Schema1);
        }
        let image = probe.layers.is_some() || probe.config.is_some();
        if probe.manifests.is_some() && image {
            return Err(DocumentError::Ambiguous("both a manifest and an index"));
        }
        let said = probe.media_type.as_deref().filter(|m| !m.is_empty());
        let kind = match said.or_else(|| hint.filter(|h| MediaKind::of(h).is_some())) {
            Some(media_type) => MediaKind::of(media_type),
            None if probe.manifests.is_some() => Some(MediaKind::Index),
            None if image => Some(MediaKind::Manifest),
            None => return Err(DocumentError::Ambiguous("neither a manifest nor an index")),
        };
        match kind {
            Some(MediaKind::Manifest) => Manifest::parse(bytes).map(Self::Manifest),
            Some(MediaKind::Index) => Index::parse(bytes).map(Self::Index),
            Some(MediaKind::Schema1) => Err(DocumentError::Schema1),
            _ => Err(unsupported("a manifest", said.or(hint).unwrap_or_default())),
        }
    }
}

impl Manifest {
    /// Parses a manifest whose kind is known.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        within(bytes, "manifest", MAX_MANIFEST_BYTES)?;
        let raw: oci_spec::image::ImageManifest = json(bytes, "manifest")?;
        if raw.layers().len() > MAX_LAYERS {
            return Err(DocumentError::TooMany { what: "layers", count: raw.layers().len(), max: MAX_LAYERS });
        }
        let layer = |d| descriptor(d, Place::Layer);
        Ok(Self {
            config: descriptor(raw.config(), Place::Config)?,
            layers: raw.layers().iter().map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// The bytes of all layers as they travel.
    pub fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(|l| l.size).fold(0, u64::saturating_add)
    }
}

impl Index {
    /// Parses an index whose kind is known.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        within(bytes, "index", MAX_MANIFEST_BYTES)?;
        let raw: oci_spec::image::ImageIndex = json(bytes, "index")?;
        let count = raw.manifests().len();
        if count > MAX_INDEX_ENTRIES {
            return Err(DocumentError::TooMany { what: "manifests in an index", count, max: MAX_INDEX_ENTRIES });
        }
        let entry = |d: &oci_spec::image::Descriptor| {
            let platform = d
                .platform()
                .as_ref()
                .map(|p| Platform::new(&p.os().to_string(), &p.architecture().to_string(), p.variant().as_deref()));
            let note = |key| d.annotations().as_ref().and_then(|a| a.get(key)).cloned();
            let name = note("org.opencontainers.image.ref.name").or_else(|| note("io.containerd.image.name"));
            Ok(IndexEntry { descriptor: descriptor(d, Place::Entry)?, platform, name })
        };
        Ok(Self { manifests: raw.manifests().iter().map(entry).collect::<Result<_, _>>()? })
    }

    /// The entry that fits `node` best, the first of equals; one without a platform where none says it fits.
    ///
    /// # Errors
    /// If there is none, or it is an index itself.
    pub fn choose(&self, node: &Platform) -> Result<&IndexEntry, DocumentError> {
        let readable = |e: &&IndexEntry| {
            matches!(MediaKind::of(&e.descriptor.media_type), Some(MediaKind::Manifest | MediaKind::Index))
        };
        let best = self
            .manifests
            .iter()
            .filter(readable)
            .filter_map(|e| Some((e.platform.as_ref()?.fit(node)?, e)))
            .min_by_key(|(fit, _)| *fit)
            .map(|(_, e)| e)
            .or_else(|| self.manifests.iter().filter(readable).find(|e| e.platform.is_none()))
            .ok_or_else(|| DocumentError::NoPlatform { platform: node.clone(), available: self.platforms() })?;
        if MediaKind::of(&best.descriptor.media_type) == Some(MediaKind::Index) {
            return Err(DocumentError::NestedIndex { platform: node.clone() });
        }
        Ok(best)
    }

    /// The platforms there are, for a message.
    fn platforms(&self) -> String {
        let names = self.manifests.iter().filter_map(|e| e.platform.as_ref()).map(ToString::to_string);
        let list: Vec<_> = names.filter(|n| n != "unknown/unknown").take(16).collect();
        if list.is_empty() { "none that is named".to_owned() } else { list.join(", ") }
    }
}

/// Where a descriptor stands; decides the media types and the size that it may have.
#[derive(Clone, Copy)]
enum Place {
    Config,
    Layer,
    Entry,
}

fn descriptor(raw: &oci_spec::image::Descriptor, place: Place) -> Result<Descriptor, DocumentError> {
    let (what, kind, max) = match place {
        Place::Config => ("the image config", Some(MediaKind::Config), MAX_CONFIG_BYTES),
        Place::Layer => ("a layer", Some(MediaKind::Layer), MAX_LAYER_BYTES),
        Place::Entry => ("an index entry", None, u64::MAX),
    };
    let media_type = raw.media_type().to_string();
    if kind.is_some() && MediaKind::of(&media_type) != kind {
        return Err(unsupported(what, &media_type));
    }
    let size = raw.size();
    if size > max {
        return Err(DocumentError::TooBig { what, size, max });
    }
    let digest = raw.digest().to_string().parse().map_err(|source| DocumentError::Digest { what, source })?;
    Ok(Descriptor { media_type, digest, size })
}

fn unsupported(what: &'static str, media_type: &str) -> DocumentError {
    DocumentError::MediaType { what, media_type: cut(media_type) }
}

/// Refuses a document over its limit, whoever read it.
pub(super) fn within(bytes: &[u8], kind: &'static str, max: u64) -> Result<(), DocumentError> {
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= max => Ok(()),
        _ => Err(DocumentError::TooLarge { kind, max }),
    }
}

pub(super) fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], kind: &'static str) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { kind, source })
}

#[cfg(test)]
mod tests;

//! The media types that Lamina reads: OCI's and Docker's schema 2, by what they hold.
//!
//! Compression is not decided here: a layer's bytes say how they are compressed, its media type only hints at it.

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer as a plain tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer as a gzip-compressed tar.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer as a zstd-compressed tar.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// A Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A Docker layer, gzip-compressed.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What a registry is asked for when a manifest or an index will do.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// The other names under which layers travel; Docker's plain and zstd ones were never registered but are pushed.
const OTHER_LAYERS: [&str; 8] = [
    OCI_LAYER_ZSTD,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// A manifest: one image for one platform.
    Manifest,
    /// An index (or manifest list): one manifest a platform.
    Index,
    /// An image configuration.
    Config,
    /// A layer: a tar, however compressed.
    Layer,
    /// Docker's schema 1, which has no config and no checked layers.
    Schema1,
}

impl MediaKind {
    /// What `media_type` (with or without parameters) stands for; `None` for one that Lamina does not read.
    pub fn of(media_type: &str) -> Option<Self> {
        match bare(media_type) {
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Self::Manifest),
            OCI_INDEX | DOCKER_INDEX => Some(Self::Index),
            OCI_CONFIG | DOCKER_CONFIG => Some(Self::Config),
            OCI_LAYER | OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Some(Self::Layer),
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(Self::Schema1),
            other if OTHER_LAYERS.contains(&other) => Some(Self::Layer),
            _ => None,
        }
    }
}

/// The media type without parameters such as `; charset=utf-8`.
fn bare(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or(media_type).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_do_not_change_the_kind() {
        assert_eq!(MediaKind::of(&format!("{OCI_INDEX}; charset=utf-8")), Some(MediaKind::Index));
    }

    #[test]
    fn what_is_asked_for_is_what_can_be_read() {
        for one in ACCEPT.split(", ") {
            assert!(matches!(MediaKind::of(one), Some(MediaKind::Index | MediaKind::Manifest)), "{one}");
        }
    }

    #[test]
    fn an_encrypted_layer_is_not_a_layer() {
        assert_eq!(MediaKind::of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), None);
    }
}

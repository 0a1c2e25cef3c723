//! Decompression with a budget: the only place where compressed bytes of a registry are expanded.

/// Why a compressed stream was refused.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The stream is not what its media type says, or is cut off.
    #[error("{format} stream is damaged: {what}")]
    Damaged {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What was found.
        what: String,
    },
    /// The stream expands to more than it may.
    #[error("layer expands to more than {budget} bytes")]
    Budget {
        /// The limit in bytes.
        budget: u64,
    },
    /// Who takes the expanded bytes refused them.
    #[error("cannot take expanded bytes")]
    Out(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// What a layer's media type says; `None` when it says nothing that is known.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(Self::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What the first bytes of a blob look like (four are enough).
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A decompression under way.
#[derive(Debug)]
pub struct Inflate {}

impl Inflate {
    /// Expands at most `budget` bytes. With no `compression` given the first bytes decide.
    pub fn new(_compression: Option<Compression>, _budget: u64) -> Self {
        todo!()
    }

    /// Takes the next compressed bytes and hands expanded ones to `out`, in pieces of at most 256 KiB.
    ///
    /// # Errors
    /// If the stream is damaged, expands beyond the budget, or `out` refuses.
    pub fn feed(
        &mut self,
        _input: &[u8],
        _out: &mut dyn FnMut(&[u8]) -> Result<(), InflateError>,
    ) -> Result<(), InflateError> {
        todo!()
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// If the stream is cut off.
    pub fn finish(self) -> Result<(), InflateError> {
        todo!()
    }
}

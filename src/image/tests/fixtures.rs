//! Small images, made here byte for byte.

use std::io::Write as _;

use crate::oci::Digest;
use crate::oci::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST};

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// A blob as a registry has it.
#[derive(Debug, Clone)]
pub(in crate::image) struct Packed {
    pub(in crate::image) media_type: &'static str,
    pub(in crate::image) bytes: Vec<u8>,
    pub(in crate::image) diff_id: Digest,
}

impl Packed {
    pub(in crate::image) fn digest(&self) -> Digest {
        Digest::sha256_of(&self.bytes)
    }
}

/// An image whose documents and blobs are known.
#[derive(Debug, Clone)]
pub(in crate::image) struct Made {
    pub(in crate::image) manifest: Vec<u8>,
    pub(in crate::image) config: Vec<u8>,
    pub(in crate::image) layers: Vec<Packed>,
}

/// One entry of a tar.
fn entry(out: &mut Vec<u8>, name: &str, kind: u8, content: &[u8]) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A tar of files, which declares their directories (so that it stands alone) or not.
pub(in crate::image) fn tar(files: &[(&str, &[u8])], directories: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        if directories && let Some((dir, _)) = name.rsplit_once('/') {
            entry(&mut out, &format!("{dir}/"), b'5', b"");
        }
        entry(&mut out, name, b'0', content);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(in crate::image) fn pack(tar: &[u8], how: Pack) -> Packed {
    let diff_id = Digest::sha256_of(tar);
    let (media_type, bytes) = match how {
        Pack::Plain => (OCI_LAYER, tar.to_vec()),
        Pack::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            (OCI_LAYER_GZIP, encoder.finish().unwrap())
        }
        Pack::Zstd => (OCI_LAYER_ZSTD, zstd::bulk::compress(tar, 1).unwrap()),
    };
    Packed { media_type, bytes, diff_id }
}

/// Bytes that do not compress, the same for the same seed.
pub(in crate::image) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// A layer with one file of `len` bytes of noise.
pub(in crate::image) fn layer(name: &str, len: usize, how: Pack) -> Packed {
    let seed = name.bytes().fold(7, |sum: u64, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    pack(&tar(&[(name, &noise(len, seed))], true), how)
}

pub(in crate::image) fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, Digest::sha256_of(bytes), bytes.len())
}

impl Made {
    /// An image of these layers, lowest first.
    pub(in crate::image) fn of(layers: Vec<Packed>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|l| format!("\"{}\"", l.diff_id)).collect();
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            arch(),
            diff_ids.join(",")
        );
        Self::with_config(layers, config.into_bytes())
    }

    pub(in crate::image) fn with_config(layers: Vec<Packed>, config: Vec<u8>) -> Self {
        let list: Vec<_> = layers.iter().map(|l| descriptor(l.media_type, &l.bytes)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(OCI_CONFIG, &config),
            list.join(",")
        );
        Self { manifest: manifest.into_bytes(), config, layers }
    }

    /// A one-layer image of one small file.
    pub(in crate::image) fn small(name: &str) -> Self {
        Self::of(vec![layer(name, 1000, Pack::Gzip)])
    }

    pub(in crate::image) fn digest(&self) -> Digest {
        Digest::sha256_of(&self.manifest)
    }
}

/// This machine's architecture, as images name it.
pub(in crate::image) fn arch() -> String {
    crate::oci::Platform::host().to_string().split('/').nth(1).unwrap().to_owned()
}

/// An index of manifests, each for an architecture.
pub(in crate::image) fn index(entries: &[(&str, &Made)]) -> Vec<u8> {
    let one = |(arch, made): &(&str, &Made)| {
        let text = descriptor(OCI_MANIFEST, &made.manifest);
        format!(r#"{},"platform":{{"os":"linux","architecture":"{arch}"}}}}"#, text.trim_end_matches('}'))
    };
    let list: Vec<_> = entries.iter().map(one).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, list.join(",")).into_bytes()
}

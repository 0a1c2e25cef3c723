//! What `docker save` writes: `manifest.json`, a list of images, each with its config, its layers' tars and its names.
//!
//! There are no manifests by digest in it: one is made for each image, always the same for the same content. Layers are
//! usually plain tars, whose digest is the diffID that the config names; the digest of a compressed one is counted.

use std::io;
use std::os::unix::fs::FileExt as _;

use serde::Deserialize;
use sha2::Digest as _;

use super::{Item, Layout};
use crate::image::error::Error;
use crate::oci::media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST};
use crate::oci::{Descriptor, Digest, ImageConfig, MAX_CONFIG_BYTES, MAX_LAYERS};

/// The list of images.
pub(super) const MANIFEST: &str = "manifest.json";
/// As much as is hashed at once.
const PIECE: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn parse(layout: &Layout, list: &[u8]) -> Result<Vec<Saved>, Error> {
    serde_json::from_slice(list)
        .map_err(|e| layout.bad(&format!("manifest.json is not what docker writes (line {})", e.line())))
}

/// Gives the images of an OCI layout the names that docker's list has for them.
pub(super) fn name(layout: &mut Layout, list: &[u8]) -> Result<(), Error> {
    let saved = parse(layout, list)?;
    // Only where it is clear which is which: the list names images by their configs.
    if let ([item], [one]) = (&mut layout.items[..], &saved[..]) {
        for name in one.repo_tags.iter().flatten() {
            if !item.names.contains(name) {
                item.names.insert(0, name.clone());
            }
        }
    }
    Ok(())
}

/// Reads a docker archive without an OCI index.
pub(super) fn read(layout: &mut Layout, list: &[u8]) -> Result<(), Error> {
    for saved in parse(layout, list)? {
        let missing = |name: &str| layout.bad(&format!("{name} is missing"));
        let config_bytes = layout.files.read(&saved.config, MAX_CONFIG_BYTES)?.ok_or_else(|| missing(&saved.config))?;
        let refused = |source| Error::Document { image: layout.path.display().to_string(), source };
        let config = ImageConfig::parse(&config_bytes).map_err(refused)?;
        config.check_layers(saved.layers.len()).map_err(refused)?;
        let mut layers = Vec::with_capacity(saved.layers.len().min(MAX_LAYERS));
        for (name, diff_id) in saved.layers.iter().zip(&config.diff_ids) {
            let descriptor = layer(layout, name, &diff_id.0)?;
            layout.places.insert(descriptor.digest.clone(), name.clone());
            layers.push(descriptor);
        }
        let config_size = u64::try_from(config_bytes.len()).unwrap_or(u64::MAX);
        let config = Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: Digest::sha256_of(&config_bytes),
            size: config_size,
        };
        let manifest = manifest(&config, &layers);
        let descriptor = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::sha256_of(&manifest),
            size: u64::try_from(manifest.len()).unwrap_or(u64::MAX),
        };
        layout.made.insert(config.digest, config_bytes.into());
        layout.made.insert(descriptor.digest.clone(), manifest.into());
        layout.items.push(Item { descriptor, names: saved.repo_tags.unwrap_or_default() });
    }
    Ok(())
}

/// Describes one layer's file.
fn layer(layout: &Layout, name: &str, diff_id: &Digest) -> Result<Descriptor, Error> {
    let (file, start, size) =
        layout.files.find(name)?.ok_or_else(|| layout.bad(&format!("layer {name} is missing")))?;
    let failed = |source| Error::Read { path: layout.path.join(name), source };
    let mut magic = [0; 4];
    let got = file.read_at(&mut magic, start).map_err(failed)?;
    let media_type = match &magic[..got] {
        [0x1f, 0x8b, ..] => OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => OCI_LAYER_ZSTD,
        _ => OCI_LAYER,
    };
    let digest = if media_type == OCI_LAYER { diff_id.clone() } else { hash(&file, start, size).map_err(failed)? };
    Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
}

fn hash(file: &std::fs::File, start: u64, size: u64) -> io::Result<Digest> {
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; PIECE];
    let (mut at, end) = (start, start + size);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let got = file.read_at(&mut piece[..want], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&piece[..got]);
        at += u64::try_from(got).unwrap_or(0);
    }
    Ok(Digest::from_sha256(&hasher.finalize().into()))
}

/// A manifest, byte for byte the same for the same parts.
fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let one =
        |d: &Descriptor| format!(r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#, d.media_type, d.digest, d.size);
    let layers: Vec<_> = layers.iter().map(one).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        one(config),
        layers.join(",")
    )
    .into_bytes()
}

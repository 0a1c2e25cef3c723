//! `lamina save`: images of the store as one archive, an OCI layout or what `docker save` writes.
//!
//! Compressed blobs are not kept, so layers are written as the plain tars that they were made from, bit for bit: their
//! diffIDs, and with them the config, are the original's. The manifest, which names the compressed blobs, is another.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/<manifest, config, diffIDs>          (OCI)
//! manifest.json  <config>.json  <diffID>.tar                                (docker)
//! ```

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::oci::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::oci::{DiffId, Digest, ImageConfig};
use crate::store::{self, Image, LayerKey, Store};

/// The annotation that names an image of a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The one that containerd goes by first.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// How an archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// Why an archive could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store cannot give what it has.
    #[error("cannot read {image} from the store")]
    Store {
        /// The image.
        image: String,
        /// Why not.
        source: store::Error,
    },
    /// An image's config is not valid, or not of these layers.
    #[error("{image} cannot be saved: its config does not match its layers")]
    Config {
        /// The image.
        image: String,
    },
    /// A layer is not what it was: `lamina check --full` says more.
    #[error("layer {key} is damaged: its tar has the digest {got}")]
    Damaged {
        /// The layer.
        key: LayerKey,
        /// What was made of it.
        got: Digest,
    },
    /// Who takes the archive takes no more.
    #[error("cannot hand the archive on")]
    Out(#[source] io::Error),
}

/// An image to save, and the names that it has in the archive.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The image.
    pub image: Image,
    /// Full references.
    pub names: Vec<String>,
}

/// Everything that an archive will hold, known before its first byte: an error here comes before any output.
#[derive(Debug)]
pub struct Archive {
    store: Store,
    /// Small files, by their names.
    documents: Vec<(String, Vec<u8>)>,
    /// Layers, by their names, with what they are and how long.
    layers: Vec<(String, LayerKey, DiffId, u64)>,
}

impl Archive {
    /// Looks up all that is needed. Blocks.
    ///
    /// # Errors
    /// If an image or one of its layers is not here or cannot be read.
    pub fn new(store: &Store, images: &[Saved], format: ArchiveFormat) -> Result<Self, SaveError> {
        let mut archive = Self { store: store.clone(), documents: Vec::new(), layers: Vec::new() };
        let (mut taken, mut list) = (BTreeSet::new(), Vec::new());
        for one in images {
            list.extend(archive.image(one, format, &mut taken)?);
        }
        match format {
            ArchiveFormat::Oci => {
                let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list});
                archive.documents.push(("index.json".to_owned(), text(&index)));
                let version = text(&json!({"imageLayoutVersion": "1.0.0"}));
                archive.documents.push(("oci-layout".to_owned(), version));
            }
            ArchiveFormat::Docker => archive.documents.push(("manifest.json".to_owned(), text(&Value::Array(list)))),
        }
        Ok(archive)
    }

    /// Takes in one image; gives its entries in the archive's list.
    fn image(
        &mut self,
        one: &Saved,
        format: ArchiveFormat,
        taken: &mut BTreeSet<String>,
    ) -> Result<Vec<Value>, SaveError> {
        let image = one.names.first().cloned().unwrap_or_else(|| one.image.top.to_string());
        let failed = |source| SaveError::Store { image: image.clone(), source };
        let documents = self.store.documents(&one.image.id()).map_err(failed)?;
        let config = ImageConfig::parse(&documents.config).map_err(|_| SaveError::Config { image: image.clone() })?;
        if config.diff_ids.len() != one.image.layers.len() {
            return Err(SaveError::Config { image });
        }
        let mut layers = Vec::new();
        for (key, diff_id) in one.image.layers.iter().zip(&config.diff_ids) {
            let length = self.store.tar_length(key).map_err(failed)?;
            let name = match format {
                ArchiveFormat::Oci => blob(&diff_id.0),
                ArchiveFormat::Docker => format!("{}.tar", diff_id.0.hex()),
            };
            layers.push((name.clone(), diff_id, length));
            if taken.insert(name.clone()) {
                self.layers.push((name, key.clone(), diff_id.clone(), length));
            }
        }
        let digest = Digest::sha256_of(&documents.config);
        let mut add = |name: &str, bytes: Vec<u8>| {
            if taken.insert(name.to_owned()) {
                self.documents.push((name.to_owned(), bytes));
            }
        };
        if format == ArchiveFormat::Docker {
            let name = format!("{}.json", digest.hex());
            let paths: Vec<&String> = layers.iter().map(|(name, ..)| name).collect();
            let entry = json!({"Config": name, "RepoTags": one.names, "Layers": paths});
            add(&name, documents.config);
            return Ok(vec![entry]);
        }
        let of_layer = |(_, diff_id, length): &(String, &DiffId, u64)| json!({"mediaType": OCI_LAYER, "digest": diff_id.0.to_string(), "size": length});
        let manifest = text(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest.to_string(), "size": documents.config.len()},
            "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
        }));
        let of_manifest = Digest::sha256_of(&manifest);
        let entry = json!({
            "mediaType": OCI_MANIFEST, "digest": of_manifest.to_string(), "size": manifest.len(),
            "platform": {"architecture": config.spec.architecture().to_string(), "os": config.spec.os().to_string()},
        });
        add(&blob(&digest), documents.config);
        add(&blob(&of_manifest), manifest);
        let named = |name: &String| {
            let mut entry = entry.clone();
            entry["annotations"] = json!({REF_NAME: name, IMAGE_NAME: name});
            entry
        };
        let entries: Vec<Value> = one.names.iter().map(named).collect();
        Ok(if entries.is_empty() { vec![entry] } else { entries })
    }

    /// Writes the archive as a tar, the documents first. Blocks.
    ///
    /// # Errors
    /// If a layer is not what it should be, or `out` takes no more.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), SaveError> {
        for (name, bytes) in &self.documents {
            let length = bytes.len() as u64;
            out.write_all(&header(name, length)).map_err(SaveError::Out)?;
            out.write_all(bytes).map_err(SaveError::Out)?;
            pad(out, length)?;
        }
        for (name, key, diff_id, length) in &self.layers {
            out.write_all(&header(name, *length)).map_err(SaveError::Out)?;
            let mut hashed = Hashed { out, hash: Sha256::new() };
            self.store
                .rebuild_tar(key, &mut hashed)
                .map_err(|source| SaveError::Store { image: format!("layer {key}"), source })?;
            let got = Digest::from_sha256(&hashed.hash.finalize().into());
            if got != diff_id.0 {
                return Err(SaveError::Damaged { key: key.clone(), got });
            }
            pad(out, *length)?;
        }
        out.write_all(&[0; 1024]).map_err(SaveError::Out)
    }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Counts the digest of what passes.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn pad(out: &mut dyn Write, length: u64) -> Result<(), SaveError> {
    const ZEROS: [u8; 512] = [0; 512];
    let over = usize::try_from(length % 512).unwrap_or_default();
    out.write_all(ZEROS.get(..(512 - over) % 512).unwrap_or_default()).map_err(SaveError::Out)
}

/// The header of a regular file; names here are short. The same content is always the same archive.
fn header(name: &str, size: u64) -> [u8; 512] {
    let mut b = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| {
        if let Some(place) = b.get_mut(at..at + text.len()) {
            place.copy_from_slice(text);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Above eight gigabytes as GNU's and every later tar has it: the number itself, with the top bit set.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    if let Some(place) = b.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    b
}

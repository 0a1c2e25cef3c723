//! How much space the store takes, by whom, and what sharing saves. From the index alone: nothing is walked.

use std::collections::HashMap;

use super::Store;
use super::error::Error;
use super::index::Index;
use super::key::{ImageId, LayerKey};
use crate::oci::{DiffId, Reference};

/// One layer's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUsage {
    /// The layer.
    pub key: LayerKey,
    /// The digest of its tar; `None` for a layer whose document cannot be read.
    pub diff_id: Option<DiffId>,
    /// What it takes on disk.
    pub bytes: u64,
    /// How many images have it.
    pub images: usize,
    /// How many roots (pods, tags, pins, pulls, builds) need it, through whatever image.
    pub references: usize,
    /// Whether it is known to be damaged.
    pub damaged: bool,
}

/// One image's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageId,
    /// Every tag that names it.
    pub tags: Vec<Reference>,
    /// Its layers together.
    pub total: u64,
    /// Those of them that other images have too.
    pub shared: u64,
    /// Those that it alone has.
    pub unique: u64,
    /// How many roots need it.
    pub references: usize,
}

/// What the store takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Every layer, largest first.
    pub layers: Vec<LayerUsage>,
    /// Every image, in the order of their digests.
    pub images: Vec<ImageUsage>,
    /// All layers together.
    pub total: u64,
    /// Those that some root needs.
    pub referenced: u64,
    /// Those that only an image without a root has.
    pub cached: u64,
    /// Those that no image has and no pull holds.
    pub unreferenced: u64,
    /// What the same images would take if each had its own layers, less what they take.
    pub saved: u64,
}

impl Usage {
    /// What a sweep without grace or age would free.
    pub const fn reclaimable(&self) -> u64 {
        self.cached.saturating_add(self.unreferenced)
    }
}

/// The file system that the store lies on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes that root may still use.
    pub free: u64,
    /// Inodes that are left; 0 also where the file system does not count them.
    pub inodes_free: u64,
    /// All its inodes; 0 where the file system does not count them.
    pub inodes_total: u64,
}

impl Store {
    /// How full the file system is. One system call.
    ///
    /// # Errors
    /// If the file system does not answer.
    pub fn capacity(&self) -> Result<Capacity, Error> {
        let stat =
            rustix::fs::statvfs(self.root()).map_err(|e| Error::at("look at the space of", self.root())(e.into()))?;
        Ok(Capacity {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            inodes_free: stat.f_ffree,
            inodes_total: stat.f_files,
        })
    }

    /// How much space the layers and images take.
    pub fn usage(&self) -> Usage {
        measure(&self.index())
    }
}

fn measure(index: &Index) -> Usage {
    let mut roots: HashMap<crate::oci::Digest, usize> = HashMap::new();
    for root in index.roots() {
        for manifest in root.held.manifests {
            *roots.entry(manifest).or_default() += 1;
        }
    }
    let mut layers: HashMap<&LayerKey, LayerUsage> = HashMap::with_capacity(index.layers.len());
    for (key, entry) in &index.layers {
        let usage = LayerUsage {
            key: key.clone(),
            diff_id: entry.info.as_ref().map(|info| info.diff_id.clone()),
            bytes: entry.bytes(),
            images: 0,
            references: 0,
            damaged: entry.damage.is_some(),
        };
        layers.insert(key, usage);
    }
    let mut usage = Usage::default();
    let mut unshared: u64 = 0;
    for (id, entry) in &index.images {
        let references = roots.get(&id.manifest).copied().unwrap_or(0);
        for key in distinct(&entry.record.layers) {
            if let Some(layer) = layers.get_mut(key) {
                layer.images += 1;
                layer.references += references;
                unshared = unshared.saturating_add(layer.bytes);
            }
        }
    }
    for key in index.refs.values().flat_map(|holding| &holding.keys) {
        if let Some(layer) = layers.get_mut(key) {
            layer.references += 1;
        }
    }
    for (id, entry) in &index.images {
        let (mut shared, mut unique) = (0_u64, 0_u64);
        for layer in distinct(&entry.record.layers).filter_map(|key| layers.get(key)) {
            let part = if layer.images > 1 { &mut shared } else { &mut unique };
            *part = part.saturating_add(layer.bytes);
        }
        usage.images.push(ImageUsage {
            image: id.clone(),
            tags: Vec::new(),
            total: shared.saturating_add(unique),
            shared,
            unique,
            references: roots.get(&id.manifest).copied().unwrap_or(0),
        });
    }
    for tag in index.tags.values() {
        if let Ok(at) = usage.images.binary_search_by(|image| image.image.cmp(&tag.image)) {
            usage.images[at].tags.push(tag.reference.clone());
        }
    }
    usage.layers = layers.into_values().collect();
    usage.layers.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)));
    let mut in_images: u64 = 0;
    for layer in &usage.layers {
        let state = match (layer.references, layer.images) {
            (0, 0) => &mut usage.unreferenced,
            (0, _) => &mut usage.cached,
            _ => &mut usage.referenced,
        };
        *state = state.saturating_add(layer.bytes);
        usage.total = usage.total.saturating_add(layer.bytes);
        if layer.images > 0 {
            in_images = in_images.saturating_add(layer.bytes);
        }
    }
    usage.saved = unshared.saturating_sub(in_images);
    usage
}

/// An image may have one layer twice; it takes no more space for that.
fn distinct(keys: &[LayerKey]) -> impl Iterator<Item = &LayerKey> {
    keys.iter().enumerate().filter(|(at, key)| !keys[..*at].contains(key)).map(|(_, key)| key)
}

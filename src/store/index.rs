//! What is in the store, in memory: read once when the store opens, kept in step with the disk by its only writer.
//!
//! A few hundred bytes a layer and an image, no documents: those are read from disk when asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::gc::{Graph, ImageNode, LayerNode};
use super::images::ImageRecord;
use super::key::{ImageId, LayerKey};
use super::layers::LayerInfo;
use super::refs::{Held, Ref, RefKind};
use super::tags::{Tag, TagOrigin};
use crate::oci::{ChainId, DiffId, Digest, Reference};

/// A layer's place in the index.
#[derive(Debug, Clone)]
pub(super) struct LayerEntry {
    /// What `layer.json` says; `None` where it cannot be read: then the layer is damaged.
    pub(super) info: Option<Arc<LayerInfo>>,
    /// What was found wrong with it, if anything.
    pub(super) damage: Option<String>,
    /// When it was last released, or committed, or (before this process) unknown: when the store was opened.
    pub(super) idle_since: Instant,
}

impl LayerEntry {
    /// The layer, if a container may start on it.
    pub(super) fn sound(&self) -> Option<&Arc<LayerInfo>> {
        self.info.as_ref().filter(|_| self.damage.is_none())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.info.as_ref().map_or(0, |info| info.disk_bytes)
    }
}

/// An image's place in the index.
#[derive(Debug, Clone)]
pub(super) struct ImageEntry {
    pub(super) record: Arc<ImageRecord>,
    /// When it was last released, or stored.
    pub(super) idle_since: Instant,
}

/// A ref's place in the index.
#[derive(Debug, Clone, Default)]
pub(super) struct Holding {
    pub(super) held: Held,
    /// Every key that a layer of `held.stacks` can have.
    pub(super) keys: Vec<LayerKey>,
}

impl Holding {
    pub(super) fn new(held: Held) -> Self {
        let mut keys = Vec::new();
        for stack in &held.stacks {
            let mut chain: Option<ChainId> = None;
            for diff_id in stack {
                let next = match chain {
                    None => ChainId(diff_id.0.clone()),
                    Some(below) => below.above(diff_id),
                };
                keys.push(LayerKey::Diff(diff_id.clone()));
                keys.push(LayerKey::Chain(next.clone()));
                chain = Some(next);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Self { held, keys }
    }
}

/// A document of the store that could not be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) problem: String,
    /// Whether it may say that something is needed: nothing is collected before it is rewritten or given up.
    pub(super) root: bool,
}

/// Refs by kind and owner.
pub(super) type Slots = BTreeSet<(RefKind, String)>;

/// How what is held would be another.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Refs that would be gone.
    pub(super) released: Slots,
    /// Manifests that would be held.
    pub(super) manifests: BTreeSet<Digest>,
    /// Keys of layers that would be held.
    pub(super) keys: Vec<LayerKey>,
}

/// What is in the store.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) layers: HashMap<LayerKey, LayerEntry>,
    pub(super) images: BTreeMap<ImageId, ImageEntry>,
    pub(super) by_manifest: HashMap<Digest, BTreeSet<ImageId>>,
    pub(super) tags: BTreeMap<Reference, Tag>,
    pub(super) refs: BTreeMap<(RefKind, String), Holding>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Index {
    /// The stored layer for the uppermost of `stack`, lowest first.
    pub(super) fn find_layer(&self, stack: &[DiffId]) -> Option<&Arc<LayerInfo>> {
        let sound = |key: &LayerKey| self.layers.get(key).and_then(LayerEntry::sound);
        // The chain is hashed only where the cheaper key misses.
        let diff = LayerKey::Diff(stack.last()?.clone());
        sound(&diff).or_else(|| sound(&LayerKey::candidates(stack)?.1))
    }

    pub(super) fn add_image(&mut self, record: Arc<ImageRecord>, idle_since: Instant) {
        self.by_manifest.entry(record.id.manifest.clone()).or_default().insert(record.id.clone());
        self.images.insert(record.id.clone(), ImageEntry { record, idle_since });
    }

    pub(super) fn remove_image(&mut self, id: &ImageId) {
        self.images.remove(id);
        if let Some(ids) = self.by_manifest.get_mut(&id.manifest) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_manifest.remove(&id.manifest);
            }
        }
    }

    /// The image of a top digest or of a manifest's.
    pub(super) fn image(&self, digest: &Digest) -> Option<&ImageEntry> {
        let by_top = || {
            let from = ImageId { top: digest.clone(), manifest: LOWEST.clone() };
            self.images.range(from..).next().filter(|(id, _)| id.top == *digest).map(|(_, entry)| entry)
        };
        let ids = self.by_manifest.get(digest).and_then(|ids| ids.first());
        by_top().or_else(|| ids.and_then(|id| self.images.get(id)))
    }

    /// A root that cannot be read, if there is one.
    pub(super) fn unknown_root(&self) -> Option<&Unreadable> {
        self.unreadable.iter().find(|document| document.root)
    }

    /// Forgets that the document at `path` could not be read: it was replaced or removed.
    pub(super) fn reread(&mut self, path: &Path) {
        self.unreadable.retain(|document| document.path != path);
    }

    /// The images that have this layer.
    pub(super) fn images_of(&self, key: &LayerKey) -> Vec<ImageId> {
        let with = self.images.iter().filter(|(_, entry)| entry.record.layers.contains(key));
        with.map(|(id, _)| id.clone()).collect()
    }

    /// The images that have one of these manifests.
    pub(super) fn ids_of<'a>(&self, manifests: impl IntoIterator<Item = &'a Digest>) -> Vec<ImageId> {
        manifests.into_iter().filter_map(|manifest| self.by_manifest.get(manifest)).flatten().cloned().collect()
    }

    /// Every root, the tags that people made among them.
    pub(super) fn roots(&self) -> impl Iterator<Item = Ref> {
        let refs = self.refs.iter().map(|((kind, owner), holding)| Ref {
            kind: *kind,
            owner: owner.clone(),
            held: holding.held.clone(),
        });
        let tags = self.tags.values().filter(|tag| tag.origin == TagOrigin::Person).map(|tag| Ref {
            kind: RefKind::Tag,
            owner: tag.reference.to_string(),
            held: Held { manifests: BTreeSet::from([tag.image.manifest.clone()]), ..Held::default() },
        });
        refs.chain(tags)
    }

    /// Whether the tag `owner` is a person's and holds all of `held` by itself.
    pub(super) fn tag_holds(&self, owner: &str, held: &Held) -> bool {
        let tag = owner.parse::<Reference>().ok().and_then(|reference| self.tags.get(&reference));
        let person = tag.filter(|tag| tag.origin == TagOrigin::Person && tag.reference.to_string() == owner);
        person.is_some_and(|tag| held.stacks.is_empty() && held.manifests.iter().all(|m| *m == tag.image.manifest))
    }

    /// The manifests that roots hold, but for the refs in `without`.
    fn held_manifests(&self, without: &Slots) -> HashSet<&Digest> {
        let refs = self.refs_without(without).flat_map(|holding| &holding.held.manifests);
        let tags = self.tags.values().filter(|tag| tag.origin == TagOrigin::Person).map(|tag| &tag.image.manifest);
        refs.chain(tags).collect()
    }

    fn refs_without(&self, without: &Slots) -> impl Iterator<Item = &Holding> {
        self.refs.iter().filter(|(slot, _)| !without.contains(*slot)).map(|(_, holding)| holding)
    }

    /// The keys of layers that roots hold without an image.
    fn held_keys(&self, without: &Slots) -> HashSet<&LayerKey> {
        self.refs_without(without).flat_map(|holding| &holding.keys).collect()
    }

    /// Restarts the idle clocks of what `holding` held, for it has just been let go.
    pub(super) fn note_release(&mut self, holding: &Holding, now: Instant) {
        for manifest in &holding.held.manifests {
            self.note_manifest(manifest, now);
        }
        for key in &holding.keys {
            if let Some(layer) = self.layers.get_mut(key) {
                layer.idle_since = now;
            }
        }
    }

    /// Restarts the idle clocks of the images with this manifest, and of their layers.
    pub(super) fn note_manifest(&mut self, manifest: &Digest, now: Instant) {
        for id in self.by_manifest.get(manifest).into_iter().flatten() {
            let Some(image) = self.images.get_mut(id) else { continue };
            image.idle_since = now;
            for key in image.record.layers.iter() {
                if let Some(layer) = self.layers.get_mut(key) {
                    layer.idle_since = now;
                }
            }
        }
    }

    /// The graph for a sweep's plan, with what its indices stand for, as it is or would be.
    pub(super) fn graph<'a>(
        &'a self,
        now: Instant,
        change: &'a Change,
    ) -> (Graph, Vec<&'a LayerKey>, Vec<&'a ImageId>) {
        let (mut manifests, mut keys) = (self.held_manifests(&change.released), self.held_keys(&change.released));
        manifests.extend(&change.manifests);
        keys.extend(&change.keys);
        let mut graph = Graph::default();
        let mut positions = HashMap::with_capacity(self.layers.len());
        for (position, (key, entry)) in self.layers.iter().enumerate() {
            positions.insert(key, position);
            graph.layers.push(LayerNode {
                bytes: entry.bytes(),
                held: keys.contains(key),
                idle: now.saturating_duration_since(entry.idle_since),
            });
        }
        for (id, entry) in &self.images {
            graph.images.push(ImageNode {
                layers: entry.record.layers.iter().filter_map(|key| positions.get(key).copied()).collect(),
                // The second: just stored, and its pull does not hold it by its manifest yet.
                held: manifests.contains(&id.manifest) || covered(&entry.record, &keys),
                idle: now.saturating_duration_since(entry.idle_since),
            });
        }
        (graph, self.layers.keys().collect(), self.images.keys().collect())
    }
}

/// Whether all layers of an image are among `keys`, those that pulls hold.
pub(super) fn covered(record: &ImageRecord, keys: &HashSet<&LayerKey>) -> bool {
    !keys.is_empty() && !record.layers.is_empty() && record.layers.iter().all(|key| keys.contains(key))
}

/// Sorts before every other digest of an image.
static LOWEST: std::sync::LazyLock<Digest> = std::sync::LazyLock::new(|| Digest::from_sha256(&[0; 32]));

/// The moment on the monotonic clock that is as long ago as `time` on the wall clock; `now` where the wall clock was
/// set back since.
pub(super) fn monotonic(time: SystemTime, now: Instant) -> Instant {
    let age = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO);
    now.checked_sub(age).unwrap_or(now)
}

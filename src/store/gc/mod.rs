//! Collection: what nothing needs any more goes, at once or after its time.
//!
//! A sweep plans over the index ([`plan`]), takes what goes out of the index, renames it to `trash/`, and only then
//! deletes it. While it renames, no commit takes place (`changes`); a ref that is written meanwhile finds its image
//! gone from the index and pulls it again. It needs no free space: where a rename has no room for a name in `trash/`,
//! the thing is deleted where it lies, its document first.

mod leftovers;
mod plan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) use plan::{Graph, ImageNode, LayerNode};

use super::Store;
use super::error::Error;
use super::index::{Change, Holding, Index};
use super::key::{ImageId, LayerKey};
use super::layout::{list, remove_all};
use super::refs::{Held, RefKind};
use super::{images, layers};
use crate::oci::{DiffId, Digest, Reference};
use crate::sys::atomic;

/// What a sweep may take.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// How long an image or a layer that nothing holds is kept.
    pub grace: Duration,
    /// How long an image that nothing holds is kept, if that is longer.
    pub image_age: Duration,
    /// Bytes that must become free: unheld images and layers go for it before their time, the longest idle first.
    pub need: u64,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The moment to judge idle times by.
    pub now: Instant,
}

impl Default for SweepOptions {
    /// All that nothing holds, now.
    fn default() -> Self {
        Self { grace: Duration::ZERO, image_age: Duration::ZERO, need: 0, dry_run: false, now: Instant::now() }
    }
}

/// A layer that a sweep took, or would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweptLayer {
    /// Its key.
    pub key: LayerKey,
    /// What it took on disk.
    pub bytes: u64,
    /// When it was last released (or committed).
    pub idle_since: Instant,
}

/// What a sweep took, or would take.
#[derive(Debug, Default)]
pub struct Swept {
    /// The bytes of its layers. They are free as soon as the last mount of each is gone.
    pub freed_bytes: u64,
    /// The layers.
    pub layers: Vec<SweptLayer>,
    /// The images.
    pub images: Vec<ImageId>,
    /// The tags that went with them.
    pub tags: Vec<Reference>,
    /// In how long the next thing falls due, if nothing changes.
    pub next_due: Option<Duration>,
    /// What could not be removed; tried again at the next start.
    pub failures: Vec<Error>,
}

impl Swept {
    /// Whether there was nothing to take.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.images.is_empty() && self.tags.is_empty()
    }
}

impl Store {
    /// What [`Store::sweep`] would take. Looks at memory only.
    pub fn plan_sweep(&self, options: &SweepOptions) -> Swept {
        choose(&self.index(), options, &Change::default())
    }

    /// What a sweep without grace would take if these refs were gone, and these manifests and stacks of layers held, and
    /// would not take as things are. Looks at memory only.
    pub fn plan_release(
        &self,
        released: BTreeSet<(RefKind, String)>,
        manifests: BTreeSet<Digest>,
        stacks: Vec<Vec<DiffId>>,
    ) -> Swept {
        let keys = Holding::new(Held { stacks, ..Held::default() }).keys;
        let (index, options) = (self.index(), SweepOptions::default());
        let before = choose(&index, &options, &Change::default());
        let mut after = choose(&index, &options, &Change { released, manifests, keys });
        after.layers.retain(|layer| !before.layers.iter().any(|b| b.key == layer.key));
        after.images.retain(|image| !before.images.contains(image));
        after.freed_bytes = after.layers.iter().map(|layer| layer.bytes).sum();
        after
    }

    /// Removes what nothing needs. What fails is in the result and stops nothing else.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], unless `dry_run`.
    pub fn sweep(&self, options: &SweepOptions) -> Result<Swept, Error> {
        if options.dry_run {
            return Ok(self.plan_sweep(options));
        }
        self.writable("collect")?;
        let changes = self.changes();
        let mut index = self.index();
        let mut swept = choose(&index, options, &Change::default());
        if swept.is_empty() {
            return Ok(swept);
        }
        for id in &swept.images {
            index.remove_image(id);
        }
        for layer in &swept.layers {
            index.layers.remove(&layer.key);
        }
        for tag in &swept.tags {
            index.tags.remove(tag);
        }
        drop(index);
        // Tags before images before layers: whatever is cut short leaves nothing that points to what is gone.
        let mut removal = Removal { store: self, trash: Vec::new(), failures: Vec::new() };
        for tag in &swept.tags {
            removal.unlink(&self.tag_path(tag));
        }
        for id in &swept.images {
            removal.image(id);
        }
        for layer in &swept.layers {
            removal.discard(&self.0.layout.layer(&layer.key), layers::DOCUMENT);
        }
        if !swept.layers.is_empty() {
            removal.sync(&self.0.layout.layers());
        }
        drop(changes);
        removal.delete();
        swept.failures = removal.failures;
        Ok(swept)
    }
}

/// Plans over the index, in terms of what it holds.
fn choose(index: &Index, options: &SweepOptions, change: &Change) -> Swept {
    if let Some(root) = index.unknown_root() {
        let failure = Error::UnknownRoot { path: root.path.clone(), problem: root.problem.clone() };
        return Swept { failures: vec![failure], ..Swept::default() };
    }
    let (graph, keys, ids) = index.graph(options.now, change);
    let policy = plan::Policy { grace: options.grace, image_age: options.image_age, need: options.need };
    let plan = plan::plan(&graph, policy);
    let layers = plan.layers.iter().filter_map(|&layer| {
        let key = *keys.get(layer)?;
        let entry = index.layers.get(key)?;
        Some(SweptLayer { key: key.clone(), bytes: entry.bytes(), idle_since: entry.idle_since })
    });
    let images: Vec<ImageId> = plan.images.iter().filter_map(|&image| ids.get(image).copied().cloned()).collect();
    let gone = |id: &ImageId| images.binary_search(id).is_ok() || !index.images.contains_key(id);
    // A person's tag holds its image, so only a damaged store has one without; it is kept for `check` to name.
    let tags = index.tags.values().filter(|tag| tag.origin == super::TagOrigin::Resolved && gone(&tag.image));
    Swept {
        freed_bytes: plan.bytes,
        layers: layers.collect(),
        tags: tags.map(|tag| tag.reference.clone()).collect(),
        images,
        next_due: plan.next_due,
        failures: Vec::new(),
    }
}

/// Things being removed; collects what fails and goes on.
struct Removal<'a> {
    store: &'a Store,
    trash: Vec<PathBuf>,
    failures: Vec<Error>,
}

impl Removal<'_> {
    fn note(&mut self, result: Result<(), Error>) {
        self.failures.extend(result.err());
    }

    fn unlink(&mut self, path: &Path) {
        self.note(remove_all(path));
    }

    fn sync(&mut self, dir: &Path) {
        self.note(atomic::sync_dir(dir).map_err(Error::from));
    }

    /// Takes a directory out of the store in one step.
    fn discard(&mut self, path: &Path, document: &str) {
        let to = self.store.0.layout.trash().join(self.store.fresh_name());
        match std::fs::rename(path, &to) {
            Ok(()) => self.trash.push(to),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                tracing::debug!(path = %path.display(), error = %e, "no room in trash: deleting in place");
                self.unlink(&path.join(document));
                self.unlink(path);
            }
        }
    }

    /// An image, and what is known by its index once the last manifest of that is gone.
    fn image(&mut self, id: &ImageId) {
        let layout = &self.store.0.layout;
        self.discard(&layout.image(id), images::DOCUMENT);
        let top = layout.top(&id.top);
        if list(&top).is_ok_and(|names| names.iter().all(|name| name == images::INDEX)) {
            self.discard(&top, images::INDEX);
        }
    }

    fn delete(&mut self) {
        for path in std::mem::take(&mut self.trash) {
            self.note(remove_all(&path));
        }
    }
}

#[cfg(test)]
mod tests;

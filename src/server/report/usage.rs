//! What takes the disk: images and layers from the store's index, the rest by looking.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::history::containers_by_layer;
use crate::api::PodView;
use crate::store::Store;

/// Disk use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// One row a sort of thing.
    pub rows: Vec<UsageRow>,
    /// What the images would take without sharing, less what they take.
    pub saved_bytes: u64,
}

/// One sort of thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UsageRow {
    /// As in `Layers`.
    pub kind: String,
    /// How many.
    pub count: usize,
    /// Of them needed.
    pub in_use: usize,
    /// All together.
    pub total_bytes: u64,
    /// What more than one needs.
    pub shared_bytes: Option<u64>,
    /// What only one needs.
    pub unique_bytes: Option<u64>,
    /// What a collection would free now.
    pub reclaimable_bytes: Option<u64>,
}

/// The bytes that a tree takes on disk; a file with several names counts once. Links are not followed. What vanishes
/// while it is counted counts as nothing.
pub(crate) fn tree_bytes(root: &Path) -> u64 {
    let mut linked = std::collections::HashSet::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    let mut bytes = 0_u64;
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if found.nlink() > 1 && !linked.insert((found.dev(), found.ino())) {
            continue;
        }
        bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
    }
    bytes
}

fn sum(paths: impl Iterator<Item = PathBuf>, kind: &str, in_use: usize) -> UsageRow {
    let sizes: Vec<u64> = paths.map(|path| tree_bytes(&path)).collect();
    UsageRow {
        kind: kind.to_owned(),
        count: sizes.len(),
        in_use,
        total_bytes: sizes.iter().sum(),
        ..UsageRow::default()
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Disk use of a node. Blocks: it walks writable layers, volumes and logs.
pub fn usage(store: &Store, log_dir: &Path, pods: &[Arc<PodView>]) -> Usage {
    let found = store.usage();
    let running = containers_by_layer(pods);
    let reclaimable = found.reclaimable();
    let shared = |many: bool| {
        found.layers.iter().filter(|layer| (layer.images > 1) == many).map(|layer| layer.bytes).sum::<u64>()
    };
    let images = UsageRow {
        kind: "Images".into(),
        count: found.images.len(),
        in_use: found.images.iter().filter(|image| image.references > 0).count(),
        total_bytes: found.images.iter().map(|image| image.total).sum(),
        shared_bytes: Some(found.images.iter().map(|image| image.shared).sum()),
        unique_bytes: Some(found.images.iter().map(|image| image.unique).sum()),
        reclaimable_bytes: None,
    };
    let layers = UsageRow {
        kind: "Layers".into(),
        count: found.layers.len(),
        in_use: found.layers.iter().filter(|l| l.references > 0 || running.contains_key(&l.key.to_string())).count(),
        total_bytes: found.total,
        shared_bytes: Some(shared(true)),
        unique_bytes: Some(shared(false)),
        reclaimable_bytes: Some(reclaimable),
    };
    let containers = || pods.iter().flat_map(|pod| &pod.lamina.containers);
    let on_disk: Vec<PathBuf> = entries(&store.root().join("pods")).collect();
    let uppers = on_disk
        .iter()
        .flat_map(|pod| entries(&pod.join("containers")))
        .flat_map(|container| entries(&container))
        .map(|attempt| attempt.join("upper"))
        .filter(|upper| upper.is_dir());
    let volumes = on_disk.iter().flat_map(|pod| entries(&pod.join("volumes")));
    Usage {
        rows: vec![
            images,
            layers,
            sum(uppers, "Writable layers", containers().filter(|c| c.pid.is_some()).count()),
            sum(volumes, "Volumes", 0),
            sum(entries(log_dir), "Logs", pods.len()),
        ],
        saved_bytes: found.saved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        let empty = tree_bytes(dir.path());
        fs::write(dir.path().join("a"), vec![1; 64 * 1024]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let grown = tree_bytes(dir.path()) - empty;
        assert!((64 * 1024..128 * 1024).contains(&grown), "{grown}");
        assert_eq!(tree_bytes(&dir.path().join("gone")), 0);
    }
}

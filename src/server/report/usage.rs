//! What takes the disk: images and layers from the store's index, the rest by looking.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::history::containers_by_layer;
use crate::api::{ObjectKey, PodView};
use crate::store::Store;
use crate::sys::tree;
use crate::volume::claim::ClaimView;

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

fn sum(paths: impl Iterator<Item = PathBuf>, kind: &str, in_use: usize) -> UsageRow {
    let sizes: Vec<u64> = paths.map(|path| tree::usage(&path, u64::MAX).bytes).collect();
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
pub fn usage(store: &Store, log_dir: &Path, pods: &[Arc<PodView>], claims: &BTreeMap<ObjectKey, ClaimView>) -> Usage {
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
    let of_pods: Vec<PathBuf> = on_disk.iter().flat_map(|pod| entries(&pod.join("volumes"))).collect();
    let in_use = of_pods.len() + claims.values().filter(|claim| !claim.users.is_empty()).count();
    let volumes = of_pods.into_iter().chain(claims.values().map(|claim| claim.path.clone()));
    Usage {
        rows: vec![
            images,
            layers,
            sum(uppers, "Writable layers", containers().filter(|c| c.pid.is_some()).count()),
            sum(volumes, "Volumes", in_use),
            sum(entries(log_dir), "Logs", pods.len()),
        ],
        saved_bytes: found.saved,
    }
}

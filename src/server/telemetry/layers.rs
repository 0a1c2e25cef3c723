//! `lamina_layer*` and `lamina_store_*`: what the store holds, from its index; and the disk it lies on.

use super::families::{Families, Family, count, counter, gauge, real};
use crate::store::{LayerUsage, Store};

const LAYERS: Family = gauge("lamina_layers", "Layers in the store, by whether something needs them.").by(&["state"]);
const BYTES: Family =
    gauge("lamina_layer_bytes", "Bytes of the layers in the store, by whether something needs them.").by(&["state"]);
const REFERENCES: Family =
    gauge("lamina_layer_references", "How many pods, tags, pins and pulls need a layer.").by(&["layer"]);
const SIZE: Family = gauge("lamina_layer_size_bytes", "Bytes of a layer on disk.").by(&["layer"]);
const SAVED: Family = gauge(
    "lamina_layer_shared_bytes_saved",
    "Bytes that sharing saves: each image's layers by themselves, less what is on disk. Moves with images.",
);
const STORE: Family = gauge("lamina_store_bytes", "Bytes of all layers on disk.");
const CAPACITY: Family = gauge("lamina_store_capacity_bytes", "Bytes of the file system that the store is on.");
const AVAILABLE: Family =
    gauge("lamina_store_available_bytes", "Bytes free for use on the file system that the store is on.");
const INODES: Family = gauge("lamina_store_inodes_free", "Free inodes of the file system that the store is on.");
const DAMAGED: Family = gauge("lamina_store_damaged_layers", "Layers that are known to be damaged.");
const REPAIRS: Family = counter(
    "lamina_store_repairs_total",
    "Damaged layers that a sound one took the place of. Moves when one was fetched again.",
);

/// The families of this module.
pub(super) const FAMILIES: [Family; 11] =
    [LAYERS, BYTES, REFERENCES, SIZE, SAVED, STORE, CAPACITY, AVAILABLE, INODES, DAMAGED, REPAIRS];

/// Whether something needs a layer.
pub(crate) fn state(layer: &LayerUsage) -> &'static str {
    match (layer.references, layer.images) {
        (0, 0) => "unreferenced",
        (0, _) => "cached",
        _ => "referenced",
    }
}

pub(super) fn collect(out: &mut Families, store: &Store, series: usize) {
    let usage = store.usage();
    for name in ["referenced", "cached", "unreferenced"] {
        let of = || usage.layers.iter().filter(|layer| state(layer) == name);
        out.add(&LAYERS, &[("state", name)], Some(count(of().count())));
        out.add(&BYTES, &[("state", name)], Some(real(of().map(|layer| layer.bytes).sum())));
    }
    // The largest first; the rest in one, so that their number is bounded whatever is pulled.
    let (own, rest) = usage.layers.split_at(series.min(usage.layers.len()));
    for layer in own {
        let labels = [("layer", layer.key.short())];
        out.add(&REFERENCES, &labels, Some(count(layer.references)));
        out.add(&SIZE, &labels, Some(real(layer.bytes)));
    }
    if !rest.is_empty() {
        let labels = [("layer", "other")];
        out.add(&REFERENCES, &labels, Some(count(rest.iter().map(|layer| layer.references).sum())));
        out.add(&SIZE, &labels, Some(real(rest.iter().map(|layer| layer.bytes).sum())));
    }
    out.add(&SAVED, &[], Some(real(usage.saved)));
    out.add(&STORE, &[], Some(real(usage.total)));
    out.add(&DAMAGED, &[], Some(count(usage.layers.iter().filter(|layer| layer.damaged).count())));
    out.add(&REPAIRS, &[], Some(real(store.repairs())));
    if let Ok(disk) = rustix::fs::statvfs(store.root()) {
        out.add(&CAPACITY, &[], Some(real(disk.f_blocks.saturating_mul(disk.f_frsize))));
        out.add(&AVAILABLE, &[], Some(real(disk.f_bavail.saturating_mul(disk.f_frsize))));
        out.add(&INODES, &[], Some(real(disk.f_favail)));
    }
}

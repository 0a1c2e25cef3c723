//! What a sweep would remove: a pure function over a snapshot of the store's graph.
//!
//! ```text
//! refs ──▶ images ──▶ layers        held: kept, whatever the policy says
//!   └─ (a pull's stacks) ─▶ layers
//! ```
//!
//! An image that nothing holds is kept for as long as the policy wants it cached, and keeps its layers with it. Under
//! pressure the longest idle go first, and only if that frees something.

use std::time::Duration;

/// A layer in the graph.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct LayerNode {
    /// What it takes on disk.
    pub(in crate::store) bytes: u64,
    /// Whether a root needs it directly.
    pub(in crate::store) held: bool,
    /// How long ago it was last released (or committed).
    pub(in crate::store) idle: Duration,
}

/// An image in the graph.
#[derive(Debug, Clone)]
pub(in crate::store) struct ImageNode {
    /// Its layers, as indices; each may be shared.
    pub(in crate::store) layers: Vec<usize>,
    /// Whether a root needs it.
    pub(in crate::store) held: bool,
    /// How long ago it was last released (or stored).
    pub(in crate::store) idle: Duration,
}

/// The store's graph at one moment.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Graph {
    /// All layers.
    pub(in crate::store) layers: Vec<LayerNode>,
    /// All images; indices in their `layers` are below the number of layers.
    pub(in crate::store) images: Vec<ImageNode>,
}

/// How long what nothing holds is kept all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Policy {
    /// For images and layers alike.
    pub(in crate::store) grace: Duration,
    /// For images, and what they are made of.
    pub(in crate::store) image_age: Duration,
    /// Bytes that must become free, whatever the two above say, as far as nothing that is held has to go.
    pub(in crate::store) need: u64,
}

/// What to remove, as indices into the graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Plan {
    /// Images to remove, in ascending order.
    pub(in crate::store) images: Vec<usize>,
    /// Layers to remove, in ascending order.
    pub(in crate::store) layers: Vec<usize>,
    /// The bytes of those layers.
    pub(in crate::store) bytes: u64,
    /// In how long the next image or layer falls due, if nothing changes; `None` if nothing is waiting.
    pub(in crate::store) next_due: Option<Duration>,
}

/// The graph while a plan is made.
struct Marks<'a> {
    graph: &'a Graph,
    /// Which images stay.
    stays: Vec<bool>,
    /// How many staying images use each layer.
    users: Vec<u32>,
    /// Which layers go.
    goes: Vec<bool>,
    /// The bytes of those.
    bytes: u64,
}

impl Marks<'_> {
    fn unused(&self, layer: usize) -> bool {
        self.users[layer] == 0 && !self.graph.layers[layer].held
    }

    fn keep(&mut self, image: usize) {
        self.stays[image] = true;
        for &layer in &self.graph.images[image].layers {
            self.users[layer] += 1;
            if self.goes[layer] {
                self.goes[layer] = false;
                self.bytes -= self.graph.layers[layer].bytes;
            }
        }
    }

    fn drop_layer(&mut self, layer: usize) {
        if !self.goes[layer] && self.unused(layer) {
            self.goes[layer] = true;
            self.bytes = self.bytes.saturating_add(self.graph.layers[layer].bytes);
        }
    }

    fn drop_image(&mut self, image: usize) {
        self.stays[image] = false;
        for &layer in &self.graph.images[image].layers {
            self.users[layer] -= 1;
        }
        for &layer in &self.graph.images[image].layers {
            self.drop_layer(layer);
        }
    }

    /// Lets go of what waits only for its time, the longest idle first, until `need` bytes are free.
    fn press(&mut self, need: u64) {
        let graph = self.graph;
        let mut waiting: Vec<usize> =
            (0..graph.layers.len()).filter(|&layer| !self.goes[layer] && self.unused(layer)).collect();
        waiting.sort_by_key(|&layer| std::cmp::Reverse(graph.layers[layer].idle));
        for layer in waiting {
            if self.bytes >= need {
                return;
            }
            self.drop_layer(layer);
        }
        let mut cached: Vec<usize> =
            (0..graph.images.len()).filter(|&image| self.stays[image] && !graph.images[image].held).collect();
        cached.sort_by_key(|&image| std::cmp::Reverse(graph.images[image].idle));
        let mut dropped = Vec::new();
        for image in cached {
            if self.bytes >= need {
                break;
            }
            self.drop_image(image);
            dropped.push(image);
        }
        // What went without freeing a byte need not have gone: all its layers are still used by others.
        for image in dropped {
            if !graph.images[image].layers.iter().any(|&layer| self.goes[layer]) {
                self.keep(image);
            }
        }
    }
}

/// Decides what goes.
pub(in crate::store) fn plan(graph: &Graph, policy: Policy) -> Plan {
    let image_keep = policy.grace.max(policy.image_age);
    let mut marks = Marks {
        graph,
        stays: vec![false; graph.images.len()],
        users: vec![0; graph.layers.len()],
        goes: vec![false; graph.layers.len()],
        bytes: 0,
    };
    for (index, image) in graph.images.iter().enumerate() {
        if image.held || image.idle < image_keep {
            marks.keep(index);
        }
    }
    for (index, layer) in graph.layers.iter().enumerate() {
        if layer.idle >= policy.grace {
            marks.drop_layer(index);
        }
    }
    if marks.bytes < policy.need {
        marks.press(policy.need);
    }
    let images_due = graph.images.iter().zip(&marks.stays).filter(|(image, stays)| **stays && !image.held);
    let layers_due = (0..graph.layers.len()).filter(|&layer| !marks.goes[layer] && marks.unused(layer));
    let next_due = images_due
        .map(|(image, _)| image_keep.saturating_sub(image.idle))
        .chain(layers_due.map(|layer| policy.grace.saturating_sub(graph.layers[layer].idle)))
        .min();
    let indices = |flags: &[bool], wanted: bool| {
        flags.iter().enumerate().filter(|(_, flag)| **flag == wanted).map(|(index, _)| index).collect()
    };
    Plan { images: indices(&marks.stays, false), layers: indices(&marks.goes, true), bytes: marks.bytes, next_due }
}

//! How an image was made, step by step, each with its layer.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::find::find_image;
use crate::api::PodView;
use crate::server::problem::{Problem, Reason};
use crate::store::{LayerKey, LayerUsage, Store};

/// An image's steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    /// As the person named it.
    pub image: String,
    /// Its top digest.
    pub digest: String,
    /// The oldest first.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// When, as the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command, as the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What the image says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Its layer; some steps have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<HistoryLayer>,
}

/// The layer of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryLayer {
    /// Its key.
    pub key: String,
    /// On disk.
    pub size_bytes: u64,
    /// How many images have it.
    pub images: usize,
    /// How many containers run on it.
    pub containers: usize,
}

/// How many containers run on each layer.
pub(crate) fn containers_by_layer(pods: &[Arc<PodView>]) -> HashMap<String, usize> {
    let mut count = HashMap::new();
    for layer in pods.iter().flat_map(|p| &p.lamina.containers).filter(|c| c.pid.is_some()).flat_map(|c| &c.layers) {
        *count.entry(layer.clone()).or_default() += 1;
    }
    count
}

/// An image's steps, with who shares each layer.
///
/// # Errors
/// If there is no such image, or its config cannot be read.
pub fn history(store: &Store, text: &str, pods: &[Arc<PodView>]) -> Result<History, Problem> {
    let id = find_image(store, text)?;
    let image = store.image(&id.manifest).map_err(|e| Problem::of(Reason::Failed, &e))?;
    let image = image.ok_or_else(|| Problem::not_found("image", text))?;
    let containers = containers_by_layer(pods);
    let usage = store.usage();
    let by_key: HashMap<&LayerKey, &LayerUsage> = usage.layers.iter().map(|layer| (&layer.key, layer)).collect();
    let mut layers = image.layers.iter().map(|key| {
        let layer = by_key.get(key);
        HistoryLayer {
            key: key.to_string(),
            size_bytes: layer.map_or(0, |l| l.bytes),
            images: layer.map_or(0, |l| l.images),
            containers: containers.get(&key.to_string()).copied().unwrap_or(0),
        }
    });
    let mut steps: Vec<Step> = image
        .config
        .history()
        .iter()
        .flatten()
        .map(|step| Step {
            created: step.created().clone(),
            created_by: step.created_by().clone(),
            comment: step.comment().clone(),
            layer: if step.empty_layer().unwrap_or(false) { None } else { layers.next() },
        })
        .collect();
    // An image may tell of fewer steps than it has layers.
    steps.extend(layers.map(|layer| Step { layer: Some(layer), ..Step::default() }));
    Ok(History { image: text.to_owned(), digest: image.top.to_string(), steps })
}

//! Is the store sound.

use serde::{Deserialize, Serialize};

use crate::server::problem::{Problem, Reason};
use crate::store::{Damage, Report, Store};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Soundness {
    /// Whether every byte was looked at.
    pub full: bool,
    /// How many layers were.
    pub layers: usize,
    /// How many images were.
    pub images: usize,
    /// What is damaged.
    pub damage: Vec<DamageRow>,
}

/// One damaged thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DamageRow {
    /// `layer <key>`, `image <digest>`, …
    pub what: String,
    /// What is wrong with it, and whom it concerns.
    pub reason: String,
    /// Whether it was fetched again.
    pub repaired: bool,
}

impl DamageRow {
    fn of(damage: &Damage) -> Self {
        let list = |images: &[crate::store::ImageId]| match images {
            [] => "no image needs it".to_owned(),
            _ => format!("needed by {}", images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let (what, reason) = match damage {
            Damage::Layer { key, problem, images } => (format!("layer {key}"), format!("{problem}; {}", list(images))),
            Damage::MissingLayer { key, images } => (format!("layer {key}"), format!("it is gone; {}", list(images))),
            Damage::Image { image, problem } => (format!("image {image}"), problem.clone()),
            Damage::MissingImage { manifest, holder } => {
                (format!("image {manifest}"), format!("it is gone; held by {holder}"))
            }
            Damage::Tag { reference } => (format!("tag {reference}"), "its image is gone".to_owned()),
            Damage::Document { path, problem } => (path.display().to_string(), problem.clone()),
        };
        Self { what, reason, repaired: false }
    }
}

impl Soundness {
    /// What the store's own report says.
    pub fn of(report: &Report, full: bool) -> Self {
        let damage = report.damage.iter().map(DamageRow::of).collect();
        Self { full, layers: report.layers, images: report.images, damage }
    }
}

/// Checks a store; with `full` every byte of it.
///
/// # Errors
/// If the disk fails in a way that says nothing about the store.
pub fn check(store: &Store, full: bool) -> Result<Soundness, Problem> {
    store.check(full).map(|report| Soundness::of(&report, full)).map_err(|e| Problem::of(Reason::Failed, &e))
}

//! What the store tells a person: why something is here, what takes the disk, what made an image, is it all sound.
//!
//! Functions over a [`Store`] alone, so that `why`, `gc --dry-run` and `check` work on a stopped one, too; the shapes
//! are those of the API, and the command line reads them back.

mod check;
mod find;
mod history;
mod people;
mod usage;
mod why;

pub use check::{DamageRow, Soundness, check};
pub use find::{Subject, find, find_image};
pub(crate) use history::containers_by_layer;
pub use history::{History, HistoryLayer, Step, history};
pub use people::People;
pub use usage::{Usage, UsageRow, usage};
pub use why::{Why, why};
pub(super) use why::{pin, workload};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::{Problem, Reason};
use crate::store::{Store, SweepOptions, Swept};

/// What a collection freed, or would free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Collected {
    /// Bytes of the layers.
    pub freed_bytes: u64,
    /// Keys of the layers.
    pub layers: Vec<String>,
    /// Names, else digests, of the images.
    pub images: Vec<String>,
    /// What could not be removed.
    pub failures: Vec<String>,
}

impl Collected {
    /// What a sweep says.
    pub fn of(swept: &Swept) -> Self {
        Self {
            freed_bytes: swept.freed_bytes,
            layers: swept.layers.iter().map(|layer| layer.key.to_string()).collect(),
            images: swept.images.iter().map(ToString::to_string).collect(),
            failures: swept.failures.iter().map(|error| crate::api::problem::chain(error)).collect(),
        }
    }
}

/// What a sweep of a stopped store would free.
///
/// # Errors
/// If the store cannot be read.
pub fn dry_run(store: &Store, grace: Duration) -> Result<Collected, Problem> {
    let options = SweepOptions { grace, dry_run: true, ..SweepOptions::default() };
    store.sweep(&options).map(|swept| Collected::of(&swept)).map_err(|e| Problem::of(Reason::Failed, &e))
}

/// The agent: titled lists of names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// In the order to show them.
    pub sections: Vec<(String, Vec<(String, String)>)>,
}

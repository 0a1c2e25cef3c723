//! Where desired objects come from. Each source publishes its full set on a `watch` (only the newest matters), and
//! `merge` joins the sets by precedence.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | `directory`, one a directory | inotify, a slow timer | a [`DesiredSet`] | when its handle is dropped |
//! | `kubernetes` | the watches of an API server | a [`DesiredSet`], the accepted set on disk | when its handle is dropped |
//! | `desired` | `apply` and `delete` of the local API | a [`DesiredSet`], files under `desired/` | no task: acts in the caller |
//! | `merge` | the sets of all sources | one [`DesiredSet`] | when its handle is dropped, or all sources are gone |

pub mod desired;
pub mod directory;
pub mod kubernetes;
pub mod merge;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::{Object, ObjectKey, Problem};

pub use desired::{Applied, Desired};
pub use directory::Directory;
pub use kubernetes::Kubernetes;
pub use merge::Merge;

/// Where an object comes from; the order is that of precedence, the first wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A watched manifest directory.
    Manifests,
    /// `lamina apply` and `lamina run`.
    Desired,
    /// The API server of a cluster.
    Kubernetes,
}

impl SourceKind {
    /// As it is written in pod.json, events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Desired => "desired",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A desired object, and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    /// The object.
    pub object: Arc<Object>,
    /// Which kind of source.
    pub source: SourceKind,
    /// The file.
    pub file: PathBuf,
    /// Which document of the file, from 1.
    pub document: usize,
    /// Paths of fields that it uses and that do nothing here, on purpose.
    pub ignored: Vec<String>,
}

/// An object that does not count, since another of the same name comes first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shadowed {
    /// The object.
    pub key: ObjectKey,
    /// Where the one that does not count is.
    pub loser: PathBuf,
    /// Where the one that counts is.
    pub winner: PathBuf,
}

/// All that should be, as far as one source (or all of them, merged) knows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DesiredSet {
    /// The objects, sorted by key, each key once.
    pub objects: Vec<Sourced>,
    /// What is wrong with manifests, and with reading them.
    pub problems: Vec<Problem>,
    /// Objects that do not count.
    pub shadowed: Vec<Shadowed>,
    /// Whether the source has been looked at as a whole at least once. Until then, what is not in `objects` is not known
    /// to be unwanted: nothing may be stopped or collected for its absence.
    pub synced: bool,
    /// Files, and directories, of which it is not known what they want: they cannot be read or have something wrong. What
    /// they were known to want is still in `objects`; what an earlier agent took from them must be left as it is, too.
    pub uncertain: Vec<PathBuf>,
}

impl DesiredSet {
    /// Whether an object that came from `file`, and is not in `objects`, is known to be wanted no more.
    pub fn is_gone(&self, file: &Path) -> bool {
        self.synced && !self.uncertain.iter().any(|u| file.starts_with(u))
    }
}

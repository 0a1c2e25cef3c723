//! What is said of claims: where they are declared, how far they are, who has them, and why one cannot be had.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde::{Deserialize, Serialize};

use crate::api::ObjectKey;
use crate::sys::atomic;

/// Why a claim cannot be had, or not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("persistentvolumeclaim {name:?} not found")]
    Missing {
        /// The one that is named.
        name: String,
    },
    /// It goes, and nobody new gets it.
    #[error("persistentvolumeclaim {name:?} is being deleted")]
    Terminating {
        /// The one that is named.
        name: String,
    },
    /// Only one pod may have it.
    #[error("persistentvolumeclaim {name:?} is ReadWriteOncePod, and pod {pod} has it")]
    Taken {
        /// The one that is named.
        name: String,
        /// Who has it.
        pod: String,
    },
    /// Its directory is there, and what it is cannot be read.
    #[error("persistentvolumeclaim {name:?}: {reason}; it is left alone")]
    Damaged {
        /// The one that is named.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A durable write failed.
    #[error(transparent)]
    Write(#[from] atomic::Error),
}

impl Error {
    /// Whether it is over only when claims, or who has them, have changed.
    pub const fn awaits_change(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Terminating { .. } | Self::Taken { .. })
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Where a claim is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// As an object of this file.
    Object {
        /// The file.
        file: PathBuf,
    },
    /// By a template of a StatefulSet, which made it for one of its pods.
    Template {
        /// The file of the set.
        file: PathBuf,
        /// The set.
        set: String,
        /// For which of its pods.
        ordinal: u32,
        /// When it goes with its set or its pod.
        retention: Retention,
    },
}

impl Origin {
    pub(super) fn file(&self) -> &Path {
        match self {
            Self::Object { file } | Self::Template { file, .. } => file,
        }
    }
}

/// `persistentVolumeClaimRetentionPolicy`: whether claims of templates are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// When the set is deleted.
    pub deleted: bool,
    /// When the set is scaled down.
    pub scaled: bool,
}

/// A claim as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// In canonical form.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Where.
    pub origin: Origin,
}

/// How far a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Pods may have it.
    Bound,
    /// It is deleted, and goes when no pod has it any more.
    Terminating,
    /// It is deleted, and its data stay.
    Released,
}

impl Phase {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "Bound",
            Self::Terminating => "Terminating",
            Self::Released => "Released",
        }
    }
}

/// A claim as everybody may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimView {
    /// Which.
    pub key: ObjectKey,
    /// Made with the volume.
    pub uid: String,
    /// When the volume was made.
    pub created: Timestamp,
    /// What was declared.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Where.
    pub origin: Origin,
    /// How far it is.
    pub phase: Phase,
    /// What pods have mounted.
    pub path: PathBuf,
    /// The pods that have it, by uid.
    pub users: BTreeMap<String, String>,
}

/// All claims by their keys.
pub type Views = Arc<BTreeMap<ObjectKey, ClaimView>>;

/// What a StatefulSet wants of the claims that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The ordinals of its pods.
    pub ordinals: Range<u32>,
    /// When claims go.
    pub retention: Retention,
}

/// What became of a claim by itself.
#[derive(Debug)]
pub enum Outcome {
    /// A volume was made.
    Made,
    /// It goes as soon as no pod has it.
    Terminating {
        /// The pods that have it.
        pods: Vec<String>,
    },
    /// It is gone, with its data.
    Removed,
    /// It is gone; its data stay.
    Released,
    /// What should be done could not be.
    Failed(Error),
}

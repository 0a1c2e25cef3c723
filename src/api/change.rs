//! What has to happen for a changed manifest: as little as possible (pods.md, "What replaces what").

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::canonical;

/// What a new manifest asks of the pod that runs by the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// Both mean the same.
    Nothing,
    /// Labels, annotations, resources, restart policy and the like: applied without a restart.
    InPlace,
    /// These containers (new, gone or changed) are replaced, added or removed; the others stay.
    Containers(BTreeSet<String>),
    /// The pod is stopped, then started under a new uid; the field that asks for it.
    Replace(String),
}

/// Compares two pods, whatever form they are in.
pub fn change(old: &Pod, new: &Pod) -> PodChange {
    if canonical::pod(old) == canonical::pod(new) { PodChange::Nothing } else { PodChange::Replace("spec".to_owned()) }
}

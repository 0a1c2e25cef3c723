//! What a PersistentVolumeClaim says, in the words of the code.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::quantity::Quantity;

/// The annotation that says what becomes of the data when the claim is deleted: with [`DELETE`] (or without the
/// annotation) they go, as those of a volume that was made for its claim do, with [`RETAIN`] they stay, and a claim of
/// the same name later has them again.
pub const RECLAIM: &str = "lamina.dev/reclaim-policy";
/// A reclaim policy.
pub const DELETE: &str = "Delete";
/// A reclaim policy.
pub const RETAIN: &str = "Retain";
/// The access mode of a claim that only one pod may have at a time.
pub const POD_ONLY: &str = "ReadWriteOncePod";
/// The resource that a claim asks for.
pub const STORAGE: &str = "storage";

/// Whether the data stay when the claim is deleted.
pub fn retains(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.annotations.as_ref().and_then(|a| a.get(RECLAIM)).is_some_and(|policy| policy == RETAIN)
}

/// Whether only one pod may have it at a time.
pub fn is_pod_only(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|mode| mode == POD_ONLY)
}

/// The bytes that it asks for.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<u64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Quantity::of(requests.get(STORAGE)?).ok().map(Quantity::units)
}

/// The names of the claims that a pod's volumes are of.
pub fn named(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| v.persistent_volume_claim.as_ref()).map(|claim| claim.claim_name.as_str())
}

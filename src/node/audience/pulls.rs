//! What is said of pulls: which image, and for what.

use crate::pod::plan::find;
use crate::pod::state::Observed;

/// What a container's image is called in its manifest.
pub(super) fn image_of(seen: &Observed, container: &str) -> String {
    let name = seen.record.as_ref().and_then(|record| find(&record.pod, container)).and_then(|c| c.image.clone());
    format!("image {}", name.unwrap_or_default())
}

/// The same of a volume.
pub(super) fn volume_image(seen: &Observed, volume: &str) -> String {
    let spec = seen.record.as_ref().and_then(|record| record.pod.spec.as_ref());
    let found = spec.iter().flat_map(|s| s.volumes.iter().flatten()).find(|v| v.name == volume);
    let name = found.and_then(|v| v.image.as_ref()).and_then(|i| i.reference.clone()).unwrap_or_default();
    format!("image {name} for volume {volume}")
}

/// Under which name a volume's pull is timed; no container has it.
pub(super) fn volume_key(volume: &str) -> String {
    format!("volume/{volume}")
}

//! `lamina_volume_bytes`: how large claims are, as the last walk found them.

use super::families::{Families, Family, gauge, real};
use crate::volume::claim::Claims;

const BYTES: Family = gauge(
    "lamina_volume_bytes",
    "Bytes that a claim holds on disk. Moves some time after what is written: at most a part of the time goes into walks.",
)
.by(&["namespace", "claim"]);

/// The families of this module.
pub(super) const FAMILIES: [Family; 1] = [BYTES];

pub(super) fn collect(out: &mut Families, claims: &Claims) {
    for (key, bytes) in claims.sizes().known().iter() {
        out.add(&BYTES, &[("namespace", &key.namespace), ("claim", &key.name)], Some(real(*bytes)));
    }
    claims.measure();
}

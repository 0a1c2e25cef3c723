//! PersistentVolumeClaims: how they may be used, how large they are, and what becomes of their data.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::claim::{DELETE, POD_ONLY, RECLAIM, RETAIN, STORAGE};
use super::super::quantity::Quantity;
use super::Findings;

pub(super) fn claim(claim: &PersistentVolumeClaim, found: &mut Findings) {
    policy(&claim.metadata, "metadata", found);
    match &claim.spec {
        Some(spec) => self::spec(spec, "spec", found),
        None => found.add("spec", "must be given"),
    }
}

/// What becomes of the data.
pub(super) fn policy(meta: &ObjectMeta, at: &str, found: &mut Findings) {
    let policy = meta.annotations.as_ref().and_then(|a| a.get(RECLAIM));
    found.one_of(format_args!("{at}.annotations[{RECLAIM:?}]"), policy.map(String::as_str), &[DELETE, RETAIN]);
}

/// What a claim asks for, or a template of claims does.
pub(super) fn spec(spec: &PersistentVolumeClaimSpec, at: &str, found: &mut Findings) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        found.add(format_args!("{at}.accessModes"), "must have at least one");
    }
    for (i, mode) in modes.iter().enumerate() {
        let all = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", POD_ONLY];
        if !all.contains(&mode.as_str()) {
            found.add(format_args!("{at}.accessModes[{i}]"), format!("must be one of {}", all.join(", ")));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == POD_ONLY) {
        found.add(format_args!("{at}.accessModes"), format!("{POD_ONLY} must be the only one"));
    }
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let at = format!("{at}.resources.requests");
    match requests.and_then(|r| r.get(STORAGE)) {
        None => found.add(format_args!("{at}.{STORAGE}"), "must be given"),
        Some(size) => match Quantity::of(size) {
            Ok(size) if size.milli() <= 0 => found.add(format_args!("{at}.{STORAGE}"), "must be greater than 0"),
            result => found.check(format_args!("{at}.{STORAGE}"), result.map(drop)),
        },
    }
    for name in requests.into_iter().flatten().map(|(name, _)| name).filter(|name| *name != STORAGE) {
        found.add(format_args!("{at}[{name:?}]"), format!("only {STORAGE} can be asked for"));
    }
}

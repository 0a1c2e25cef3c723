//! Metadata: names, namespaces, labels, annotations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::ids::{DEFAULT_NAMESPACE, check_label, check_subdomain};
use super::Findings;

/// What a name ends up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A pod's own.
    Pod,
    /// Pods are named after it.
    Workload,
    /// Pods are named after it, and a number in it.
    Job,
    /// Jobs are named after it, and pods after these.
    Cron,
    /// Neither.
    Other,
}

/// The longest namespace and name of a pod together: `<namespace>_<name>_<uid>` is a directory's name, which has 255
/// bytes, and a uid has 36.
const MAX_POD: usize = 255 - 36 - 2;
/// What a workload's name grows by in those of its pods: `-` and a number of 32 bits; twice for an indexed job.
const ORDINAL: usize = 11;
/// The most bytes of annotations (the API server's limit).
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(super) fn object(meta: &ObjectMeta, used: Use, found: &mut Findings) {
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    found.check("metadata.name", check_subdomain(name));
    found.check("metadata.namespace", check_label(namespace));
    let max = match used {
        Use::Pod => MAX_POD,
        Use::Workload => MAX_POD - ORDINAL,
        Use::Job => MAX_POD - 2 * ORDINAL,
        Use::Cron => MAX_POD - 3 * ORDINAL,
        Use::Other => usize::MAX,
    };
    if name.len() + namespace.len() > max {
        found.add("metadata.name", format!("must be no longer than {max} characters together with the namespace"));
    }
    labelled(meta, "metadata", found);
}

/// Labels and annotations, of an object or a template.
pub(super) fn labelled(meta: &ObjectMeta, at: &str, found: &mut Findings) {
    labels(meta.labels.as_ref(), &format!("{at}.labels"), found);
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        size += key.len() + value.len();
        // Unlike labels, annotations may have keys in capitals before the slash.
        found.check(format_args!("{at}.annotations[{key:?}]"), qualified(&key.to_ascii_lowercase()));
    }
    if size > MAX_ANNOTATIONS {
        found.add(format_args!("{at}.annotations"), format!("must have no more than {} KiB", MAX_ANNOTATIONS >> 10));
    }
}

pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, at: &str, found: &mut Findings) {
    for (key, value) in labels.into_iter().flatten() {
        found.check(format_args!("{at}[{key:?}]"), qualified(key).and_then(|()| label_value(value)));
    }
}

/// `[prefix/]name`.
fn qualified(key: &str) -> Result<(), &'static str> {
    const FORM: &str =
        "the key must be a name of letters, digits, '-', '_' and '.', with or without a DNS name and '/' before it";
    let name = match key.split_once('/') {
        Some((prefix, name)) if check_subdomain(prefix).is_ok() => name,
        Some(_) => return Err(FORM),
        None => key,
    };
    if !name.is_empty() && label_value(name).is_ok() { Ok(()) } else { Err(FORM) }
}

/// At most 63 of letters, digits, `-`, `_` and `.`, with a letter or digit at each end; or nothing.
fn label_value(value: &str) -> Result<(), &'static str> {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()].iter().flatten().all(|b| b.is_ascii_alphanumeric());
    if bytes.len() <= 63 && ends && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)) {
        Ok(())
    } else {
        Err(
            "the value must have no more than 63 letters, digits, '-', '_' and '.', and start and end with a letter or digit",
        )
    }
}

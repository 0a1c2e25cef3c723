//! ConfigMaps and Secrets: keys that can be file names, sizes that Kubernetes allows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::Findings;

/// The most bytes of data (Kubernetes' limit).
const MAX_DATA: usize = 1 << 20;

pub(super) fn config_map(map: &ConfigMap, found: &mut Findings) {
    let text = keys(map.data.as_ref(), "data", String::len, found);
    let binary = keys(map.binary_data.as_ref(), "binaryData", |v| v.0.len(), found);
    for key in map.data.iter().flatten().map(|(key, _)| key) {
        if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
            found.add(format_args!("binaryData[{key:?}]"), "is in data, too");
        }
    }
    size(text + binary, found);
}

pub(super) fn secret(secret: &Secret, found: &mut Findings) {
    let bytes = keys(secret.data.as_ref(), "data", |v| v.0.len(), found);
    size(bytes, found);
}

fn size(bytes: usize, found: &mut Findings) {
    if bytes > MAX_DATA {
        found.add("data", format!("must have no more than {} MiB", MAX_DATA >> 20));
    }
}

/// Checks keys, and adds values' sizes up.
fn keys<V>(data: Option<&BTreeMap<String, V>>, at: &str, size: impl Fn(&V) -> usize, found: &mut Findings) -> usize {
    let mut total = 0;
    for (key, value) in data.into_iter().flatten() {
        found.check(format_args!("{at}[{key:?}]"), check_key(key));
        total += key.len() + size(value);
    }
    total
}

/// A key becomes a file's name.
pub(super) fn check_key(key: &str) -> Result<(), &'static str> {
    let good = !key.is_empty()
        && key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good { Ok(()) } else { Err("a key must be a file name of letters, digits, '-', '_' and '.'") }
}

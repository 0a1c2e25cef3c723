//! What the files of a `configMap` or `secret` volume are: pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret, Volume};

use super::{Context, Error};

/// The mode of files that names none.
const DEFAULT_MODE: u32 = 0o644;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its bytes.
    pub(super) content: Vec<u8>,
    /// Its permissions.
    pub(super) mode: u32,
}

/// Files by their path within the volume.
pub(super) type Files = BTreeMap<String, File>;

/// The files of a volume that follows a ConfigMap or a Secret; `None` for other kinds.
///
/// # Errors
/// If what it refers to is missing and not optional, or a path would leave the volume.
pub(super) fn files(volume: &Volume, context: &Context<'_>) -> Result<Option<Files>, Error> {
    let (kind, name, optional, mode, items, data) = if let Some(source) = &volume.config_map {
        let data = context.config_maps.get(&source.name).map(|m| config_map(m));
        ("ConfigMap", source.name.as_str(), source.optional, source.default_mode, &source.items, data)
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let data = context.secrets.get(name).map(|s| secret(s));
        ("Secret", name, source.optional, source.default_mode, &source.items, data)
    } else {
        return Ok(None);
    };
    let optional = optional == Some(true);
    let Some(data) = data else {
        if optional {
            return Ok(Some(Files::new()));
        }
        return Err(Error::Missing { volume: volume.name.clone(), kind, name: name.to_owned() });
    };
    let mode = permissions(mode, DEFAULT_MODE);
    let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
        return Ok(Some(data.into_iter().map(|(key, content)| (key, File { content, mode })).collect()));
    };
    let mut files = Files::new();
    for KeyToPath { key, path, mode: own, .. } in items {
        if !stays_inside(path) {
            return Err(Error::Path { volume: volume.name.clone(), path: path.clone() });
        }
        match data.get(key) {
            Some(content) => {
                files.insert(path.clone(), File { content: content.clone(), mode: permissions(*own, mode) });
            }
            None if optional => {}
            None => {
                let (volume, name, key) = (volume.name.clone(), name.to_owned(), key.clone());
                return Err(Error::MissingKey { volume, kind, name, key });
            }
        }
    }
    Ok(Some(files))
}

fn permissions(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).map_or(default, |m| m & 0o777)
}

fn stays_inside(path: &str) -> bool {
    // Names that begin with ".." are the volume's own.
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn config_map(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let bytes = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(bytes).collect()
}

fn secret(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let bytes = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    let text = secret.string_data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    bytes.chain(text).collect()
}

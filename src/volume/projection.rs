//! What the files of a `configMap`, `secret`, `downwardAPI` or `projected` volume are: pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, Volume};

use super::{Context, Error};
use crate::api::env;

/// The mode of files that names none.
const DEFAULT_MODE: u32 = 0o644;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its bytes.
    pub(super) content: Vec<u8>,
    /// Its permissions.
    pub(super) mode: u32,
    /// Who owns it, where that is not root.
    pub(super) user: Option<u32>,
}

/// Files by their path within the volume.
pub(super) type Files = BTreeMap<String, File>;

/// The files of a volume that is made of other objects or of the pod itself; `None` for other kinds.
///
/// # Errors
/// If what it refers to is missing and not optional, or a path would leave the volume.
pub(super) fn files(volume: &Volume, context: &Context<'_>) -> Result<Option<Files>, Error> {
    let begin = |mode: Option<i32>, user: Option<i64>| Making {
        volume: &volume.name,
        context,
        mode: permissions(mode, DEFAULT_MODE),
        user: owner(user),
        files: Files::new(),
    };
    let mut making;
    if let Some(source) = &volume.config_map {
        making = begin(source.default_mode, source.default_user);
        making.config_map(&source.name, source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.secret {
        making = begin(source.default_mode, source.default_user);
        let name = source.secret_name.as_deref().unwrap_or_default();
        making.secret(name, source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.downward_api {
        making = begin(source.default_mode, source.default_user);
        making.downward(source.items.as_deref())?;
    } else if let Some(source) = &volume.projected {
        making = begin(source.default_mode, source.default_user);
        // Where two sources have a path, the later one has it, as on a kubelet.
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                making.config_map(&map.name, map.items.as_deref(), map.optional)?;
            } else if let Some(secret) = &part.secret {
                making.secret(&secret.name, secret.items.as_deref(), secret.optional)?;
            } else if let Some(downward) = &part.downward_api {
                making.downward(downward.items.as_deref())?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(making.files))
}

/// Whether two paths cannot both be files of one volume: they are the same, or one is a directory for the other.
fn collide(a: &str, b: &str) -> bool {
    let (a, b) = (Path::new(a), Path::new(b));
    a.starts_with(b) || b.starts_with(a)
}

struct Making<'a> {
    volume: &'a str,
    context: &'a Context<'a>,
    mode: u32,
    user: Option<u32>,
    files: Files,
}

impl Making<'_> {
    fn config_map(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Error> {
        let data = self.context.config_maps.get(name).map(|m| config_map(m));
        self.object("ConfigMap", name, data, items, optional == Some(true))
    }

    fn secret(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Error> {
        let data = self.context.secrets.get(name).map(|s| secret(s));
        self.object("Secret", name, data, items, optional == Some(true))
    }

    fn object(
        &mut self,
        kind: &'static str,
        name: &str,
        data: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Error> {
        let Some(data) = data else {
            if optional {
                return Ok(());
            }
            return Err(Error::Missing { volume: self.volume.to_owned(), kind, name: name.to_owned() });
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, content) in data {
                self.add(key, content, None, None);
            }
            return Ok(());
        };
        for KeyToPath { key, path, mode, user } in items {
            self.inside(path)?;
            match data.get(key) {
                Some(content) => self.add(path.clone(), content.clone(), *mode, *user),
                None if optional => {}
                None => {
                    let (volume, name, key) = (self.volume.to_owned(), name.to_owned(), key.clone());
                    return Err(Error::MissingKey { volume, kind, name, key });
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), Error> {
        for item in items.into_iter().flatten() {
            self.inside(&item.path)?;
            let pod = self.context.pod;
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => env::file_field(pod, &field.field_path),
                (None, Some(resource)) => env::file_resource(pod, resource, self.context.node).and_then(Result::ok),
                (None, None) => None,
            };
            let Some(text) = text else {
                return Err(Error::Field { volume: self.volume.to_owned(), path: item.path.clone() });
            };
            self.add(item.path.clone(), text.into_bytes(), item.mode, item.user);
        }
        Ok(())
    }

    fn inside(&self, path: &str) -> Result<(), Error> {
        if stays_inside(path) {
            return Ok(());
        }
        Err(Error::Path { volume: self.volume.to_owned(), path: path.to_owned() })
    }

    fn add(&mut self, path: String, content: Vec<u8>, mode: Option<i32>, user: Option<i64>) {
        self.files.retain(|other, _| !collide(other, &path));
        let file = File { content, mode: permissions(mode, self.mode), user: owner(user).or(self.user) };
        self.files.insert(path, file);
    }
}

fn permissions(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).map_or(default, |m| m & 0o777)
}

fn owner(user: Option<i64>) -> Option<u32> {
    user.and_then(|u| u32::try_from(u).ok())
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

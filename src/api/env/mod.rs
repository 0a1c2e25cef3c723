//! A container's environment: `envFrom`, `env` and where its values come from, and `$(VAR)` in commands.

mod field;
pub mod file;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, FileKeySelector, Pod, Secret};

use super::quantity::QuantityError;
pub use field::{NodeFacts, file_field, file_resource, is_field, is_file_field};

/// Why an environment cannot be made. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret that is not there.
    #[error("{kind} {name:?} not found")]
    Object {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name, in the pod's namespace.
        name: String,
    },
    /// It is there, without the key.
    #[error("{kind} {name:?} has no key {key:?}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name, in the pod's namespace.
        name: String,
        /// The key.
        key: String,
    },
    /// A file that cannot be had, or not be understood.
    #[error("file {path:?} of volume {volume:?}: {reason}")]
    File {
        /// The volume.
        volume: String,
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A value that no environment can hold.
    #[error("the value of {variable:?} is not text")]
    Text {
        /// The variable.
        variable: String,
    },
    /// A reference to a field that does not lead anywhere.
    #[error("the field that {variable:?} refers to is not supported")]
    Field {
        /// The variable.
        variable: String,
    },
    /// A quantity that cannot be read.
    #[error("the resource that {variable:?} refers to cannot be read")]
    Resource {
        /// The variable.
        variable: String,
        /// What is wrong with it.
        source: QuantityError,
    },
}

/// Finds ConfigMaps and Secrets of the pod's namespace by name.
pub trait Lookup {
    /// A ConfigMap.
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    /// A Secret.
    fn secret(&self, name: &str) -> Option<&Secret>;
    /// The text of a file in a volume; nothing if there is no such file.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn file(&self, volume: &str, path: &str) -> Result<Option<&str>, String>;
}

/// The environment that a container's manifest asks for, in order, each name once; then what leads to services, unless a
/// variable of the manifest has that name. What its image sets comes before all of it, and is not known to `$(VAR)`.
///
/// # Errors
/// If something that is not optional is missing. Names in `envFrom` that no variable can have are left out.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    lookup: &dyn Lookup,
    node: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut made = Made::default();
    let link = |name: &str| node.services.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            match lookup.config_map(&source.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        made.set_bytes(format!("{prefix}{key}"), value.as_bytes())?;
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::Object { kind: "ConfigMap", name: source.name.clone() }),
            }
        }
        if let Some(source) = &from.secret_ref {
            match lookup.secret(&source.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        made.set_bytes(format!("{prefix}{key}"), &value.0)?;
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::Object { kind: "Secret", name: source.name.clone() }),
            }
        }
    }
    for env in container.env.iter().flatten() {
        let value = match &env.value_from {
            None => {
                Some(expand(env.value.as_deref().unwrap_or_default(), |name| made.get(name).or_else(|| link(name))))
            }
            Some(from) => value_from(&env.name, from, pod, container, lookup, node)?,
        };
        if let Some(value) = value {
            made.set(env.name.clone(), value)?;
        }
    }
    for (name, value) in node.services.iter().filter(|(name, _)| made.get(name).is_none()).collect::<Vec<_>>() {
        made.set(name.clone(), value.clone())?;
    }
    Ok(made.list)
}

fn value_from(
    variable: &str,
    from: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    lookup: &dyn Lookup,
    node: &NodeFacts,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &from.field_ref {
        return match field::value(pod, &field.field_path, node) {
            Some(value) => Ok(Some(value)),
            None => Err(EnvError::Field { variable: variable.to_owned() }),
        };
    }
    if let Some(resource) = &from.resource_field_ref {
        return match field::resource(pod, container, resource, node) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(source)) => Err(EnvError::Resource { variable: variable.to_owned(), source }),
            None => Err(EnvError::Field { variable: variable.to_owned() }),
        };
    }
    if let Some(key) = &from.config_map_key_ref {
        let map = lookup.config_map(&key.name);
        let value = map.and_then(|m| m.data.as_ref()).and_then(|d| d.get(&key.key)).cloned();
        return missing(value, map.is_some(), "ConfigMap", &key.name, &key.key, key.optional);
    }
    if let Some(key) = &from.secret_key_ref {
        let secret = lookup.secret(&key.name);
        let value = secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get(&key.key));
        let value = match value.map(|v| String::from_utf8(v.0.clone())) {
            Some(Ok(text)) => Some(text),
            Some(Err(_)) => return Err(EnvError::Text { variable: variable.to_owned() }),
            None => None,
        };
        return missing(value, secret.is_some(), "Secret", &key.name, &key.key, key.optional);
    }
    if let Some(key) = &from.file_key_ref {
        return file_key(key, lookup);
    }
    Err(EnvError::Field { variable: variable.to_owned() })
}

fn file_key(key: &FileKeySelector, lookup: &dyn Lookup) -> Result<Option<String>, EnvError> {
    let failed = |reason| EnvError::File { volume: key.volume_name.clone(), path: key.path.clone(), reason };
    let found = match lookup.file(&key.volume_name, &key.path).map_err(failed)? {
        Some(text) => file::find(text, &key.key).map_err(|line| failed(format!("line {line} is not KEY='value'")))?,
        None if key.optional == Some(true) => None,
        None => return Err(failed("there is no such file".to_owned())),
    };
    match found {
        None if key.optional != Some(true) => Err(failed(format!("it has no key {:?}", key.key))),
        found => Ok(found),
    }
}

/// What it means that a key was or was not found.
fn missing(
    value: Option<String>,
    object: bool,
    kind: &'static str,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None if object => Err(EnvError::Key { kind, name: name.to_owned(), key: key.to_owned() }),
        None => Err(EnvError::Object { kind, name: name.to_owned() }),
    }
}

/// Variables in the order in which they were first set; a later value takes the place of an earlier one.
#[derive(Debug, Default)]
struct Made {
    list: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Made {
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.list[*place].1.as_str())
    }

    fn set(&mut self, name: String, value: String) -> Result<(), EnvError> {
        if value.contains('\0') {
            return Err(EnvError::Text { variable: name });
        }
        if let Some(place) = self.places.get(&name) {
            self.list[*place].1 = value;
        } else {
            self.places.insert(name.clone(), self.list.len());
            self.list.push((name, value));
        }
        Ok(())
    }

    /// As [`Self::set`], for a key of a ConfigMap or Secret; a key of such an object is never a bad name.
    fn set_bytes(&mut self, name: String, value: &[u8]) -> Result<(), EnvError> {
        match std::str::from_utf8(value) {
            Ok(text) => self.set(name, text.to_owned()),
            Err(_) => Err(EnvError::Text { variable: name }),
        }
    }
}

/// Expands `$(VAR)`: a known name becomes its value, an unknown one stays as it is, and `$$` is one `$`.
pub fn expand<'v>(text: &str, get: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// As [`expand`], but every name must be known.
///
/// # Errors
/// The first name that is not.
pub fn expand_known(text: &str, env: &[(String, String)]) -> Result<String, String> {
    let unknown = std::cell::RefCell::new(None);
    let known = expand(text, |name| {
        let found = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if found.is_none() && unknown.borrow().is_none() {
            *unknown.borrow_mut() = Some(name.to_owned());
        }
        found
    });
    unknown.into_inner().map_or(Ok(known), Err)
}

/// Expands a command or its arguments with an environment.
pub fn expand_all(words: &[String], env: &[(String, String)]) -> Vec<String> {
    let names: HashMap<&str, &str> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    words.iter().map(|word| expand(word, |name| names.get(name).copied())).collect()
}

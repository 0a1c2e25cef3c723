//! What is wanted of one pod: its specification and the ConfigMaps and Secrets that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

use super::state::Origin;

/// What is wanted of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The pod in canonical form.
    pub pod: Arc<Pod>,
    /// Where it is declared.
    pub origin: Origin,
    /// What it refers to.
    pub config: Arc<Config>,
}

/// What a worker is told to bring about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// What should be; `None`: nothing.
    pub desired: Option<Desired>,
    /// With nothing: how long its containers have, instead of what the pod says.
    pub grace: Option<Duration>,
}

/// The ConfigMaps and Secrets that one pod names, as far as they are there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

impl Config {
    /// A number that differs when the content does; 0 when there is none. Good within one run of the agent only.
    pub fn stamp(&self) -> u64 {
        if self.config_maps.is_empty() && self.secrets.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        for (name, map) in &self.config_maps {
            (name, &map.data).hash(&mut hasher);
            for (key, bytes) in map.binary_data.iter().flatten() {
                (key, &bytes.0).hash(&mut hasher);
            }
        }
        for (name, secret) in &self.secrets {
            name.hash(&mut hasher);
            for (key, bytes) in secret.data.iter().flatten() {
                (key, &bytes.0).hash(&mut hasher);
            }
            secret.string_data.hash(&mut hasher);
        }
        hasher.finish().max(1)
    }
}

/// The names of the ConfigMaps and of the Secrets that a pod refers to.
pub fn references(pod: &Pod) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|m| m.name.as_str()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|m| m.name.as_str()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.as_str()));
        }
    }
    for container in &spec.containers {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.as_ref().map(|m| m.name.as_str()));
            secrets.extend(from.secret_ref.as_ref().map(|s| s.name.as_str()));
        }
        for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.as_ref().map(|m| m.name.as_str()));
            secrets.extend(from.secret_key_ref.as_ref().map(|s| s.name.as_str()));
        }
    }
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.as_str()));
    (maps, secrets)
}

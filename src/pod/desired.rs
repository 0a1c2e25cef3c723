//! What is wanted of one pod: its specification and the ConfigMaps, Secrets and claims that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

use super::state::Origin;
use crate::api::PodUid;
use crate::volume::claim::{Declared, Phase};

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

impl Desired {
    /// A number that differs when what the pod's volumes are filled with does: ConfigMaps, Secrets, and its own fields
    /// where a volume shows them. Good within one run of the agent only.
    pub fn stamp(&self) -> u64 {
        let spec = self.pod.spec.as_ref();
        if !spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(crate::volume::shows_pod) {
            return self.config.stamp();
        }
        let mut hasher = DefaultHasher::new();
        (self.config.stamp(), &self.pod.metadata.labels, &self.pod.metadata.annotations).hash(&mut hasher);
        let containers = spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        for resources in containers.filter_map(|c| c.resources.as_ref()) {
            for (name, quantity) in resources.limits.iter().chain(&resources.requests).flatten() {
                (name, &quantity.0).hash(&mut hasher);
            }
        }
        hasher.finish().max(1)
    }
}

/// What a worker is told to bring about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// What should be; `None`: nothing.
    pub desired: Option<Desired>,
    /// With nothing: how long its containers have, instead of what the pod says.
    pub grace: Option<Duration>,
    /// The pod of this uid is to be over.
    pub evicted: Option<Eviction>,
    /// Counts the times that images came without a pull: what was missing may be here now.
    pub images: u64,
}

/// Why a pod is evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Which pod: another of its name later is not meant.
    pub uid: PodUid,
    /// For a person.
    pub message: String,
    /// How long its containers have, at most.
    pub grace: Duration,
    /// The node was short of something, and the pod is not at fault.
    pub disruption: bool,
}

/// What is there of a claim that a pod names. What the pod is started with, and woken by when it waits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claim {
    /// As it is declared, if it is.
    pub declared: Option<Declared>,
    /// How far the one is that is here.
    pub phase: Option<Phase>,
    /// Who has it, where only one pod may.
    pub holder: Option<String>,
}

/// The ConfigMaps, Secrets and claims that one pod names, as far as they are there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// By name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// By name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// By name.
    pub claims: BTreeMap<String, Claim>,
    /// It is not known yet what there is: what volumes hold stays as it is.
    pub unsure: bool,
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
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
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

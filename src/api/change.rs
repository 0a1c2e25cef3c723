//! What has to happen for a changed manifest: as little as possible (pods.md, "What replaces what").

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::Value;

use super::canonical;

#[cfg(test)]
mod tests;

/// What a new manifest asks of the pod that runs by the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// Both mean the same.
    Nothing,
    /// Labels, annotations, resources, restart policy, grace period and the like: applied without a restart.
    InPlace,
    /// These containers (new, gone or changed) are added, removed or replaced; the others stay. What can be applied
    /// without a restart is applied, too.
    Containers(BTreeSet<String>),
    /// The pod is stopped, then started under a new uid; the path of a field that asks for it.
    Replace(String),
}

/// Compares two pods, whatever form they are in.
pub fn change(old: &Pod, new: &Pod) -> PodChange {
    let (old, new) = (canonical::pod(old), canonical::pod(new));
    let (before, after) = (&old.metadata, &new.metadata);
    if (&before.name, &before.namespace) != (&after.name, &after.namespace) {
        return PodChange::Replace("metadata.name".to_owned());
    }
    let none = PodSpec::default();
    let (old_spec, new_spec) = (old.spec.as_ref().unwrap_or(&none), new.spec.as_ref().unwrap_or(&none));
    if let Some(field) = pod_level(old_spec, new_spec) {
        return PodChange::Replace(format!("spec.{field}"));
    }
    let containers = containers(&old_spec.containers, &new_spec.containers);
    if !containers.is_empty() {
        return PodChange::Containers(containers);
    }
    // The order of containers is how they are first started, and nothing after that.
    let sorted = |spec: &PodSpec| {
        let mut spec = spec.clone();
        spec.containers.sort_by(|a, b| a.name.cmp(&b.name));
        spec
    };
    let same = (&before.labels, &before.annotations) == (&after.labels, &after.annotations)
        && sorted(old_spec) == sorted(new_spec);
    if same { PodChange::Nothing } else { PodChange::InPlace }
}

/// The first field of the pod as a whole that differs and cannot be changed in place.
fn pod_level(old: &PodSpec, new: &PodSpec) -> Option<String> {
    let fixed = |spec: &PodSpec| PodSpec {
        containers: Vec::new(),
        active_deadline_seconds: None,
        image_pull_secrets: None,
        restart_policy: None,
        service_account_name: None,
        termination_grace_period_seconds: None,
        ..spec.clone()
    };
    let (old, new) = (fixed(old), fixed(new));
    if old == new {
        return None;
    }
    let fields = |spec: &PodSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(&old), fields(&new));
    let differs = old.keys().chain(new.keys()).find(|key| old.get(*key) != new.get(*key));
    Some(differs.map_or_else(|| "*".to_owned(), Clone::clone))
}

fn containers(old: &[Container], new: &[Container]) -> BTreeSet<String> {
    // Resources are changed in place, and the pull policy counts at the next pull.
    let fixed = |list: &[Container]| -> BTreeMap<String, Container> {
        list.iter()
            .map(|c| (c.name.clone(), Container { resources: None, image_pull_policy: None, ..c.clone() }))
            .collect()
    };
    let (old, new) = (fixed(old), fixed(new));
    old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

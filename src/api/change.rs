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
    if host_ports(old_spec) != host_ports(new_spec) {
        return PodChange::Replace("spec.containers.ports.hostPort".to_owned());
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

/// The fields in which two pods differ, each as a person would name it: `spec.hostNetwork`, `spec.containers{app}.image`;
/// of a container that only one of them has, the container.
pub fn differences(old: &Pod, new: &Pod) -> Vec<String> {
    let (old, new) = (canonical::pod(old), canonical::pod(new));
    let mut found: Vec<String> = [
        ("metadata.labels", old.metadata.labels != new.metadata.labels),
        ("metadata.annotations", old.metadata.annotations != new.metadata.annotations),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(path, _)| path.to_owned())
    .collect();
    let none = PodSpec::default();
    let (old, new) = (old.spec.as_ref().unwrap_or(&none), new.spec.as_ref().unwrap_or(&none));
    let bare = |spec: &PodSpec| PodSpec { containers: Vec::new(), init_containers: None, ..spec.clone() };
    found.extend(differing(&bare(old), &bare(new)).into_iter().map(|field| format!("spec.{field}")));
    let empty = Vec::new();
    let lists = [
        ("spec.initContainers", old.init_containers.as_ref(), new.init_containers.as_ref()),
        ("spec.containers", Some(&old.containers), Some(&new.containers)),
    ];
    for (path, old, new) in lists {
        let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
        let named = |list: &[Container]| list.iter().map(|c| c.name.clone()).collect::<BTreeSet<_>>();
        for name in named(old).union(&named(new)) {
            let find = |list: &[Container]| list.iter().find(|c| c.name == *name).cloned();
            match (find(old), find(new)) {
                (Some(old), Some(new)) => {
                    found.extend(differing(&old, &new).into_iter().map(|field| format!("{path}{{{name}}}.{field}")));
                }
                _ => found.push(format!("{path}{{{name}}}")),
            }
        }
    }
    found
}

/// The names of the fields in which two values differ.
fn differing<T: serde::Serialize>(old: &T, new: &T) -> Vec<String> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

/// The first field of the pod as a whole that differs and cannot be changed in place.
fn pod_level(old: &PodSpec, new: &PodSpec) -> Option<String> {
    let fixed = |spec: &PodSpec| PodSpec {
        containers: Vec::new(),
        init_containers: spec.init_containers.as_ref().map(|inits| inits.iter().map(restarting).collect()),
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
    Some(differing(&old, &new).into_iter().next().unwrap_or_else(|| "*".to_owned()))
}

/// The ports of the host that a pod has: they belong to the pod as a whole.
fn host_ports(spec: &PodSpec) -> BTreeSet<(i32, i32, String, String)> {
    let host = spec.host_network.unwrap_or_default();
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let asked = port.host_port.filter(|n| *n != 0).or_else(|| host.then_some(port.container_port))?;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            Some((asked, port.container_port, text(&port.protocol), text(&port.host_ip)))
        })
        .collect()
}

fn containers(old: &[Container], new: &[Container]) -> BTreeSet<String> {
    let fixed = |list: &[Container]| -> BTreeMap<String, Container> {
        list.iter().map(|c| (c.name.clone(), restarting(c))).collect()
    };
    let (old, new) = (fixed(old), fixed(new));
    old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

/// What of a container only a new start can take on: its resources are changed in place, its pull policy counts at the
/// next pull, its probes and what happens when it ends from then on.
fn restarting(c: &Container) -> Container {
    Container {
        image_pull_policy: None,
        lifecycle: None,
        liveness_probe: None,
        readiness_probe: None,
        resize_policy: None,
        resources: None,
        startup_probe: None,
        restart_policy: c.restart_policy.clone().filter(|p| p == "Always"),
        restart_policy_rules: None,
        ..c.clone()
    }
}

//! What pods may take on disk, and what they take: volumes, writable layers and logs.
//!
//! Only pods that have such a limit are measured; how often follows from how long it takes (see [`super::Keeper`]). Where
//! the file system counts what is written ([`quota`]) it is asked, elsewhere a walk ends where a limit is passed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::api::quantity::Quantity;
use crate::api::view::has_own_users;
use crate::sys::{quota, tree};

/// The resource.
pub(super) const RESOURCE: &str = "ephemeral-storage";

/// A limit in bytes, and as the manifest has it.
type Limit = (u64, String);

/// What a pod may take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Limits {
    volumes: BTreeMap<String, Limit>,
    containers: BTreeMap<String, Limit>,
    /// All together; a pod in which no container has a limit has none.
    pod: Option<u64>,
}

/// What a pod takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Used {
    pub(super) volumes: BTreeMap<String, tree::Usage>,
    pub(super) containers: BTreeMap<String, tree::Usage>,
}

/// Where a pod's things lie.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// `emptyDir` volumes on disk.
    pub(super) volumes: BTreeMap<String, PathBuf>,
    /// Of each container: its newest attempt, and its logs.
    pub(super) containers: BTreeMap<String, Vec<PathBuf>>,
    /// Whether a count of the file system may be believed.
    is_counted: bool,
}

impl Limits {
    /// What a pod's manifest says; `None`: nothing is limited.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let volumes = spec.volumes.iter().flatten().filter_map(|v| {
            let dir = v.empty_dir.as_ref().filter(|_| is_on_disk(v))?;
            // 0 is no limit, as a kubelet has it.
            let limit = dir.size_limit.as_ref()?;
            let bytes = Quantity::of(limit).ok()?.units();
            (bytes > 0).then(|| (v.name.clone(), (bytes, limit.0.clone())))
        });
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let containers = all.filter_map(|c| Some((c.name.clone(), limit(c)?)));
        let mains = spec.containers.iter().filter_map(limit).map(|(bytes, _)| bytes).reduce(u64::saturating_add);
        let most = spec.init_containers.iter().flatten().filter_map(limit).map(|(bytes, _)| bytes).max();
        let limits = Self { volumes: volumes.collect(), containers: containers.collect(), pod: mains.max(most) };
        (limits != Self::default()).then_some(limits)
    }

    /// How much need be known of any part: past that, something is over its limit at any rate.
    fn most(&self) -> u64 {
        let volumes = self.volumes.values().chain(self.containers.values()).map(|(bytes, _)| *bytes);
        volumes.chain(self.pod).max().unwrap_or(0)
    }

    /// Why the pod is to go, in the words of a kubelet; `None`: it keeps its limits.
    pub(super) fn exceeded(&self, used: &Used) -> Option<String> {
        let bytes = |of: &BTreeMap<String, tree::Usage>, name: &String| of.get(name).map_or(0, |u| u.bytes);
        if let Some((name, (_, limit))) = self.volumes.iter().find(|(name, limit)| bytes(&used.volumes, name) > limit.0)
        {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\"."));
        }
        if let Some(limit) = self.pod.filter(|limit| used.total().bytes > *limit) {
            let limit = super::threshold::Signal::Disk.amount(limit);
            let what = "Pod ephemeral local storage usage exceeds the total limit of containers";
            return Some(format!("{what} {limit}."));
        }
        let over = self.containers.iter().find(|(name, limit)| bytes(&used.containers, name) > limit.0);
        over.map(|(name, (_, limit))| {
            format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\".")
        })
    }

    /// Measures what these limits are about. Blocks.
    pub(super) fn measure(&self, places: &Places) -> Used {
        places.measure(self.most())
    }
}

impl Used {
    /// All together.
    pub(super) fn total(&self) -> tree::Usage {
        let mut total = tree::Usage::default();
        self.volumes.values().chain(self.containers.values()).for_each(|usage| total += *usage);
        total
    }
}

impl Places {
    /// Where things of a pod lie, by its directory, its directory of logs, and the newest attempt of each container.
    pub(super) fn of(pod: &Pod, dir: &Path, logs: &Path, attempts: impl IntoIterator<Item = (String, u32)>) -> Self {
        let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| is_on_disk(v));
        let volumes = all.map(|v| (v.name.clone(), dir.join("volumes").join(&v.name)));
        let containers = attempts.into_iter().map(|(name, attempt)| {
            let own = dir.join("containers").join(&name).join(attempt.to_string());
            let logs = logs.join(&name);
            (name, vec![own, logs])
        });
        Self { volumes: volumes.collect(), containers: containers.collect(), is_counted: has_own_users(pod) }
    }

    /// What of each part takes, as far as up to `most` bytes a tree. Blocks.
    pub(super) fn measure(&self, most: u64) -> Used {
        let usage = |path: &Path| {
            let counted = self.is_counted.then(|| quota::usage(path)).flatten();
            counted.unwrap_or_else(|| tree::usage(path, most))
        };
        let volumes = self.volumes.iter().map(|(name, path)| (name.clone(), usage(path)));
        let containers = self.containers.iter().map(|(name, paths)| {
            let mut sum = tree::Usage::default();
            for path in paths {
                sum += usage(path);
            }
            (name.clone(), sum)
        });
        Used { volumes: volumes.collect(), containers: containers.collect() }
    }
}

/// How much of the disk a pod has asked for.
pub(super) fn asked(pod: &Pod) -> u64 {
    let all = pod.spec.iter().flat_map(|s| &s.containers);
    let request = |c: &Container| {
        let resources = c.resources.as_ref()?;
        let map = resources.requests.as_ref().filter(|m| m.contains_key(RESOURCE)).or(resources.limits.as_ref())?;
        Quantity::of(map.get(RESOURCE)?).ok().map(Quantity::units)
    };
    all.filter_map(request).fold(0, u64::saturating_add)
}

fn limit(container: &Container) -> Option<Limit> {
    let text = container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?;
    Some((Quantity::of(text).ok()?.units(), text.0.clone()))
}

fn is_on_disk(volume: &k8s_openapi::api::core::v1::Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref().unwrap_or_default().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap()
    }

    fn used(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Used {
        let all = |list: &[(&str, u64)]| {
            list.iter().map(|(name, bytes)| ((*name).to_owned(), tree::Usage { bytes: *bytes, inodes: 1 })).collect()
        };
        Used { volumes: all(volumes), containers: all(containers) }
    }

    #[test]
    fn only_what_has_a_limit_on_disk_is_looked_at() {
        let none = serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"ephemeral-storage": "1Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                        {"name": "z", "emptyDir": {"sizeLimit": "0"}}]});
        assert_eq!(Limits::of(&pod(none.clone())), None);
        assert_eq!(asked(&pod(none)), 1 << 20);
    }

    #[test]
    fn a_volume_then_the_whole_pod_then_a_container_is_said_to_be_over_its_limit() {
        let limited = |name: &str, limit: &str| serde_json::json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        let limits = Limits::of(&pod(serde_json::json!({
            "initContainers": [limited("i", "1Ki")],
            "containers": [limited("a", "1Ki"), limited("b", "3Ki"), {"name": "c"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "w", "emptyDir": {}}],
        })))
        .unwrap();
        assert_eq!(limits.pod, Some(4096));
        assert_eq!(limits.most(), 4096);
        let said = |volumes: &[(&str, u64)], containers: &[(&str, u64)]| limits.exceeded(&used(volumes, containers));
        assert_eq!(said(&[("v", 1024), ("w", 1000)], &[("a", 1024), ("b", 1024)]), None);
        assert_eq!(
            said(&[("v", 1025)], &[("a", 9000)]).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\"."
        );
        assert_eq!(
            said(&[("v", 1024), ("w", 1024)], &[("c", 2049)]).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 4Ki."
        );
        assert_eq!(
            said(&[], &[("a", 1025)]).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"1Ki\"."
        );
    }
}

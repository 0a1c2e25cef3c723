//! What a node is short of, and which pods are not started for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::runtime::spec::{Qos, qos};

/// From this priority on a pod is never evicted: what the node needs itself to work.
const CRITICAL: i32 = 2_000_000_000;

/// What a node may be short of, as a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pids,
}

impl Pressure {
    /// All of them, in the order in which they are seen to.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pids];

    /// The node's condition.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }

    /// Why the condition holds, or does not.
    pub const fn reason(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "HasInsufficientMemory",
            (Self::Memory, false) => "HasSufficientMemory",
            (Self::Disk, true) => "HasDiskPressure",
            (Self::Disk, false) => "HasNoDiskPressure",
            (Self::Pids, true) => "HasInsufficientPID",
            (Self::Pids, false) => "HasSufficientPID",
        }
    }
}

/// A pod's priority: the number that it has, or that of the two names that every cluster knows.
pub fn priority(spec: &PodSpec) -> i32 {
    spec.priority.unwrap_or(match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => CRITICAL + 1000,
        Some("system-cluster-critical") => CRITICAL,
        _ => 0,
    })
}

/// Whether a pod is never evicted, and started whatever the node is short of.
pub fn is_critical(spec: &PodSpec) -> bool {
    priority(spec) >= CRITICAL
}

/// What the node is short of now; one for all pods of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pressures(Arc<Mutex<BTreeSet<Pressure>>>);

impl Pressures {
    /// What there is.
    pub fn all(&self) -> BTreeSet<Pressure> {
        // Replaced as a whole only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what there is from now on.
    pub fn set(&self, all: BTreeSet<Pressure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Why a pod is not to be started now, if it is not: short of memory, those that ask for none are not; short of
    /// anything else, none is but what the node needs itself.
    pub fn refuses(&self, pod: &Pod) -> Option<String> {
        let all = self.all();
        if all.is_empty() || pod.spec.as_ref().is_some_and(is_critical) {
            return None;
        }
        let memory_alone = all.iter().all(|p| *p == Pressure::Memory);
        if memory_alone && (qos(pod).is_ok_and(|class| class != Qos::BestEffort) || tolerates_memory_pressure(pod)) {
            return None;
        }
        let names: Vec<_> = all.iter().map(|p| p.condition()).collect();
        Some(format!("The node had condition: [{}]; the pod starts when that is over", names.join(" ")))
    }
}

/// Whether a pod says itself that it may run where memory is short.
fn tolerates_memory_pressure(pod: &Pod) -> bool {
    const TAINT: &str = "node.kubernetes.io/memory-pressure";
    let all = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten());
    all.into_iter().any(|t| {
        let exists = t.operator.as_deref() == Some("Exists");
        let effect = t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoSchedule");
        let key = t.key.as_deref().unwrap_or_default();
        effect && (key == TAINT || (key.is_empty() && exists))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_stand_for_priorities_that_are_never_evicted() {
        let named = |name: &str| PodSpec { priority_class_name: Some(name.to_owned()), ..PodSpec::default() };
        assert!(is_critical(&named("system-node-critical")) && is_critical(&named("system-cluster-critical")));
        assert!(priority(&named("system-node-critical")) > priority(&named("system-cluster-critical")));
        assert!(!is_critical(&named("mine")) && !is_critical(&PodSpec::default()));
        assert!(is_critical(&PodSpec { priority: Some(CRITICAL), ..PodSpec::default() }));
    }

    #[test]
    fn short_of_memory_only_those_that_ask_for_none_wait_and_else_all_but_what_the_node_needs() {
        let pod =
            |spec: serde_json::Value| -> Pod { serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap() };
        let modest = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let asking =
            pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Mi"}}}]}));
        let taint = "node.kubernetes.io/memory-pressure";
        let tolerant = pod(
            serde_json::json!({"containers": [{"name": "a"}], "tolerations": [{"key": taint, "operator": "Exists"}]}),
        );
        let critical =
            pod(serde_json::json!({"containers": [{"name": "a"}], "priorityClassName": "system-node-critical"}));
        let node = Pressures::default();
        let refused = |node: &Pressures| [&modest, &asking, &tolerant, &critical].map(|p| node.refuses(p).is_some());
        assert_eq!(refused(&node), [false; 4]);
        node.set([Pressure::Memory].into());
        assert_eq!(refused(&node), [true, false, false, false]);
        assert!(node.refuses(&modest).unwrap().starts_with("The node had condition: [MemoryPressure]"));
        node.set([Pressure::Memory, Pressure::Disk].into());
        assert_eq!(refused(&node), [true, true, true, false]);
        node.set([Pressure::Pids].into());
        assert_eq!(refused(&node), [true, true, true, false]);
    }
}

//! `NodeWorkload`: a pod that each chosen node runs.
#![expect(unreachable_pub, reason = "the derived schemas hold copies of the types")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::Template;

/// A pod that runs on every node its template's node selector, node affinity and tolerations choose, kept there by the
/// Lamina agent of the node.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "NodeWorkload",
    namespaced,
    shortname = "nwl",
    category = "lamina",
    status = "NodeWorkloadStatus",
    derive = "PartialEq",
    doc = "A pod that runs on every node its template's node selector, node affinity and tolerations choose, kept there by the Lamina agent of the node.",
    selectable = ".spec.paused",
    selectable = ".status.updateRevision",
    validation = Rule::new("size(self.metadata.name) <= 52").message("metadata.name: must be no more than 52 characters: pods and revisions are named after it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: must be a DNS label: lower case letters, digits and '-', with a letter or digit at both ends"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredNodes", description = "Nodes that should run it"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updatedNodes", description = "Nodes that run the newest revision"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes", description = "Nodes on which it is ready"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.availableNodes", description = "Nodes on which it has been ready for minReadySeconds"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why it is ready or not"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Images", type_ = "string", priority = 1, json_path = ".spec.template.spec.containers[*].image", description = "Images of its containers"),
    printcolumn(name = "Revision", type_ = "string", priority = 1, json_path = ".status.updateRevision", description = "The newest revision"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].message")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeWorkloadSpec {
    /// The pod: a core/v1 PodTemplateSpec. Its nodeSelector, node affinity and tolerations choose the nodes, as in a
    /// DaemonSet.
    #[x_kube(
        validation = Rule::new("!has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Always'").message("template.spec.restartPolicy: must be Always: the pod is kept running").field_path(".spec.restartPolicy"),
        validation = Rule::new("!has(self.spec.activeDeadlineSeconds)").message("template.spec.activeDeadlineSeconds: must not be set: the pod is kept running").field_path(".spec.activeDeadlineSeconds"),
        validation = Rule::new("!has(self.spec.nodeName)").message("template.spec.nodeName: must not be set: nodeSelector and node affinity choose the nodes").field_path(".spec.nodeName"),
        validation = Rule::new("!has(self.spec.ephemeralContainers) || size(self.spec.ephemeralContainers) == 0").message("template.spec.ephemeralContainers: must not be set").field_path(".spec.ephemeralContainers"),
        validation = Rule::new("!has(self.spec.hostNetwork) || !self.spec.hostNetwork || !has(self.spec.hostUsers) || self.spec.hostUsers").message("template.spec.hostUsers: must not be false with hostNetwork").field_path(".spec.hostUsers"),
    )]
    pub template: Template,
    /// How a new revision reaches the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// For how many seconds a pod must be ready before its node counts as available. 0 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_ready_seconds: Option<i32>,
    /// How many old revisions are kept to go back to. 10 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: Option<i32>,
    /// While true, no node takes a new revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// How a new revision reaches the nodes.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Node after node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Limits of a rolling update.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// How many of the chosen nodes may be not available because of the update: a number, or a percentage of them,
    /// rounded up. 1 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')").message("must be a number of at least 1, or a percentage from 1% to 100%"),
    )]
    pub max_unavailable: Option<IntOrString>,
}

/// What has come of a [`NodeWorkload`], summed up over its nodes.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWorkloadStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision that all nodes had last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// The revision of the spec's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// How many template hashes have met another template before: part of the name of a revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// Nodes that should run it.
    #[serde(default)]
    pub desired_nodes: i32,
    /// Nodes that run the update revision.
    #[serde(default)]
    pub updated_nodes: i32,
    /// Nodes on which it is ready.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Nodes on which it has been ready for `minReadySeconds`.
    #[serde(default)]
    pub available_nodes: i32,
    /// What holds of it, a `metav1.Condition` each: Accepted, Progressing, Degraded, Ready, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How many of `nodes` may be not available for an update. As for a DaemonSet, a percentage is rounded up; at least 1.
pub fn max_unavailable(spec: &NodeWorkloadSpec, nodes: usize) -> usize {
    let limit = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref()?.max_unavailable.as_ref());
    let limit = match limit {
        None => 1,
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(1),
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<usize>().ok()).unwrap_or(0).min(100);
            (nodes * percent).div_ceil(100)
        }
    };
    limit.max(1)
}

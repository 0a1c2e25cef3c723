//! `NodeReport`: what a node may run, and how it fares.
#![expect(unreachable_pub, reason = "the derived schemas hold copies of the types")]
#![expect(clippy::duplicated_attributes, reason = "each column has a type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What a node may run, written by the controller, and how it fares, written by the node's agent. Named after the Node.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "lamina.dev",
    version = "v1alpha1",
    kind = "NodeReport",
    shortname = "nrep",
    category = "lamina",
    status = "NodeReportStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What a node may run, written by the controller, and how it fares, written by the node's agent. Named after the Node.",
    selectable = ".status.agentVersion",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.agentVersion",
        description = "The agent's version"
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.podCount",
        description = "Pods of workloads on the node"
    ),
    printcolumn(
        name = "Layers",
        type_ = "integer",
        json_path = ".status.store.layers",
        description = "Image layers in the node's store"
    ),
    printcolumn(
        name = "Store",
        type_ = "string",
        json_path = ".status.store.size",
        description = "Bytes of the node's store"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Kernel",
        type_ = "string",
        priority = 1,
        json_path = ".status.kernelTier",
        description = "How layers are mounted there"
    ),
    printcolumn(
        name = "Sound",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='StoreSound')].status"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportSpec {
    /// Which revision of which workload the node may run. Written by the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub assignments: Vec<Assignment>,
}

/// A revision that a node may run.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub name: String,
    /// The name of the ControllerRevision.
    pub revision: String,
}

/// How a node fares.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportStatus {
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// How layers are mounted on this kernel: detached (6.15 and later) or attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_tier: Option<String>,
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// Where the agent answers people: over TLS, to whoever the API server lets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// How many pods of workloads there are, also those that `pods` has no room for.
    #[serde(default)]
    pub pod_count: i32,
    /// The pods of workloads, by uid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".into()]))]
    pub pods: Vec<NodePod>,
    /// What the store holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreTotals>,
    /// What holds of the node, a `metav1.Condition` each: Ready, DiskPressure, StoreSound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a node's agent answers, and how it is known.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address and port: `10.0.0.5:9640`, `[fd00::5]:9640`.
    pub address: String,
    /// The SHA-256 of its certificate (DER), as 64 hexadecimal digits. Only the node's own agent may write this, so a
    /// certificate that fits is the agent's, whoever signed it.
    pub certificate: String,
}

/// A pod of a workload on a node. What is larger is asked of the node's agent.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePod {
    /// The pod's uid.
    pub uid: String,
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// The revision that the pod is of; of a workload that the node cannot run: the revision that it may run.
    pub revision: String,
    /// Whether the pod is ready.
    #[serde(default)]
    pub ready: bool,
    /// When `ready` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// How often its containers were started again. 0 if not there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: i32,
    /// Why it is not ready: one word, as the kubelet has it: ImagePullBackOff, CrashLoopBackOff, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a sentence of at most 120 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 120))]
    pub message: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// What a node's store holds.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreTotals {
    /// How many layers.
    #[serde(default)]
    pub layers: i64,
    /// How many bytes they take on disk.
    #[serde(default)]
    pub bytes: i64,
    /// `bytes` as a quantity for people: `1.2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How many more bytes the images would take if they did not share layers.
    #[serde(default)]
    pub shared_bytes_saved: i64,
    /// How many bytes nothing uses.
    #[serde(default)]
    pub reclaimable_bytes: i64,
}

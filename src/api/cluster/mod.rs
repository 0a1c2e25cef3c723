//! The custom resources of a cluster, group `lamina.dev`, version `v1alpha1`: what people write ([`NodeWorkload`]), and
//! what is told of a node and to it ([`NodeReport`]).
//!
//! | part | who writes it |
//! |---|---|
//! | `NodeWorkload.spec` | people |
//! | `NodeWorkload.status` | the controller |
//! | `NodeReport.spec` | the controller: which revision of which workload the node may run |
//! | `NodeReport.status` | the agent of that node |
//!
//! The CustomResourceDefinitions are made from these types and kept as [`DEFINITIONS`].

mod chosen;
mod definition;
mod report;
mod revision;
pub mod security;
mod template;
pub mod token;
mod workload;

use kube::core::{ApiResource, GroupVersionKind};

pub use chosen::chosen;
pub use definition::DEFINITIONS;
pub use report::{Assignment, Endpoint, NodePod, NodeReport, NodeReportSpec, NodeReportStatus, StoreTotals};
pub use revision::{NAME_LENGTH, Revision, revision};
pub use template::Template;
pub use workload::{
    NodeWorkload, NodeWorkloadSpec, NodeWorkloadStatus, RollingUpdate, UpdateStrategy, max_unavailable,
};

/// The API group.
pub const GROUP: &str = "lamina.dev";
/// The version in which the kinds are served and stored.
pub const VERSION: &str = "v1alpha1";
/// The annotation of a pod that says which revision of its workload it is of.
pub const REVISION: &str = "lamina.dev/revision";
/// The annotation of a workload that asks for an older revision: its name, or its number.
pub const ROLLBACK: &str = "lamina.dev/rollback-to";
/// The label of a pod, and of a revision, that names its workload.
pub const WORKLOAD: &str = "lamina.dev/workload";

/// NodeWorkloads as the API server has them: one that fits no type must not hide the others.
pub fn workloads() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "NodeWorkload"), "nodeworkloads")
}

/// Types of conditions, as `kubectl wait`, kstatus and Flux know them.
pub mod condition {
    /// The template can run as it is.
    pub const ACCEPTED: &str = "Accepted";
    /// A revision is on its way to the nodes.
    pub const PROGRESSING: &str = "Progressing";
    /// Some nodes cannot run it.
    pub const DEGRADED: &str = "Degraded";
    /// All nodes that should run it do; of a report: the node's agent is there and able.
    pub const READY: &str = "Ready";
    /// It will not get further by itself.
    pub const STALLED: &str = "Stalled";
    /// The store's disk is short.
    pub const DISK_PRESSURE: &str = "DiskPressure";
    /// The store is as it should be.
    pub const STORE_SOUND: &str = "StoreSound";
}

#[cfg(test)]
mod tests;

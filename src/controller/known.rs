//! What the controller knows of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

use super::plan::{Key, Workload};
use super::watch::Told;
use crate::api::cluster::{NodeReport, Template};
use crate::source::kubernetes::{Listed, lease};

/// After how long without a renewed Lease a node's agent counts as silent.
const SILENT: Duration = Duration::from_secs(lease::DURATION as u64);

/// Everything that the watches told.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) workloads: Listed<Key, DynamicObject>,
    pub(super) nodes: Listed<String, Node>,
    pub(super) reports: Listed<String, NodeReport>,
    pub(super) revisions: Listed<Key, ControllerRevision>,
    leases: Listed<String, String>,
    /// When each Lease was seen to change last: the clocks of nodes do not matter then.
    heard: BTreeMap<String, (String, Instant)>,
}

impl Known {
    /// Takes in what a watch tells; says whether anything may have to be done for it. That a node is alive, as it was, is no
    /// news, and thousands say so.
    pub(super) fn take(&mut self, told: Told) -> bool {
        let named = |name: Option<String>| name.unwrap_or_default();
        match told {
            Told::Workload(event) => self.workloads.take(event, |o| ((named(o.namespace()), o.name_any()), o)),
            Told::Node(event) => self.nodes.take(event, |node| (node.name_any(), least(node))),
            // What was written here may be newer than what is told.
            Told::Report(Event::Apply(report)) => self.wrote(report),
            Told::Report(event) => self.reports.take(event, |report| (report.name_any(), lean(report))),
            Told::Revision(event) => self.revisions.take(event, |r| ((named(r.namespace()), r.name_any()), r)),
            Told::Lease(event) => {
                let alive = matches!(&event, Event::Apply(lease) if self.is_heard(&lease.name_any(), Instant::now()));
                if let Event::Apply(lease) | Event::InitApply(lease) = &event {
                    let version = lease.resource_version().unwrap_or_default();
                    let heard = self.heard.entry(lease.name_any()).or_insert_with(|| (version.clone(), Instant::now()));
                    if heard.0 != version {
                        *heard = (version, Instant::now());
                    }
                }
                let may_lack = !matches!(event, Event::Apply(_) | Event::InitApply(_));
                self.leases.take(event, |lease| (lease.name_any(), String::new()));
                if may_lack && let Some(leases) = self.leases.all() {
                    self.heard.retain(|name, _| leases.contains_key(name));
                }
                return !alive;
            }
            Told::Lost => return false,
        }
        true
    }

    fn is_heard(&self, node: &str, now: Instant) -> bool {
        self.heard.get(node).is_some_and(|(_, at)| now.duration_since(*at) < SILENT)
    }

    /// A report as the API server has it now, unless a newer one is known.
    pub(super) fn wrote(&mut self, report: NodeReport) {
        let version = |r: &NodeReport| r.resource_version().and_then(|v| v.parse::<u64>().ok());
        let known = self.reports.all().and_then(|all| all.get(&report.name_any())).and_then(version);
        if known.is_none_or(|known| version(&report).is_none_or(|new| new >= known)) {
            self.reports.take(Event::Apply(report), |report| (report.name_any(), lean(report)));
        }
    }

    /// Whether every list was complete once: before that, nothing is known to be missing.
    pub(super) fn complete(&self) -> bool {
        self.workloads.all().is_some()
            && self.nodes.all().is_some()
            && self.reports.all().is_some()
            && self.revisions.all().is_some()
            && self.leases.all().is_some()
    }

    /// Nodes whose agents are not heard, those that never were among them, and when the next will not be, if it says nothing.
    pub(super) fn silent(&self, now: Instant) -> (BTreeSet<String>, Option<Instant>) {
        let (mut silent, mut next) = (BTreeSet::new(), None::<Instant>);
        for name in self.nodes.all().into_iter().flat_map(BTreeMap::keys) {
            match self.heard.get(name) {
                Some((_, at)) if now.duration_since(*at) < SILENT => {
                    let due = *at + SILENT;
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
                _ => drop(silent.insert(name.clone())),
            }
        }
        (silent, next)
    }
}

/// What matters of a Node: a cluster has thousands, and each lists its images.
fn least(node: Node) -> Node {
    let mut metadata = node.metadata;
    metadata.managed_fields = None;
    metadata.annotations = None;
    let spec = node.spec.map(|spec| NodeSpec { taints: spec.taints, ..NodeSpec::default() });
    Node { metadata, spec, status: None }
}

fn lean(mut report: NodeReport) -> NodeReport {
    report.metadata.managed_fields = None;
    report
}

/// A NodeWorkload as far as it can be read.
pub(super) fn workload(object: &DynamicObject) -> Option<Workload> {
    let spec = serde_json::from_value(object.data.get("spec")?.clone()).ok()?;
    let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
    Some(Workload { spec, generation: object.metadata.generation.unwrap_or(0), status: status.unwrap_or_default() })
}

/// The template of a revision.
pub(super) fn template(revision: &ControllerRevision) -> Option<Template> {
    revision.data.0.pointer("/spec/template").cloned().map(Template)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::json;

    use super::*;

    #[test]
    fn that_a_node_is_alive_is_news_once_and_that_its_lease_is_gone_too() {
        let lease = |version: &str| -> Lease {
            let metadata = json!({ "name": "node-1", "resourceVersion": version });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "node-1" } })).unwrap();
        let mut known = Known::default();
        assert!(known.take(Told::Node(Event::Init)) && known.take(Told::Node(Event::InitApply(node))));
        assert!(known.take(Told::Node(Event::InitDone)));
        assert!(known.take(Told::Lease(Event::Init)) && known.take(Told::Lease(Event::InitDone)));
        let silent = |known: &Known, at| known.silent(at).0.contains("node-1");
        let now = Instant::now();
        assert!(silent(&known, now));
        assert!(known.take(Told::Lease(Event::Apply(lease("1")))), "it was silent");
        assert!(!silent(&known, Instant::now()));
        assert!(!known.take(Told::Lease(Event::Apply(lease("2")))), "it was not");
        assert!(!known.take(Told::Lost));
        assert!(silent(&known, Instant::now() + SILENT), "it is not heard for ever for that");
        assert!(known.take(Told::Lease(Event::Delete(lease("2")))));
        assert!(silent(&known, Instant::now()));
    }
}

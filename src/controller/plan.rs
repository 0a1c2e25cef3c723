//! What to do for one workload: a pure function of what the API server says of it, of its nodes, and the time.
//!
//! ```text
//!  template ──▶ revision ──▶ which nodes it chooses ──▶ who has it, who is available ──▶ who may take it now
//!                                                                 └──▶ status
//! ```
//!
//! Rules: a node without an assignment takes the revision at once (while paused, or when the template cannot run, the
//! last good one); of the others no more become unavailable for the update than `maxUnavailable`, those that are not
//! available anyway first; a node whose agent is silent counts as not available; what is not chosen any more is taken
//! back at once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::cluster::{
    self, NodePod, NodeReport, NodeWorkloadSpec, NodeWorkloadStatus, chosen, condition, max_unavailable,
};

/// How many nodes a message names.
const NAMED: usize = 10;

/// Namespace and name.
pub(super) type Key = (String, String);

/// A workload as it is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Workload {
    pub(super) spec: NodeWorkloadSpec,
    pub(super) generation: i64,
    pub(super) status: NodeWorkloadStatus,
}

/// What is known of the nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nodes<'a> {
    pub(super) all: &'a BTreeMap<String, Node>,
    pub(super) reports: &'a BTreeMap<String, NodeReport>,
    /// Nodes whose agents have not been heard for too long, or ever.
    pub(super) silent: &'a BTreeSet<String>,
}

/// What is to be for one workload.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Plan {
    /// The revision of the present template.
    pub(super) revision: String,
    /// Which node should have which revision; who is not here should have none.
    pub(super) assignments: BTreeMap<String, String>,
    pub(super) status: NodeWorkloadStatus,
    /// When time alone will change something.
    pub(super) again: Option<Timestamp>,
}

/// One chosen node, as it is.
struct Place<'a> {
    node: &'a str,
    assigned: Option<&'a str>,
    pod: Option<&'a NodePod>,
    silent: bool,
    /// When it will have been ready for long enough; nothing if it is not ready.
    available_at: Option<Timestamp>,
}

impl Place<'_> {
    fn available(&self, now: Timestamp) -> bool {
        !self.silent && self.available_at.is_some_and(|at| at <= now)
    }

    fn runs(&self, revision: &str) -> bool {
        self.pod.is_some_and(|pod| pod.revision == revision)
    }
}

/// The assignment that a node has of a workload.
fn assigned<'a>(report: &'a NodeReport, key: &Key) -> Option<&'a str> {
    let found = report.spec.assignments.iter().find(|a| a.namespace == key.0 && a.name == key.1);
    found.map(|a| a.revision.as_str())
}

fn place<'a>(node: &'a str, key: &Key, workload: &Workload, nodes: Nodes<'a>) -> Place<'a> {
    let report = nodes.reports.get(node);
    let pods = report.and_then(|r| r.status.as_ref()).map_or(&[][..], |status| &status.pods);
    let assigned = report.and_then(|report| assigned(report, key));
    let of = || pods.iter().filter(|p| p.namespace == key.0 && p.workload == key.1);
    // While one is replaced there may be two: the one that should be counts.
    let pod = of().find(|p| Some(p.revision.as_str()) == assigned).or_else(|| of().next());
    // What runs something else than it should is about to go.
    let counts = pod.filter(|pod| pod.ready && Some(pod.revision.as_str()) == assigned);
    let least = SignedDuration::from_secs(workload.spec.min_ready_seconds.unwrap_or(0).max(0).into());
    // A report that had to be made shorter leaves out since when pods are ready that have been for the longest.
    let available_at = counts.map(|pod| {
        pod.since.as_ref().map_or(Timestamp::MIN, |since| since.0.saturating_add(least).unwrap_or(Timestamp::MAX))
    });
    Place { node, assigned, pod, silent: nodes.silent.contains(node), available_at }
}

/// Plans for one workload. `revision` is the name of the revision of its template; `refused` why the template cannot run.
pub(super) fn plan(
    key: &Key,
    workload: &Workload,
    revision: &str,
    refused: Option<&str>,
    nodes: Nodes<'_>,
    now: Timestamp,
) -> Plan {
    let template = &workload.spec.template;
    let mut places: Vec<Place<'_>> = nodes
        .all
        .iter()
        .filter(|(_, node)| node.metadata.deletion_timestamp.is_none() && chosen(template, node).is_ok())
        .map(|(name, _)| place(name, key, workload, nodes))
        .collect();
    let paused = workload.spec.paused.unwrap_or(false);
    let held = paused || refused.is_some();
    let current = workload.status.current_revision.as_deref();
    let mut assignments = BTreeMap::new();
    // New nodes first: nothing is taken down there.
    let first = if held { current.filter(|_| refused.is_none() || current != Some(revision)) } else { Some(revision) };
    for place in &places {
        if let Some(revision) = place.assigned.or(first) {
            assignments.insert(place.node.to_owned(), revision.to_owned());
        }
    }
    if !held {
        let most = max_unavailable(&workload.spec, places.len());
        let down = places.iter().filter(|p| p.assigned.is_some() && !p.available(now)).count();
        let mut left = most.saturating_sub(down);
        // Those that are down anyway cost nothing; a silent one would take it when it is back, which is as good.
        places.sort_by_key(|p| (p.available(now), p.node));
        for place in places.iter().filter(|p| p.assigned.is_some_and(|a| a != revision)) {
            if place.available(now) {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            assignments.insert(place.node.to_owned(), revision.to_owned());
        }
    }
    let again = places.iter().filter(|p| !p.silent).filter_map(|p| p.available_at).filter(|at| *at > now).min();
    let status = status(workload, revision, refused, &places, now);
    Plan { revision: revision.to_owned(), assignments, status, again }
}

fn status(
    workload: &Workload,
    revision: &str,
    refused: Option<&str>,
    places: &[Place<'_>],
    now: Timestamp,
) -> NodeWorkloadStatus {
    let count =
        |is: &dyn Fn(&Place<'_>) -> bool| i32::try_from(places.iter().filter(|p| is(p)).count()).unwrap_or(i32::MAX);
    let old = &workload.status;
    let desired = count(&|_| true);
    let updated = count(&|p| p.runs(revision));
    let ready = count(&|p| !p.silent && p.pod.is_some_and(|pod| pod.ready));
    let available = count(&|p| p.available(now));
    let done = refused.is_none() && updated == desired && available == desired;
    let current = if done || old.current_revision.is_none() && refused.is_none() {
        Some(revision.to_owned())
    } else {
        old.current_revision.clone()
    };
    let paused = workload.spec.paused.unwrap_or(false) && updated < desired;
    let mut failing: Vec<String> = places.iter().filter_map(failure).collect();
    failing.sort();
    let mut conditions = old.conditions.clone();
    let mut hold = |kind: &str, holds: bool, reason: &str, message: String| {
        set(&mut conditions, kind, holds, reason, message, workload.generation, now);
    };
    match refused {
        None => hold(condition::ACCEPTED, true, "TemplateValid", String::new()),
        Some(why) => hold(condition::ACCEPTED, false, "TemplateInvalid", why.to_owned()),
    }
    let (is, reason) = match refused {
        Some(_) => (false, "TemplateInvalid"),
        None if done => (false, "Complete"),
        None if paused => (false, "Paused"),
        None => (true, "RollingOut"),
    };
    let progress = format!("{updated} of {desired} nodes have {revision}, {available} are available");
    hold(condition::PROGRESSING, is, reason, progress.clone());
    let some = if failing.is_empty() { "AllNodesFine" } else { "NodesFailing" };
    hold(condition::DEGRADED, !failing.is_empty(), some, named(&failing));
    let (reason, message) = match (done, refused) {
        (true, _) if desired == 0 => ("NoNodesChosen", "no node is chosen by the template".to_owned()),
        (true, _) => ("AllAvailable", progress),
        (_, Some(why)) => ("TemplateInvalid", why.to_owned()),
        _ if paused => ("Paused", progress),
        _ if !failing.is_empty() => ("NodesFailing", named(&failing)),
        _ => ("RollingOut", progress),
    };
    hold(condition::READY, done, reason, message);
    match refused {
        None => hold(condition::STALLED, false, "NotStalled", String::new()),
        Some(why) => hold(condition::STALLED, true, "TemplateInvalid", why.to_owned()),
    }
    NodeWorkloadStatus {
        observed_generation: Some(workload.generation),
        current_revision: current,
        update_revision: Some(revision.to_owned()),
        collision_count: old.collision_count,
        desired_nodes: desired,
        updated_nodes: updated,
        ready_nodes: ready,
        available_nodes: available,
        conditions,
    }
}

/// Why a node does not run it, where it says so.
fn failure(place: &Place<'_>) -> Option<String> {
    if place.silent && place.assigned.is_some() {
        return Some(format!("{}: its agent is silent", place.node));
    }
    let pod = place.pod.filter(|pod| !pod.ready)?;
    let reason = pod.reason.as_deref().filter(|r| !matches!(*r, "ContainerCreating" | "ContainersNotReady"))?;
    Some(match &pod.message {
        Some(message) => format!("{}: {reason}: {message}", place.node),
        None => format!("{}: {reason}", place.node),
    })
}

fn named(failing: &[String]) -> String {
    let shown = failing.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match failing.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Puts a condition into a list; the time of the change is kept while the status stays.
fn set(
    list: &mut Vec<Condition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
    generation: i64,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let since = list.iter().find(|c| c.type_ == kind && c.status == status).map(|c| c.last_transition_time.clone());
    let new = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        // The API server keeps seconds.
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        observed_generation: Some(generation),
    };
    match list.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

/// Why a template cannot run, by the field's path.
pub(super) fn refusal(key: &Key, template: &cluster::Template) -> Option<String> {
    let problems = template.pod(&key.0, &key.1).err()?;
    let shown: Vec<String> = problems.iter().take(NAMED).map(|p| format!("{}: {}", p.path, p.reason)).collect();
    Some(shown.join("; "))
}

#[cfg(test)]
mod tests;

//! The work of the replica that leads: from what is known to what is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::known::{self, Known};
use super::plan::{self, Key, Nodes, Plan};
use super::{MANAGER, Metrics, Options, watch};
use crate::api::cluster::{
    self, Assignment, GROUP, NodeReport, NodeReportSpec, NodeWorkloadStatus, VERSION, WORKLOAD, condition,
};
use crate::api::problem::chain;
use crate::source::kubernetes::report::{SILENT, owned_by};

/// How many things the watches may be ahead.
const AHEAD: usize = 1024;
/// Changes that come closer than this are taken together.
const TOGETHER: Duration = Duration::from_millis(100);
/// The longest that a change waits for others.
const AT_MOST: Duration = Duration::from_secs(1);
/// The shortest time between two writes of one workload's status, unless it has come to its end.
const STATUS: Duration = Duration::from_secs(10);
/// How many reports are written at once.
const AT_ONCE: usize = 16;
/// How many old revisions are kept where a workload does not say.
const HISTORY: i32 = 10;
/// How soon something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

struct Work<'a> {
    client: Client,
    events: Recorder,
    metrics: &'a Metrics,
    known: Known,
    /// When the status of each workload was written last.
    told: BTreeMap<Key, Instant>,
    /// When there is something to do though nothing is heard.
    again: Option<Instant>,
}

/// Works for good.
pub(super) async fn run(client: Client, options: &Options, metrics: &Metrics) {
    let (tell, mut told) = mpsc::channel(AHEAD);
    let _watches = watch::start(&client, &options.namespace, &tell);
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(options.identity.clone()) };
    let events = Recorder::new(client.clone(), reporter);
    let mut work = Work { client, events, metrics, known: Known::default(), told: BTreeMap::new(), again: None };
    loop {
        let again = work.again.map(tokio::time::Instant::from_std);
        let mut news = true;
        tokio::select! {
            first = told.recv() => match first {
                Some(first) => news = work.known.take(first),
                None => return,
            },
            () = async { tokio::time::sleep_until(again.unwrap_or_else(tokio::time::Instant::now)).await }, if again.is_some() => {}
        }
        let burst = Instant::now();
        while burst.elapsed() < AT_MOST
            && let Ok(Some(next)) = tokio::time::timeout(TOGETHER, told.recv()).await
        {
            news |= work.known.take(next);
        }
        if news && work.known.complete() {
            work.pass().await;
        }
    }
}

impl Work<'_> {
    fn wake(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }

    /// A write came to nothing: it is looked at again soon.
    fn failed(&mut self, what: &str, error: &kube::Error) {
        self.metrics.errors.inc();
        // Whoever was quicker is seen by the watch.
        if !matches!(error, kube::Error::Api(answer) if answer.code == 409) {
            tracing::warn!(what, error = chain(error), "the API server refused a write");
        }
        self.wake(Instant::now() + AGAIN);
    }

    async fn pass(&mut self) {
        self.metrics.passes.inc();
        self.again = None;
        let (now, time) = (Instant::now(), Timestamp::now());
        let (silent, next) = self.known.silent(now);
        if let Some(next) = next {
            self.wake(next);
        }
        let objects: Vec<(Key, DynamicObject)> =
            self.known.workloads.all().into_iter().flatten().map(|(k, o)| (k.clone(), o.clone())).collect();
        let mut wanted: BTreeMap<String, BTreeSet<Assignment>> = BTreeMap::new();
        for (key, object) in &objects {
            if object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let planned = self.workload(key, object, &silent, time).await;
            let assignments = match &planned {
                Some(plan) => plan.assignments.clone(),
                // What cannot be read, or has no revision yet, stays as it is.
                None => self.assigned(key),
            };
            for (node, revision) in assignments {
                let assignment = Assignment { namespace: key.0.clone(), name: key.1.clone(), revision };
                wanted.entry(node).or_default().insert(assignment);
            }
        }
        self.told.retain(|key, _| objects.iter().any(|(known, _)| known == key));
        self.assign(wanted).await;
        self.tell_silence(&silent, time).await;
    }

    /// The assignments that nodes have of a workload.
    fn assigned(&self, key: &Key) -> BTreeMap<String, String> {
        let reports = self.known.reports.all().into_iter().flatten();
        let of = |report: &NodeReport| {
            let found = report.spec.assignments.iter().find(|a| a.namespace == key.0 && a.name == key.1);
            found.map(|a| a.revision.clone())
        };
        reports.filter_map(|(node, report)| Some((node.clone(), of(report)?))).collect()
    }

    /// Plans for one workload, and writes its revision, its history and its status.
    async fn workload(
        &mut self,
        key: &Key,
        object: &DynamicObject,
        silent: &BTreeSet<String>,
        time: Timestamp,
    ) -> Option<Plan> {
        let mut workload = known::workload(object)?;
        if let Some(to) = object.annotations().get(cluster::ROLLBACK).cloned() {
            self.roll_back(key, object, &to).await;
            return None;
        }
        let template = workload.spec.template.clone();
        let refused = plan::refusal(key, &template);
        let revision = loop {
            let collisions = workload.status.collision_count.unwrap_or(0);
            let revision = cluster::revision(&key.1, &template, collisions);
            let there = self.revisions(key).find(|r| r.name_any() == revision.name).cloned();
            match there {
                Some(there) if known::template(&there).as_ref() == Some(&template) => break revision,
                // Another template has the same hash.
                Some(_) => workload.status.collision_count = Some(collisions + 1),
                None => break revision,
            }
        };
        self.keep_revision(key, object, &revision).await?;
        let empty = BTreeMap::new();
        let nodes = Nodes { all: self.known.nodes.all().unwrap_or(&empty), reports: self.known.reports.all()?, silent };
        let plan = plan::plan(key, &workload, &revision.name, refused.as_deref(), nodes, time);
        if let Some(at) = plan.again {
            let left = at.duration_since(time);
            self.wake(Instant::now() + left.try_into().unwrap_or(AGAIN));
        }
        let old = object.data.get("status").cloned().unwrap_or_default();
        self.tell(key, &old, &plan.status).await;
        self.prune(key, workload.spec.revision_history_limit.unwrap_or(HISTORY), &plan).await;
        Some(plan)
    }

    fn revisions<'k>(&'k self, key: &'k Key) -> impl Iterator<Item = &'k ControllerRevision> {
        let all = self.known.revisions.all().into_iter().flatten();
        all.filter(|((namespace, _), revision)| *namespace == key.0 && revision.labels().get(WORKLOAD) == Some(&key.1))
            .map(|(_, revision)| revision)
    }

    /// Makes the revision if it is not there, and its number the highest. Nothing is assigned before it is there.
    async fn keep_revision(&mut self, key: &Key, object: &DynamicObject, revision: &cluster::Revision) -> Option<()> {
        let highest = self.revisions(key).filter_map(|r| r.revision).max().unwrap_or(0);
        let there = self.revisions(key).find(|r| r.name_any() == revision.name).cloned();
        let api = Api::<ControllerRevision>::namespaced(self.client.clone(), &key.0);
        let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let said = match there {
            Some(there) if there.revision == Some(highest) => return Some(()),
            // An older template is wanted again.
            Some(mut there) => {
                there.revision = Some(highest + 1);
                api.replace(&revision.name, &post, &there).await
            }
            None => {
                let made = ControllerRevision {
                    metadata: ObjectMeta {
                        name: Some(revision.name.clone()),
                        namespace: Some(key.0.clone()),
                        labels: Some([(WORKLOAD.to_owned(), key.1.clone())].into()),
                        owner_references: Some(vec![OwnerReference {
                            api_version: format!("{GROUP}/{VERSION}"),
                            kind: "NodeWorkload".to_owned(),
                            name: key.1.clone(),
                            uid: object.uid().unwrap_or_default(),
                            controller: Some(true),
                            ..OwnerReference::default()
                        }]),
                        ..ObjectMeta::default()
                    },
                    data: RawExtension(json!({ "spec": { "template": revision.template } })),
                    revision: Some(highest + 1),
                };
                api.create(&post, &made).await
            }
        };
        match said {
            Ok(made) => {
                self.metrics.writes.with_label_values(&["revision"]).inc();
                self.known.take(watch::Told::Revision(kube::runtime::watcher::Event::Apply(made)));
                Some(())
            }
            Err(error) => {
                self.failed("a revision", &error);
                None
            }
        }
    }

    /// Removes the oldest revisions beyond the limit, but none that a node has.
    async fn prune(&mut self, key: &Key, limit: i32, plan: &Plan) {
        let used: BTreeSet<String> = self
            .assigned(key)
            .into_values()
            .chain(plan.assignments.values().cloned())
            .chain([plan.revision.clone()])
            .chain(plan.status.current_revision.clone())
            .collect();
        let mut old: Vec<(i64, String)> = self
            .revisions(key)
            .filter(|r| !used.contains(&r.name_any()))
            .map(|r| (r.revision.unwrap_or(0), r.name_any()))
            .collect();
        old.sort();
        let beyond = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let api = Api::<ControllerRevision>::namespaced(self.client.clone(), &key.0);
        for (_, name) in old.into_iter().take(beyond) {
            match api.delete(&name, &kube::api::DeleteParams::default()).await {
                Ok(_) => self.metrics.writes.with_label_values(&["revision"]).inc(),
                Err(error) => self.failed("the end of a revision", &error),
            }
        }
    }

    /// Puts an older template back into the workload, and takes the request away.
    async fn roll_back(&mut self, key: &Key, object: &DynamicObject, to: &str) {
        let all: Vec<ControllerRevision> = self.revisions(key).cloned().collect();
        let found = all
            .iter()
            .find(|r| r.name_any() == to || r.revision.is_some_and(|n| n.to_string() == to))
            .and_then(known::template);
        let mut object = object.clone();
        object.annotations_mut().remove(cluster::ROLLBACK);
        object.metadata.managed_fields = None;
        if let Some(template) = found {
            object.data["spec"]["template"] = template.0;
        } else {
            let known: Vec<String> =
                all.iter().map(|r| format!("{} ({})", r.revision.unwrap_or(0), r.name_any())).collect();
            let note = format!("there is no revision {to} to go back to; there are: {}", known.join(", "));
            self.warn(&object, "RollbackRevisionNotFound", note).await;
        }
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.0, &cluster::workloads());
        let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.replace(&key.1, &post, &object).await {
            Ok(_) => self.metrics.writes.with_label_values(&["rollback"]).inc(),
            Err(error) => self.failed("a workload's older template", &error),
        }
    }

    /// Tells whoever looks at a workload, as an event.
    async fn warn(&mut self, object: &DynamicObject, reason: &str, note: String) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            // What the API server takes.
            note: Some(note.chars().take(1024).collect()),
            action: "Rollback".to_owned(),
            secondary: None,
        };
        match self.events.publish(&event, &object.object_ref(&cluster::workloads())).await {
            Ok(()) => self.metrics.writes.with_label_values(&["event"]).inc(),
            Err(error) => self.failed("an event", &error),
        }
    }

    /// Writes a workload's status if it has changed: the first and the last state at once, those between now and then.
    async fn tell(&mut self, key: &Key, old: &Value, status: &NodeWorkloadStatus) {
        let Ok(new) = serde_json::to_value(status) else { return };
        if *old == new {
            return;
        }
        let told = self.told.get(key).copied();
        let ready = status.conditions.iter().any(|c| c.type_ == condition::READY && c.status == "True");
        let fresh = old.get("observedGeneration") != new.get("observedGeneration");
        if let Some(told) = told
            && !ready
            && !fresh
            && told.elapsed() < STATUS
        {
            return self.wake(told + STATUS);
        }
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.0, &cluster::workloads());
        let document = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "NodeWorkload",
            "metadata": { "name": key.1, "namespace": key.0 },
            "status": new,
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&key.1, &params, &Patch::Apply(&document)).await {
            Ok(_) => {
                self.metrics.writes.with_label_values(&["status"]).inc();
                self.told.insert(key.clone(), Instant::now());
            }
            Err(error) => self.failed("a workload's status", &error),
        }
    }

    /// Writes what has changed of what nodes may run, each against the version that the plan was made from.
    async fn assign(&mut self, mut wanted: BTreeMap<String, BTreeSet<Assignment>>) {
        let mut writes = Vec::new();
        let (Some(nodes), Some(reports)) = (self.known.nodes.all(), self.known.reports.all()) else { return };
        for (name, node) in nodes {
            let wanted: Vec<Assignment> = wanted.remove(name).unwrap_or_default().into_iter().collect();
            match reports.get(name) {
                Some(report) => {
                    let mut has = report.spec.assignments.clone();
                    has.sort();
                    if has != wanted {
                        let mut report = report.clone();
                        report.spec.assignments = wanted;
                        writes.push((report, false));
                    }
                }
                None if wanted.is_empty() => {}
                None => {
                    let mut report = NodeReport::new(name, NodeReportSpec { assignments: wanted });
                    report.metadata.owner_references = Some(vec![owned_by(&node.metadata)]);
                    writes.push((report, true));
                }
            }
        }
        let api = Api::<NodeReport>::all(self.client.clone());
        let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let (api, post) = (&api, &post);
        let said: Vec<kube::Result<NodeReport>> = futures_util::stream::iter(writes)
            .map(|(report, new)| async move {
                if new { api.create(post, &report).await } else { api.replace(&report.name_any(), post, &report).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for said in said {
            match said {
                Ok(report) => {
                    self.metrics.writes.with_label_values(&["assignment"]).inc();
                    self.known.wrote(report);
                }
                Err(error) => self.failed("a node's assignments", &error),
            }
        }
    }

    /// Says of silent nodes that nothing is known of them.
    async fn tell_silence(&mut self, silent: &BTreeSet<String>, time: Timestamp) {
        let mut news = Vec::new();
        for (name, report) in self.known.reports.all().into_iter().flatten().filter(|(name, _)| silent.contains(*name))
        {
            let ready = report.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == condition::READY);
            if ready.is_some_and(|ready| ready.status != "Unknown") {
                news.push(name.clone());
            }
        }
        let api = Api::<NodeReport>::all(self.client.clone());
        for name in news {
            let document = json!({
                "apiVersion": NodeReport::api_version(&()),
                "kind": NodeReport::kind(&()),
                "metadata": { "name": name },
                "status": { "conditions": [{
                    "type": condition::READY, "status": "Unknown", "reason": SILENT,
                    "message": "the agent has not renewed its lease for 60 s",
                    "lastTransitionTime": format!("{time:.0}"),
                }] },
            });
            let params = PatchParams::apply(MANAGER).force();
            match api.patch_status(&name, &params, &Patch::Apply(&document)).await {
                Ok(report) => {
                    self.metrics.writes.with_label_values(&["silence"]).inc();
                    self.known.wrote(report);
                }
                Err(error) => self.failed("that a node is silent", &error),
            }
        }
    }
}

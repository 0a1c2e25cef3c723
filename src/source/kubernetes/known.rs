//! What is known of the cluster, and what the node makes of it: no I/O.
//!
//! ```text
//!  NodeWorkloads ─┐
//!  assignments    ├─▶ settle ─▶ accepted (on disk) ─▶ DesiredSet
//!  revisions read ┘        └─▶ revisions to read
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::accepted::{Accepted, Key, Set};
use super::listed::Listed;
use super::references::{Reference, references};
use super::tokens;
use crate::api::cluster::security::{Level, Violation, violations};
use crate::api::cluster::token::Token;
use crate::api::cluster::{self, Template};
use crate::api::{Object, Problem, parse};
use crate::source::{DesiredSet, SourceKind, Sourced};

/// What stands for the API server where a manifest has its file.
pub const PLACE: &str = "kubernetes";

/// A workload as the API server has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Workload {
    uid: String,
    template: Template,
    collisions: i32,
}

impl Workload {
    /// Reads what matters of a NodeWorkload; of one that makes no sense, as much as does.
    pub(super) fn read(uid: Option<String>, object: &Value) -> Self {
        let template = object.pointer("/spec/template").cloned().unwrap_or_default();
        let collisions = object.pointer("/status/collisionCount").and_then(Value::as_i64);
        let uid = uid.unwrap_or_default();
        Self { uid, template: Template(template), collisions: collisions.and_then(|n| n.try_into().ok()).unwrap_or(0) }
    }
}

/// A ConfigMap or Secret, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// As a manifest.
    There(Value),
    /// The API server says that there is none.
    Absent,
    /// It cannot be read.
    Unreadable(String),
}

/// What is lacking to decide on a revision of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lacking {
    /// Its template.
    Template(Key, String),
    /// The Pod Security level of its namespace; of one that does not allow the template, whether it still is so.
    Level(Key, String),
}

/// Why a revision is not taken.
#[derive(Debug, PartialEq)]
struct Refused {
    level: Level,
    violations: Vec<Violation>,
}

/// All that is known. Starts with what was accepted before.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) workloads: Listed<Key, Workload>,
    /// Which revision of which workload the node may run: the assignments of its NodeReport.
    pub(super) assignments: Listed<(), BTreeMap<Key, String>>,
    accepted: BTreeMap<Key, Accepted>,
    /// Templates of revisions that were read.
    revisions: BTreeMap<(Key, String), Template>,
    /// The Pod Security level of a namespace when a revision was to be taken there.
    levels: BTreeMap<(Key, String), Level>,
    refused: BTreeMap<Key, Refused>,
    objects: BTreeMap<Reference, Found>,
    tokens: BTreeMap<Token, Found>,
}

impl Known {
    /// What an earlier agent had accepted.
    pub(super) fn new(set: Set) -> Self {
        let (mut objects, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for object in set.objects {
            if let Some(token) = tokens::of(&object) {
                tokens.insert(token, Found::There(object));
                continue;
            }
            let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let secret = text("/kind") == "Secret";
            let reference = Reference { secret, namespace: text("/metadata/namespace"), name: text("/metadata/name") };
            objects.insert(reference, Found::There(object));
        }
        Self { accepted: set.workloads, objects, tokens, ..Self::default() }
    }

    /// Whether all is known that decides what the node runs.
    pub(super) fn complete(&self) -> bool {
        self.workloads.all().is_some() && self.assignments.all().is_some()
    }

    /// Takes a revision in that was asked for.
    pub(super) fn revision(&mut self, workload: Key, revision: String, template: Template) {
        self.revisions.insert((workload, revision), template);
    }

    /// Takes in what a revision's namespace allows.
    pub(super) fn level(&mut self, workload: Key, revision: String, level: Level) {
        self.levels.insert((workload, revision), level);
    }

    /// Takes in what there is of a ConfigMap or Secret.
    pub(super) fn object(&mut self, reference: Reference, found: Found) {
        take(&mut self.objects, reference, found);
    }

    /// Takes in a token, or why there is none.
    pub(super) fn token(&mut self, token: Token, found: Found) {
        take(&mut self.tokens, token, found);
    }

    /// Decides what the node runs; says what it lacks for that. What it has of a workload stays until the revision that it
    /// may run is there, and allowed in its namespace.
    pub(super) fn settle(&mut self) -> BTreeSet<Lacking> {
        let mut lacking = BTreeSet::new();
        let (Some(workloads), Some(assignments)) = (self.workloads.all(), self.assignments.all()) else {
            return lacking;
        };
        let assigned: BTreeMap<&Key, &String> = assignments.values().flatten().collect();
        self.accepted.retain(|key, _| assigned.contains_key(key) && workloads.contains_key(key));
        self.refused.clear();
        for (key, revision) in assigned {
            let Some(workload) = workloads.get(key) else { continue };
            if self.accepted.get(key).is_some_and(|a| a.revision == *revision) {
                continue;
            }
            let now = cluster::revision(&key.1, &workload.template, workload.collisions);
            let template = if now.name == *revision {
                Some(now.template)
            } else {
                self.revisions.get(&(key.clone(), revision.clone())).cloned()
            };
            let Some(template) = template else {
                lacking.insert(Lacking::Template(key.clone(), revision.clone()));
                continue;
            };
            if let Some(level) = self.levels.get(&(key.clone(), revision.clone())).copied() {
                let violations = violations(level, &template.0);
                if violations.is_empty() {
                    self.accepted.insert(key.clone(), Accepted { revision: revision.clone(), template });
                    continue;
                }
                self.refused.insert(key.clone(), Refused { level, violations });
            }
            lacking.insert(Lacking::Level(key.clone(), revision.clone()));
        }
        let wanted: BTreeSet<(Key, String)> =
            assignments.values().flatten().map(|(key, revision)| (key.clone(), revision.clone())).collect();
        self.revisions.retain(|read, _| wanted.contains(read));
        // A level counts when a revision is taken, and is asked for anew for the next.
        self.levels.retain(|(key, revision), _| {
            let taken = self.accepted.get(key).is_some_and(|a| a.revision == *revision);
            !taken && assignments.values().flatten().any(|(k, r)| k == key && r == revision)
        });
        lacking
    }

    /// Every ConfigMap and Secret that the accepted workloads name. Forgets others.
    pub(super) fn references(&mut self) -> BTreeSet<Reference> {
        let named: BTreeSet<Reference> = self
            .accepted
            .iter()
            .flat_map(|((namespace, _), accepted)| references(namespace, &accepted.template.0))
            .collect();
        self.objects.retain(|reference, _| named.contains(reference));
        named
    }

    /// Every token that the accepted workloads ask for. Forgets others.
    pub(super) fn tokens(&mut self) -> BTreeSet<Token> {
        let wanted: BTreeSet<Token> =
            self.accepted.iter().flat_map(|((namespace, _), accepted)| accepted.template.tokens(namespace)).collect();
        self.tokens.retain(|token, _| wanted.contains(token));
        wanted
    }

    /// The workloads that the node runs, with the uids of their objects as far as those are known.
    pub(super) fn uids(&self) -> BTreeMap<Key, String> {
        let all = self.workloads.all().into_iter().flatten();
        let run = all.filter(|(key, _)| self.accepted.contains_key(key));
        run.map(|(key, workload)| (key.clone(), workload.uid.clone())).collect()
    }

    /// What is to be kept on disk.
    pub(super) fn set(&self) -> Set {
        let objects = self.objects.values().chain(self.tokens.values()).filter_map(|found| match found {
            Found::There(object) => Some(object.clone()),
            _ => None,
        });
        Set { workloads: self.accepted.clone(), objects: objects.collect() }
    }

    /// What should be, for the node.
    pub(super) fn desired(&self) -> DesiredSet {
        let mut set = DesiredSet { synced: true, ..DesiredSet::default() };
        if !self.complete() {
            set.uncertain.push(PLACE.into());
        }
        for ((namespace, name), accepted) in &self.accepted {
            let file = workload_place(namespace, name);
            match accepted.template.pod(namespace, name) {
                Ok((pod, ignored)) => {
                    let object = Object::Pod(Box::new(marked(pod, name, &accepted.revision)));
                    set.objects.push(sourced(object, file, ignored));
                }
                Err(problems) => {
                    let shown = file.to_string_lossy().into_owned();
                    set.problems.extend(problems.into_iter().map(|p| Problem { file: shown.clone(), ..p }));
                    // What an earlier revision runs as, if it does, stays.
                    set.uncertain.push(file);
                }
            }
        }
        for ((namespace, name), Refused { level, violations }) in &self.refused {
            let file = workload_place(namespace, name).to_string_lossy().into_owned();
            set.problems.extend(violations.iter().map(|violation| Problem {
                file: file.clone(),
                document: 1,
                object: Some(format!("NodeWorkload {namespace}/{name}")),
                path: format!("spec.template.{}", violation.path),
                reason: format!("{} (Pod Security level of namespace {namespace}: {level})", violation.reason),
            }));
        }
        let objects = self.objects.iter().map(|(reference, found)| {
            let kind = if reference.secret { "Secret" } else { "ConfigMap" };
            let file = Path::new(PLACE).join(kind).join(&reference.namespace).join(&reference.name);
            (file, format!("{} cannot be read", reference.shown()), found)
        });
        let tokens = self.tokens.iter().map(|(token, found)| {
            let file = Path::new(PLACE).join("ServiceAccount").join(&token.namespace).join(&token.account);
            (file, format!("no token of ServiceAccount {}/{} can be had", token.namespace, token.account), found)
        });
        for (file, failed, found) in objects.chain(tokens) {
            match found {
                Found::Absent => {}
                Found::Unreadable(why) => {
                    let reason = format!("{failed}: {why}");
                    set.problems.push(Problem::file(file.to_string_lossy(), reason));
                }
                Found::There(object) => {
                    let parsed = parse(&file.to_string_lossy(), object.to_string().as_bytes());
                    set.problems.extend(parsed.problems);
                    set.objects
                        .extend(parsed.documents.into_iter().map(|d| sourced(d.object, file.clone(), d.ignored)));
                }
            }
        }
        set.objects.sort_by_cached_key(|o| o.object.key());
        set
    }
}

/// Takes in what is told of something; what could be read once stands until it is known to be otherwise.
fn take<K: Ord>(known: &mut BTreeMap<K, Found>, key: K, found: Found) {
    if matches!(found, Found::Unreadable(_)) && matches!(known.get(&key), Some(Found::There(_))) {
        return;
    }
    known.insert(key, found);
}

/// Where a workload is, as problems and events call it.
fn workload_place(namespace: &str, name: &str) -> PathBuf {
    Path::new(PLACE).join("NodeWorkload").join(namespace).join(name)
}

fn sourced(object: Object, file: PathBuf, ignored: Vec<String>) -> Sourced {
    Sourced { object: Arc::new(object), source: SourceKind::Kubernetes, file, document: 1, ignored }
}

/// The pod, with what says where it is from.
fn marked(mut pod: Pod, workload: &str, revision: &str) -> Pod {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(cluster::WORKLOAD.to_owned(), workload.to_owned());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(cluster::REVISION.to_owned(), revision.to_owned());
    pod
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        ("arena".to_owned(), name.to_owned())
    }

    fn template(image: &str) -> Value {
        json!({ "spec": { "containers": [{ "name": "app", "image": image }] } })
    }

    fn revision(name: &str, image: &str) -> String {
        cluster::revision(name, &Template(template(image)), 0).name
    }

    fn workloads(known: &mut Known, all: &[(&str, &str)]) {
        known.workloads.take(Event::Init, |()| unreachable!());
        for (name, image) in all {
            let object = json!({ "spec": { "template": template(image) } });
            known.workloads.take(Event::InitApply((key(name), object)), |(key, o)| (key, Workload::read(None, &o)));
        }
        known.workloads.take(Event::InitDone, |()| unreachable!());
    }

    fn assign(known: &mut Known, all: &[(&str, String)]) {
        let assigned: BTreeMap<Key, String> = all.iter().map(|(name, r)| (key(name), r.clone())).collect();
        known.assignments.take(Event::Init, |()| unreachable!());
        known.assignments.take(Event::InitApply(assigned), |a| ((), a));
        known.assignments.take(Event::InitDone, |()| unreachable!());
    }

    /// Settles as in namespaces of a level.
    fn settle_at(known: &mut Known, level: Level) -> BTreeSet<Lacking> {
        for lacking in known.settle() {
            if let Lacking::Level(key, revision) = lacking {
                known.level(key, revision, level);
            }
        }
        known.settle()
    }

    fn settle(known: &mut Known) -> BTreeSet<Lacking> {
        settle_at(known, Level::Privileged)
    }

    /// Names, images and revisions of the pods that are wanted.
    fn pods(known: &Known) -> Vec<(String, String)> {
        let set = known.desired();
        let pods = set.objects.iter().filter_map(|o| match o.object.as_ref() {
            Object::Pod(pod) => Some(pod),
            _ => None,
        });
        pods.map(|pod| {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            (pod.metadata.name.clone().unwrap(), image)
        })
        .collect()
    }

    #[test]
    fn only_what_is_assigned_runs_and_only_at_the_revision_that_is() {
        let mut known = Known::default();
        workloads(&mut known, &[("game", "game:1"), ("other", "other:1")]);
        assert!(settle(&mut known).is_empty());
        assert_eq!(pods(&known), [], "the assignments are not known yet");
        assert!(!known.desired().uncertain.is_empty());
        assign(&mut known, &[("game", revision("game", "game:1"))]);
        assert!(settle(&mut known).is_empty());
        assert_eq!(pods(&known), [("game".into(), "game:1".into())]);
        assert!(known.desired().uncertain.is_empty());
        // The template changes, the assignment does not.
        workloads(&mut known, &[("game", "game:2"), ("other", "other:1")]);
        settle(&mut known);
        assert_eq!(pods(&known), [("game".into(), "game:1".into())]);
        assign(&mut known, &[("game", revision("game", "game:2"))]);
        settle(&mut known);
        assert_eq!(pods(&known), [("game".into(), "game:2".into())]);
        // And back: the old template is asked for, and until it is there what runs stays.
        let old = revision("game", "game:1");
        assign(&mut known, &[("game", old.clone())]);
        assert_eq!(settle(&mut known), [Lacking::Template(key("game"), old.clone())].into());
        assert_eq!(pods(&known), [("game".into(), "game:2".into())]);
        known.revision(key("game"), old, Template(template("game:1")));
        assert!(settle(&mut known).is_empty());
        assert_eq!(pods(&known), [("game".into(), "game:1".into())]);
        workloads(&mut known, &[]);
        settle(&mut known);
        assert_eq!(pods(&known), [], "deleted, whatever is assigned");
    }

    #[test]
    fn what_was_accepted_before_runs_while_nothing_else_is_known_and_nothing_of_it_is_gone() {
        let mut known = Known::default();
        workloads(&mut known, &[("game", "game:1")]);
        assign(&mut known, &[("game", revision("game", "game:1"))]);
        settle(&mut known);
        let mut after = Known::new(known.set());
        settle(&mut after);
        assert_eq!(pods(&after), pods(&known));
        let set = after.desired();
        assert!(set.synced, "other sources are not held up");
        assert!(!set.is_gone(Path::new("kubernetes/NodeWorkload/arena/another")));
        assert!(set.is_gone(Path::new("/etc/lamina/manifests/web.yaml")));
        // The assignments come first, the workloads break off: still nothing is gone.
        assign(&mut after, &[]);
        settle(&mut after);
        assert_eq!(pods(&after).len(), 1);
        workloads(&mut after, &[("game", "game:1")]);
        settle(&mut after);
        assert_eq!(pods(&after), []);
    }

    #[test]
    fn a_template_that_cannot_run_is_named_and_hurts_no_other() {
        let mut known = Known::default();
        workloads(&mut known, &[("bad", "game:1"), ("good", "good:1")]);
        let object = json!({ "spec": { "template": { "spec": { "containers": "x" } } } });
        known.workloads.take(Event::Apply((key("bad"), object.clone())), |(key, o)| (key, Workload::read(None, &o)));
        let bad = cluster::revision("bad", &Template(object["spec"]["template"].clone()), 0).name;
        assign(&mut known, &[("bad", bad), ("good", revision("good", "good:1"))]);
        settle(&mut known);
        assert_eq!(pods(&known), [("good".into(), "good:1".into())]);
        let problems = known.desired().problems;
        assert_eq!(problems[0].path, "spec.template.spec.containers");
        assert_eq!(problems[0].file, "kubernetes/NodeWorkload/arena/bad");
    }

    #[test]
    fn config_is_handed_on_and_what_cannot_be_read_is_said_unless_it_was_read_before() {
        let mut known = Known::default();
        let mut named = template("game:1");
        named["spec"]["volumes"] = json!([{ "name": "s", "secret": { "secretName": "keys" } }]);
        let object = json!({ "spec": { "template": named } });
        workloads(&mut known, &[]);
        known.workloads.take(Event::Apply((key("game"), object.clone())), |(key, o)| (key, Workload::read(None, &o)));
        let name = cluster::revision("game", &Template(named), 0).name;
        assign(&mut known, &[("game", name)]);
        settle(&mut known);
        let references = known.references();
        let keys = references.first().unwrap().clone();
        assert_eq!(keys.shown(), "Secret arena/keys");
        known.object(keys.clone(), Found::Unreadable("forbidden".into()));
        assert!(known.desired().problems[0].to_string().contains("forbidden"));
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "arena", "name": "keys" }, "data": { "k": "dg==" },
        });
        known.object(keys.clone(), Found::There(secret));
        known.object(keys.clone(), Found::Unreadable("away".into()));
        let set = known.desired();
        assert!(set.problems.is_empty());
        assert_eq!(set.objects.len(), 2);
        assert_eq!(Known::new(known.set()).desired().objects.len(), 2, "also after a reboot");
        known.object(keys, Found::Absent);
        assert_eq!(known.desired().objects.len(), 1);
    }

    #[test]
    fn what_the_namespace_does_not_allow_is_not_taken_and_what_ran_before_stays() {
        let mut known = Known::default();
        workloads(&mut known, &[("game", "game:1")]);
        assign(&mut known, &[("game", revision("game", "game:1"))]);
        assert_eq!(known.settle(), [Lacking::Level(key("game"), revision("game", "game:1"))].into());
        assert_eq!(pods(&known), [], "nobody has said yet what is allowed");
        assert!(settle_at(&mut known, Level::Baseline).is_empty());
        assert_eq!(pods(&known), [("game".into(), "game:1".into())]);
        // The next wants more.
        let mut more = template("game:2");
        more["spec"]["hostNetwork"] = json!(true);
        let object = json!({ "spec": { "template": more } });
        known.workloads.take(Event::Apply((key("game"), object)), |(key, o)| (key, Workload::read(None, &o)));
        let name = cluster::revision("game", &Template(more), 0).name;
        assign(&mut known, &[("game", name.clone())]);
        let asked_again = settle_at(&mut known, Level::Baseline);
        assert_eq!(asked_again, [Lacking::Level(key("game"), name)].into());
        assert_eq!(pods(&known), [("game".into(), "game:1".into())]);
        let problems = known.desired().problems;
        assert_eq!(
            problems[0].to_string(),
            "kubernetes/NodeWorkload/arena/game: NodeWorkload arena/game: spec.template.spec.hostNetwork: \
             must not be true (Pod Security level of namespace arena: baseline)"
        );
        assert!(settle(&mut known).is_empty());
        assert_eq!(pods(&known), [("game".into(), "game:2".into())], "the namespace allows it now");
        assert!(known.desired().problems.is_empty());
    }
}

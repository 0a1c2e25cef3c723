//! Workloads from the node's side: what each comes to now, what is remembered and held for it, what is told of it.
//!
//! Part of the manager's pass, in three steps: [`Workloads::expand`] for each object, [`Workloads::settle`] for those that
//! are no more, then [`Workloads::keep`], which brings to disk what the pass found out before any worker acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::audience::Board;
use super::memories::Memories;
use crate::api::problem::chain;
use crate::api::view::WorkloadView;
use crate::api::workload::{self, Expansion, JobEnd, Memory, Owner, WorkloadStatus};
use crate::api::{Event, Kind, Object, ObjectKey, PodKey, Reason};
use crate::pod::real::Machine;
use crate::source::desired::Desired;
use crate::source::{DesiredSet, SourceKind, Sourced};
use crate::store::RefKind;

/// A pod that a workload wants.
pub(super) type Made = (PodKey, Arc<Pod>, Option<Owner>);

/// What the manager does about workloads.
#[derive(Debug)]
pub(super) struct Workloads {
    machine: Arc<Machine>,
    board: Board,
    memories: Memories,
    desired: Desired,
    /// What each holds, as far as it is known to be written.
    held: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// What each is to hold.
    holds: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// Those of this pass.
    present: BTreeSet<ObjectKey>,
    /// Objects that have outlived themselves.
    expired: BTreeSet<ObjectKey>,
    /// Refs of workloads that an earlier agent left were looked for.
    swept: bool,
}

impl Workloads {
    pub(super) fn new(machine: Arc<Machine>, board: Board, memories: Memories, desired: Desired) -> Self {
        Self {
            machine,
            board,
            memories,
            desired,
            held: BTreeMap::new(),
            holds: BTreeMap::new(),
            present: BTreeSet::new(),
            expired: BTreeSet::new(),
            swept: false,
        }
    }

    /// The pods that a workload wants now, and when to ask again; nothing if the object is none.
    pub(super) fn expand(&mut self, sourced: &Sourced, now: Timestamp) -> Option<(Vec<Made>, Option<Timestamp>)> {
        match sourced.object.as_ref() {
            Object::CronJob(cron) => {
                let key = sourced.object.key();
                let memory = self.memory(&key, now);
                let jobs = self.jobs_of(&key.namespace, &memory);
                let runs = workload::cron::runs(cron, &memory, |name| jobs.get(name)?.job.as_ref(), now);
                if let Some(missed) = &runs.missed {
                    self.tell(&key, Reason::DeadlineExceeded, missed.clone());
                }
                self.note(&key, runs.memory.clone());
                let mut memory = runs.memory;
                let (mut pods, mut wake) = (Vec::new(), runs.wake);
                let mut images = BTreeSet::new();
                for job in runs.jobs {
                    let (made, next) = self.job(sourced, &key, job, &mut images, now);
                    pods.extend(made);
                    wake = wake.into_iter().chain(next).min();
                }
                // Between runs the images of the newest stay.
                if let Some(state) = &mut memory.cron {
                    if !images.is_empty() {
                        state.images = images;
                    }
                    self.holds.insert(key.clone(), state.images.clone());
                }
                self.note(&key, memory);
                self.show(sourced, &key, Arc::clone(&sourced.object), None, runs.status);
                Some((pods, wake))
            }
            Object::Deployment(_) | Object::DaemonSet(_) | Object::StatefulSet(_) | Object::Job(_) => {
                let key = sourced.object.key();
                let expansion = self.one(&key, &sourced.object, now);
                if expansion.expired && sourced.source == SourceKind::Desired {
                    self.expired.insert(key.clone());
                }
                self.show(sourced, &key, Arc::clone(&sourced.object), None, expansion.status.clone());
                Some((made(expansion.pods), expansion.wake))
            }
            _ => None,
        }
    }

    /// A workload that nothing can be said of yet: what is known of it stays.
    pub(super) fn wait_for(&mut self, key: &ObjectKey) {
        self.present.insert(key.clone());
        let memory = self.memories.get(key);
        for run in memory.iter().flat_map(|m| &m.cron).flat_map(|c| &c.runs) {
            let name = run.job.metadata.name.clone().unwrap_or_default();
            self.present.insert(ObjectKey { kind: Kind::Job, namespace: key.namespace.clone(), name });
        }
    }

    /// A job of a cron job.
    fn job(
        &mut self,
        sourced: &Sourced,
        cron: &ObjectKey,
        job: Job,
        images: &mut BTreeSet<String>,
        now: Timestamp,
    ) -> (Vec<Made>, Option<Timestamp>) {
        let object = Arc::new(Object::Job(Box::new(job)));
        let key = object.key();
        let newest: BTreeSet<String> =
            self.board.of_workload(&key).into_iter().flat_map(|observed| observed.images).collect();
        if !newest.is_empty() {
            *images = newest;
        }
        let expansion = self.one(&key, &object, now);
        self.show(sourced, &key, object, Some(cron.clone()), expansion.status.clone());
        // What ended is what its cron job goes by: it is asked again at once.
        let wake = if expansion.expired { Some(now) } else { expansion.wake };
        (made(expansion.pods), wake)
    }

    fn one(&mut self, key: &ObjectKey, object: &Object, now: Timestamp) -> Expansion {
        let memory = self.memory(key, now);
        let observed = self.board.of_workload(key);
        let expansion = workload::expand(object, &observed, &memory, now);
        self.news(key, &memory, &expansion);
        self.holds.insert(key.clone(), expansion.holds.clone());
        self.note(key, expansion.memory.clone());
        expansion
    }

    fn memory(&self, key: &ObjectKey, now: Timestamp) -> Memory {
        let known = self.memories.get(key).map(|m| (*m).clone());
        known.unwrap_or_else(|| Memory { since: Some(now), ..Memory::default() })
    }

    fn note(&mut self, key: &ObjectKey, memory: Memory) {
        self.present.insert(key.clone());
        self.memories.set(key, memory);
    }

    /// What is remembered of the jobs of a cron job.
    fn jobs_of(&self, namespace: &str, memory: &Memory) -> BTreeMap<String, Arc<Memory>> {
        let runs = memory.cron.iter().flat_map(|c| &c.runs);
        let names = runs.filter_map(|run| run.job.metadata.name.clone());
        names
            .filter_map(|name| {
                let key = ObjectKey { kind: Kind::Job, namespace: namespace.to_owned(), name: name.clone() };
                Some((name, self.memories.get(&key)?))
            })
            .collect()
    }

    fn show(
        &self,
        sourced: &Sourced,
        key: &ObjectKey,
        object: Arc<Object>,
        controller: Option<ObjectKey>,
        status: WorkloadStatus,
    ) {
        let since = self.memories.get(key).and_then(|m| m.since);
        let view = WorkloadView {
            object,
            status,
            since,
            source: sourced.source.as_str(),
            file: sourced.file.clone(),
            ignored: sourced.ignored.clone(),
            controller,
        };
        self.board.workload(key.clone(), view);
    }

    /// Tells of what is new since the last pass.
    fn news(&self, key: &ObjectKey, before: &Memory, now: &Expansion) {
        let ended = |m: &Memory| m.job.as_ref().and_then(|j| j.finished.and_then(|_| j.end.clone()));
        if let (None, Some(end)) = (ended(before), ended(&now.memory)) {
            match end {
                JobEnd::Complete => self.tell(key, Reason::Completed, "the job has its completions".to_owned()),
                JobEnd::Failed(reason, message) => {
                    self.tell(key, Reason::BackoffLimitExceeded, format!("{reason}: {message}"));
                }
            }
        }
        let stuck = |m: &Memory| {
            m.conditions.iter().find(|c| c.reason == "ProgressDeadlineExceeded").map(|c| c.message.clone())
        };
        if let (None, Some(message)) = (stuck(before), stuck(&now.memory)) {
            self.tell(key, Reason::DeadlineExceeded, message);
        }
        if now.memory.revision() > 1 && now.memory.revision() != before.revision() {
            self.tell(key, Reason::Updated, format!("rolling out revision {}", now.memory.revision()));
        }
    }

    fn tell(&self, key: &ObjectKey, reason: Reason, message: String) {
        tracing::info!(workload = %key, reason = %reason, "{message}");
        // The ring is there as long as the node is.
        let _ = self.machine.events.send(Event::new(key.clone(), reason, message, Timestamp::now()));
    }

    /// Forgets workloads that are no more, when all is known.
    pub(super) fn settle(&mut self, set: &DesiredSet) {
        let present = std::mem::take(&mut self.present);
        if !set.synced || !set.uncertain.is_empty() {
            return;
        }
        let mut gone = self.memories.retain(&present);
        gone.extend(self.held.keys().filter(|key| !present.contains(*key)).cloned());
        for key in gone {
            self.board.forget(&key);
            self.holds.insert(key, BTreeSet::new());
        }
        if !self.swept {
            self.swept = true;
            let owners: BTreeSet<String> = self.holds.keys().map(owner).collect();
            let refs = self.machine.store.refs().into_iter().filter(|r| r.kind == RefKind::Workload);
            for orphan in refs.filter(|r| !owners.contains(&r.owner)) {
                if let Err(error) = self.machine.store.release(RefKind::Workload, &orphan.owner) {
                    tracing::warn!(error = %chain(&error), owner = orphan.owner, "cannot let go of an image");
                }
            }
        }
    }

    /// Brings to disk what the pass found out.
    pub(super) async fn keep(&mut self) {
        let holds = std::mem::take(&mut self.holds);
        let changed: Vec<_> =
            holds.into_iter().filter(|(key, images)| self.held.get(key).is_none_or(|h| h != images)).collect();
        let expired = std::mem::take(&mut self.expired);
        if changed.is_empty() && expired.is_empty() && !self.memories.is_dirty() {
            return;
        }
        let (memories, machine, desired) = (self.memories.clone(), Arc::clone(&self.machine), self.desired.clone());
        let written = tokio::task::spawn_blocking(move || {
            memories.write();
            for key in &expired {
                if let Err(error) = desired.remove(key) {
                    tracing::warn!(%key, error = %chain(&error), "a job that is over stays");
                }
            }
            let mut held = Vec::new();
            for (key, images) in changed {
                let digests: Vec<_> = images.iter().filter_map(|d| d.parse().ok()).collect();
                match machine.store.hold_only(RefKind::Workload, &owner(&key), &digests) {
                    Ok(()) => held.push((key, images)),
                    Err(error) => {
                        tracing::warn!(workload = %key, error = %chain(&error), "cannot hold its images");
                    }
                }
            }
            held
        });
        for (key, images) in written.await.unwrap_or_default() {
            if images.is_empty() && !self.memories.knows(&key) {
                self.held.remove(&key);
            } else {
                self.held.insert(key, images);
            }
        }
    }
}

fn made(pods: Vec<workload::Wanted>) -> Vec<Made> {
    pods.into_iter().map(|w| (PodKey::of(&w.pod.metadata), w.pod, Some(w.owner))).collect()
}

/// A workload as the owner of a ref; a namespace has no dots.
pub(super) fn owner(key: &ObjectKey) -> String {
    format!("{}.{}.{}", key.kind, key.namespace, key.name)
}

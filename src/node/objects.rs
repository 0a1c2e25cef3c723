//! Desired objects from the node's side: apply, delete, what is wrong with them, and refs of pods that are no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use super::manager::Command;
use super::metrics::Sources;
use super::{ApplyOptions, ApplyReport, DeleteOptions, Error, Events, Node};
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, PodKey, Reason, parse};
use crate::pod::real::{Machine, uid_of_owner};
use crate::source::desired::Applied;
use crate::source::{DesiredSet, SourceKind};
use crate::store::RefKind;
use crate::volume::claim;

impl Node {
    /// Adds or changes desired objects from the text of manifests (`name` is what errors call it, and which set `prune`
    /// is about).
    ///
    /// # Errors
    /// If a document is invalid (nothing is then applied) or cannot be kept.
    pub async fn apply(&self, name: &str, text: &[u8], options: ApplyOptions) -> Result<ApplyReport, Error> {
        let mut parsed = parse(name, text);
        if parsed.problems.is_empty() {
            parsed.problems = self.inner.desired.refusals(name, &parsed.documents);
        }
        if !parsed.problems.is_empty() {
            return Err(Error::Invalid { problems: parsed.problems.iter().map(ToString::to_string).collect() });
        }
        let (desired, set) = (self.inner.desired.clone(), name.to_owned());
        let objects =
            tokio::task::spawn_blocking(move || desired.apply(&parsed.documents, &set, options.prune, options.dry_run))
                .await
                .map_err(Error::failed("apply"))?
                .map_err(Error::failed("apply"))?;
        Ok(ApplyReport { objects })
    }

    /// Removes a desired object, or a one-off pod.
    ///
    /// # Errors
    /// If it is not there, or comes from a manifests directory.
    pub async fn delete(&self, target: &ObjectKey, options: DeleteOptions) -> Result<ApplyReport, Error> {
        let missing = || Error::NotFound {
            kind: "object",
            name: format!("{}/{}/{}", target.kind, target.namespace, target.name),
        };
        let keys = self.pods_of(target);
        if let Some(grace) = options.grace {
            // The receiver lives as long as the node.
            let _ = self.inner.commands.send(Command::Grace { keys: keys.clone(), grace });
        }
        let (desired, key) = (self.inner.desired.clone(), target.clone());
        let removed = tokio::task::spawn_blocking(move || desired.remove(&key))
            .await
            .map_err(Error::failed("delete"))?
            .map_err(Error::failed("delete"))?;
        let set = self.inner.sets.borrow().clone();
        let elsewhere = set.objects.iter().find(|s| s.source == SourceKind::Manifests && s.object.key() == *target);
        let claim = target.kind == Kind::PersistentVolumeClaim && elsewhere.is_none();
        // One that a template made has no object, nor has one whose manifest is out of reach.
        let claim = claim && self.delete_claim(target, removed).await?;
        if !removed && !claim {
            if let Some(sourced) = elsewhere {
                return Err(Error::Refused {
                    action: "delete",
                    name: target.to_string(),
                    reason: format!("it is declared in {}; remove it there", sourced.file.display()),
                });
            }
            let pod = PodKey { namespace: target.namespace.clone(), name: target.name.clone() };
            if target.kind != Kind::Pod {
                return Err(missing());
            }
            let view = self.inner.board.view(&pod).ok_or_else(missing)?;
            if let Some(owner) = &view.lamina.owner {
                return Err(Error::Refused {
                    action: "delete",
                    name: target.to_string(),
                    reason: format!("{owner} wants it; delete that"),
                });
            }
            let _ = self.inner.commands.send(Command::Stop { key: pod, grace: options.grace });
        }
        if options.wait {
            self.gone(&keys).await;
        }
        if options.wait && claim {
            let mut views = self.inner.machine.claims.subscribe();
            let goes = |views: &claim::Views| views.get(target).is_some_and(|v| v.phase != claim::Phase::Released);
            // The sender lives as long as this node.
            let _ = views.wait_for(|views| !goes(views)).await;
        }
        Ok(ApplyReport { objects: vec![(target.clone(), Applied::Deleted)] })
    }

    /// Marks a claim that it goes. Says whether there is one.
    async fn delete_claim(&self, target: &ObjectKey, removed: bool) -> Result<bool, Error> {
        let (claims, key) = (self.inner.machine.claims.clone(), target.clone());
        let deleted = tokio::task::spawn_blocking(move || claims.delete(&key))
            .await
            .map_err(Error::failed("delete"))?
            .map_err(Error::failed("delete"))?;
        let going =
            || self.inner.machine.claims.views().get(target).map(|v| v.phase) == Some(claim::Phase::Terminating);
        Ok(deleted || removed || going())
    }

    /// The pods that there are because of an object.
    fn pods_of(&self, target: &ObjectKey) -> Vec<PodKey> {
        let views = self.inner.board.subscribe().borrow().clone();
        let of = |view: &Arc<crate::api::PodView>| {
            let key = view.key();
            let owned = view
                .lamina
                .owner
                .as_ref()
                .is_some_and(|owner| crate::api::workload::owner_key(owner, &key.namespace) == *target);
            let itself = target.kind == Kind::Pod && key.namespace == target.namespace && key.name == target.name;
            (owned || itself).then_some(key)
        };
        views.iter().filter_map(of).collect()
    }

    /// Waits until the pods that have these names now are gone.
    pub(super) async fn gone(&self, keys: &[PodKey]) {
        let uids: BTreeSet<String> =
            keys.iter().filter_map(|key| Some(self.inner.board.view(key)?.lamina.uid.to_string())).collect();
        let mut views = self.inner.board.subscribe();
        // The sender lives as long as this node.
        let _ = views.wait_for(|views| !views.iter().any(|v| uids.contains(v.lamina.uid.as_str()))).await;
    }
}

/// Tells, once each, what is wrong with manifests. Ends when the sources do.
pub(super) async fn watch(mut sets: watch::Receiver<Arc<DesiredSet>>, events: Events, sources: Sources) {
    let mut known = BTreeSet::new();
    loop {
        let set = sets.borrow_and_update().clone();
        sources.heard(&set);
        let mut now = BTreeSet::new();
        for problem in &set.problems {
            let object = ObjectKey { kind: Kind::Source, namespace: String::new(), name: problem.file.clone() };
            let reason = if problem.document == 0 && problem.object.is_none() {
                Reason::SourceUnavailable
            } else {
                Reason::Rejected
            };
            now.insert((object, reason.as_str(), problem.to_string()));
        }
        for shadowed in &set.shadowed {
            let message = format!(
                "{} in {} does not count: {} has it",
                shadowed.key,
                shadowed.loser.display(),
                shadowed.winner.display()
            );
            now.insert((shadowed.key.clone(), Reason::Shadowed.as_str(), message));
        }
        for (object, reason, message) in now.difference(&known) {
            let reason = Reason::ALL.iter().find(|r| r.as_str() == *reason).copied().unwrap_or(Reason::Rejected);
            tracing::warn!(%object, "{message}");
            if object.kind == Kind::Source {
                sources.problem(Path::new(&object.name));
            }
            events.tell(Event::new(object.clone(), reason, message.clone(), Timestamp::now()));
        }
        known = now;
        if sets.changed().await.is_err() {
            return;
        }
    }
}

/// Lets go of what pods held that are no more, which only a crash can leave behind.
pub(super) fn release_orphans(machine: &Machine) {
    let alive = |owner: &str| uid_of_owner(owner).is_some_and(|uid| machine.dir(&uid).exists());
    for held in machine.store.refs().into_iter().filter(|r| r.kind == RefKind::Pod && !alive(&r.owner)) {
        if let Err(error) = machine.store.release(RefKind::Pod, &held.owner) {
            tracing::warn!(error = %chain(&error), owner = held.owner, "cannot let go of what a pod held that is no more");
        }
    }
    if let Err(error) = machine.images.release_stale(alive) {
        tracing::warn!(error = %chain(&error), "cannot let go of what unfinished pulls held");
    }
}

//! A drained node: every pod is stopped, the least important first, and none is started until that is undone.
//!
//! ```text
//! <root>/drained     {"version": 1, "since": …}: there while the node is drained
//! ```
//!
//! Manifests stay, and so do the images of what was stopped: a pin holds them until the pods are back. The manager keeps
//! the rule ([`keep`]); what has ended by itself is left as it is, for to run it again would be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::audience::Board;
use super::manager::Command;
use super::{Error, Node};
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, PodKey, PodView, Reason};
use crate::oci::Digest;
use crate::pod::real::Machine;
use crate::store::RefKind;
use crate::sys::atomic;

/// The version of the file.
const VERSION: u32 = 1;
/// The owner of the pin that holds the images of what was stopped; no digest, so no person's pin.
pub(crate) const PIN: &str = "drain";
/// How often it is looked whether what was stopped is back.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks in a row must find every pod as desired.
const SETTLED: u32 = 3;
/// After so many looks the images are let go in any case: a pod that cannot start must not hold them for ever.
const LOOKS: u32 = 600;

/// How to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainOptions {
    /// Stop pods, too, that nothing would bring back.
    pub force: bool,
    /// Instead of each pod's own grace period.
    pub grace: Option<Duration>,
}

/// Whether the node is drained. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Drain {
    path: PathBuf,
    since: watch::Sender<Option<Timestamp>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    since: Timestamp,
}

impl Drain {
    /// Reads what is there. One that cannot be read counts: to start what was to be stopped would be worse. Blocks.
    pub(super) fn open(path: PathBuf) -> Self {
        let since = match std::fs::read(&path) {
            Ok(bytes) => {
                Some(serde_json::from_slice(&bytes).map_or_else(|_| Timestamp::now(), |file: File| file.since))
            }
            Err(_) => None,
        };
        Self { path, since: watch::channel(since).0 }
    }

    /// Since when it is.
    pub(super) fn since(&self) -> Option<Timestamp> {
        *self.since.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Timestamp>> {
        self.since.subscribe()
    }

    /// Durably; says whether that is news. Blocks.
    fn set(&self, drained: bool) -> Result<bool, atomic::Error> {
        if self.since().is_some() == drained {
            return Ok(false);
        }
        let since = drained.then(Timestamp::now);
        match since {
            Some(since) => {
                // Two plain fields: there is nothing that could fail.
                let bytes = serde_json::to_vec(&File { version: VERSION, since }).unwrap_or_default();
                atomic::write(&self.path, &bytes, 0o600)?;
            }
            None => atomic::remove(&self.path)?,
        }
        self.since.send_replace(since);
        Ok(true)
    }
}

impl Node {
    /// Since when the node is drained, if it is.
    pub fn drained(&self) -> Option<Timestamp> {
        self.inner.drain.since()
    }

    /// Stops every pod and keeps them stopped. The pods go in their time: see [`Node::drain_left`].
    ///
    /// # Errors
    /// If a pod would not come back and `force` is not said, or it cannot be kept in mind.
    pub async fn drain(&self, options: DrainOptions) -> Result<(), Error> {
        let alive = self.drain_left();
        let once: Vec<PodKey> = alive.iter().filter(|view| view.lamina.source == "run").map(|v| v.key()).collect();
        if let (Some(first), false) = (once.first(), options.force) {
            return Err(Error::Refused {
                action: "drain the node with",
                name: format!("pod {first}"),
                reason: "it was made by `lamina run` and would not come back; end it, or say --force".to_owned(),
            });
        }
        if let Some(grace) = options.grace {
            let keys = alive.iter().map(|view| view.key()).collect();
            // The receiver lives as long as the node.
            let _ = self.inner.commands.send(Command::Grace { keys, grace });
        }
        let (drain, machine) = (self.inner.drain.clone(), Arc::clone(&self.inner.machine));
        let news = tokio::task::spawn_blocking(move || {
            // Held before anything lets go.
            if let Err(error) = hold(&machine) {
                tracing::warn!(error = %chain(&error), "the images of what is stopped are not held");
            }
            drain.set(true)
        });
        let news = news.await.map_err(Error::failed("drain the node"))?.map_err(Error::failed("drain the node"))?;
        for key in once {
            let _ = self.inner.commands.send(Command::Stop { key, grace: options.grace });
        }
        if news {
            self.tell(
                Reason::Drained,
                format!("stopping {} pods, and starting none until that is undone", alive.len()),
            );
        }
        self.inner.board.poke();
        Ok(())
    }

    /// Starts again what is desired; says whether the node was drained.
    ///
    /// # Errors
    /// If it cannot be kept in mind.
    pub async fn undo_drain(&self) -> Result<bool, Error> {
        let drain = self.inner.drain.clone();
        let news = tokio::task::spawn_blocking(move || drain.set(false))
            .await
            .map_err(Error::failed("start pods again"))?
            .map_err(Error::failed("start pods again"))?;
        if news {
            self.tell(Reason::Undrained, "starting what is desired".to_owned());
        }
        self.inner.board.poke();
        Ok(news)
    }

    /// The pods that have not ended.
    pub fn drain_left(&self) -> Vec<Arc<PodView>> {
        let views = self.inner.board.subscribe().borrow().clone();
        views.iter().filter(|view| !is_done(view)).cloned().collect()
    }

    fn tell(&self, reason: Reason, message: String) {
        let node = ObjectKey { kind: Kind::Node, namespace: String::new(), name: self.inner.machine.node.clone() };
        tracing::info!(reason = %reason, "{message}");
        self.inner.events.tell(Event::new(node, reason, message, Timestamp::now()));
    }
}

/// Holds every image that pods and workloads hold now. Blocks.
fn hold(machine: &Machine) -> Result<(), crate::store::Error> {
    let refs =
        machine.store.refs().into_iter().filter(|r| {
            matches!(r.kind, RefKind::Pod | RefKind::Workload) || (r.kind == RefKind::Pin && r.owner == PIN)
        });
    let manifests: BTreeSet<Digest> = refs.flat_map(|r| r.held.manifests).collect();
    machine.store.hold_only(RefKind::Pin, PIN, &manifests.into_iter().collect::<Vec<_>>())
}

/// Lets the images go once what was stopped is back. Ends with the node.
pub(super) async fn let_go(machine: Arc<Machine>, board: Board, mut drained: watch::Receiver<Option<Timestamp>>) {
    loop {
        // Closed: the agent ends.
        if drained.wait_for(Option::is_none).await.is_err() {
            return;
        }
        let (mut settled, mut looks) = (0, 0);
        while drained.borrow().is_none() && settled < SETTLED && looks < LOOKS && is_pinned(&machine) {
            tokio::time::sleep(LOOK).await;
            settled = if board.pending().is_none() { settled + 1 } else { 0 };
            looks += 1;
        }
        if drained.borrow().is_none() && is_pinned(&machine) {
            let machine = Arc::clone(&machine);
            let released = tokio::task::spawn_blocking(move || machine.store.release(RefKind::Pin, PIN)).await;
            if let Ok(Err(error)) = released {
                tracing::warn!(error = %chain(&error), "the images of what was stopped stay held");
            }
        }
        if drained.wait_for(Option::is_some).await.is_err() {
            return;
        }
    }
}

fn is_pinned(machine: &Machine) -> bool {
    machine.store.refs().iter().any(|r| r.kind == RefKind::Pin && r.owner == PIN)
}

/// Whether a pod has ended by itself, and stays as it is.
fn is_done(view: &PodView) -> bool {
    let phase = view.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && view.pod.metadata.deletion_timestamp.is_none()
}

/// How important a pod is.
fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().map_or(0, crate::pod::pressure::priority)
}

/// What of `wanted` may stay on a drained node. `there` are the pods that have a worker, with their views, where there is
/// one yet: what was not seen yet is not judged.
pub(super) fn keep<T>(wanted: &mut BTreeMap<PodKey, T>, there: &BTreeMap<PodKey, Option<Arc<PodView>>>) {
    let alive = there.values().flatten().filter(|view| !is_done(view));
    let lowest = alive.map(|view| priority(&view.pod)).min();
    wanted.retain(|key, _| match there.get(key) {
        None => false,
        Some(None) => true,
        // Its turn comes when all that matter less are gone.
        Some(Some(view)) => is_done(view) || Some(priority(&view.pod)) > lowest,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(name: &str, spec: serde_json::Value, phase: &str, going: bool) -> Arc<PodView> {
        let deleted = going.then_some("2026-01-01T00:00:00Z");
        let pod = json!({
            "metadata": {"name": name, "namespace": "n", "deletionTimestamp": deleted},
            "spec": spec, "status": {"phase": phase},
            "lamina": {"uid": "5e2c4100-0000-4000-8000-000000000000", "source": "desired", "containers": []},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn key(name: &str) -> PodKey {
        PodKey { namespace: "n".into(), name: name.into() }
    }

    fn stay(there: &[(&str, Option<Arc<PodView>>)], more: &[&str]) -> Vec<String> {
        let there: BTreeMap<_, _> = there.iter().map(|(name, view)| (key(name), view.clone())).collect();
        let mut wanted: BTreeMap<PodKey, u8> = there.keys().map(|k| (k.clone(), 0)).collect();
        wanted.extend(more.iter().map(|name| (key(name), 0)));
        keep(&mut wanted, &there);
        wanted.into_keys().map(|key| key.name).collect()
    }

    #[test]
    fn the_least_important_go_first_and_nothing_new_comes() {
        let plain = |name| Some(view(name, json!({"containers": []}), "Running", false));
        let critical = || {
            let spec = json!({"containers": [], "priorityClassName": "system-node-critical"});
            Some(view("critical", spec, "Running", false))
        };
        assert_eq!(stay(&[("a", plain("a")), ("critical", critical())], &["new"]), ["critical"]);
        // One that is on its way out is still there.
        let going = Some(view("a", json!({"containers": []}), "Running", true));
        assert_eq!(stay(&[("a", going), ("critical", critical())], &[]), ["critical"]);
        assert!(stay(&[("critical", critical())], &[]).is_empty());
        let numbered = Some(view("b", json!({"containers": [], "priority": -5}), "Running", false));
        assert_eq!(stay(&[("a", plain("a")), ("b", numbered)], &[]), ["a"]);
    }

    #[test]
    fn what_has_ended_or_was_not_seen_yet_stays_as_it_is() {
        let over = Some(view("over", json!({"containers": []}), "Succeeded", false));
        // Ended because it was stopped: it must not come back.
        let stopped = Some(view("stopped", json!({"containers": []}), "Failed", true));
        assert_eq!(stay(&[("over", over), ("stopped", stopped), ("unseen", None)], &[]), ["over", "unseen"]);
    }

    #[test]
    fn it_is_kept_in_mind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drained");
        let drain = Drain::open(path.clone());
        assert!(drain.since().is_none() && !drain.set(false).unwrap());
        assert!(drain.set(true).unwrap() && !drain.set(true).unwrap());
        assert_eq!(Drain::open(path.clone()).since(), drain.since());
        std::fs::write(&path, b"{").unwrap();
        assert!(Drain::open(path.clone()).since().is_some(), "a damaged file counts");
        assert!(drain.set(false).unwrap() && Drain::open(path).since().is_none());
    }
}

//! Claims from the node's side: what is declared is made, what is declared no more goes when no pod has it.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | [`follow`] | the desired set, who has which claim | directories, events | its sources end |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::Events;
use super::audience::Board;
use crate::api::canonical;
use crate::api::problem::chain;
use crate::api::workload::{self, Owner};
use crate::api::{Event, Kind, Object, ObjectKey, Reason, claim};
use crate::pod::real::Machine;
use crate::source::{DesiredSet, Sourced};
use crate::volume::claim::{Declared, Origin, Outcome, Retention, Set};

/// When what the disk refused is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the sizes of claims are looked at, to tell of those that outgrow what they asked for.
const LOOK: Duration = Duration::from_mins(1);

/// The claims that a set declares as objects.
pub(super) fn declared(set: &DesiredSet) -> BTreeMap<ObjectKey, Declared> {
    let one = |sourced: &Sourced| match sourced.object.as_ref() {
        Object::PersistentVolumeClaim(claim) => {
            let origin = Origin::Object { file: sourced.file.clone() };
            Some((sourced.object.key(), Declared { claim: Arc::new(canonical::claim(claim)), origin }))
        }
        _ => None,
    };
    set.objects.iter().filter_map(one).collect()
}

/// The claims that a workload makes for one of its pods, by name.
pub(super) fn of_pod(sourced: &Sourced, owner: &Owner) -> BTreeMap<String, Declared> {
    let Object::StatefulSet(set) = sourced.object.as_ref() else { return BTreeMap::new() };
    let file = sourced.file.clone();
    let origin = Origin::Template { file, set: owner.name.clone(), ordinal: owner.ordinal, retention: retention(set) };
    let claims = workload::claims(set, owner.ordinal).into_iter();
    let named = claims.map(|claim| (claim.metadata.name.clone().unwrap_or_default(), claim));
    named
        .map(|(name, claim)| {
            let claim = Arc::new(canonical::claim(&claim));
            (name, Declared { claim, origin: origin.clone() })
        })
        .collect()
}

fn retention(set: &k8s_openapi::api::apps::v1::StatefulSet) -> Retention {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let goes = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
    Retention {
        deleted: goes(policy.and_then(|p| p.when_deleted.as_ref())),
        scaled: goes(policy.and_then(|p| p.when_scaled.as_ref())),
    }
}

/// What StatefulSets want of the claims that they made.
fn sets(set: &DesiredSet) -> BTreeMap<(String, String), Set> {
    let one = |sourced: &Sourced| match sourced.object.as_ref() {
        Object::StatefulSet(set) => {
            let key = sourced.object.key();
            let wanted = Set { ordinals: workload::ordinals(set), retention: retention(set) };
            Some(((key.namespace, key.name), wanted))
        }
        _ => None,
    };
    set.objects.iter().filter_map(one).collect()
}

/// Follows the set and the claims until their senders are gone. Only what lay in a `watched` directory can be declared no
/// more: of any other nobody knows, and a setting that was forgotten must not cost data.
pub(super) async fn follow(
    machine: Arc<Machine>,
    board: Board,
    mut sets: watch::Receiver<Arc<DesiredSet>>,
    events: Events,
    watched: Vec<PathBuf>,
) {
    let watched: Arc<[PathBuf]> = watched.into();
    // Which pods have which claims is known once every pod that was there was looked at.
    board.all_seen().await;
    let mut claims = machine.claims.subscribe();
    let mut told = BTreeMap::new();
    loop {
        let set = sets.borrow_and_update().clone();
        claims.mark_unchanged();
        let (work, watched) = (Arc::clone(&machine), Arc::clone(&watched));
        let outcomes = tokio::task::spawn_blocking(move || pass(&work, &set, &watched)).await;
        let outcomes = outcomes.unwrap_or_else(|error| {
            tracing::error!(%error, "claims are not as they should be");
            Vec::new()
        });
        let failed = outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        for (key, outcome) in &outcomes {
            tell(&events, &mut told, key, outcome);
        }
        let oversized = oversized(&machine);
        for (key, message) in &oversized {
            say(&events, &mut told, key, Reason::ExceededCapacity, message.clone());
        }
        // What is no more, or is well again, is told of when it comes back.
        let known = machine.claims.views();
        told.retain(|(key, reason), _| {
            known.contains_key(key) && (*reason != Reason::ExceededCapacity || oversized.contains_key(key))
        });
        let wait = match (failed, known.is_empty()) {
            (true, _) => Some(AGAIN),
            (false, true) => None,
            (false, false) => Some(LOOK),
        };
        let asleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: watches keep the newest value, and a walk that has ended is remembered.
        tokio::select! {
            changed = sets.changed() => if changed.is_err() { return },
            changed = claims.changed() => if changed.is_err() { return },
            () = machine.claims.sizes().measured() => {}
            () = asleep => machine.claims.measure(),
        }
    }
}

/// Brings the claims on disk to what a set says.
fn pass(machine: &Machine, set: &DesiredSet, watched: &[PathBuf]) -> Vec<(ObjectKey, Outcome)> {
    let declared = declared(set);
    let mut out = Vec::new();
    for (key, one) in &declared {
        match machine.claims.declare(key, one) {
            Ok(true) => out.push((key.clone(), Outcome::Made)),
            Ok(false) => {}
            Err(error) => out.push((key.clone(), Outcome::Failed(error))),
        }
    }
    if set.synced {
        let is_gone = |file: &Path| set.is_gone(file) && watched.iter().any(|dir| file.starts_with(dir));
        out.extend(machine.claims.settle(&declared, &sets(set), &is_gone));
    }
    out.extend(machine.claims.collect());
    out
}

/// The claims that hold more than they asked for.
fn oversized(machine: &Machine) -> BTreeMap<ObjectKey, String> {
    let sizes = machine.claims.sizes().known();
    let views = machine.claims.views();
    let over = views.values().filter_map(|view| {
        let (size, capacity) = (*sizes.get(&view.key)?, claim::capacity(&view.claim)?);
        let message = format!("holds {size} bytes, and asked for {capacity}");
        (size > capacity).then(|| (view.key.clone(), message))
    });
    over.collect()
}

fn tell(events: &Events, told: &mut BTreeMap<(ObjectKey, Reason), String>, key: &ObjectKey, outcome: &Outcome) {
    let (reason, message) = match outcome {
        Outcome::Made => (Reason::ProvisioningSucceeded, "a volume was made".to_owned()),
        Outcome::Terminating { pods } if pods.is_empty() => return,
        Outcome::Terminating { pods } => {
            (Reason::Killing, format!("goes when no pod has it any more; now: {}", pods.join(", ")))
        }
        Outcome::Removed => (Reason::Deleted, "removed with its data".to_owned()),
        Outcome::Released => (Reason::Deleted, "deleted; its data stay".to_owned()),
        Outcome::Failed(error) => (Reason::Failed, chain(error)),
    };
    say(events, told, key, reason, message);
}

/// Tells of something once, until something else is told for the same reason.
fn say(
    events: &Events,
    told: &mut BTreeMap<(ObjectKey, Reason), String>,
    key: &ObjectKey,
    reason: Reason,
    message: String,
) {
    // How much too large it is changes all the time.
    let repeats = |old: &String| *old == message || reason == Reason::ExceededCapacity;
    if told.get(&(key.clone(), reason)).is_some_and(repeats) {
        return;
    }
    tracing::info!(claim = %key, reason = %reason, "{message}");
    told.insert((key.clone(), reason), message.clone());
    let object = ObjectKey { kind: Kind::PersistentVolumeClaim, ..key.clone() };
    events.tell(Event::new(object, reason, message, Timestamp::now()));
}

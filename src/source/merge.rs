//! Joins the sets of all sources into one: an object that two of them have is taken from the one that comes first.

use std::sync::Arc;

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{DesiredSet, Shadowed, Sourced};

/// Joins sets. Within one object the lower [`super::SourceKind`] wins, then the set that is earlier in the list, then
/// the smaller path, so that the winner never depends on which event came first.
pub fn merge(sets: &[Arc<DesiredSet>]) -> DesiredSet {
    let mut all: Vec<(usize, &Sourced)> =
        sets.iter().enumerate().flat_map(|(rank, set)| set.objects.iter().map(move |o| (rank, o))).collect();
    all.sort_by_cached_key(|(rank, o)| (o.object.key(), o.source, *rank, o.file.clone(), o.document));
    let mut merged = DesiredSet { synced: sets.iter().all(|s| s.synced), ..DesiredSet::default() };
    for (_, object) in all {
        let key = object.object.key();
        match merged.objects.last() {
            Some(winner) if winner.object.key() == key => {
                merged.shadowed.push(Shadowed { key, loser: object.file.clone(), winner: winner.file.clone() });
            }
            _ => merged.objects.push(object.clone()),
        }
    }
    for set in sets {
        merged.problems.extend(set.problems.iter().cloned());
        merged.shadowed.extend(set.shadowed.iter().cloned());
        merged.uncertain.extend(set.uncertain.iter().cloned());
    }
    merged.shadowed.sort();
    merged.shadowed.dedup();
    merged
}

/// The task that joins; it ends when this is dropped, or when every source is gone.
#[derive(Debug)]
pub struct Merge {
    merged: watch::Receiver<Arc<DesiredSet>>,
    _task: AbortOnDropHandle<()>,
}

impl Merge {
    /// Starts to join. Must be called within a tokio runtime.
    pub fn start(mut sources: Vec<watch::Receiver<Arc<DesiredSet>>>) -> Self {
        let current = |sources: &mut [watch::Receiver<Arc<DesiredSet>>]| {
            let sets: Vec<_> = sources.iter_mut().map(|s| Arc::clone(&s.borrow_and_update())).collect();
            Arc::new(merge(&sets))
        };
        let (tx, rx) = watch::channel(current(&mut sources));
        let task = tokio::spawn(async move {
            while any_changed(&mut sources).await {
                let next = current(&mut sources);
                tx.send_if_modified(|old| {
                    let changed = **old != *next;
                    if changed {
                        *old = next;
                    }
                    changed
                });
            }
            // Every source is gone; whoever listens keeps the last set, and learns that no other will come.
        });
        Self { merged: rx, _task: AbortOnDropHandle::new(task) }
    }

    /// The merged set, newest always.
    pub fn subscribe(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.merged.clone()
    }
}

/// Waits until one source has something new; false once all are gone. Cancel-safe: a source's news stays unread until
/// the caller reads it.
async fn any_changed(sources: &mut [watch::Receiver<Arc<DesiredSet>>]) -> bool {
    let mut waits: Vec<_> = sources.iter_mut().map(|source| Box::pin(source.changed())).collect();
    while !waits.is_empty() {
        let (result, _, rest) = select_all(waits).await;
        if result.is_ok() {
            return true;
        }
        // That source is gone: its last set stands, and the others are waited for.
        waits = rest;
    }
    false
}

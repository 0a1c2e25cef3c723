//! One fetch a layer on the whole node, however many pulls want it.
//!
//! ```text
//! pull A ─┐             ┌─▶ the task: permit ─▶ blob ─▶ ingest ─▶ (below?) ─▶ committed
//! pull B ─┼─ Arc<Flight>┘        └─▶ watch: bytes · chained · landed or failed ──▶ A, B, C
//! pull C ─┘
//! ```
//!
//! - Flights are found by diffID. A layer that stands alone serves every stack, so a pull with another stack waits for
//!   it too; once the flight turns out to need the layers below ("chained"), it serves its own stack only, and those
//!   others fetch for themselves. A flight waits only for lower layers of its own stack, so none ever waits in a ring.
//! - Pulls own the flight together: the last one to let go aborts the task, whose ingest then removes what it wrote.
//! - One pull's failure is not another's: who finds a flight failed that was made with another source begins his own.
//! - A flight gives its permit back before it waits for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc::UnboundedSender, watch};
use tokio::task::AbortHandle;

use super::error::Error;
use super::images::Inner;
use super::request::Progress;
use super::resolve::Source;
use crate::oci::{ChainId, Descriptor, DiffId};
use crate::store::{self, LayerKey};

/// Watchers are told after so many bytes: often enough for a bar, seldom enough to cost nothing.
const TELL_EVERY: u64 = 512 << 10;

/// What a flight needs to know of the image that it is for.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    /// The layers as they travel, lowest first.
    pub(super) layers: Vec<Descriptor>,
    /// The same layers' diffIDs.
    pub(super) diff_ids: Vec<DiffId>,
}

/// A layer that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Landed {
    pub(super) key: LayerKey,
    /// Bytes that travelled; zero for a layer that was here.
    pub(super) fetched: u64,
    pub(super) disk_bytes: u64,
}

#[derive(Debug, Clone)]
struct State {
    bytes: u64,
    stage: Stage,
}

#[derive(Debug, Clone)]
enum Stage {
    Running,
    /// It serves only its own stack.
    Chained,
    Ended(Result<Landed, Arc<Error>>),
}

/// One fetch in progress.
#[derive(Debug)]
struct Flight {
    chain: ChainId,
    source: Source,
    state: watch::Receiver<State>,
    task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Nobody waits any more. A task that has ended does not mind.
        self.task.abort();
    }
}

/// All fetches of the node.
#[derive(Debug)]
pub(super) struct Flights {
    running: Mutex<HashMap<DiffId, Vec<Weak<Flight>>>>,
    permits: Arc<Semaphore>,
}

impl Flights {
    /// At most `parallel` layers (at least one) are fetched at once.
    pub(super) fn new(parallel: usize) -> Self {
        Self { running: Mutex::default(), permits: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// The flight to wait for: one for this very stack, else one that may yet serve it, else a new one.
    fn join(&self, inner: &Arc<Inner>, plan: &Arc<Plan>, at: usize, want: &Want) -> (Arc<Flight>, bool) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, flights| {
            flights.retain(|f| f.strong_count() > 0);
            !flights.is_empty()
        });
        let known = running.entry(want.diff_id.clone()).or_default();
        let live: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        let own = live.iter().find(|f| f.chain == want.chain && !f.has_ended());
        let other = || live.iter().find(|f| matches!(f.state.borrow().stage, Stage::Running));
        if let Some(flight) = own.or_else(other) {
            return (Arc::clone(flight), false);
        }
        let (tell, state) = watch::channel(State { bytes: 0, stage: Stage::Running });
        let task = tokio::spawn(fly(Arc::clone(inner), Arc::clone(plan), at, tell)).abort_handle();
        let flight = Arc::new(Flight { chain: want.chain.clone(), source: plan.source.clone(), state, task });
        known.push(Arc::downgrade(&flight));
        (flight, true)
    }
}

impl Flight {
    fn has_ended(&self) -> bool {
        matches!(self.state.borrow().stage, Stage::Ended(_))
    }
}

/// The layer that is wanted.
struct Want {
    diff_id: DiffId,
    chain: ChainId,
}

/// What became of waiting for a flight.
enum Waited {
    Landed(Landed),
    Failed(Arc<Error>),
    /// It does not (or no more) serve this stack, or it was aborted.
    Look,
}

/// Gets layer `at` of `plan` into the store, alone or with others.
pub(super) fn layer(
    inner: Arc<Inner>,
    plan: Arc<Plan>,
    at: usize,
    progress: Option<UnboundedSender<Progress>>,
) -> BoxFuture<'static, Result<Landed, Error>> {
    async move {
        let stack = plan.diff_ids.get(..=at).unwrap_or_default();
        let (Some(diff_id), Some(chain)) = (stack.last().cloned(), ChainId::of(stack)) else {
            return Err(Error::Cancelled { image: format!("layer {at}") });
        };
        let want = Want { diff_id, chain };
        let mut fetched = 0;
        loop {
            if let Some(key) = inner.store.find_layer(stack) {
                let disk_bytes = inner.store.layer(&key).map_or(0, |info| info.disk_bytes);
                return Ok(Landed { key, fetched, disk_bytes });
            }
            let (flight, own) = inner.flights.join(&inner, &plan, at, &want);
            match wait(&flight, &want, progress.as_ref()).await {
                // Asking the store again finds out whether it serves this stack, and that no sweep took it.
                Waited::Landed(landed) => {
                    fetched = landed.fetched;
                    if flight.chain == want.chain {
                        return Ok(landed);
                    }
                }
                Waited::Failed(error) if own || flight.source.is_same(&plan.source) => {
                    return Err(Error::Shared(error));
                }
                Waited::Failed(_) | Waited::Look => {}
            }
        }
    }
    .boxed()
}

async fn wait(flight: &Flight, want: &Want, progress: Option<&UnboundedSender<Progress>>) -> Waited {
    let mut state = flight.state.clone();
    let mut told = 0;
    loop {
        let State { bytes, stage } = state.borrow_and_update().clone();
        if bytes != told {
            told = bytes;
            if let Some(progress) = progress {
                // A receiver that is gone disturbs nothing.
                let _ = progress.send(Progress::Fetched { diff_id: want.diff_id.clone(), bytes });
            }
        }
        match stage {
            Stage::Ended(Ok(landed)) => return Waited::Landed(landed),
            Stage::Ended(Err(error)) => return Waited::Failed(error),
            Stage::Chained if flight.chain != want.chain => return Waited::Look,
            Stage::Running | Stage::Chained => {}
        }
        if state.changed().await.is_err() {
            return Waited::Look;
        }
    }
}

/// The task of one flight.
async fn fly(inner: Arc<Inner>, plan: Arc<Plan>, at: usize, tell: watch::Sender<State>) {
    let result = fetch(&inner, &plan, at, &tell).await.map_err(Arc::new);
    tell.send_modify(|state| state.stage = Stage::Ended(result));
}

async fn fetch(inner: &Arc<Inner>, plan: &Arc<Plan>, at: usize, tell: &watch::Sender<State>) -> Result<Landed, Error> {
    let stack = plan.diff_ids.get(..=at).unwrap_or_default().to_vec();
    let Some(descriptor) = plan.layers.get(at) else { return Err(Error::Cancelled { image: format!("layer {at}") }) };
    let what = || format!("layer {}", descriptor.digest);
    let stored = |source| Error::Store { what: what(), source };
    let permits = Arc::clone(&inner.flights.permits);
    let permit = permits.acquire_owned().await.map_err(|_| Error::Cancelled { image: what() })?;
    let blob = Some((descriptor.digest.clone(), descriptor.size));
    // Its first bytes say how a layer is compressed; media types are wrong now and then.
    let mut ingest = inner.store.begin_ingest(stack, blob, None).map_err(stored)?;
    let mut body = plan.source.open(descriptor)?;
    let (mut bytes, mut told) = (0, 0);
    while let Some(piece) = body.next(what).await? {
        bytes += u64::try_from(piece.len()).unwrap_or(0);
        ingest.write(piece).await.map_err(stored)?;
        if bytes - told >= TELL_EVERY {
            inner.metrics.fetched(bytes - told);
            told = bytes;
            tell.send_modify(|state| state.bytes = bytes);
        }
    }
    inner.metrics.fetched(bytes - told);
    tell.send_modify(|state| state.bytes = bytes);
    let mut failed_below = None;
    let below = async {
        // Only now is it known that this layer needs those below: others may fetch meanwhile.
        drop(permit);
        tell.send_modify(|state| state.stage = Stage::Chained);
        let mut keys = Vec::with_capacity(at);
        for lower in 0..at {
            match layer(Arc::clone(inner), Arc::clone(plan), lower, None).await {
                Ok(landed) => keys.push(landed.key),
                Err(error) => {
                    failed_below = Some(error);
                    let diff_id = plan.diff_ids.get(at).cloned();
                    let lost = || store::Error::ReadOnly { action: "store a layer without those below it" };
                    return Err(diff_id.map_or_else(lost, |diff_id| store::Error::Abandoned { diff_id }));
                }
            }
        }
        Ok(keys)
    };
    let finished = ingest.finish(below).await;
    if let Some(error) = failed_below {
        return Err(error);
    }
    let done = finished.map_err(stored)?;
    Ok(Landed { key: done.key, fetched: done.fetched_bytes, disk_bytes: done.disk_bytes })
}

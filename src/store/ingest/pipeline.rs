//! The three threads of an ingest and the queues between them.
//!
//! Memory of one layer, besides what inflating, converting and writing need: [`INPUT_QUEUE`] × [`INPUT_PIECE`] twice (before
//! and after `receive`) and about [`CHUNKS`] × [`CHUNK`] of inflated bytes, together at most 8 MiB.
//!
//! Pieces are as large as a core's second-level cache allows, and few: each is a thread that wakes another, and ISA-L copies
//! up to 64 KiB at the beginning and end of each call. Twice as many of half the size cost a tenth more CPU.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::hash::Hasher;
use super::{Ingested, Reply, Task};
use crate::oci::{DiffId, Digest};
use crate::store::Store;
use crate::store::convert::inflate::InflateError;
use crate::store::convert::{self, Conversion, Inflate};
use crate::store::driver::Driver;
use crate::store::error::Error;
use crate::store::key::LayerKey;
use crate::store::staging::Staging;
use crate::store::tree::Merged;

/// The largest piece of compressed bytes in a queue; larger writes are cut.
pub(super) const INPUT_PIECE: usize = 512 << 10;
/// How many pieces of compressed bytes a queue holds.
const INPUT_QUEUE: usize = 4;
/// How much is inflated before it is handed on.
const CHUNK: usize = 512 << 10;
/// How many inflated chunks wait for the last thread.
const CHUNKS: usize = 4;

/// What the writer sends.
#[derive(Debug)]
pub(super) enum Input {
    /// Bytes of the blob.
    Data(Bytes),
    /// The blob is complete. A queue that closes without this means: given up.
    End,
}

/// What travels down the pipeline.
enum Step<T> {
    Data(T),
    /// All is sent and, so far, as it should be; with the number of blob bytes.
    End(u64),
    /// Give up, for this reason.
    Failed(Error),
}

/// The ends of a pipeline that its owner keeps.
type Ends = (mpsc::Sender<Input>, oneshot::Receiver<Result<Ingested, Error>>, oneshot::Receiver<Reply>);

/// Starts the threads.
pub(super) fn start(store: Store, driver: Driver, staging: Staging, task: Task) -> Result<Ends, Error> {
    let (input, written) = mpsc::channel(INPUT_QUEUE);
    let (received, blob) = sync_channel(INPUT_QUEUE);
    let (inflated, tar) = sync_channel(CHUNKS);
    let (used, unused) = channel();
    let (done, end) = oneshot::channel();
    let (ask, asked) = oneshot::channel();
    let failed = |source| Error::Thread { diff_id: task.diff_id.clone(), source };
    let limit = store.0.limits.tar_bytes;
    // The last stage first: if one cannot be started, those that run find their queue closed and end.
    let last = Last { store, driver, staging, task: task.clone(), ask: Some(ask), used };
    spawn("layer-convert", move || {
        // The owner may be gone: then nobody waits for the outcome.
        let _ = done.send(last.run(&tar));
    })
    .map_err(failed)?;
    let (id, compression) = (task.diff_id.clone(), task.compression);
    spawn("layer-inflate", move || {
        let mut out = Chunks::new(inflated, unused);
        inflate(&id, &blob, &mut out, Inflate::new(compression, limit));
    })
    .map_err(failed)?;
    let (id, expected) = (task.diff_id.clone(), task.blob.clone());
    spawn("layer-receive", move || receive(&id, expected, written, &received)).map_err(failed)?;
    Ok((input, end, asked))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // Never joined: each ends with its queues, and the last one's outcome is waited for.
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// The first stage: counts and hashes the blob.
fn receive(
    diff_id: &DiffId,
    expected: Option<(Digest, u64)>,
    mut written: mpsc::Receiver<Input>,
    received: &SyncSender<Step<Bytes>>,
) {
    let mut hasher = expected.as_ref().map(|(digest, _)| Hasher::new(digest.algorithm()));
    let mut got: u64 = 0;
    let last = loop {
        match written.blocking_recv() {
            Some(Input::Data(bytes)) => {
                got = got.saturating_add(bytes.len() as u64);
                if let Some((digest, want)) = &expected
                    && got > *want
                {
                    break Step::Failed(Error::Size { digest: digest.clone(), want: *want, got });
                }
                if let Some(hasher) = &mut hasher {
                    hasher.update(&bytes);
                }
                if received.send(Step::Data(bytes)).is_err() {
                    return;
                }
            }
            Some(Input::End) => break blob_verdict(expected, hasher, got),
            None => break Step::Failed(Error::Abandoned { diff_id: diff_id.clone() }),
        }
    };
    // A later stage that has ended has said why.
    let _ = received.send(last);
}

fn blob_verdict(expected: Option<(Digest, u64)>, hasher: Option<Hasher>, got: u64) -> Step<Bytes> {
    let (Some((want, size)), Some(hasher)) = (expected, hasher) else { return Step::End(got) };
    if got != size {
        return Step::Failed(Error::Size { digest: want, want: size, got });
    }
    let digest = hasher.finish();
    if digest == want { Step::End(got) } else { Step::Failed(Error::Digest { what: "layer blob", want, got: digest }) }
}

/// Fills chunks with inflated bytes; their memory comes back from the last stage.
struct Chunks {
    sender: SyncSender<Step<Vec<u8>>>,
    unused: Receiver<Vec<u8>>,
    /// The chunk being filled, always of full length.
    next: Vec<u8>,
    /// How much of it is filled; less than all of it.
    filled: usize,
}

/// Why a piece of the blob was not passed on.
enum Stop {
    /// It cannot be expanded.
    Inflate(InflateError),
    /// The last stage is gone; it has said why.
    Gone,
}

impl Chunks {
    fn new(sender: SyncSender<Step<Vec<u8>>>, unused: Receiver<Vec<u8>>) -> Self {
        Self { sender, unused, next: vec![0; CHUNK], filled: 0 }
    }

    /// Expands a piece of the blob straight into chunks, and sends those that are full.
    fn expand(&mut self, inflate: &mut Inflate, mut blob: &[u8]) -> Result<(), Stop> {
        loop {
            let room = self.next.get_mut(self.filled..).unwrap_or_default();
            self.filled += inflate.fill(&mut blob, room).map_err(Stop::Inflate)?;
            if self.filled < self.next.len() {
                return Ok(());
            }
            self.flush()?;
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut fresh = self.unused.try_recv().unwrap_or_default();
        fresh.resize(CHUNK, 0);
        let mut full = std::mem::replace(&mut self.next, fresh);
        full.truncate(std::mem::take(&mut self.filled));
        self.sender.send(Step::Data(full)).map_err(|_| Stop::Gone)
    }
}

/// The second stage: expands the blob within its budget.
fn inflate(diff_id: &DiffId, blob: &Receiver<Step<Bytes>>, out: &mut Chunks, mut inflate: Inflate) {
    let failed = |source| Step::Failed(Error::Inflate { diff_id: diff_id.clone(), source });
    let last = loop {
        match blob.recv() {
            Ok(Step::Data(bytes)) => match out.expand(&mut inflate, &bytes) {
                Ok(()) => {}
                Err(Stop::Gone) => return,
                // What is damaged may be so because the blob is another than was named: that says more. So the rest
                // is only hashed, by the stage before; it is bounded by the blob's size.
                Err(Stop::Inflate(e @ InflateError::Damaged { .. })) => break verdict_first(blob, failed(e)),
                Err(Stop::Inflate(e)) => break failed(e),
            },
            Ok(Step::End(bytes)) => match (inflate.finish(), out.flush()) {
                (Ok(()), Ok(())) => break Step::End(bytes),
                (Err(e), _) => break failed(e),
                (Ok(()), Err(_)) => return,
            },
            Ok(Step::Failed(error)) => break Step::Failed(error),
            Err(_) => return,
        }
    };
    // A last stage that has ended has said why.
    let _ = out.sender.send(last);
}

/// Waits for the blob's own verdict, which goes before what its content gave rise to.
fn verdict_first(blob: &Receiver<Step<Bytes>>, otherwise: Step<Vec<u8>>) -> Step<Vec<u8>> {
    loop {
        match blob.recv() {
            Ok(Step::Data(_)) => {}
            Ok(Step::Failed(error @ (Error::Digest { .. } | Error::Size { .. }))) => return Step::Failed(error),
            Ok(Step::End(_) | Step::Failed(_)) | Err(_) => return otherwise,
        }
    }
}

/// The last stage: hashes and converts the tar, and commits the layer.
struct Last {
    store: Store,
    driver: Driver,
    staging: Staging,
    task: Task,
    ask: Option<oneshot::Sender<Reply>>,
    used: Sender<Vec<u8>>,
}

impl Last {
    fn run(mut self, tar: &Receiver<Step<Vec<u8>>>) -> Result<Ingested, Error> {
        let diff_id = self.task.diff_id.clone();
        let failed = |source| Error::Convert { diff_id: diff_id.clone(), source };
        let mut hasher = Hasher::new(diff_id.0.algorithm());
        let mut conversion =
            Conversion::begin(self.driver, self.staging.path(), &self.store.0.limits).map_err(failed)?;
        let fetched_bytes = loop {
            match tar.recv() {
                Ok(Step::Data(mut chunk)) => {
                    hasher.update(&chunk);
                    conversion.feed(&chunk).map_err(failed)?;
                    chunk.clear();
                    // The stage before may have ended.
                    let _ = self.used.send(chunk);
                }
                Ok(Step::End(bytes)) => break bytes,
                Ok(Step::Failed(error)) => return Err(error),
                Err(_) => return Err(Error::Abandoned { diff_id }),
            }
        };
        let got = hasher.finish();
        if got != diff_id.0 {
            return Err(Error::Digest { what: "layer content", want: diff_id.0, got });
        }
        let keys = LayerKey::candidates(&self.task.stack);
        let (diff_key, chain_key) = keys.ok_or_else(|| Error::Abandoned { diff_id: diff_id.clone() })?;
        let key = if conversion.stands_alone() { diff_key } else { chain_key };
        let mut ask = self.ask.take();
        let (store, lowest) = (self.store.clone(), self.task.stack.len() == 1);
        // A failure of ours inside the callback keeps its type by this way around the conversion.
        let mut own = None;
        let finished = conversion.finish(key.identity(), &mut || {
            let tree = if lowest { Ok(Merged::default()) } else { below(&store, &diff_id, ask.take()) };
            tree.map_err(|error| {
                own = Some(error);
                convert::Error::Below("see the store's own error".into())
            })
        });
        let converted = match (finished, own) {
            (Err(_), Some(error)) => return Err(error),
            (finished, _) => finished.map_err(failed)?,
        };
        let disk_bytes = converted.disk_bytes;
        let source = crate::store::LayerSource { blob: self.task.blob.map(|(digest, _)| digest), bytes: fetched_bytes };
        let key = self.store.commit_layer(&self.staging, key, diff_id, (self.driver, converted, source))?;
        Ok(Ingested { key, fetched_bytes, disk_bytes })
    }
}

/// The merged tree of the layers below, from whoever finishes the ingest.
fn below(store: &Store, diff_id: &DiffId, ask: Option<oneshot::Sender<Reply>>) -> Result<Merged, Error> {
    let abandoned = || Error::Abandoned { diff_id: diff_id.clone() };
    let (reply, answer) = sync_channel(1);
    ask.ok_or_else(abandoned)?.send(reply).map_err(|_| abandoned())?;
    let keys = answer.recv().map_err(|_| abandoned())??;
    store.merged(&keys)
}

//! A layer on its way into the store: compressed bytes in, a committed layer out, in one pass.
//!
//! ```text
//! Ingest::write ─▶ │ receive │ ─▶ │ inflate │ ─▶ │ convert                              │ ─▶ layers/<key>/
//!                    blob hash                    diffID hash · tar → layer · fsync ·
//!                    and size                     layer.json · rename
//! ```
//!
//! Three threads a layer, joined by short queues: inflating costs about as much as all else together, so it has one
//! for itself. The queues bound memory (`pipeline` has the figures); a slow stage holds up the writer.
//!
//! An error of any stage travels down the queues and ends the last one; the stages before it find their queue closed.
//! Nothing is committed before the blob's digest and size and the content's diffID are what was named. Dropping an
//! [`Ingest`] makes its threads end by themselves, the last of which removes what lies in `staging/`.

mod commit;
mod hash;
mod pipeline;

use std::future::Future;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Store;
use super::convert::Compression;
use super::error::Error;
use super::key::LayerKey;
use super::staging::Staging;
use crate::oci::{DiffId, Digest};

use pipeline::Input;

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// Where it is.
    pub key: LayerKey,
    /// How many (compressed) bytes were written to the ingest.
    pub fetched_bytes: u64,
    /// What the layer takes on disk.
    pub disk_bytes: u64,
}

/// What the pipeline is to make.
#[derive(Debug, Clone)]
struct Task {
    /// The layer's stack, itself on top.
    stack: Vec<DiffId>,
    /// The layer.
    diff_id: DiffId,
    /// The digest and size that its blob must have.
    blob: Option<(Digest, u64)>,
    /// How the blob is compressed; `None`: its first bytes say.
    compression: Option<Compression>,
}

/// A layer being written. Dropping it gives the layer up.
#[derive(Debug)]
pub struct Ingest {
    diff_id: DiffId,
    input: Option<mpsc::Sender<Input>>,
    /// The pipeline's end; `None` once it was told.
    done: Option<oneshot::Receiver<Result<Ingested, Error>>>,
    /// Asks for the layers below, if they are needed, with where to send the answer.
    below: oneshot::Receiver<Reply>,
}

/// Where the keys of the layers below go, lowest first.
type Reply = std::sync::mpsc::SyncSender<Result<Vec<LayerKey>, Error>>;

impl Store {
    /// Begins to store the uppermost layer of `stack` (diffIDs, lowest first). `blob` is the digest and size that the
    /// written bytes must have, where a descriptor named them; without `compression` the first bytes tell it.
    ///
    /// Hold the stack first ([`Store::hold_layers`]), or a sweep may take the layer as soon as it is committed. When
    /// several layers of one stack are stored at once, begin with the lowest: an upper one may have to wait for it.
    ///
    /// # Errors
    /// If nothing can be written, or no threads be started.
    pub fn begin_ingest(
        &self,
        stack: Vec<DiffId>,
        blob: Option<(Digest, u64)>,
        compression: Option<Compression>,
    ) -> Result<Ingest, Error> {
        let driver = self.writable("store a layer")?;
        let empty = || Error::Image { what: "config", reason: "it names no layers".to_owned() };
        let diff_id = stack.last().cloned().ok_or_else(empty)?;
        let staging = Staging::create(self)?;
        let task = Task { stack, diff_id: diff_id.clone(), blob, compression };
        let (input, done, below) = pipeline::start(self.clone(), driver, staging, task)?;
        Ok(Ingest { diff_id, input: Some(input), done: Some(done), below })
    }
}

impl Ingest {
    /// The layer's diffID.
    pub const fn diff_id(&self) -> &DiffId {
        &self.diff_id
    }

    /// Hands on the next bytes of the blob; waits while the pipeline is full. Not cancel-safe: after a write that was
    /// dropped half-way only dropping the ingest makes sense.
    ///
    /// # Errors
    /// What stopped the pipeline; writing more after that is [`Error::Abandoned`].
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(pipeline::INPUT_PIECE));
            let sent = match &self.input {
                Some(input) => input.send(Input::Data(piece)).await.is_ok(),
                None => false,
            };
            if !sent {
                self.input = None;
                let ended = match self.done.take() {
                    Some(done) => done.await.ok(),
                    None => None,
                };
                return Err(self.reason(ended));
            }
        }
        Ok(())
    }

    /// As [`Ingest::write`], for a thread outside any async runtime.
    ///
    /// # Errors
    /// As [`Ingest::write`].
    pub fn write_blocking(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(pipeline::INPUT_PIECE));
            let sent = self.input.as_ref().is_some_and(|input| input.blocking_send(Input::Data(piece)).is_ok());
            if !sent {
                self.input = None;
                let ended = self.done.take().and_then(|done| done.blocking_recv().ok());
                return Err(self.reason(ended));
            }
        }
        Ok(())
    }

    /// Ends the blob and waits until the layer is committed. `below` gives the stored layers under this one, lowest
    /// first; it is polled only for a layer that does not stand alone, and may wait until those layers are stored.
    ///
    /// # Errors
    /// What stopped the pipeline, or what `below` failed with; nothing is committed then.
    pub async fn finish<F>(mut self, below: F) -> Result<Ingested, Error>
    where
        F: Future<Output = Result<Vec<LayerKey>, Error>>,
    {
        if let Some(input) = self.input.take() {
            // A pipeline that has stopped says why at its end.
            let _ = input.send(Input::End).await;
        }
        let Self { diff_id, done, below: asked, .. } = self;
        if let Ok(reply) = asked.await {
            // The pipeline waits for this; if it is gone nevertheless, its end says why.
            let _ = reply.send(below.await);
        }
        let ended = match done {
            Some(done) => done.await.ok(),
            None => None,
        };
        ended.unwrap_or(Err(Error::Abandoned { diff_id }))
    }

    /// As [`Ingest::finish`], for a thread outside any async runtime.
    ///
    /// # Errors
    /// As [`Ingest::finish`].
    pub fn finish_blocking(mut self, below: impl FnOnce() -> Result<Vec<LayerKey>, Error>) -> Result<Ingested, Error> {
        if let Some(input) = self.input.take() {
            // As in `finish`.
            let _ = input.blocking_send(Input::End);
        }
        let Self { diff_id, done, below: asked, .. } = self;
        if let Ok(reply) = asked.blocking_recv() {
            // As in `finish`.
            let _ = reply.send(below());
        }
        let ended = done.and_then(|done| done.blocking_recv().ok());
        ended.unwrap_or(Err(Error::Abandoned { diff_id }))
    }

    /// Why the pipeline takes no more.
    fn reason(&self, ended: Option<Result<Ingested, Error>>) -> Error {
        match ended {
            Some(Err(error)) => error,
            Some(Ok(_)) | None => Error::Abandoned { diff_id: self.diff_id.clone() },
        }
    }
}

#[cfg(test)]
mod tests;

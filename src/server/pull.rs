//! A person's pull: progress as frames, the image held by its tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::State;
use super::problem::{Problem, Reason};
use super::stream::Control;
use super::upgrade::Stream;
use super::wire::{self, LayerState};
use crate::api::problem::chain;
use crate::image::{self, ImageName, Progress, PullPolicy, PullRequest};
use crate::oci::DiffId;
use crate::store::{RefKind, TagOrigin};

/// How often a layer's progress is told; a bar needs no more, and a slow client is not drowned.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

/// An image error as a refusal.
pub(super) fn problem(error: &image::Error) -> Problem {
    let reason = match error.reason() {
        image::Reason::NotFound => Reason::NotFound,
        image::Reason::Auth => Reason::Refused,
        _ => Reason::Failed,
    };
    let problem = Problem::new(reason, chain(error));
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// A name as a person typed it.
pub(super) fn name(text: &str) -> Result<ImageName, Problem> {
    text.parse().map_err(|e| Problem::of(Reason::Invalid, &e))
}

/// What a pull did, for a person.
pub(super) fn summary(name: String, pulled: &image::Pulled) -> wire::Pulled {
    wire::Pulled {
        image: name,
        digest: pulled.image.top.to_string(),
        layers: pulled.layers.len(),
        layers_reused: pulled.layers.iter().filter(|layer| layer.reused).count(),
        fetched_bytes: pulled.fetched_bytes,
        reused_bytes: pulled.reused_bytes,
    }
}

/// How far each layer is, and which have moved since that was told.
#[derive(Debug, Default)]
struct Board {
    layers: BTreeMap<DiffId, (wire::Layer, bool)>,
}

impl Board {
    fn note(&mut self, progress: Progress) {
        match progress {
            Progress::Resolved { layers, .. } => {
                for plan in layers {
                    let state = if plan.present { LayerState::Present } else { LayerState::Waiting };
                    let fetched = if plan.present { plan.size } else { 0 };
                    let layer = wire::Layer { digest: plan.blob.to_string(), state, fetched, total: Some(plan.size) };
                    self.layers.insert(plan.diff_id, (layer, true));
                }
            }
            Progress::Fetched { diff_id, bytes } => self.change(&diff_id, |layer| {
                layer.state = LayerState::Fetching;
                layer.fetched = bytes;
            }),
            Progress::Stored { diff_id, .. } => self.change(&diff_id, |layer| layer.state = LayerState::Done),
        }
    }

    fn change(&mut self, id: &DiffId, with: impl FnOnce(&mut wire::Layer)) {
        if let Some((layer, moved)) = self.layers.get_mut(id) {
            with(layer);
            *moved = true;
        }
    }

    fn take(&mut self) -> Vec<wire::Layer> {
        self.layers
            .values_mut()
            .filter(|(_, moved)| *moved)
            .map(|(layer, moved)| {
                *moved = false;
                layer.clone()
            })
            .collect()
    }
}

/// Pulls, tells how far it is, and ends with what was done. A client that goes away gives the pull up; a fetch that
/// others wait for goes on.
pub(super) async fn run(state: &Arc<State>, body: wire::Pull, stream: Stream) {
    let Stream { mut reader, mut writer } = stream;
    let gone = async { while let Ok(Some(_)) = reader.next().await {} };
    let last = tokio::select! {
        () = gone => return,
        () = state.stop.cancelled() => return,
        last = pull(state, body, &mut writer) => last.unwrap_or_else(Control::Failed),
    };
    // A client that is gone needs no last word.
    let _ = writer.control(&last).await;
}

async fn pull<W: tokio::io::AsyncWrite + Unpin>(
    state: &Arc<State>,
    body: wire::Pull,
    writer: &mut super::stream::Writer<W>,
) -> Result<Control, Problem> {
    let image = name(&body.image)?;
    let reference = image.reference().ok_or_else(|| {
        Problem::new(Reason::Invalid, format!("{} has no tag by which it could be kept", body.image))
            .hint("name a tag of the layout: oci:DIRECTORY:TAG")
    })?;
    let (progress, told) = unbounded_channel();
    let request = PullRequest {
        policy: if body.always { PullPolicy::Always } else { PullPolicy::IfNotPresent },
        progress: Some(progress),
        ..PullRequest::new(image, (RefKind::Tag, reference.to_string()), TagOrigin::Person)
    };
    let pulling = state.node.images().pull(request);
    tokio::pin!(pulling);
    let telling = tell(told, writer);
    tokio::pin!(telling);
    let mut listening = true;
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled,
            told = &mut telling, if listening => {
                told?;
                listening = false;
            }
        }
    };
    let pulled = pulled.map_err(|e| problem(&e))?;
    // What was told last is still to be sent; the pull has dropped its end.
    if listening {
        telling.await?;
    }
    let result = serde_json::to_value(summary(reference.to_string(), &pulled)).ok();
    Ok(Control::Exit { status: 0, result })
}

/// Sends what moved, until the pull tells no more.
async fn tell<W: tokio::io::AsyncWrite + Unpin>(
    mut told: UnboundedReceiver<Progress>,
    writer: &mut super::stream::Writer<W>,
) -> Result<(), Problem> {
    let mut board = Board::default();
    let mut open = true;
    while open {
        match told.recv().await {
            Some(progress) => board.note(progress),
            None => open = false,
        }
        // What came meanwhile goes with it: one frame a layer and interval.
        if open {
            tokio::time::sleep(INTERVAL).await;
        }
        while let Ok(progress) = told.try_recv() {
            board.note(progress);
        }
        for layer in board.take() {
            let value = serde_json::to_value(layer).map_err(|e| Problem::of(Reason::Failed, &e))?;
            writer.control(&Control::Progress(value)).await.map_err(|e| Problem::of(Reason::Failed, &e))?;
        }
    }
    Ok(())
}

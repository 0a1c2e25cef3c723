//! The one merged tree of a container or an image: as a tar, or compared with another.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::json;
use tokio::sync::mpsc;

use super::State;
use super::problem::{Problem, Reason};
use super::report::find_image;
use crate::api::PodView;
use crate::api::view::ContainerExtras;
use crate::store::LayerKey;
use crate::store::tree::{self, Difference, LayerTree, Merged};

/// How much of a tar is sent at once.
const CHUNK: usize = 256 * 1024;

/// How many pieces wait for a slow client; then making waits.
const QUEUE: usize = 4;

fn failed(error: &dyn std::error::Error) -> Problem {
    Problem::of(Reason::Failed, error)
}

/// A container as people name it: `POD`, `POD/CONTAINER`.
fn container<'a>(pods: &'a [Arc<PodView>], namespace: &str, text: &str) -> Option<&'a ContainerExtras> {
    let (pod, name) = text.split_once('/').map_or((text, None), |(pod, name)| (pod, Some(name)));
    let found = pods.iter().find(|view| {
        let key = view.key();
        key.namespace == namespace && key.name == pod
    })?;
    found.lamina.containers.iter().find(|c| name.is_none_or(|name| c.name == name))
}

fn layers(state: &State, keys: &[LayerKey]) -> Result<Vec<Arc<dyn LayerTree>>, Problem> {
    // Lowest first in an image, top first in a tree.
    keys.iter().rev().map(|key| state.store().open_tree(key).map_err(|e| failed(&e))).collect()
}

fn image(state: &State, text: &str) -> Result<Merged, Problem> {
    let id = find_image(state.store(), text)?;
    let found = state.store().image(&id.manifest).map_err(|e| failed(&e))?;
    let found = found.ok_or_else(|| Problem::not_found("image", text))?;
    Ok(Merged::new(layers(state, &found.layers)?))
}

fn of_container(state: &State, container: &ContainerExtras, with_upper: bool) -> Result<Merged, Problem> {
    let keys: Result<Vec<LayerKey>, _> = container.layers.iter().map(|key| key.parse()).collect();
    let mut all = layers(state, &keys.map_err(|e| failed(&e))?)?;
    if let (true, Some(upper)) = (with_upper, &container.upper) {
        all.insert(0, tree::directory(upper, container.first_id).map_err(|e| failed(&e))?);
    }
    Ok(Merged::new(all))
}

/// Finds a container, and where there is none, an image; `pod/…` and `image/…` say which is meant.
pub(super) fn tree(state: &State, text: &str, namespace: &str) -> Result<Merged, Problem> {
    let pods = state.pods();
    if let Some(name) = text.strip_prefix("image/") {
        return image(state, name);
    }
    let pod = text.strip_prefix("pod/").or_else(|| text.strip_prefix("container/"));
    match container(&pods, namespace, pod.unwrap_or(text)) {
        Some(container) => of_container(state, container, true),
        None if pod.is_some() => Err(Problem::not_found("container", text).hint("lamina get containers -A")),
        None => image(state, text).map_err(|problem| match problem.reason {
            Reason::NotFound => {
                Problem::not_found("container or image", text).hint("lamina get containers, lamina get images")
            }
            _ => problem,
        }),
    }
}

/// A, C and D lines as JSON: against `base`, else against the container's own image.
pub(super) fn diff(state: &State, text: &str, namespace: &str, base: Option<&str>) -> Result<Vec<u8>, Problem> {
    let after = tree(state, text, namespace)?;
    let pods = state.pods();
    let name = text.strip_prefix("pod/").or_else(|| text.strip_prefix("container/")).unwrap_or(text);
    let before = match (base, container(&pods, namespace, name)) {
        (Some(base), _) => image(state, base)?,
        (None, Some(container)) => of_container(state, container, false)?,
        (None, None) => {
            return Err(Problem::new(Reason::Invalid, "an image is compared with another image, and none was named")
                .hint("lamina diff IMAGE OTHER"));
        }
    };
    let mut lines = Vec::new();
    for (path, difference) in tree::diff(&before, &after).map_err(|e| failed(&e))? {
        let change = match difference {
            Difference::Added => "A",
            Difference::Changed => "C",
            Difference::Deleted => "D",
        };
        let shown = std::path::Path::new("/").join(&path);
        lines.extend_from_slice(json!({"change": change, "path": shown.to_string_lossy()}).to_string().as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Pieces of a tar for the task that sends them.
struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.to.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A tree as a tar, made as it is sent. It ends early, with an error, where a layer cannot be read.
pub(super) fn tar(tree: Merged) -> impl Stream<Item = io::Result<Bytes>> {
    made(move |out| tree::write_tar(&tree, out))
}

/// What `write` writes, as it is sent; its error ends the stream.
pub(super) fn made<E: std::error::Error>(
    write: impl FnOnce(&mut dyn io::Write) -> Result<(), E> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (to, mut pieces) = mpsc::channel(QUEUE);
    // Ends with what is written, or when the client is gone.
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { to: to.clone(), buffer: Vec::with_capacity(CHUNK) };
        let written = write(&mut out).map_err(|e| io::Error::other(crate::api::problem::chain(&e)));
        if let Err(error) = written.and_then(|()| io::Write::flush(&mut out)) {
            // A client that is gone needs no reason.
            let _ = to.blocking_send(Err(error));
        }
    });
    futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx))
}

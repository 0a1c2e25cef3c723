//! A container's log as the client wants it: what is there, or that and what comes.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::State;
use super::problem::{Problem, Reason};
use super::stream::{Channel, Control};
use super::upgrade;
use crate::node::{ContainerRef, LogPath};
use crate::runtime::logs::{Follow, Line, Query, Stream as From, read as read_log};

/// How much is sent at once.
const CHUNK: usize = 64 * 1024;

/// How many pieces wait for a slow client; then reading waits.
const QUEUE: usize = 4;

/// What the client asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    namespace: String,
    pod: String,
    container: Option<String>,
    since: Option<String>,
    tail: Option<usize>,
    previous: bool,
    timestamps: bool,
    #[serde(rename = "follow")]
    _follow: bool,
}

impl Wanted {
    fn target(&self) -> ContainerRef {
        ContainerRef { namespace: self.namespace.clone(), pod: self.pod.clone(), container: self.container.clone() }
    }

    fn query(&self) -> Result<Query, Problem> {
        let since = self.since.as_deref().map(|text| since(text, SystemTime::now())).transpose()?;
        Ok(Query { tail: self.tail, since })
    }
}

/// A time, or a duration before `now`.
fn since(text: &str, now: SystemTime) -> Result<Timestamp, Problem> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = crate::api::duration::parse(text).map_err(|_| {
        Problem::new(
            Reason::Invalid,
            format!("{text:?} is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z"),
        )
    })?;
    // Longer ago than time can say is since ever.
    Ok(now.checked_sub(ago).and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::MIN))
}

/// The log's place, and the attempt that is meant.
fn place(state: &State, wanted: &Wanted) -> Result<(LogPath, u32), Problem> {
    let path = state.node.log_path(&wanted.target())?;
    let attempt = match (wanted.previous, path.attempt.checked_sub(1)) {
        (false, _) => path.attempt,
        (true, Some(before)) => before,
        (true, None) => {
            let name = format!("{}/{}", wanted.namespace, wanted.pod);
            return Err(Problem::new(Reason::NotFound, format!("no container of {name} was restarted")));
        }
    };
    Ok((path, attempt))
}

/// Whether there is such a log, before a stream begins.
pub(super) fn check(state: &State, wanted: &Wanted) -> Result<(), Problem> {
    wanted.query()?;
    place(state, wanted).map(drop)
}

/// What is there, as a body.
pub(super) fn read(state: &State, wanted: &Wanted) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, Problem> {
    let (path, attempt) = place(state, wanted)?;
    let (query, timestamps) = (wanted.query()?, wanted.timestamps);
    let (pieces, mut body) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    // Ends with the log, or when the client is gone.
    tokio::task::spawn_blocking(move || {
        let mut buffer = Vec::with_capacity(CHUNK);
        let result = read_log(&path.directory, attempt, &query, &mut |line| {
            // Writing to a vector cannot fail.
            let _ = line.print(&mut buffer, timestamps);
            if buffer.len() < CHUNK {
                return ControlFlow::Continue(());
            }
            match pieces.blocking_send(Ok(std::mem::take(&mut buffer).into())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        let rest = match result {
            Ok(()) => Ok(buffer.into()),
            Err(error) => Err(io::Error::other(crate::api::problem::chain(&error))),
        };
        // A client that is gone needs no rest.
        let _ = pieces.blocking_send(rest);
    });
    Ok(futures_util::stream::poll_fn(move |cx| body.poll_recv(cx)))
}

type Writer = super::stream::Writer<tokio::io::WriteHalf<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>>;

async fn send(writer: &mut Writer, lines: &[Line], timestamps: bool) -> Result<(), super::stream::Error> {
    let mut buffer = Vec::new();
    let mut channel = Channel::Stdout;
    for line in lines {
        let next = match line.stream {
            From::Stdout => Channel::Stdout,
            From::Stderr => Channel::Stderr,
        };
        if next != channel || buffer.len() > CHUNK {
            writer.send(channel, &buffer).await?;
            buffer.clear();
            channel = next;
        }
        // Writing to a vector cannot fail.
        let _ = line.print(&mut buffer, timestamps);
    }
    writer.send(channel, &buffer).await
}

/// What is there and what comes, over restarts, until the pod is gone, its container has ended for good, or the
/// client went away.
pub(super) async fn follow(state: &Arc<State>, wanted: &Wanted, stream: upgrade::Stream) {
    let upgrade::Stream { mut reader, mut writer } = stream;
    let gone = async {
        // A client of this stream says nothing; what ends it is its connection.
        while let Ok(Some(_)) = reader.next().await {}
    };
    let last = tokio::select! {
        () = gone => return,
        () = state.stop.cancelled() => return,
        last = follow_attempts(state, wanted, &mut writer) => last,
    };
    let last = match last {
        Ok(()) => Control::Exit { status: 0, result: None },
        Err(problem) => Control::Failed(problem),
    };
    // A client that is gone needs no last word.
    let _ = writer.control(&last).await;
}

async fn follow_attempts(state: &Arc<State>, wanted: &Wanted, writer: &mut Writer) -> Result<(), Problem> {
    let failed = |error: &dyn std::error::Error| Problem::of(Reason::Failed, error);
    let mut pods = state.node.pods();
    let mut query = wanted.query()?;
    let (mut path, mut attempt) = place(state, wanted)?;
    loop {
        pods.mark_unchanged();
        let mut log = Follow::new(&path.directory, attempt, query);
        // Until this attempt is over: the node publishes when it is.
        let next = loop {
            let now = state.node.log_path(&wanted.target()).ok();
            match &now {
                Some(now) if now.directory == path.directory && now.attempt == attempt && now.running => {}
                // It runs no more, or another one does: what it wrote is all there.
                _ => break now,
            }
            tokio::select! {
                lines = log.next() => send(writer, &lines.map_err(|e| failed(&e))?, wanted.timestamps).await.map_err(|e| failed(&e))?,
                changed = pods.changed() => changed.map_err(|e| failed(&e))?,
            }
        };
        let rest = log.rest().map_err(|e| failed(&e))?;
        send(writer, &rest, wanted.timestamps).await.map_err(|e| failed(&e))?;
        let mut next = next;
        // Between two runs it waits; a pod that will not run again is over.
        loop {
            match next {
                None => return Ok(()),
                Some(now) if now.attempt != attempt || now.directory != path.directory => {
                    (attempt, path) = (now.attempt, now);
                    break;
                }
                Some(_) if wanted.previous || super::wait::is_over(state, &wanted.namespace, &wanted.pod) => {
                    return Ok(());
                }
                Some(_) => {
                    pods.changed().await.map_err(|e| failed(&e))?;
                    next = state.node.log_path(&wanted.target()).ok();
                }
            }
        }
        query = Query::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(1);
        assert_eq!(since("10m", now).unwrap().as_second(), 3000);
        assert_eq!(since("2026-01-31T12:00:00Z", now).unwrap().to_string(), "2026-01-31T12:00:00Z");
        assert_eq!(since("99999d", now).unwrap().as_second(), 3600 - 99_999 * 86_400);
        assert_eq!(since("yesterday", now).unwrap_err().reason, Reason::Invalid);
    }
}

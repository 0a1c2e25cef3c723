//! One client's conversation with one process in a container.
//!
//! ```text
//! client ──frames──▶ this task ──stdin (bounded)──▶ task ──▶ pipe or terminal
//!   ▲                   │ resize, signal ──▶ session
//!   └──writer task ◀── frames (bounded) ◀── one task an output ◀── pipe or terminal
//! ```
//!
//! Ends when the process has ended and its output is read, or when the client is gone: then dropping the session
//! closes the streams (and removes the pod of `run --rm`). All tasks are owned by a `JoinSet` here.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::problem::Problem;
use super::stream::{Channel, Control};
use super::upgrade::Stream;
use super::wire::Size;
use crate::node::{Session, Streams};

/// How much is read from a process at once.
const CHUNK: usize = 64 * 1024;

/// Pieces that wait for a slow peer; then its other side waits.
const QUEUE: usize = 8;

/// How long output may still come after a process ended: what it left running may hold its pipes for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// What a terminal takes for the end of its input (Ctrl-D).
const END_OF_INPUT: u8 = 4;

/// What goes to the client.
enum Outgoing {
    Data(Channel, Bytes),
    Last(Control),
}

/// Makes a descriptor one that never blocks the thread that reads or writes it.
fn without_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::fs::fcntl_setfl(&fd, rustix::fs::fcntl_getfl(&fd)? | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

/// The reading end of a pipe, or of a terminal.
fn reading(fd: OwnedFd) -> io::Result<Receiver> {
    Receiver::from_owned_fd_unchecked(without_blocking(fd)?)
}

/// The writing end of a pipe, or of a terminal.
fn writing(fd: OwnedFd) -> io::Result<Sender> {
    Sender::from_owned_fd_unchecked(without_blocking(fd)?)
}

async fn copy_out(mut from: Receiver, channel: Channel, out: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; CHUNK];
    // A terminal whose last process is gone says so with an error: an end like any other.
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let piece = Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default());
        if out.send(Outgoing::Data(channel, piece)).await.is_err() {
            return;
        }
    }
}

async fn copy_in(mut to: Sender, mut pieces: mpsc::Receiver<Bytes>, tty: bool) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            // The process reads no more; the rest is for nobody, and the client need not wait with it.
            return;
        }
    }
    if tty {
        // A terminal has no end of its own to close: end of input is a character there.
        let _ = to.write_all(&[END_OF_INPUT]).await;
    }
}

/// The ends of a process, with a task each.
struct Ends {
    outputs: JoinSet<()>,
    input: Option<mpsc::Sender<Bytes>>,
    _input_task: JoinSet<()>,
}

impl Ends {
    fn open(streams: Option<Streams>, out: &mpsc::Sender<Outgoing>) -> io::Result<Self> {
        let mut outputs = JoinSet::new();
        let mut input_task = JoinSet::new();
        let (sender, pieces) = mpsc::channel(QUEUE);
        let mut input = None;
        match streams {
            Some(Streams::Tty(master)) => {
                outputs.spawn(copy_out(reading(master.try_clone()?)?, Channel::Stdout, out.clone()));
                input_task.spawn(copy_in(writing(master)?, pieces, true));
                input = Some(sender);
            }
            Some(Streams::Pipes { stdin, stdout, stderr }) => {
                for (fd, channel) in [(stdout, Channel::Stdout), (stderr, Channel::Stderr)] {
                    if let Some(fd) = fd {
                        outputs.spawn(copy_out(reading(fd)?, channel, out.clone()));
                    }
                }
                if let Some(fd) = stdin {
                    input_task.spawn(copy_in(writing(fd)?, pieces, false));
                    input = Some(sender);
                }
            }
            None => {}
        }
        Ok(Self { outputs, input, _input_task: input_task })
    }
}

/// Sends frames until the last one, or until the client is gone; if it has `left`, what comes then is for nobody.
async fn write(
    stream: super::stream::Writer<impl tokio::io::AsyncWrite + Unpin>,
    mut frames: mpsc::Receiver<Outgoing>,
    left: Arc<AtomicBool>,
) {
    let mut writer = stream;
    while let Some(frame) = frames.recv().await {
        if left.load(Ordering::Relaxed) {
            continue;
        }
        let sent = match &frame {
            Outgoing::Data(channel, bytes) => writer.send(*channel, bytes).await,
            Outgoing::Last(message) => writer.control(message).await,
        };
        // Whoever leaves says so first, and is gone then.
        if matches!(frame, Outgoing::Last(_)) || (sent.is_err() && !left.load(Ordering::Relaxed)) {
            return;
        }
    }
}

/// Connects a client to a process until either ends. `first` is told before any output.
pub(super) async fn run(stream: Stream, mut session: Session, size: Option<Size>, first: Option<Control>) {
    let Stream { mut reader, mut writer } = stream;
    if let Some(message) = &first
        && writer.control(message).await.is_err()
    {
        return;
    }
    let (out, frames) = mpsc::channel(QUEUE);
    let mut writing = JoinSet::new();
    let left = Arc::new(AtomicBool::new(false));
    writing.spawn(write(writer, frames, Arc::clone(&left)));
    let mut detached = false;
    if let Some(Size { rows, columns }) = size {
        // A process without a terminal has no size; it was not asked for one.
        let _ = session.resize(columns, rows).await;
    }
    let mut ends = match Ends::open(session.streams.take(), &out) {
        Ok(ends) => ends,
        Err(error) => {
            let problem = Problem::of(super::problem::Reason::Failed, &error);
            let _ = out.send(Outgoing::Last(Control::Failed(problem))).await;
            writing.join_all().await;
            return;
        }
    };
    let last = loop {
        tokio::select! {
            // Both are cancel-safe: the reader keeps what it has read, and an exit is told again.
            exit = session.wait() => break match exit {
                Ok(exit) => Control::Exit { status: u8::try_from(exit.code & 0xff).unwrap_or(u8::MAX), result: None },
                Err(error) => Control::Failed(error.into()),
            },
            frame = reader.next(), if !detached => {
                let Ok(Some(frame)) = frame else { return };
                match frame.channel {
                    Channel::Stdin if frame.payload.is_empty() => ends.input = None,
                    Channel::Stdin => {
                        if let Some(input) = &ends.input && input.send(frame.payload).await.is_err() {
                            ends.input = None;
                        }
                    }
                    Channel::Control => match frame.control() {
                        Ok(Control::Resize { rows, columns }) => drop(session.resize(columns, rows).await),
                        Ok(Control::Signal(signal)) => drop(session.signal(signal).await),
                        // A container's own terminal is held by its shim; that of another process only here.
                        Ok(Control::Detach) if session.is_exec() => {
                            detached = true;
                            left.store(true, Ordering::Relaxed);
                        }
                        Ok(Control::Detach) => return,
                        // A client of another version may say more than we know.
                        Ok(_) | Err(_) => {}
                    },
                    Channel::Stdout | Channel::Stderr => return,
                }
            }
            // The client takes no more.
            _ = writing.join_next(), if !detached => return,
        }
    };
    // Whatever the process wrote is still to be read; its pipes end with its last holder.
    let drained = async { while ends.outputs.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    let _ = out.send(Outgoing::Last(last)).await;
    writing.join_all().await;
}

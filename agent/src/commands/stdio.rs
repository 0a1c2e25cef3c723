//! This process's terminal and standard streams on one side, a framed stream on the other.
//!
//! ```text
//! stdin ──▶ task ──┐
//! SIGWINCH, ───────┼──▶ frames (bounded) ──▶ writer task ──▶ agent
//! signals ─────────┘
//! stdout, stderr ◀────────────── this task ◀─────────────── agent
//! ```
//!
//! Writing has a task of its own, so that a command that stops reading its input cannot keep its output from us. The
//! tasks end with the runtime.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use lamina::server::stream::{self, Channel, Control, Frame};
use lamina::server::wire::Size;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::client::Stream;
use crate::failure::{Failure, Status};
use crate::output;

pub(crate) mod detach;

/// How much input is read at once.
const CHUNK: usize = 64 * 1024;

/// Frames that wait for the agent; then standard input waits.
const QUEUE: usize = 4;

/// What is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Our standard input.
    pub(crate) stdin: bool,
    /// The command has a terminal.
    pub(crate) tty: bool,
    /// Typed at a terminal, they leave it.
    pub(crate) detach: detach::Keys,
}

/// The size of our terminal, where there is one.
pub(crate) fn size() -> Option<Size> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_row > 0).then_some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Our terminal without line editing, echo and signals; as it was again when this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("cannot change the terminal's settings")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

enum Outgoing {
    Input(Vec<u8>),
    InputEnds,
    Message(Control),
}

async fn write(mut writer: stream::Writer<impl AsyncWrite + Unpin>, mut frames: mpsc::Receiver<Outgoing>) {
    while let Some(frame) = frames.recv().await {
        let leaves = matches!(frame, Outgoing::Message(Control::Detach));
        let sent = match frame {
            Outgoing::Input(bytes) => writer.send(Channel::Stdin, &bytes).await,
            Outgoing::InputEnds => writer.end(Channel::Stdin).await,
            Outgoing::Message(message) => writer.control(&message).await,
        };
        if sent.is_err() || leaves {
            // The reading side learns of it, and says so.
            return;
        }
    }
}

/// Reads to the end, or until the keys in `watch` were typed: then `left` is dropped.
async fn read_stdin(frames: mpsc::Sender<Outgoing>, mut watch: Option<detach::Watch>, left: oneshot::Sender<()>) {
    // Dropped when this ends.
    let _left = left;
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        let next = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                let _ = frames.send(Outgoing::InputEnds).await;
                // Nobody has left: `left` lasts as long as the session.
                return std::future::pending().await;
            }
            Ok(n) => buffer.get(..n).unwrap_or_default(),
        };
        let (input, leaves) = match &mut watch {
            Some(watch) => watch.feed(next),
            None => (next.to_vec(), false),
        };
        if leaves {
            return;
        }
        if input.is_empty() {
            continue;
        }
        let next = Outgoing::Input(input);
        if frames.send(next).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Hands each of these signals on: Ctrl-C is the command's, not ours.
async fn forward_signals(frames: mpsc::Sender<Outgoing>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
        };
        frames.send(Outgoing::Message(Control::Signal(number.as_raw_value()))).await?;
    }
}

async fn follow_size(frames: mpsc::Sender<Outgoing>) -> anyhow::Result<()> {
    let mut changes = signal(SignalKind::window_change())?;
    while changes.recv().await.is_some() {
        if let Some(Size { rows, columns }) = size() {
            frames.send(Outgoing::Message(Control::Resize { rows, columns })).await?;
        }
    }
    Ok(())
}

/// Connects us to a command in a container, until it ends; its status is ours.
pub(crate) async fn session(stream: Stream, options: Options) -> anyhow::Result<ExitCode> {
    let Stream { mut reader, writer } = stream;
    let (frames, queue) = mpsc::channel(QUEUE);
    let writing = tokio::spawn(write(writer, queue));
    let last_word = frames.clone();
    tokio::spawn(forward_signals(frames.clone()));
    let mut raw = None;
    if options.tty {
        if options.stdin && std::io::stdin().is_terminal() {
            raw = Some(Raw::enter()?);
        }
        tokio::spawn(follow_size(frames.clone()));
    }
    let (left, mut leaves) = oneshot::channel();
    // Without input there is nobody who could leave.
    let _kept = if options.stdin {
        let watch = raw.is_some().then(|| detach::Watch::new(options.detach));
        tokio::spawn(read_stdin(frames, watch, left));
        None
    } else {
        Some(left)
    };
    loop {
        let frame = tokio::select! {
            // Cancel-safe: what was read stays in the reader.
            frame = reader.next() => frame,
            _ = &mut leaves => {
                drop(raw);
                // Heard before the connection ends: else a command would lose its terminal with us.
                if last_word.send(Outgoing::Message(Control::Detach)).await.is_ok() {
                    let _ = writing.await;
                }
                output::note("\nleft; what runs there goes on (lamina attach comes back to a container)");
                return Ok(ExitCode::SUCCESS);
            }
        };
        let Some(frame) = frame.map_err(gone)? else { return Err(gone(stream::Error::Cut)) };
        if let Some(end) = print(&frame)? {
            drop(raw);
            return match end {
                Control::Exit { status, .. } => Ok(ExitCode::from(status)),
                Control::Failed(problem) => Err(Failure::from_problem(problem).before_the_command().into()),
                _ => Ok(ExitCode::SUCCESS),
            };
        }
    }
}

/// Prints a stream of data to its end.
pub(crate) async fn data(stream: Stream) -> anyhow::Result<ExitCode> {
    // The writer stays open: its end would tell the agent that we are gone.
    let Stream { mut reader, writer: _writer } = stream;
    while let Some(frame) = reader.next().await? {
        match print(&frame)? {
            Some(Control::Failed(problem)) => return Err(Failure::from_problem(problem).into()),
            Some(_) => return Ok(ExitCode::SUCCESS),
            None => {}
        }
    }
    Err(Failure::new(Status::Failed, "the agent went away").into())
}

fn gone(error: stream::Error) -> anyhow::Error {
    Failure::new(Status::Ours, "the connection to the agent is lost")
        .source(error)
        .hint("the pod may still run: lamina get pods -A")
        .into()
}

/// Prints a frame; the last one is given back.
fn print(frame: &Frame) -> anyhow::Result<Option<Control>> {
    match frame.channel {
        Channel::Stdout => {
            output::raw(&frame.payload)?;
            output::flush()?;
        }
        Channel::Stderr => {
            // Nobody is left to be told about a standard error that is gone.
            let _ = std::io::stderr().write_all(&frame.payload);
        }
        Channel::Control => match frame.control()? {
            Control::Note(text) => output::note(text),
            end @ (Control::Exit { .. } | Control::Failed(_)) => return Ok(Some(end)),
            Control::Started { .. }
            | Control::Progress(_)
            | Control::Resize { .. }
            | Control::Signal(_)
            | Control::Detach => {}
        },
        Channel::Stdin => {}
    }
    Ok(None)
}

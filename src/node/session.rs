//! A conversation with one process in a container: its streams, its size, its end.

use std::os::fd::OwnedFd;

use tokio::sync::{broadcast, mpsc, watch};

use super::audience::Views;
use super::manager::Command;
use super::{Error, Node};
use crate::api::{PodKey, PodView};
use crate::runtime::client::Client;
use crate::runtime::protocol::{Event, Target};

/// The agent's ends of a process's streams; whoever holds the session copies them to and from its client.
#[derive(Debug)]
pub enum Streams {
    /// One pipe a stream; `None` where it was not asked for.
    Pipes {
        /// Write end.
        stdin: Option<OwnedFd>,
        /// Read end.
        stdout: Option<OwnedFd>,
        /// Read end.
        stderr: Option<OwnedFd>,
    },
    /// The master of the process's terminal.
    Tty(OwnedFd),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessExit {
    /// Its status; 128 + the signal when a signal ended it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
}

/// What a client wants to be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Send to its standard input.
    pub stdin: bool,
    /// Receive its standard output.
    pub stdout: bool,
    /// Receive its standard error (with a terminal it is one with the output).
    pub stderr: bool,
    /// Give it a terminal.
    pub tty: bool,
}

/// Removes a one-off pod when its client goes.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) key: PodKey,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A node that has gone removes the pod when it comes back.
        let _ = self.commands.send(Command::Stop { key: self.key.clone(), grace: Some(std::time::Duration::ZERO) });
    }
}

/// What a session is about.
#[derive(Debug)]
pub(super) enum Subject {
    /// One attempt of a container.
    Container {
        key: PodKey,
        container: String,
        attempt: u32,
        views: watch::Receiver<Views>,
        /// Held for its end.
        #[expect(dead_code, reason = "what it does, it does when it is dropped")]
        guard: Option<Guard>,
    },
    /// A further process.
    Exec { id: u64, told: broadcast::Receiver<Event>, client: Client },
}

/// A process that a client is connected to. Dropping it closes the streams and leaves the process alone, but for the
/// pod of `run --rm`, which is removed.
#[derive(Debug)]
pub struct Session {
    /// Taken by whoever copies them.
    pub streams: Option<Streams>,
    /// `namespace/pod`.
    pub pod: String,
    /// The container's name.
    pub container: String,
    subject: Subject,
    node: Node,
}

impl Session {
    pub(super) fn new(streams: Option<Streams>, pod: String, container: String, subject: Subject, node: Node) -> Self {
        Self { streams, pod, container, subject, node }
    }

    /// Waits for the process to end. Cancel-safe.
    ///
    /// # Errors
    /// If it could not be started at all, or the pod or its shim is lost.
    pub async fn wait(&mut self) -> Result<ProcessExit, Error> {
        let name = format!("{}/{}", self.pod, self.container);
        match &mut self.subject {
            Subject::Container { key, container, attempt, views, .. } => {
                let (key, container, attempt) = (key.clone(), container.clone(), *attempt);
                let mut was_there = false;
                loop {
                    let view = views.borrow_and_update().iter().find(|v| v.key() == key).cloned();
                    match view {
                        Some(view) => {
                            was_there = true;
                            if let Some(end) = ended(&view, &container, attempt, &name) {
                                return end;
                            }
                        }
                        None if was_there => return Err(gone(&name)),
                        None => {}
                    }
                    if views.changed().await.is_err() {
                        return Err(gone(&name));
                    }
                }
            }
            Subject::Exec { id, told, client } => loop {
                match told.recv().await {
                    Ok(Event::ExecExited { id: ended, exit }) if ended == *id => {
                        return Ok(ProcessExit { code: exit.code, signal: exit.signal, oom_killed: exit.oom_killed });
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        // Its end may have been among what was missed.
                        let status = client.status().await.map_err(Error::failed(format!("wait for {name}")))?;
                        if !status.execs.contains_key(id) {
                            return Err(gone(&name));
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(gone(&name)),
                }
            },
        }
    }

    /// Whether it is a further process of a container, whose streams nobody else holds.
    pub const fn is_exec(&self) -> bool {
        matches!(self.subject, Subject::Exec { .. })
    }

    fn target(&self) -> Result<(Client, Target), Error> {
        match &self.subject {
            Subject::Exec { id, client, .. } => Ok((client.clone(), Target::Exec { id: *id })),
            Subject::Container { key, container, attempt, .. } => {
                let view = self.node.inner.board.view(key).ok_or_else(|| gone(&self.pod))?;
                let handle = self.node.inner.machine.sandbox(&view.lamina.uid).ok_or_else(|| gone(&self.pod))?;
                Ok((handle.client, Target::container(container.clone(), *attempt)))
            }
        }
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    /// If there is no terminal or the shim is lost.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let (client, target) = self.target()?;
        client.resize(target, columns, rows).await.map_err(Error::failed("resize the terminal"))
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// If it is gone or the shim is lost.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let (client, target) = self.target()?;
        client.signal(target, signal, false).await.map_err(Error::failed("send a signal"))
    }
}

fn gone(name: &str) -> Error {
    Error::Failed { action: format!("wait for {name}"), source: "its pod is gone".into() }
}

/// How an attempt of a container ended, if it did, or that it will never begin.
fn ended(view: &PodView, container: &str, attempt: u32, name: &str) -> Option<Result<ProcessExit, Error>> {
    let status = view.status_of(container)?;
    let restarts = u32::try_from(status.restart_count).unwrap_or_default();
    let state = status.state.as_ref()?;
    let terminated = if restarts > attempt { status.last_state.as_ref() } else { Some(state) };
    let refused = |reason: &str, message: Option<&String>, status| {
        let why = message.map_or_else(|| reason.to_owned(), |m| format!("{reason}: {m}"));
        Err(Error::Command { name: name.to_owned(), command: String::new(), reason: why, status })
    };
    if let Some(end) = terminated.and_then(|s| s.terminated.as_ref()) {
        let reason = end.reason.as_deref().unwrap_or_default();
        // It never came to run: what a shim says of a start that it refused (see `launch::Error::reason`).
        if matches!(reason, "StartError" | "CreateContainerConfigError" | "CreateContainerError") {
            let status = if end.exit_code == 128 { 125 } else { end.exit_code };
            return Some(refused(reason, end.message.as_ref(), status));
        }
        let oom_killed = reason == "OOMKilled";
        return Some(Ok(ProcessExit { code: end.exit_code, signal: end.signal, oom_killed }));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    // Whoever waits at a terminal is told at once; the pod itself goes on trying.
    let hopeless =
        ["ErrImagePull", "InvalidImageName", "ImagePullBackOff", "CreateContainerConfigError", "FailedMount"];
    (hopeless.contains(&reason) || reason.starts_with("FailedCreate"))
        .then(|| refused(reason, waiting.message.as_ref(), 125))
}

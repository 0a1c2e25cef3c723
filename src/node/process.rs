//! Processes that clients talk to: `run`, `exec`, `attach`, and where logs are.

use std::os::fd::OwnedFd;

use super::manager::Command;
use super::session::{Guard, Subject};
use super::{Attach, ContainerRef, Error, ExecRequest, LogPath, Node, RunRequest, Session, Streams};
use crate::api::problem::chain;
use crate::api::{PodKey, PodView};
use crate::pod::real::{Handle, PendingAttach};
use crate::runtime::client;
use crate::runtime::protocol::{self, Stdio, Target};
use crate::runtime::spec::ContainerSpec;

/// A running container that was found by name.
struct Running {
    key: PodKey,
    container: String,
    attempt: u32,
    handle: Handle,
    spec: std::path::PathBuf,
    tty: bool,
}

impl Running {
    fn name(&self) -> String {
        format!("{}/{}", self.key, self.container)
    }
}

impl Node {
    /// Runs a one-off pod.
    ///
    /// # Errors
    /// If the pod is invalid, or one of that name is there.
    pub fn run(&self, request: RunRequest) -> Result<Session, Error> {
        let RunRequest { pod, attach, remove } = request;
        let text = serde_json::to_vec(&pod).map_err(Error::failed("read the pod"))?;
        let parsed = crate::api::parse("run", &text);
        if !parsed.problems.is_empty() {
            return Err(Error::Invalid { problems: parsed.problems.iter().map(ToString::to_string).collect() });
        }
        let key = PodKey::of(&pod.metadata);
        if self.drained().is_some() {
            return Err(Error::Refused {
                action: "run",
                name: key.to_string(),
                reason: "the node is drained; `lamina drain --undo` lets pods start again".to_owned(),
            });
        }
        if self.inner.board.view(&key).is_some() {
            return Err(Error::Refused {
                action: "run",
                name: key.to_string(),
                reason: "a pod of this name is there already".to_owned(),
            });
        }
        let container = pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).next().unwrap_or_default();
        let streams = if attach == Attach::default() {
            None
        } else {
            let (ours, pending) = pipes(attach)?;
            self.inner.machine.attach_at_start(&key, pending);
            Some(ours)
        };
        let views = self.inner.board.subscribe();
        // The manager lives as long as the node; once it has gone, the session says that the pod is.
        let _ = self.inner.commands.send(Command::Run { key: key.clone(), pod: Box::new(pod), once: remove });
        let guard = remove.then(|| Guard { key: key.clone(), commands: self.inner.commands.clone() });
        let subject = Subject::Container { key: key.clone(), container: container.clone(), attempt: 0, views, guard };
        Ok(Session::new(streams, key.to_string(), container, subject, self.clone()))
    }

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// If there is no such container, or the command does not start.
    pub async fn exec(&self, request: ExecRequest) -> Result<Session, Error> {
        let ExecRequest { target, command, attach } = request;
        let running = self.running(&target)?;
        let first = command.first().cloned().unwrap_or_default();
        let refused =
            |reason: String, status| Error::Command { name: running.name(), command: first.clone(), reason, status };
        if command.is_empty() {
            return Err(Error::Invalid { problems: vec!["a command is needed".to_owned()] });
        }
        let text =
            tokio::fs::read(&running.spec).await.map_err(Error::failed(format!("exec in {}", running.name())))?;
        let spec: ContainerSpec =
            serde_json::from_slice(&text).map_err(Error::failed(format!("exec in {}", running.name())))?;
        let (ours, theirs, stdio) = if attach.tty { (None, Vec::new(), Stdio::default()) } else { exec_pipes(attach)? };
        let request = protocol::ExecRequest {
            name: running.container.clone(),
            attempt: running.attempt,
            process: spec.process(command, attach.tty),
            size: None,
            stdio,
        };
        // Listening begins before there is anything to hear.
        let told = running.handle.told.subscribe();
        let execed = running.handle.client.exec(request, theirs).await.map_err(|error| match &error {
            client::Error::Refused(failure) => refused(failure.message.clone(), failure.kind.exit_code()),
            _ => refused(chain(&error), 125),
        })?;
        let streams = match execed.master {
            Some(master) => Some(Streams::Tty(master)),
            None => ours,
        };
        let subject = Subject::Exec { id: execed.id, told, client: running.handle.client.clone() };
        Ok(Session::new(streams, running.key.to_string(), running.container, subject, self.clone()))
    }

    /// Connects to a running container's own process.
    ///
    /// # Errors
    /// If there is no such container.
    pub async fn attach(&self, target: &ContainerRef, attach: Attach) -> Result<Session, Error> {
        let running = self.running(target)?;
        let attach = Attach { stderr: attach.stderr && !running.tty, tty: running.tty, ..attach };
        let (ours, pending) = pipes(attach)?;
        let wire = protocol::Attach { wait: false, ..pending.attach };
        let process = Target::container(running.container.clone(), running.attempt);
        let views = self.inner.board.subscribe();
        running
            .handle
            .client
            .attach(process, wire, pending.fds)
            .await
            .map_err(Error::failed(format!("attach to {}", running.name())))?;
        let subject = Subject::Container {
            key: running.key.clone(),
            container: running.container.clone(),
            attempt: running.attempt,
            views,
            guard: None,
        };
        Ok(Session::new(Some(ours), running.key.to_string(), running.container, subject, self.clone()))
    }

    /// Where a container's logs are.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn log_path(&self, target: &ContainerRef) -> Result<LogPath, Error> {
        let (key, view, index) = self.find(target)?;
        let machine = &self.inner.machine;
        let Some(extras) = view.lamina.containers.get(index) else { return Err(missing(target)) };
        Ok(LogPath {
            directory: machine.log_dir.join(machine.log_name(&key, &view.lamina.uid)).join(&extras.name),
            attempt: extras.attempt,
            running: extras.pid.is_some(),
        })
    }

    /// The name and the first process of a running container.
    pub(super) fn process_of(&self, target: &ContainerRef) -> Result<(String, u32, Option<u32>), Error> {
        let (key, view, index) = self.find(target)?;
        let extras = view.lamina.containers.get(index).ok_or_else(|| missing(target))?;
        let pid = extras.pid.ok_or_else(|| not_running(&key, target))?;
        let first = Some(extras.first_id).filter(|first| *first > 0);
        Ok((format!("{key}/{}", extras.name), pid, first))
    }

    /// A pod and the index of one of its containers, by name.
    fn find(&self, target: &ContainerRef) -> Result<(PodKey, std::sync::Arc<PodView>, usize), Error> {
        let key = PodKey { namespace: target.namespace.clone(), name: target.pod.clone() };
        let view = self.inner.board.view(&key).ok_or_else(|| missing(target))?;
        let index = match &target.container {
            None => 0,
            Some(name) => {
                let known = view.lamina.containers.iter().position(|c| c.name == *name);
                known.ok_or_else(|| Error::NotFound { kind: "container", name: format!("{key}/{name}") })?
            }
        };
        Ok((key, view, index))
    }

    fn running(&self, target: &ContainerRef) -> Result<Running, Error> {
        let (key, view, index) = self.find(target)?;
        let (Some(extras), Some(handle)) =
            (view.lamina.containers.get(index), self.inner.machine.sandbox(&view.lamina.uid))
        else {
            return Err(not_running(&key, target));
        };
        if extras.pid.is_none() {
            return Err(not_running(&key, target));
        }
        let spec = crate::pod::plan::find(&view.pod, &extras.name);
        Ok(Running {
            spec: self.inner.machine.spec_file(&view.lamina.uid, &extras.name, extras.attempt),
            tty: spec.is_some_and(|c| c.tty == Some(true)),
            container: extras.name.clone(),
            attempt: extras.attempt,
            handle,
            key,
        })
    }
}

fn missing(target: &ContainerRef) -> Error {
    Error::NotFound { kind: "pod", name: format!("{}/{}", target.namespace, target.pod) }
}

fn not_running(key: &PodKey, target: &ContainerRef) -> Error {
    Error::Refused {
        action: "reach a process of",
        name: target.container.as_ref().map_or_else(|| key.to_string(), |c| format!("{key}/{c}")),
        reason: "it does not run".to_owned(),
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::failed("make a pipe")(std::io::Error::from(e)))
}

/// Our ends of what is to be connected, and the shim's.
fn pipes(attach: Attach) -> Result<(Streams, PendingAttach), Error> {
    let mut fds = Vec::new();
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if attach.stdin {
        let (read, write) = pipe()?;
        fds.push(read);
        stdin = Some(write);
    }
    if attach.stdout {
        let (read, write) = pipe()?;
        fds.push(write);
        stdout = Some(read);
    }
    // With a terminal there is one output only.
    let errors = attach.stderr && !attach.tty;
    if errors {
        let (read, write) = pipe()?;
        fds.push(write);
        stderr = Some(read);
    }
    let attach = protocol::Attach { stdin: attach.stdin, stdout: attach.stdout, stderr: errors, wait: true };
    Ok((Streams::Pipes { stdin, stdout, stderr }, PendingAttach { attach, fds, size: None }))
}

/// As [`pipes`], for a process that gets the ends themselves.
fn exec_pipes(attach: Attach) -> Result<(Option<Streams>, Vec<OwnedFd>, Stdio), Error> {
    let (ours, pending) = pipes(attach)?;
    let stdio = Stdio { stdin: attach.stdin, stdout: attach.stdout, stderr: attach.stderr };
    Ok((Some(ours), pending.fds, stdio))
}

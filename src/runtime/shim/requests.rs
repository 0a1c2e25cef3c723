//! What the shim does when it is asked.

use std::os::fd::OwnedFd;

use rustix::termios::Winsize;

use super::input::Input;
use super::output::Outputs;
use super::pod::{Answer, Asked, Pod};
use super::reactor::Reactor;
use crate::api::problem::chain;
use crate::runtime::logs::Stream;
use crate::runtime::protocol::{Attach, Failure, FailureKind, PodStatus, Reply, Request, Target};
use crate::sys::signal;

/// A failure out of an error of this machine.
pub(super) fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::Failed, chain(error))
}

fn answer(result: Result<Reply, Failure>, fds: Vec<OwnedFd>) -> Answer {
    Answer { result, fds }
}

fn done(result: Result<(), Failure>) -> Answer {
    answer(result.map(|()| Reply::Done), Vec::new())
}

impl Pod {
    /// Does what is asked; `None` if the answer comes later.
    pub(super) fn request(&mut self, asked: Asked, request: Request, fds: Vec<OwnedFd>) -> Option<Answer> {
        match request {
            Request::Delete { target } => self.delete(asked, &target),
            Request::Shutdown => self.shut_down(asked),
            other => Some(self.request_now(other, fds)),
        }
    }

    fn request_now(&mut self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        match request {
            Request::Keep { names } => done(self.mounts.keep(names, fds)),
            Request::Give { names } => match self.mounts.give(&names) {
                Ok(fds) => answer(Ok(Reply::Given), fds),
                Err(failure) => done(Err(failure)),
            },
            Request::Drop { names } => {
                self.mounts.drop_kept(&names);
                done(Ok(()))
            }
            Request::Start(_) | Request::Exec(_) if !self.ending.is_empty() => {
                done(Err(Failure::new(FailureKind::NotRunning, "the pod is being shut down")))
            }
            Request::Start(request) => {
                let status = self.start(*request, fds);
                answer(status.map(Reply::Started), Vec::new())
            }
            Request::Exec(request) => match self.exec(&request, fds) {
                Ok((reply, terminal)) => answer(Ok(reply), terminal.into_iter().collect()),
                Err(failure) => done(Err(failure)),
            },
            Request::Signal { target, signal, all } => done(self.signal(&target, signal, all)),
            Request::Resize { target, columns, rows } => done(self.resize(&target, columns, rows)),
            Request::Attach { target, attach } => done(self.attach(&target, attach, fds)),
            Request::CloseStdin { target } => done(self.find(&target).map(|number| {
                self.input(number, Input::close);
            })),
            Request::Status => answer(Ok(Reply::Status(Box::new(self.status()))), Vec::new()),
            Request::Update { target, limits } => done(self.find(&target).map(|number| {
                if let Some(container) = self.containers.get_mut(&number) {
                    container.warnings.extend(container.cgroup.update(&limits).into_iter().map(|w| w.0));
                }
            })),
            Request::Delete { .. } | Request::Shutdown => {
                done(Err(Failure::new(FailureKind::Invalid, "this request is answered later")))
            }
        }
    }

    fn status(&self) -> PodStatus {
        let mut containers: Vec<_> = self.containers.values().map(super::pod::Container::status).collect();
        containers.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        PodStatus {
            containers,
            execs: self.execs.iter().map(|(id, exec)| (*id, exec.pid.unsigned_abs())).collect(),
            kept: self.mounts.names(),
            warnings: self.warnings.clone(),
        }
    }

    /// The number of the container that is meant.
    pub(super) fn find(&self, target: &Target) -> Result<u64, Failure> {
        let Target::Container { name, attempt } = target else {
            return Err(Failure::new(FailureKind::Invalid, format!("{target} is not a container")));
        };
        let found = self.containers.iter().find(|(_, c)| c.name == *name && c.attempt == *attempt);
        found.map(|(number, _)| *number).ok_or_else(|| not_found(target))
    }

    fn signal(&self, target: &Target, number: i32, all: bool) -> Result<(), Failure> {
        let sent = match target {
            Target::Exec { id } => {
                let exec = self.execs.get(id).ok_or_else(|| not_found(target))?;
                signal::send(&exec.pidfd, number)
            }
            Target::Container { .. } => {
                let container = self.find(target).map(|n| self.containers.get(&n))?;
                let container = container.ok_or_else(|| not_found(target))?;
                if container.exit.is_some() {
                    return Err(Failure::new(FailureKind::NotRunning, format!("{target} has ended")));
                }
                if all && number == libc::SIGKILL {
                    return container.cgroup.kill().map_err(|e| failed(&e));
                }
                if all {
                    for pid in container.cgroup.pids().map_err(|e| failed(&e))? {
                        // Each may end between the two steps.
                        let _ = signal::send_to_pid(pid, number);
                    }
                    return Ok(());
                }
                signal::send(&container.pidfd, number)
            }
        };
        sent.map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => Failure::new(FailureKind::NotRunning, format!("{target} has ended")),
            None => Failure::new(FailureKind::Invalid, format!("there is no signal {number}")),
            _ => failed(&e),
        })
    }

    fn resize(&self, target: &Target, columns: u16, rows: u16) -> Result<(), Failure> {
        let container = self.find(target).map(|number| self.containers.get(&number))?;
        let terminal = container.and_then(|c| c.terminal.as_ref());
        let terminal =
            terminal.ok_or_else(|| Failure::new(FailureKind::Invalid, format!("{target} has no terminal")))?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(|e| failed(&e))
    }

    fn attach(&mut self, target: &Target, attach: Attach, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let number = self.find(target)?;
        if self.containers.get(&number).is_some_and(|c| c.exit.is_some()) {
            return Err(Failure::new(FailureKind::NotRunning, format!("{target} has ended")));
        }
        let Some(container) = self.containers.get_mut(&number) else { return Ok(()) };
        connect(&mut self.reactor, &mut container.outputs, container.input.as_mut(), attach, fds)
    }

    fn delete(&mut self, asked: Asked, target: &Target) -> Option<Answer> {
        let number = match self.find(target) {
            Ok(number) => number,
            Err(failure) => return Some(done(Err(failure))),
        };
        let Some(container) = self.containers.get_mut(&number) else { return Some(done(Ok(()))) };
        if container.exit.is_some() {
            return Some(done(self.forget(number)));
        }
        if let Err(failure) = kill(container) {
            return Some(done(Err(failure)));
        }
        container.deleting.push(asked);
        None
    }

    fn shut_down(&mut self, asked: Asked) -> Option<Answer> {
        self.ending.push(asked);
        for container in self.containers.values().filter(|c| c.exit.is_none()) {
            if let Err(failure) = kill(container) {
                super::note(&failure.to_string());
            }
        }
        None
    }
}

/// Connects descriptors to a container's streams.
pub(super) fn connect(
    reactor: &mut Reactor,
    outputs: &mut Outputs,
    input: Option<&mut Input>,
    attach: Attach,
    fds: Vec<OwnedFd>,
) -> Result<(), Failure> {
    if fds.len() != attach.fds() {
        let message = format!("{} descriptors came where {} were announced", fds.len(), attach.fds());
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    let mut fds = fds.into_iter();
    let unusable =
        |e: std::io::Error| Failure::new(FailureKind::Invalid, format!("a descriptor cannot be attached: {e}"));
    if attach.stdin
        && let Some(fd) = fds.next()
    {
        let closed = || Failure::new(FailureKind::Invalid, "the container has no open standard input");
        input.ok_or_else(closed)?.attach(reactor, fd).map_err(unusable)?;
    }
    for (wanted, stream) in [(attach.stdout, Stream::Stdout), (attach.stderr, Stream::Stderr)] {
        if wanted && let Some(fd) = fds.next() {
            outputs.view(reactor, stream, fd, attach.wait).map_err(unusable)?;
        }
    }
    outputs.settle(reactor);
    Ok(())
}

/// Kills all of a container. Its first process takes the others along, so that is what counts.
fn kill(container: &super::pod::Container) -> Result<(), Failure> {
    let all = container.cgroup.kill().map_err(|e| failed(&e));
    match signal::send(&container.pidfd, libc::SIGKILL) {
        // Over already.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) => Err(failed(&e)),
        Ok(()) => all,
    }
}

fn not_found(target: &Target) -> Failure {
    Failure::new(FailureKind::NotFound, format!("there is no {target}"))
}

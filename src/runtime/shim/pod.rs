//! The pod as its shim knows it, and the loop that everything happens in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::connection::{Connection, Incoming};
use super::input::{After, Input};
use super::output::{CHUNK, Outputs};
use super::reactor::{Interest, Reactor, Ready, Source};
use super::setup::{self, Place};
use super::volumes::Mounts;
use super::{Config, Error, note};
use crate::runtime::protocol::{ContainerStatus, Event, Exit, Failure, FromShim, Hello, Reply, VERSIONS};
use crate::sys::cgroup::Cgroup;

/// How many clients may be connected at once: the agent, one that takes over from it, and someone who looks.
const MAX_CLIENTS: usize = 16;
/// How soon what failed for want of space is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One attempt of one container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) state: PathBuf,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: Cgroup,
    pub(super) started_at: Timestamp,
    pub(super) exit: Option<Exit>,
    /// Whether the exit is on disk; one that is not is tried again.
    pub(super) recorded: bool,
    pub(super) layers: Vec<String>,
    /// The master of its terminal.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) outputs: Outputs,
    pub(super) input: Option<Input>,
    pub(super) warnings: Vec<String>,
    /// Who waits for it to be deleted.
    pub(super) deleting: Vec<Asked>,
}

impl Container {
    pub(super) fn status(&self) -> ContainerStatus {
        ContainerStatus {
            name: self.name.clone(),
            attempt: self.attempt,
            pid: self.pid.unsigned_abs(),
            started_at: self.started_at,
            exit: self.exit.clone(),
            cgroup: self.cgroup.path().to_owned(),
            log: self.outputs.log().path(),
            layers: self.layers.clone(),
            warnings: self.warnings.clone(),
        }
    }
}

/// A process beside a container's first one.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) started_at: Timestamp,
}

/// A request whose answer has to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) client: u64,
    pub(super) id: u64,
}

/// What a request comes to.
pub(super) struct Answer {
    pub(super) result: Result<Reply, Failure>,
    /// What goes with it.
    pub(super) fds: Vec<OwnedFd>,
}

/// The pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) config: Config,
    pub(super) place: Place,
    pub(super) reactor: Reactor,
    signals: SignalFd,
    hello: Hello,
    clients: BTreeMap<u64, Connection>,
    next: u64,
    pub(super) mounts: Mounts,
    pub(super) containers: BTreeMap<u64, Container>,
    pub(super) execs: BTreeMap<u64, Exec>,
    pub(super) warnings: Vec<String>,
    /// Who asked for the end of all this.
    pub(super) ending: Vec<Asked>,
    /// Whether to end when the last container has.
    pub(super) terminated: bool,
    pub(super) buffer: Vec<u8>,
}

impl Pod {
    pub(super) fn new(config: Config, mut place: Place) -> Result<Self, Error> {
        let mut reactor = Reactor::new().map_err(Error::kernel("wait for events"))?;
        let mut mask = SigSet::empty();
        // A terminal or a service manager that is done with the agent is not done with its pods.
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().map_err(Error::kernel("block signals"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(Error::kernel("receive signals"))?;
        let adding = Error::kernel("wait for signals and clients");
        reactor
            .add(&signals, Source::Signals, Interest::Read)
            .and_then(|_| reactor.add(&place.listener, Source::Listener, Interest::Read))
            .map_err(adding)?;
        setup::own_log(&config.run)?;
        let hello = Hello {
            versions: VERSIONS,
            build: config.build.clone(),
            boot: config.boot.clone(),
            pod: config.pod.clone(),
            pid: std::process::id(),
        };
        let warnings = std::mem::take(&mut place.warnings);
        let mounts = Mounts::new(config.run.join(super::config::MOUNTS));
        Ok(Self {
            config,
            place,
            reactor,
            signals,
            hello,
            clients: BTreeMap::new(),
            next: 1,
            mounts,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            warnings,
            ending: Vec::new(),
            terminated: false,
            buffer: Vec::new(),
        })
    }

    /// A number that was never given before: for clients, containers and execs.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Serves until it is told to end.
    pub(super) fn serve(mut self) -> Result<(), Error> {
        while !self.is_over() {
            let unrecorded = self.containers.values().any(|c| c.exit.is_some() && !c.recorded);
            let ready = self.reactor.wait(unrecorded.then_some(RETRY)).map_err(Error::kernel("wait for events"))?;
            for (token, ready) in ready {
                if self.reactor.has(token) {
                    self.handle(ready);
                }
            }
            if unrecorded {
                self.record_again();
            }
            self.flush();
        }
        self.end();
        Ok(())
    }

    fn is_over(&self) -> bool {
        (!self.ending.is_empty() || self.terminated) && self.containers.values().all(|c| c.exit.is_some())
    }

    fn handle(&mut self, ready: Ready) {
        match ready.source {
            Source::Listener => self.accept(),
            Source::Signals => self.signalled(),
            Source::Client(client) => self.client(client),
            Source::Output(container, stream) => {
                // Memory that a quiet pod never touches.
                self.buffer.resize(CHUNK, 0);
                if let Some(container) = self.containers.get_mut(&container) {
                    container.outputs.readable(&mut self.reactor, stream, &mut self.buffer);
                }
            }
            Source::Viewer(container, viewer) => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.outputs.viewer(&mut self.reactor, viewer, ready.gone);
                }
            }
            Source::InputFrom(container) => self.input(container, Input::readable),
            Source::InputTo(container) => self.input(container, Input::writable),
        }
    }

    /// Does something with a container's input, and puts it away if that was the end of it.
    pub(super) fn input(&mut self, container: u64, action: impl FnOnce(&mut Input, &mut Reactor) -> After) {
        let Some(container) = self.containers.get_mut(&container) else { return };
        let Some(mut input) = container.input.take() else { return };
        match action(&mut input, &mut self.reactor) {
            After::Open => container.input = Some(input),
            After::Closed => input.end(&mut self.reactor),
        }
    }

    fn signalled(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                // The machine goes down and tells every process so: the containers, too. Ends with the last of them.
                self.terminated = true;
            }
        }
        self.reap();
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.place.listener.accept() {
            // The socket's mode lets nobody else in; this holds if someone changed the mode.
            let own = rustix::process::geteuid();
            let same = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own);
            if !same || self.clients.len() >= MAX_CLIENTS || socket.set_nonblocking(true).is_err() {
                continue;
            }
            let client = self.number();
            if let Ok(token) = self.reactor.add(&socket, Source::Client(client), Interest::Read) {
                self.clients.insert(client, Connection::new(socket, token));
            }
        }
    }

    fn client(&mut self, number: u64) {
        let Some(connection) = self.clients.get_mut(&number) else { return };
        let Some(incoming) = connection.receive(&self.hello) else {
            self.leave(number);
            return;
        };
        for message in incoming {
            match message {
                Incoming::Request { id, request, fds } => {
                    let asked = Asked { client: number, id };
                    if let Some(answer) = self.request(asked, request, fds) {
                        self.answer(asked, answer.result, answer.fds);
                    }
                }
                Incoming::Unreadable { id, failure } => {
                    self.answer(Asked { client: number, id }, Err(failure), Vec::new());
                }
            }
        }
    }

    fn leave(&mut self, number: u64) {
        if let Some(connection) = self.clients.remove(&number) {
            self.reactor.remove(&connection.socket, connection.token);
        }
    }

    /// Answers a request, if whoever asked is still there.
    pub(super) fn answer(&mut self, asked: Asked, result: Result<Reply, Failure>, fds: Vec<OwnedFd>) {
        if let Some(connection) = self.clients.get_mut(&asked.client) {
            connection.send(&FromShim::Reply { id: asked.id, result }, fds);
        }
    }

    /// Tells everyone.
    pub(super) fn tell(&mut self, event: &Event) {
        for connection in self.clients.values_mut().filter(|c| c.greeted()) {
            connection.send(&FromShim::Event(event.clone()), Vec::new());
        }
    }

    /// Sends what waits to whoever takes it.
    fn flush(&mut self) {
        let mut gone = Vec::new();
        for (number, connection) in &mut self.clients {
            match connection.flush() {
                Some(all) if all == connection.wants_room => {
                    connection.wants_room = !all;
                    let interest = if all { Interest::Read } else { Interest::ReadWrite };
                    self.reactor.change(&connection.socket, connection.token, interest);
                }
                Some(_) => {}
                None => gone.push(*number),
            }
        }
        for number in gone {
            self.leave(number);
        }
    }

    /// From here on nobody else's end is its own.
    pub(super) fn settled(&mut self) {
        if let Some(origin) = self.place.origin.take() {
            origin.release();
        }
    }

    /// Gives everything back: containers, cgroups, socket. Descriptors and namespaces go with the process.
    pub(super) fn end(mut self) {
        let numbers: Vec<_> = self.containers.keys().copied().collect();
        let mut result = Ok(());
        for number in numbers {
            if let Err(failure) = self.forget(number) {
                note(&failure.to_string());
                result = Err(failure);
            }
        }
        if let Some(init) = &self.place.init {
            init.end();
        }
        // A group can only go once nobody is in it.
        if let Err(e) = Cgroup::open(&self.place.hierarchies, "/").join().and_then(|()| self.place.own_cgroup.remove())
        {
            note(&crate::api::problem::chain(&e));
        }
        let removed = self.place.pod_cgroup.remove_with_parents();
        let removed = removed.map_err(|e| super::requests::failed(&e));
        let result = result.and(removed);
        self.mounts.end();
        super::config::remove_files(&self.config.run);
        for asked in std::mem::take(&mut self.ending) {
            self.answer(asked, result.clone().map(|()| Reply::Done), Vec::new());
        }
        for connection in self.clients.values_mut() {
            // A client that does not read this now finds the socket closed, which says the same.
            let _ = connection.flush();
        }
    }
}

//! What a client asks for, with types: each is one request and its answer.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Client, Error};
use crate::runtime::protocol::{
    Attach, ContainerStatus, ExecRequest, PodStatus, Reply, Request, StartRequest, Target, frame,
};
use crate::sys::cgroup::Limits;

impl Client {
    async fn done(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(), Error> {
        match self.request(request, fds).await? {
            (Reply::Done, _) => Ok(()),
            _ => Err(self.confused()),
        }
    }

    /// Gives the shim descriptors to keep, by name. It may take several messages; a name that is kept is replaced.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn keep(&self, named: Vec<(String, OwnedFd)>) -> Result<(), Error> {
        let mut rest = named.into_iter();
        loop {
            let (names, fds): (Vec<_>, Vec<_>) = rest.by_ref().take(frame::MAX_FDS).unzip();
            if names.is_empty() {
                return Ok(());
            }
            self.done(Request::Keep { names }, fds).await?;
        }
    }

    /// Asks for kept descriptors, in the order of the names.
    ///
    /// # Errors
    /// As [`Client::request`]; also if one of them is not kept.
    pub async fn give(&self, names: &[String]) -> Result<Vec<OwnedFd>, Error> {
        let mut all = Vec::with_capacity(names.len());
        for names in names.chunks(frame::MAX_FDS) {
            match self.request(Request::Give { names: names.to_vec() }, Vec::new()).await? {
                (Reply::Given, fds) if fds.len() == names.len() => all.extend(fds),
                _ => return Err(self.confused()),
            }
        }
        Ok(all)
    }

    /// Tells the shim to close kept descriptors.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn drop_kept(&self, names: Vec<String>) -> Result<(), Error> {
        self.done(Request::Drop { names }, Vec::new()).await
    }

    /// Starts a container; `attached` are the descriptors of [`StartRequest::attach`], in its order.
    ///
    /// # Errors
    /// As [`Client::request`]; the `Failure`'s kind tells a command that is not there from the rest.
    pub async fn start(&self, request: StartRequest, attached: Vec<OwnedFd>) -> Result<ContainerStatus, Error> {
        match self.request(Request::Start(Box::new(request)), attached).await? {
            (Reply::Started(status), _) => Ok(status),
            _ => Err(self.confused()),
        }
    }

    /// Runs a process in a container; `stdio` are the descriptors of [`ExecRequest::stdio`], in its order.
    ///
    /// # Errors
    /// As [`Client::start`].
    pub async fn exec(&self, request: ExecRequest, stdio: Vec<OwnedFd>) -> Result<Execed, Error> {
        match self.request(Request::Exec(Box::new(request)), stdio).await? {
            (Reply::Execed { id, pid }, mut fds) => Ok(Execed { id, pid, master: fds.pop() }),
            _ => Err(self.confused()),
        }
    }

    /// Sends a signal to the target's first process, or to all of a container.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn signal(&self, target: Target, signal: i32, all: bool) -> Result<(), Error> {
        self.done(Request::Signal { target, signal, all }, Vec::new()).await
    }

    /// Tells a terminal its size.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn resize(&self, target: Target, columns: u16, rows: u16) -> Result<(), Error> {
        self.done(Request::Resize { target, columns, rows }, Vec::new()).await
    }

    /// Connects to a container's streams; `fds` are those of [`Attach`], in its order.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn attach(&self, target: Target, attach: Attach, fds: Vec<OwnedFd>) -> Result<(), Error> {
        self.done(Request::Attach { target, attach }, fds).await
    }

    /// Closes a container's input.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn close_stdin(&self, target: Target) -> Result<(), Error> {
        self.done(Request::CloseStdin { target }, Vec::new()).await
    }

    /// Everything that the shim knows.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn status(&self) -> Result<PodStatus, Error> {
        match self.request(Request::Status, Vec::new()).await? {
            (Reply::Status(status), _) => Ok(*status),
            _ => Err(self.confused()),
        }
    }

    /// Changes a running container's limits in place.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn update(&self, target: Target, limits: Limits) -> Result<(), Error> {
        self.done(Request::Update { target, limits: Box::new(limits) }, Vec::new()).await
    }

    /// Kills what is left of an attempt and forgets it.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn delete(&self, target: Target) -> Result<(), Error> {
        self.done(Request::Delete { target }, Vec::new()).await
    }

    /// Deletes every container and ends the shim; returns once it has closed its socket, and so has given back its
    /// namespaces, mounts and cgroups.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.done(Request::Shutdown, Vec::new()).await?;
        // The shim closes the socket with its last breath. The reader cannot outlive that.
        while self.0.shared.pending().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// A process that was started by [`Client::exec`].
#[derive(Debug)]
pub struct Execed {
    /// For [`Target::Exec`] and `Event::ExecExited`.
    pub id: u64,
    /// As the host sees it.
    pub pid: u32,
    /// The master of its terminal, if it has one; the shim keeps none.
    pub master: Option<OwnedFd>,
}

//! The agent's side of a pod's socket: starts a shim or finds one that runs, asks it things, hears what it tells.
//!
//! ```text
//!  Client::spawn ──▶ `lamina shim` (leaves the agent's process tree) ──▶ ready ──┐
//!  Client::connect ◀── an earlier agent's shim, after a restart ─────────────────┤
//!                                                                                ▼
//!        requests ──▶ one socket ──▶ reader task ──▶ replies to whoever asked, events to [`Events`]
//! ```
//!
//! A [`Client`] is cheap to clone; its reader task ends with the socket or with the last clone. [`Events`] ends when the
//! shim is lost: nothing else closes it. Every method may be cancelled: the request may then still be carried out, and
//! its answer is dropped.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::protocol::frame::{self, Received, Receiver, Sender};
use super::protocol::{
    Attach, ContainerStatus, Event, ExecRequest, Failure, FromShim, Hello, PodStatus, Reply, Request, StartRequest,
    Target, ToShim, VERSIONS,
};
use super::shim::{Config, config};
use crate::sys::cgroup::Limits;

mod spawn;

/// How long a shim may take for its hello: one that is stopped must not hold up the agent.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a shim could not be reached or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("cannot start the shim of pod {pod}")]
    Spawn {
        /// The pod's uid.
        pod: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process started and gave up.
    #[error("the shim of pod {pod} did not start: {message}")]
    Setup {
        /// The pod's uid.
        pod: String,
        /// What it said.
        message: String,
    },
    /// Nobody listens at the socket.
    #[error("cannot connect to the shim at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It listens and does not answer.
    #[error("the shim at {} does not answer", socket.display())]
    Unresponsive {
        /// The socket.
        socket: PathBuf,
    },
    /// What answered is of another pod, or of a release too far from this one.
    #[error("the shim at {} cannot be used: {reason}", socket.display())]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The shim is gone, and what it held.
    #[error("the shim of pod {pod} is gone")]
    Lost {
        /// The pod's uid.
        pod: String,
    },
    /// A message could not be sent.
    #[error("cannot talk to the shim of pod {pod}")]
    Talk {
        /// The pod's uid.
        pod: String,
        /// What is wrong.
        source: frame::Error,
    },
    /// It answered something else than was asked.
    #[error("the shim of pod {pod} gave an answer that does not fit the request")]
    Confused {
        /// The pod's uid.
        pod: String,
    },
    /// The shim says no.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl Error {
    /// Whether the shim is gone, so that its pod's processes have to be ended by their cgroup.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Connect { .. })
    }
}

type Answer = Result<(Reply, Vec<OwnedFd>), Failure>;

/// What a shim tells; `None` from [`Events::next`] means that it is gone.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// A connection to the shim of one pod.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    sender: tokio::sync::Mutex<Sender>,
    next: AtomicU64,
    hello: Hello,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: UnixStream,
    /// `None` once the shim is lost.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(&self, receiver: &mut Receiver) -> Result<Option<frame::Frame>, frame::Error> {
        loop {
            if let Some(frame) = receiver.take()? {
                return Ok(Some(frame));
            }
            // The readiness of the socket is cleared by an io::Error; ours travels beside it.
            let mut failed = None;
            let received = self
                .socket
                .async_io(Interest::READABLE, || match receiver.receive(&self.socket) {
                    Ok(received) => Ok(Some(received)),
                    Err(e) if e.would_block() => Err(io::ErrorKind::WouldBlock.into()),
                    Err(e) => {
                        failed = Some(e);
                        Ok(None)
                    }
                })
                .await
                .map_err(|source| frame::Error::Socket { action: "receive", source })?;
            match (received, failed) {
                (Some(Received::Some), _) => {}
                (_, Some(e)) => return Err(e),
                (Some(Received::End) | None, None) => return Ok(None),
            }
        }
    }

    async fn flush(&self, sender: &mut Sender) -> Result<(), frame::Error> {
        let mut failed = None;
        self.socket
            .async_io(Interest::WRITABLE, || match sender.flush(&self.socket) {
                Ok(true) => Ok(()),
                Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                Err(e) => {
                    failed = Some(e);
                    Ok(())
                }
            })
            .await
            .map_err(|source| frame::Error::Socket { action: "send", source })?;
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Starts a shim and connects to it. `binary` is what it runs, and should be kept (`bin/<build id>/lamina`) until
    /// the shim has gone. The shim leaves the caller's process tree, cgroup and namespaces.
    ///
    /// # Errors
    /// If it cannot be started, or does not get through its set-up; nothing of it is left then.
    pub async fn spawn(binary: &Path, config: &Config) -> Result<(Self, Events), Error> {
        spawn::shim(binary, config).await?;
        Self::connect(&config.run, &config.pod, &config.boot).await
    }

    /// Connects to a shim that an earlier agent started: `run` is its directory, `pod` and `boot` what it must say of
    /// itself.
    ///
    /// # Errors
    /// If nobody listens there ([`Error::is_lost`]), it does not answer, or is not this pod's.
    pub async fn connect(run: &Path, pod: &str, boot: &str) -> Result<(Self, Events), Error> {
        let socket = config::socket(run);
        let stream =
            UnixStream::connect(&socket).await.map_err(|source| Error::Connect { socket: socket.clone(), source })?;
        let shared = Arc::new(Shared { socket: stream, pending: Mutex::new(Some(HashMap::new())) });
        let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
        let mine = Hello {
            versions: VERSIONS,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            boot: boot.to_owned(),
            pod: pod.to_owned(),
            pid: std::process::id(),
        };
        let greeting = async {
            sender.push(&ToShim::Hello(mine), Vec::new())?;
            shared.flush(&mut sender).await?;
            shared.receive(&mut receiver).await
        };
        let greeted = tokio::time::timeout(HELLO_TIMEOUT, greeting).await;
        let frame = greeted
            .map_err(|_| Error::Unresponsive { socket: socket.clone() })?
            .map_err(|source| Error::Talk { pod: pod.to_owned(), source })?;
        let hello = match frame.as_ref().map(frame::Frame::message::<FromShim>) {
            Some(Ok(FromShim::Hello(hello))) => hello,
            Some(_) => return Err(Error::Confused { pod: pod.to_owned() }),
            None => return Err(Error::Foreign { socket, reason: "it refuses this agent".to_owned() }),
        };
        let reason = if hello.pod != pod {
            Some(format!("it is of pod {}", hello.pod))
        } else if hello.boot != boot {
            Some("it is of another boot".to_owned())
        } else if VERSIONS.common(hello.versions).is_none() {
            Some(format!("it speaks versions {} to {}", hello.versions.oldest, hello.versions.newest))
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Error::Foreign { socket, reason });
        }
        let (tell, events) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(Arc::clone(&shared), receiver, tell, hello.pod.clone()));
        let inner = Inner { shared, sender: tokio::sync::Mutex::new(sender), next: AtomicU64::new(1), hello, reader };
        Ok((Self(Arc::new(inner)), Events(events)))
    }

    /// What the shim said of itself.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// Asks anything; the methods below are this with types.
    ///
    /// # Errors
    /// If the shim is lost, or says no.
    pub async fn request(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match self.0.shared.pending().as_mut() {
            Some(pending) => pending.insert(id, answer),
            None => return Err(self.lost()),
        };
        let forget = Forget { shared: &self.0.shared, id };
        {
            let mut sender = self.0.sender.lock().await;
            let sent = match sender.push(&ToShim::Request { id, request }, fds) {
                Ok(()) => self.0.shared.flush(&mut sender).await,
                Err(e) => Err(e),
            };
            match sent {
                Ok(()) => {}
                Err(frame::Error::Socket { .. }) => return Err(self.lost()),
                Err(source) => return Err(Error::Talk { pod: self.0.hello.pod.clone(), source }),
            }
        }
        let answer = answered.await.map_err(|_| self.lost())?;
        drop(forget);
        Ok(answer?)
    }

    fn lost(&self) -> Error {
        Error::Lost { pod: self.0.hello.pod.clone() }
    }

    fn confused(&self) -> Error {
        Error::Confused { pod: self.0.hello.pod.clone() }
    }

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
    /// As [`Client::request`]; the [`Failure`]'s kind tells a command that is not there from the rest.
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
        self.done(Request::Update { target, limits }, Vec::new()).await
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
        while !self.0.reader.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// A process that was started by [`Client::exec`].
#[derive(Debug)]
pub struct Execed {
    /// For [`Target::Exec`] and [`Event::ExecExited`].
    pub id: u64,
    /// As the host sees it.
    pub pid: u32,
    /// The master of its terminal, if it has one; the shim keeps none.
    pub master: Option<OwnedFd>,
}

/// Takes a cancelled request off the books.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.shared.pending().as_mut() {
            pending.remove(&self.id);
        }
    }
}

/// Reads until the shim is gone, then fails whatever is still waiting. Ends also when it is aborted by the last client.
async fn read(shared: Arc<Shared>, mut receiver: Receiver, events: mpsc::UnboundedSender<Event>, pod: String) {
    loop {
        let message = match shared.receive(&mut receiver).await {
            Ok(Some(frame)) => frame.message::<FromShim>().map(|message| (message, frame.fds)),
            Ok(None) => break,
            Err(e) => Err(e),
        };
        match message {
            Ok((FromShim::Reply { id, result }, fds)) => {
                let asked = shared.pending().as_mut().and_then(|pending| pending.remove(&id));
                if let Some(asked) = asked {
                    // Whoever asked may have gone.
                    let _ = asked.send(result.map(|reply| (reply, fds)));
                }
            }
            Ok((FromShim::Event(event), _)) => {
                let _ = events.send(event);
            }
            Ok((FromShim::Hello(_), _)) => {}
            Err(error) => {
                tracing::warn!(pod, error = %crate::runtime::chain(&error), "lost a shim's connection");
                break;
            }
        }
    }
    *shared.pending() = None;
}

//! The agent's side of a pod's socket: starts a shim or finds one that runs, asks it things, hears what it tells.
//!
//! ```text
//!  Client::spawn ──▶ `lamina shim` (leaves the agent's process tree) ──▶ ready ──┐
//!  Client::connect ◀── an earlier agent's shim, after a restart ─────────────────┤
//!                                                                                ▼
//!  requests ──▶ writer task ──▶ one socket ──▶ reader task ──▶ replies to whoever asked, events to [`Events`]
//! ```
//!
//! A [`Client`] is cheap to clone; its tasks end with the socket or with the last clone. [`Events`] ends when the shim is
//! lost: nothing else closes it. Every method may be cancelled: a request of which nothing was sent is not sent then; any
//! other may still be carried out, and its answer is dropped.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::protocol::frame::{self, Received, Receiver, Sender};
use super::protocol::{Event, FromShim, Hello, Reply, Request, ToShim, VERSIONS};
use super::shim::{Config, config};

mod error;
mod lost;
mod requests;
mod spawn;

pub use error::Error;
pub use lost::kill_lost_pod;
pub use requests::Execed;

/// How long a shim may take for its hello: one that is stopped must not hold up the agent.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

type Answer = Result<(Reply, Vec<OwnedFd>), Error>;

/// What is to be sent.
#[derive(Debug)]
struct Asked {
    id: u64,
    request: Request,
    fds: Vec<OwnedFd>,
}

/// What a shim tells; `None` from [`Events::next`] means that it is gone.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Box<Event>>);

impl Events {
    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        Some(*self.0.recv().await?)
    }
}

/// What a shim tells, for any number of listeners. Room is made for it when somebody first listens: most pods never have
/// a listener.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Told {
    /// As many as one shim may tell before a slow listener loses some: exits of execs, mostly.
    const ROOM: usize = 64;

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.get_or_init(|| broadcast::Sender::new(Self::ROOM)).subscribe()
    }

    /// Tells whoever listens.
    pub fn tell(&self, event: &Event) {
        if let Some(sender) = self.0.get() {
            // Nobody may be listening any more.
            let _ = sender.send(event.clone());
        }
    }
}

/// A connection to the shim of one pod.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    // Channels make room for many at a time: what goes through them is boxed, for there are many that are mostly empty.
    requests: mpsc::UnboundedSender<Box<Asked>>,
    next: AtomicU64,
    hello: Hello,
    _tasks: [AbortOnDropHandle<()>; 2],
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
        let frame = greeted.map_err(|_| Error::Unresponsive { socket: socket.clone() })?.or_else(|e| match e {
            // A shim that has just died: its listener still took the connection.
            frame::Error::Socket { .. } => Ok(None),
            source => Err(Error::Talk { pod: pod.to_owned(), source }),
        })?;
        let hello = match frame.as_ref().map(frame::Frame::message::<FromShim>) {
            Some(Ok(FromShim::Hello(hello))) => hello,
            Some(_) => return Err(Error::Confused { pod: pod.to_owned() }),
            // One of another version says hello before it closes.
            None => return Err(Error::Lost { pod: pod.to_owned() }),
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
        let (requests, asked) = mpsc::unbounded_channel();
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(read(Arc::clone(&shared), receiver, tell, hello.pod.clone()))),
            AbortOnDropHandle::new(tokio::spawn(write(Arc::clone(&shared), sender, asked, hello.pod.clone()))),
        ];
        let inner = Inner { shared, requests, next: AtomicU64::new(1), hello, _tasks: tasks };
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
        let _forget = Forget { shared: &self.0.shared, id };
        self.0.requests.send(Box::new(Asked { id, request, fds })).map_err(|_| self.lost())?;
        answered.await.map_err(|_| self.lost())?
    }

    fn lost(&self) -> Error {
        Error::Lost { pod: self.0.hello.pod.clone() }
    }

    fn confused(&self) -> Error {
        Error::Confused { pod: self.0.hello.pod.clone() }
    }
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

/// Sends what is asked, whole: whoever asked may go in the middle of it, and the next request must not wait for that one's
/// end, nor its descriptors for the next.
async fn write(shared: Arc<Shared>, mut sender: Sender, mut asked: mpsc::UnboundedReceiver<Box<Asked>>, pod: String) {
    while let Some(next) = asked.recv().await {
        let Asked { id, request, fds } = *next;
        if !shared.pending().as_ref().is_some_and(|pending| pending.contains_key(&id)) {
            continue;
        }
        let sent = match sender.push(&ToShim::Request { id, request }, fds) {
            Ok(()) => shared.flush(&mut sender).await,
            Err(e) => Err(e),
        };
        match sent {
            Ok(()) => {}
            // The reader sees it, too; whoever asks finds that the shim is lost.
            Err(frame::Error::Socket { .. }) => break,
            Err(source) => {
                if let Some(asked) = shared.pending().as_mut().and_then(|pending| pending.remove(&id)) {
                    let _ = asked.send(Err(Error::Talk { pod: pod.clone(), source }));
                }
            }
        }
    }
    *shared.pending() = None;
}

/// Reads until the shim is gone, then fails whatever is still waiting. Ends also when it is aborted by the last client.
async fn read(shared: Arc<Shared>, mut receiver: Receiver, events: mpsc::UnboundedSender<Box<Event>>, pod: String) {
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
                    let _ = asked.send(result.map(|reply| (reply, fds)).map_err(Error::from));
                }
            }
            Ok((FromShim::Event(event), _)) => {
                let _ = events.send(Box::new(event));
            }
            Ok((FromShim::Hello(_), _)) => {}
            Err(error) => {
                tracing::warn!(pod, error = %crate::api::problem::chain(&error), "lost a shim's connection");
                break;
            }
        }
    }
    *shared.pending() = None;
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Reads frames until one has come.
    fn next(socket: &std::os::unix::net::UnixStream, receiver: &mut Receiver) -> frame::Frame {
        loop {
            if let Some(frame) = receiver.take().unwrap() {
                return frame;
            }
            assert_eq!(receiver.receive(socket).unwrap(), Received::Some);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_is_given_up_is_sent_whole_or_not_at_all() {
        let run = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(config::socket(run.path())).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let shim = std::thread::spawn(move || {
            let (socket, mut receiver) = (listener.accept().unwrap().0, Receiver::default());
            let Ok(ToShim::Hello(hello)) = next(&socket, &mut receiver).message() else { panic!("no hello") };
            let mut sender = Sender::default();
            sender.push(&FromShim::Hello(hello), Vec::new()).unwrap();
            sender.flush(&socket).unwrap();
            // It is busy with something else.
            wait.recv().unwrap();
            let frame = next(&socket, &mut receiver);
            let text = String::from_utf8(frame.body.clone()).unwrap();
            assert!(text.contains("large"), "{}", text.len());
            drop(frame);
            (socket, receiver)
        });
        let (client, _events) = Client::connect(run.path(), "pod", "boot").await.unwrap();
        let soon = Duration::from_millis(100);
        // Larger than what a socket holds, so it is cut in the middle; the second waits behind it.
        let names = vec!["large".repeat(300_000)];
        let mut ends = Vec::new();
        for names in [names, vec!["small".to_owned()]] {
            let (read, write) = std::io::pipe().unwrap();
            let asked = client.request(Request::Keep { names }, vec![write.into()]);
            assert!(tokio::time::timeout(soon, asked).await.is_err());
            ends.push(read);
        }
        go.send(()).unwrap();
        let (socket, mut receiver) = shim.join().unwrap();
        // Nobody holds the pipe of either any more, without anything else being asked.
        for mut read in ends {
            let closed = tokio::task::spawn_blocking(move || read.read(&mut [0]).unwrap());
            assert_eq!(tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap().unwrap(), 0);
        }
        // And what comes next is the next request.
        let asked = tokio::spawn(async move { client.request(Request::Status, Vec::new()).await });
        let frame = tokio::task::spawn_blocking(move || next(&socket, &mut receiver)).await.unwrap();
        assert!(matches!(frame.message(), Ok(ToShim::Request { request: Request::Status, .. })));
        asked.abort();
    }
}

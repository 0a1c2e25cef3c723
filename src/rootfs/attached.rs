//! Layer mounts on kernels before 6.15, where an overlay does not take a detached mount.
//!
//! One thread lives in a mount namespace of its own and attaches each layer there, on a tmpfs that exists nowhere else.
//! What a shim gets is a detached clone, which it attaches in its own namespace: one superblock and one page cache for
//! all, nothing visible on the host, and nothing left when the agent dies, since the namespace dies with the thread.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::mount::MountAttrFlags;

use super::Error;
use crate::sys::mount::{self, Mount};

/// What the thread is asked for.
enum Request {
    Attach { mount: Mount, reply: Sender<Result<u64, mount::Error>> },
    Clone { slot: u64, reply: Sender<Result<Mount, mount::Error>> },
    Detach { slot: u64 },
}

/// The thread and its namespace; ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Attacher {
    requests: Sender<Request>,
}

/// A layer that is attached in the thread's namespace.
#[derive(Debug)]
pub(super) struct Attached {
    slot: u64,
    thread: Attacher,
}

impl Attacher {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, Error> {
        let (requests, inbox) = channel();
        let (ready, started) = channel();
        let body = move || match Namespace::enter() {
            Ok(mut namespace) => {
                // The receiver is gone only if the starter is.
                let _ = ready.send(Ok(()));
                namespace.serve(&inbox);
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        };
        std::thread::Builder::new().name("layer-mounts".into()).spawn(body).map_err(|_| Error::ThreadGone)?;
        started.recv().map_err(|_| Error::ThreadGone)??;
        Ok(Self { requests })
    }

    /// Attaches a detached mount in the thread's namespace.
    pub(super) fn attach(&self, mount: Mount) -> Result<Attached, Error> {
        let (reply, answer) = channel();
        self.requests.send(Request::Attach { mount, reply }).map_err(|_| Error::ThreadGone)?;
        let slot = answer.recv().map_err(|_| Error::ThreadGone)??;
        Ok(Attached { slot, thread: self.clone() })
    }
}

impl Attached {
    /// A detached clone that another process may attach.
    pub(super) fn clone_mount(&self) -> Result<Mount, Error> {
        let (reply, answer) = channel();
        let request = Request::Clone { slot: self.slot, reply };
        self.thread.requests.send(request).map_err(|_| Error::ThreadGone)?;
        Ok(answer.recv().map_err(|_| Error::ThreadGone)??)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A thread that is gone has taken its mounts along.
        let _ = self.thread.requests.send(Request::Detach { slot: self.slot });
    }
}

/// The namespace, seen from the thread that lives in it.
struct Namespace {
    base: Mount,
    next: u64,
}

impl Namespace {
    fn enter() -> Result<Self, mount::Error> {
        mount::private_namespace()?;
        let base = Mount::tmpfs(Some(1 << 20), 0o700, MountAttrFlags::empty())?;
        // Covers /mnt in this thread's namespace only; any directory that exists everywhere would do.
        base.attach(std::path::Path::new("/mnt")).or_else(|_| base.attach(std::path::Path::new("/tmp")))?;
        Ok(Self { base, next: 0 })
    }

    fn place(&self, slot: u64) -> PathBuf {
        self.base.proc_path().join(slot.to_string())
    }

    fn serve(&mut self, inbox: &Receiver<Request>) {
        // Ends when the last `Attacher` is dropped. An answer nobody waits for any more is dropped: a mount unmounts.
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Attach { mount, reply } => {
                    let result = self.attach(&mount);
                    let _ = reply.send(result);
                }
                Request::Clone { slot, reply } => {
                    let _ = reply.send(Mount::clone_path(&self.place(slot), false));
                }
                Request::Detach { slot } => {
                    let place = self.place(slot);
                    if let Err(e) = mount::detach(&place) {
                        tracing::warn!(error = %e, cause = %e.source, "layer mount stays until the agent ends");
                    }
                    let _ = std::fs::remove_dir(place);
                }
            }
        }
    }

    fn attach(&mut self, mount: &Mount) -> Result<u64, mount::Error> {
        let slot = self.next;
        self.next += 1;
        let place = self.place(slot);
        std::fs::create_dir(&place).map_err(|source| mount::Error {
            action: "create",
            subject: place.display().to_string(),
            log: String::new(),
            source,
        })?;
        mount.attach(&place)?;
        Ok(slot)
    }
}

//! Hears of changes in a directory, and of the directory itself being replaced.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// What matters in the directory. Not `OPEN` and `ACCESS`, or each scan would cause the next.
const INSIDE: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// What matters in its parent: something appears or goes by the directory's name.
const BESIDE: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVE);
/// The most that settling may take, as a multiple: a directory in which something is always written is read all the same.
const MAX_SETTLES: u32 = 20;

/// The two watches; without them (no inotify instance left) only the timer is.
#[derive(Debug)]
pub(crate) struct Inotify {
    path: PathBuf,
    parent: PathBuf,
    name: OsString,
    fd: Option<AsyncFd<OwnedFd>>,
    inside: Option<i32>,
    beside: Option<i32>,
}

impl Inotify {
    pub(crate) fn new(path: &Path) -> Self {
        let fd = register()
            .inspect_err(|error| {
                tracing::warn!(%error, path = %path.display(), "no inotify: changes are found by looking again only");
            })
            .ok();
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        Self { path: path.to_owned(), parent, name, fd, inside: None, beside: None }
    }

    /// Watches whatever is at the path now. The kernel keeps a watch on what it was when it was made, so this is done
    /// again before each scan; for one that is there it changes nothing.
    pub(crate) fn renew(&mut self) {
        let Some(fd) = &self.fd else { return };
        let fd = fd.get_ref();
        // An error means that it is not there, or cannot be watched: the scan says so, and the timer looks again.
        self.beside = inotify::add_watch(fd, &self.parent, BESIDE | WatchFlags::ONLYDIR).ok();
        let inside = inotify::add_watch(fd, &self.path, INSIDE | WatchFlags::ONLYDIR).ok();
        if let Some(old) = self.inside
            && inside != Some(old)
            && self.beside != Some(old)
        {
            // It may have gone with its directory.
            let _ = inotify::remove_watch(fd, old);
        }
        self.inside = inside;
    }

    /// Waits until something happened that may matter; for ever where there is no inotify. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Some(fd) = &self.fd else { return std::future::pending().await };
            match fd.readable().await {
                Ok(mut ready) => {
                    let matters = self.drain(fd.get_ref());
                    // It was read until it was empty; what came since has made it ready anew.
                    ready.clear_ready();
                    if matters {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "inotify ends: changes are found by looking again only");
                    self.fd = None;
                }
            }
        }
    }

    /// Waits until it has been quiet for a while.
    pub(crate) async fn settle(&mut self, quiet: Duration) {
        for _ in 0..MAX_SETTLES {
            if tokio::time::timeout(quiet, self.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Reads all events there are; whether one of them matters.
    fn drain(&self, fd: &OwnedFd) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(fd, &mut buffer);
        let mut matters = false;
        while let Ok(event) = reader.next() {
            let named = event.file_name().is_some_and(|n| n.to_bytes() == self.name.as_bytes());
            // An event from the parent matters if it is about this directory; one that got lost may have been.
            matters |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || Some(event.wd()) != self.beside
                || self.beside == self.inside
                || named;
        }
        matters
    }
}

fn register() -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    #[expect(deprecated, reason = "unsound only for types that may close their descriptor early; OwnedFd does not")]
    AsyncFd::new(fd)
}

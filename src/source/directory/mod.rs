//! A directory of manifests, watched: every file that ends in `.yaml`, `.yml` or `.json` and is not hidden.
//!
//! ```text
//!  inotify (the directory, and its parent for when it is replaced) ─┐
//!  a slow timer (links that lead elsewhere, overflow, mounts)      ─┼─▶ settle ─▶ scan ─▶ publish, if it differs
//!  what the last scan was not sure of                              ─┘
//! ```
//!
//! The rule of all of it: nothing stops by accident. A file that cannot be used (half written, invalid, unreadable, a
//! FIFO, a dangling link) leaves what its last good version asked for; only a file that was seen, and is gone from the
//! same directory (device and inode) and stays gone, is a deletion. A directory that is missing, unreadable, unmounted
//! or another than before deletes nothing.
//!
//! One task a directory; each scan runs on a blocking thread, since a file system may hang. The task ends when its
//! [`Directory`] is dropped.

mod file;
pub(crate) mod inotify;
mod scan;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::DesiredSet;
use inotify::Inotify;
use scan::Memory;

/// How a directory is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory.
    pub path: PathBuf,
    /// How often it is read again though nothing was heard, for what inotify missed (files behind links, an overflow).
    pub rescan: Duration,
    /// How long after the last event it is read: editors write a file in several steps.
    pub settle: Duration,
    /// How long a file must stay gone to be a deletion: editors move the old file away before they write the new one.
    pub confirm: Duration,
}

impl Options {
    /// The usual: a rescan each 30 s, 50 ms to settle, 200 ms to be gone for good.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            rescan: Duration::from_secs(30),
            settle: Duration::from_millis(50),
            confirm: Duration::from_millis(200),
        }
    }
}

/// A watched directory; watching ends when this is dropped.
#[derive(Debug)]
pub struct Directory {
    published: watch::Receiver<Arc<DesiredSet>>,
    _task: AbortOnDropHandle<()>,
}

impl Directory {
    /// Starts to watch. Must be called within a tokio runtime. Never fails: a directory that is not there is a problem
    /// of the set, and is waited for.
    pub fn watch(options: Options) -> Self {
        let (sender, published) = watch::channel(Arc::new(DesiredSet::default()));
        let task = tokio::spawn(run(options, sender));
        Self { published, _task: AbortOnDropHandle::new(task) }
    }

    /// The set, newest always.
    pub fn subscribe(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.published.clone()
    }
}

/// Scans for as long as there is somebody to tell.
async fn run(options: Options, sender: watch::Sender<Arc<DesiredSet>>) {
    let mut inotify = Inotify::new(&options.path);
    let mut memory = Memory::default();
    loop {
        // Watched before it is read: what changes after that is heard of.
        inotify.renew();
        let path = options.path.clone();
        let confirm = options.confirm;
        let scan = tokio::task::spawn_blocking(move || {
            let scan = scan::scan(&path, &mut memory, confirm);
            (memory, scan)
        });
        let scan = match scan.await {
            Ok((remembered, scan)) => {
                memory = remembered;
                scan
            }
            Err(error) => {
                // The runtime ends, or a bug: with the memory lost nothing more can be said, and the last set stands.
                tracing::error!(%error, path = %options.path.display(), "watching a manifest directory ends");
                return;
            }
        };
        sender.send_if_modified(|old| {
            let changed = **old != scan.set;
            if changed {
                *old = Arc::new(scan.set);
            }
            changed
        });
        let wait = scan.again.unwrap_or(options.rescan).min(options.rescan);
        // Both arms are cancel-safe: events that were read only say that there is something to look at, and the scan
        // that follows either arm looks at everything.
        tokio::select! {
            () = inotify.changed() => inotify.settle(options.settle).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

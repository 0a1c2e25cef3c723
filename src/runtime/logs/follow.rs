//! Following a log as it grows, over rotations.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::directory::{Directory, current};
use super::read::{Position, Query, files, records, so_far};
use super::{Error, Line};

/// How many lines are handed out at once; the rest stays in the file until it is asked for.
const BATCH: usize = 1024;
/// How long to wait for the directory of a container that has not started yet, between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A reader that stays at the end of a log.
#[derive(Debug)]
pub struct Follow {
    container: PathBuf,
    attempt: u32,
    query: Query,
    directory: Option<Directory>,
    position: Option<Position>,
    watch: Option<AsyncFd<OwnedFd>>,
    started: bool,
}

impl Follow {
    /// Begins with the lines that `query` wants. `container` is `<log-dir>/<pod>/<container>`; it need not exist yet.
    pub fn new(container: &Path, attempt: u32, query: Query) -> Self {
        let container = container.to_owned();
        Self { container, attempt, query, directory: None, position: None, watch: None, started: false }
    }

    /// Waits until there are lines, and returns them. Never ends by itself: whoever knows that the container has ended
    /// stops asking, and takes what is left with [`Follow::rest`]. Cancel-safe.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Line>, Error> {
        loop {
            let lines = self.rest()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            match &self.watch {
                Some(watch) => {
                    let ready = watch.readable().await;
                    let mut ready = ready.map_err(|source| self.failed("watch", source))?;
                    // Which file it was does not matter: all are looked at.
                    let mut events = [0_u8; 4096];
                    if rustix::io::read(ready.get_inner(), &mut events) == Err(rustix::io::Errno::AGAIN) {
                        ready.clear_ready();
                    }
                }
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Lines that are there now; some, not all, if there are many. Empty: there is no more.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn rest(&mut self) -> Result<Vec<Line>, Error> {
        if !self.open()? {
            return Ok(Vec::new());
        }
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let mut lines = Vec::new();
        let since = self.query.since;
        let mut take = |line: Line| {
            if since.is_none_or(|since| line.time >= since) {
                lines.push(line);
            }
            if lines.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        if !self.started {
            self.position = so_far(directory, self.attempt, &self.query, &mut take)?;
            self.started = self.position.is_some();
            return Ok(lines);
        }
        let attempt = self.attempt;
        let failed = |source| Error { action: "read the log", path: directory.path().join(current(attempt)), source };
        loop {
            let Some(position) = &mut self.position else { return Ok(lines) };
            let length = position.file.metadata().map_err(failed)?.len();
            if length < position.offset {
                // Truncated by hand.
                position.offset = 0;
            }
            let offset = &mut position.offset;
            let mut full = false;
            records(&position.file, *offset, &mut |line, next| {
                *offset = next;
                let flow = take(line);
                full = flow.is_break();
                flow
            })
            .map_err(failed)?;
            if full || directory.inode(&current(attempt)) == Some(position.inode) {
                return Ok(lines);
            }
            // It has been rotated: what was written to it before that has been read only if nothing came after.
            if position.file.metadata().map_err(failed)?.len() > position.offset && has_newline_after(position) {
                continue;
            }
            let Some(next) = newer(directory, attempt, position.inode)? else { return Ok(lines) };
            self.position = Some(next);
        }
    }

    /// Opens the directory and watches it, if it is there by now.
    fn open(&mut self) -> Result<bool, Error> {
        if self.directory.is_some() {
            return Ok(true);
        }
        let directory = match Directory::open(&self.container) {
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        self.watch = self.watch().ok();
        self.directory = Some(directory);
        Ok(true)
    }

    /// Without a watch (there are too many on the machine) it looks now and then.
    fn watch(&self) -> std::io::Result<AsyncFd<OwnedFd>> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, &self.container, flags | inotify::WatchFlags::DONT_FOLLOW)?;
        #[expect(deprecated, reason = "unsound only for types that may close their descriptor early; OwnedFd does not")]
        AsyncFd::new(watch)
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error { action, path: self.container.clone(), source }
    }
}

/// Whether a whole record may still be there; a torn one at the end of a file that is written no more is never whole.
fn has_newline_after(position: &Position) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut rest = vec![0; super::MAX_LINE];
    let got = position.file.read_at(&mut rest, position.offset).unwrap_or(0);
    rest.get(..got).unwrap_or_default().contains(&b'\n')
}

/// The beginning of the file after the one with that inode, or of the oldest, if that one is gone.
fn newer(directory: &Directory, attempt: u32, inode: u64) -> Result<Option<Position>, Error> {
    let mut known = Vec::new();
    for file in files(directory, attempt)? {
        let source = |source| Error { action: "stat", path: directory.path().join(current(attempt)), source };
        known.push((file.metadata().map_err(source)?.ino(), file));
    }
    let at = known.iter().position(|(other, _)| *other == inode).map_or(0, |at| at + 1);
    let next = known.into_iter().nth(at);
    Ok(next.map(|(inode, file)| Position { file, inode, offset: 0 }))
}

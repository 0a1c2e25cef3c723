//! The image directories: what lies there as an archive is loaded, and held for as long as it lies there, so that a
//! machine without a registry has its images.
//!
//! ```text
//!  inotify ─┐                                        ┌─ new, changed ─▶ load, hold as `file <path>`
//!  a timer ─┴─▶ settle ─▶ look at each entry's stamp ─┤
//!                                                    └─ gone ─────────▶ let go
//! <root>/archives.json     path → stamp: what was loaded is not read again at the next start
//! ```
//!
//! A file that cannot be loaded is told of and hurts no other; what its last good version held stays. It is tried again
//! now and then, for it may have been the disk that was full; ever more seldom, for it may be large and simply broken. A
//! directory that cannot be read lets nothing go. Pulls of what is not here wait for the first look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::manager::Command;
use super::{Events, Settings};
use crate::api::problem::chain;
use crate::api::{Event, Kind, ObjectKey, Reason};
use crate::oci::Digest;
use crate::pod::real::Machine;
use crate::source::directory::inotify::Inotify;
use crate::store::RefKind;
use crate::sys::atomic;

/// The version of the file.
const VERSION: u32 = 1;
/// How often a directory is looked at though nothing was heard.
const RESCAN: Duration = Duration::from_secs(30);
/// How long after the last event it is looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// A file that was written to within this time may not be whole yet.
const YOUNG: Duration = Duration::from_secs(1);
/// How long after a first failure a file is tried again; each further wait is twice as long.
const RETRY: Duration = Duration::from_secs(5);
/// The longest such wait.
const LONGEST_RETRY: Duration = Duration::from_hours(1);
/// The documents by which an unpacked archive is known to have changed.
const DOCUMENTS: [&str; 2] = ["index.json", "manifest.json"];

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// What is known of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    /// The manifests that are held for it.
    manifests: BTreeSet<Digest>,
    /// What was wrong with this version of it.
    #[serde(default)]
    problem: Option<String>,
    /// After a failure: when it is tried again. A new agent tries at once.
    #[serde(skip)]
    retry: Option<Retry>,
}

/// What follows on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    wait: Duration,
    at: Instant,
}

impl Retry {
    fn after(earlier: Option<Self>, now: Instant) -> Self {
        let wait = earlier.map_or(RETRY, |earlier| (earlier.wait * 2).min(LONGEST_RETRY));
        Self { wait, at: now + wait }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    archives: BTreeMap<PathBuf, Known>,
}

/// All that is known of archives, on disk; shared by the directories' tasks.
#[derive(Debug)]
struct Archives {
    path: PathBuf,
    known: Mutex<BTreeMap<PathBuf, Known>>,
    machine: Arc<Machine>,
    events: Events,
    commands: mpsc::UnboundedSender<Command>,
}

impl Archives {
    /// Reads what is known. What cannot be read is loaded again. Blocks.
    fn open(
        path: PathBuf,
        machine: Arc<Machine>,
        events: Events,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Arc<Self> {
        let read = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        let known = read.filter(|file| file.version == VERSION).map(|file| file.archives).unwrap_or_default();
        Arc::new(Self { path, known: Mutex::new(known), machine, events, commands })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        // Changed by whole insertions and removals only.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks.
    fn write(&self) {
        let file = File { version: VERSION, archives: self.known().clone() };
        // Maps with paths for keys; one that is no text cannot be kept, and is loaded again.
        let Ok(bytes) = serde_json::to_vec(&file) else { return };
        if let Err(error) = atomic::write(&self.path, &bytes, 0o600) {
            tracing::warn!(error = %chain(&error), "what is known of image archives is not on disk");
        }
    }

    fn tell(&self, path: &Path, reason: Reason, message: String) {
        let object = ObjectKey { kind: Kind::Source, namespace: String::new(), name: path.display().to_string() };
        if reason == Reason::Rejected {
            tracing::warn!(%object, "{message}");
        } else {
            tracing::info!(%object, "{message}");
        }
        self.events.tell(Event::new(object, reason, message, Timestamp::now()));
    }

    /// Lets go of what directories held that are not watched any more. Blocks.
    fn forget_others(&self, dirs: &[PathBuf]) {
        let is_ours = |path: &Path| dirs.iter().any(|dir| path.parent() == Some(dir.as_path()));
        let owners: Vec<String> = {
            let mut known = self.known();
            known.retain(|path, _| is_ours(path));
            let refs = self.machine.store.refs().into_iter().filter(|r| r.kind == RefKind::File);
            refs.filter(|r| !is_ours(Path::new(&r.owner))).map(|r| r.owner).collect()
        };
        for owner in owners {
            self.release(&owner);
        }
        self.write();
    }

    fn release(&self, owner: &str) {
        if let Err(error) = self.machine.store.release(RefKind::File, owner) {
            tracing::warn!(error = %chain(&error), owner, "cannot let go of an archive's images");
        }
    }

    /// Whether nothing is to be done for an archive: all that it held is here still, or it is not yet time to try again.
    fn is_settled(&self, known: &Known, now: Instant) -> bool {
        let store = &self.machine.store;
        if known.problem.is_some() {
            return known.retry.is_some_and(|retry| now < retry.at);
        }
        known.manifests.iter().all(|manifest| {
            let image = store.image(manifest).ok().flatten();
            image.is_some_and(|image| image.layers.iter().all(|key| store.layer(key).is_ok()))
        })
    }

    /// How long until a directory is to be looked at though nothing is heard.
    fn rest(&self, dir: &Path) -> Duration {
        let known = self.known();
        let retries = known.iter().filter(|(path, _)| path.parent() == Some(dir)).filter_map(|(_, k)| k.retry);
        let next = retries.map(|retry| retry.at.saturating_duration_since(Instant::now())).min();
        next.map_or(RESCAN, |next| next.min(RESCAN))
    }

    /// Brings one directory's archives up to date; says when to look again though nothing is heard.
    async fn look(self: &Arc<Self>, dir: &Path) -> Duration {
        let (this, path) = (Arc::clone(self), dir.to_owned());
        let seen = tokio::task::spawn_blocking(move || list(&path).map(|found| this.sort(&path, found))).await;
        let (todo, gone, young) = match seen {
            Ok(Ok(sorted)) => sorted,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return RESCAN,
            Ok(Err(error)) => {
                tracing::warn!(%error, dir = %dir.display(), "an image directory cannot be read; what it held stays");
                return RESCAN;
            }
            Err(_) => return RESCAN,
        };
        let (changed, mut came) = (!todo.is_empty() || !gone.is_empty(), false);
        for (path, stamp) in todo {
            came |= self.load(&path, stamp).await;
        }
        let this = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || {
            for path in &gone {
                this.release(&path.to_string_lossy());
                if let Some(known) = this.known().remove(path)
                    && known.problem.is_none()
                {
                    this.tell(path, Reason::Deleted, "the archive is gone, and its images are held no more".to_owned());
                }
            }
            if changed {
                this.write();
            }
        })
        .await;
        if came {
            // The receiver lives as long as the node.
            let _ = self.commands.send(Command::ImagesCame);
        }
        if young { YOUNG } else { self.rest(dir) }
    }

    /// What is to be loaded, what is gone, and whether something is too young to tell.
    fn sort(&self, dir: &Path, found: Vec<(PathBuf, Stamp, bool)>) -> (Vec<(PathBuf, Stamp)>, Vec<PathBuf>, bool) {
        let (known, now) = (self.known(), Instant::now());
        let (mut todo, mut young) = (Vec::new(), false);
        for (path, stamp, is_young) in &found {
            if known.get(path).is_some_and(|k| k.stamp == *stamp && self.is_settled(k, now)) {
                continue;
            }
            young |= is_young;
            if !is_young {
                todo.push((path.clone(), stamp.clone()));
            }
        }
        let there: BTreeSet<&PathBuf> = found.iter().map(|(path, ..)| path).collect();
        let gone = known.keys().filter(|path| path.parent() == Some(dir) && !there.contains(path)).cloned().collect();
        (todo, gone, young)
    }

    /// Loads one archive; says whether it brought images.
    async fn load(&self, path: &Path, stamp: Stamp) -> bool {
        let owner = path.to_string_lossy().into_owned();
        let before = self.known().get(path).cloned();
        let known = match self.machine.images.load_held(path, (RefKind::File, owner.clone())).await {
            Ok(loaded) => {
                let manifests: BTreeSet<Digest> = loaded.iter().map(|one| one.pulled.image.manifest.clone()).collect();
                let names: Vec<String> = loaded.iter().flat_map(|o| &o.references).map(ToString::to_string).collect();
                let (store, only) = (self.machine.store.clone(), manifests.iter().cloned().collect::<Vec<_>>());
                // What an older version of the file had goes.
                let held = tokio::task::spawn_blocking(move || store.hold_only(RefKind::File, &owner, &only)).await;
                if let Ok(Err(error)) = held {
                    tracing::warn!(error = %chain(&error), path = %path.display(), "cannot hold an archive's images");
                }
                self.tell(path, Reason::Pulled, format!("loaded {}", names.join(", ")));
                Known { stamp, manifests, problem: None, retry: None }
            }
            Err(error) => {
                let problem = format!("cannot be loaded: {}", chain(&error));
                if before.as_ref().and_then(|b| b.problem.as_ref()) != Some(&problem) {
                    self.tell(path, Reason::Rejected, problem.clone());
                }
                // Another version of the file begins anew.
                let earlier = before.as_ref().filter(|b| b.stamp == stamp).and_then(|b| b.retry);
                let manifests = before.map(|b| b.manifests).unwrap_or_default();
                Known { stamp, manifests, problem: Some(problem), retry: Some(Retry::after(earlier, Instant::now())) }
            }
        };
        let came = known.problem.is_none();
        self.known().insert(path.to_owned(), known);
        came
    }
}

/// The archives of a directory: everything that is not hidden, with whether it may still be written to.
fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Stamp, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // What goes meanwhile is not there; a link counts as what it leads to.
        let Ok(meta) = fs::metadata(&path) else { continue };
        let meta = if meta.is_dir() {
            let mut documents = DOCUMENTS.iter().filter_map(|name| fs::metadata(path.join(name)).ok());
            match documents.next() {
                Some(document) => document,
                // Nothing of an image yet.
                None => continue,
            }
        } else if meta.is_file() {
            meta
        } else {
            continue;
        };
        let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let stamp =
            Stamp { inode: meta.ino(), size: meta.size(), seconds: meta.mtime(), nanoseconds: meta.mtime_nsec() };
        // One from a time to come says nothing of its age.
        found.push((path, stamp, age.is_some_and(|age| age < YOUNG)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Starts to watch the image directories, before any pod asks for an image. The tasks end when they are aborted.
pub(super) async fn start(
    settings: &Settings,
    machine: &Arc<Machine>,
    events: &Events,
    commands: &mpsc::UnboundedSender<Command>,
) -> Vec<JoinHandle<()>> {
    let local = machine.images.wait_for_archives();
    let path = settings.root.join(super::ARCHIVES);
    let (machine, events, commands) = (Arc::clone(machine), events.clone(), commands.clone());
    let dirs = settings.images.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let archives = Archives::open(path, machine, events, commands);
        archives.forget_others(&dirs);
        archives
    });
    let Ok(archives) = opened.await else { return Vec::new() };
    let (first, looks) = mpsc::channel(1);
    let mut tasks: Vec<_> = settings
        .images
        .iter()
        .map(|dir| tokio::spawn(watch(Arc::clone(&archives), dir.clone(), first.clone())))
        .collect();
    drop(first);
    tasks.push(tokio::spawn(first_look(looks, local)));
    tasks
}

/// Watches one directory until the node ends; tells when it was looked at for the first time.
async fn watch(archives: Arc<Archives>, dir: PathBuf, first: mpsc::Sender<()>) {
    let mut inotify = Inotify::new(&dir);
    let mut first = Some(first);
    loop {
        // Watched before it is read: what changes after that is heard of.
        inotify.renew();
        let wait = archives.look(&dir).await;
        drop(first.take());
        // Both arms are cancel-safe: the look that follows either looks at everything.
        tokio::select! {
            () = inotify.changed() => inotify.settle(SETTLE).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Waits until every directory was looked at, and lets pulls go on.
async fn first_look(mut looks: mpsc::Receiver<()>, local: watch::Sender<bool>) {
    // Nothing is ever sent: it closes with the last that holds it.
    while looks.recv().await.is_some() {}
    local.send_replace(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_ever_more_seldom() {
        let now = Instant::now();
        let (mut last, mut waits) = (None, Vec::new());
        for _ in 0..12 {
            let retry = Retry::after(last, now);
            assert_eq!(retry.at, now + retry.wait);
            waits.push(retry.wait.as_secs());
            last = Some(retry);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    #[test]
    fn what_may_be_an_archive_is_listed_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.tar", ".b.tar.swp"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::create_dir(dir.path().join("layout")).unwrap();
        fs::write(dir.path().join("layout/index.json"), "{}").unwrap();
        std::os::unix::fs::symlink("a.tar", dir.path().join("link.tar")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("broken")).unwrap();
        let old = SystemTime::now() - Duration::from_mins(1);
        fs::File::open(dir.path().join("a.tar")).unwrap().set_modified(old).unwrap();
        let found = list(dir.path()).unwrap();
        let names: Vec<_> =
            found.iter().map(|(p, _, young)| (p.file_name().unwrap().to_str().unwrap(), *young)).collect();
        assert_eq!(names, [("a.tar", false), ("layout", true), ("link.tar", false)]);
        // Another version of a layout is told by its index.
        fs::write(dir.path().join("layout/index.json"), "{ }").unwrap();
        assert_ne!(list(dir.path()).unwrap()[1].1, found[1].1);
        assert_eq!(list(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! What `lamina apply` and `lamina run` wrote: one file an object.
//!
//! ```text
//! desired/<namespace>/<Kind>/<name>     {"version": 1, "set": "…", "object": {"apiVersion": …}}, 0600
//! ```
//!
//! Names are those of checked objects, so they are safe in paths. Each file is written durably and as a whole; a crash
//! between two files of one apply leaves some applied, and applying again does the rest. One writer: the lock is held
//! over the write, and readers have the `watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{DesiredSet, SourceKind, Sourced};
use crate::api::{self, Document, Object, ObjectKey, PodChange, Problem};
use crate::sys::atomic;

#[cfg(test)]
mod tests;

/// The format of the files.
const VERSION: u32 = 1;
/// The largest file that is read: more than the largest object that can be applied.
const MAX_FILE: u64 = 64 << 20;

/// Why something could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Where it went wrong.
        source: atomic::Error,
    },
    /// A file cannot be written or removed.
    #[error("cannot keep {key}")]
    Write {
        /// The object.
        key: ObjectKey,
        /// Where it went wrong.
        source: atomic::Error,
    },
    /// An object cannot be put into words.
    #[error("cannot write {key} as JSON")]
    Encode {
        /// The object.
        key: ObjectKey,
        /// Why not.
        source: serde_json::Error,
    },
}

/// What applying an object did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    /// It is new.
    Created,
    /// It differs from what was there.
    Configured,
    /// It means what was there already.
    Unchanged,
    /// It was removed.
    Deleted,
    /// Accepted, and does nothing here: it is not kept.
    Ignored,
}

/// The objects under one directory; clones share it. Methods block on the disk: call them where that is fine.
#[derive(Debug, Clone)]
pub struct Desired {
    published: watch::Sender<Arc<DesiredSet>>,
    dir: Arc<Path>,
    state: Arc<Mutex<State>>,
}

/// Everything that is kept.
#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Kept>,
    problems: Vec<Problem>,
    uncertain: Vec<PathBuf>,
}

/// One object, and under which name of `apply` it came.
#[derive(Debug, Clone)]
struct Kept {
    sourced: Sourced,
    set: String,
}

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    set: String,
    object: Value,
}

impl Desired {
    /// Reads what is there; makes the directory (0700) if it is not.
    ///
    /// # Errors
    /// If the directory cannot be read or made. A bad file in it is a problem of the set, not an error.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        atomic::create_dir(dir, 0o700).map_err(|source| Error::Make { path: dir.to_owned(), source })?;
        let mut state = State::default();
        for file in files(dir)? {
            if file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(atomic::TEMPORARY)) {
                // What a crash left of a write; the old file beside it counts.
                let _ = std::fs::remove_file(&file);
                continue;
            }
            match read(&file) {
                Ok(kept) => {
                    state.objects.insert(kept.sourced.object.key(), kept);
                }
                Err(problems) => {
                    state.problems.extend(problems);
                    state.uncertain.push(file);
                }
            }
        }
        let (published, _) = watch::channel(Arc::new(state.set()));
        Ok(Self { published, dir: dir.into(), state: Arc::new(Mutex::new(state)) })
    }

    /// The set, newest always.
    pub fn subscribe(&self) -> watch::Receiver<Arc<DesiredSet>> {
        self.published.subscribe()
    }

    /// Where an object is kept, whether or not it is there.
    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        self.dir.join(&key.namespace).join(key.kind.as_str()).join(&key.name)
    }

    /// Adds or changes objects, durably, and publishes them together. With `prune`, objects that were applied under the
    /// same `set` name before and are not among these are removed. Returns one row an object, in the order given.
    ///
    /// # Errors
    /// If one cannot be written; those before it are kept.
    pub fn apply(
        &self,
        documents: &[Document],
        set: &str,
        prune: bool,
        dry_run: bool,
    ) -> Result<Vec<(ObjectKey, Applied)>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.write(&mut state, documents, set, prune, dry_run);
        self.publish(&state);
        result
    }

    /// What is wrong with applying these documents, given what is there: immutable objects keep their data. `name` is
    /// what problems call the manifest.
    pub fn refusals(&self, name: &str, documents: &[Document]) -> Vec<Problem> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |document: &Document| {
            let old = &state.objects.get(&document.object.key())?.sourced.object;
            let (path, reason) = api::immutable::refused(old, &document.object)?;
            Some(Problem {
                file: name.to_owned(),
                document: document.index,
                object: Some(document.object.key().to_string()),
                path: path.to_owned(),
                reason: reason.to_owned(),
            })
        };
        documents.iter().filter_map(one).collect()
    }

    fn write(
        &self,
        state: &mut State,
        documents: &[Document],
        set: &str,
        prune: bool,
        dry_run: bool,
    ) -> Result<Vec<(ObjectKey, Applied)>, Error> {
        let mut rows = Vec::new();
        for document in documents {
            let key = document.object.key();
            if matches!(document.object, Object::Ignored(_)) {
                rows.push((key, Applied::Ignored));
                continue;
            }
            let applied = match state.objects.get(&key) {
                None => Applied::Created,
                Some(old) if same(&old.sourced.object, &document.object) => Applied::Unchanged,
                Some(_) => Applied::Configured,
            };
            // One that means the same is written all the same if its set is another: pruning goes by that.
            let moved = state.objects.get(&key).is_some_and(|old| old.set != set);
            if !dry_run && (applied != Applied::Unchanged || moved) {
                let file = self.path(&key);
                keep(&file, &key, set, &document.object)?;
                let sourced = Sourced {
                    object: Arc::new(document.object.clone()),
                    source: SourceKind::Desired,
                    file: file.clone(),
                    document: 1,
                    ignored: document.ignored.clone(),
                };
                state.uncertain.retain(|f| *f != file);
                state.problems.retain(|p| Path::new(&p.file) != file);
                state.objects.insert(key.clone(), Kept { sourced, set: set.to_owned() });
            }
            rows.push((key, applied));
        }
        if prune {
            let named: BTreeSet<_> = rows.iter().map(|(key, _)| key.clone()).collect();
            let gone: Vec<_> = state
                .objects
                .iter()
                .filter(|(key, kept)| kept.set == set && !named.contains(*key))
                .map(|(key, _)| key.clone())
                .collect();
            for key in gone {
                if !dry_run {
                    self.forget(state, &key)?;
                }
                rows.push((key, Applied::Deleted));
            }
        }
        Ok(rows)
    }

    /// Puts a changed object in the place of the one of its name, durably; it stays in the set of that one.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn replace(&self, object: Object) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = object.key();
        let Some(kept) = state.objects.get_mut(&key) else { return Ok(()) };
        keep(&self.path(&key), &key, &kept.set, &object)?;
        kept.sourced.object = Arc::new(object);
        self.publish(&state);
        Ok(())
    }

    /// Removes an object, durably; says whether it was there.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn remove(&self, key: &ObjectKey) -> Result<bool, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.path(key);
        // One that could not be read is removed by its name, too.
        let known = state.objects.contains_key(key) || state.uncertain.contains(&file);
        if known {
            self.forget(&mut state, key)?;
            self.publish(&state);
        }
        Ok(known)
    }

    fn forget(&self, state: &mut State, key: &ObjectKey) -> Result<(), Error> {
        let file = self.path(key);
        atomic::remove(&file).map_err(|source| Error::Write { key: key.clone(), source })?;
        state.objects.remove(key);
        state.uncertain.retain(|f| *f != file);
        state.problems.retain(|p| Path::new(&p.file) != file);
        Ok(())
    }

    fn publish(&self, state: &State) {
        let next = state.set();
        self.published.send_if_modified(|old| {
            let changed = **old != next;
            if changed {
                *old = Arc::new(next);
            }
            changed
        });
    }
}

impl State {
    fn set(&self) -> DesiredSet {
        DesiredSet {
            objects: self.objects.values().map(|k| k.sourced.clone()).collect(),
            problems: self.problems.clone(),
            shadowed: Vec::new(),
            synced: true,
            uncertain: self.uncertain.clone(),
        }
    }
}

/// Whether two objects mean the same.
fn same(old: &Object, new: &Object) -> bool {
    match (old, new) {
        (Object::Pod(old), Object::Pod(new)) => api::change(old, new) == PodChange::Nothing,
        (Object::PersistentVolumeClaim(old), Object::PersistentVolumeClaim(new)) => {
            api::canonical::claim(old) == api::canonical::claim(new)
        }
        _ => old == new,
    }
}

fn keep(file: &Path, key: &ObjectKey, set: &str, object: &Object) -> Result<(), Error> {
    let object = match object {
        Object::Pod(o) => serde_json::to_value(o),
        Object::ConfigMap(o) => serde_json::to_value(o),
        Object::Secret(o) => serde_json::to_value(o),
        Object::Deployment(o) => serde_json::to_value(o),
        Object::DaemonSet(o) => serde_json::to_value(o),
        Object::StatefulSet(o) => serde_json::to_value(o),
        Object::Job(o) => serde_json::to_value(o),
        Object::CronJob(o) => serde_json::to_value(o),
        Object::Service(o) => serde_json::to_value(o),
        Object::PersistentVolumeClaim(o) => serde_json::to_value(o),
        Object::Ignored(_) => return Ok(()),
    };
    let record = object.map(|object| Record { version: VERSION, set: set.to_owned(), object });
    let bytes = record
        .and_then(|record| serde_json::to_vec_pretty(&record))
        .map_err(|source| Error::Encode { key: key.clone(), source })?;
    let write = || {
        if let Some(dir) = file.parent() {
            atomic::create_dir(dir, 0o700)?;
        }
        atomic::write(file, &bytes, 0o600)
    };
    write().map_err(|source| Error::Write { key: key.clone(), source })
}

/// Every file two directories down.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut level = vec![dir.to_owned()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for path in level.iter().filter(|p| p.is_dir()) {
            let failed = |source| Error::Read { path: path.clone(), source };
            for entry in std::fs::read_dir(path).map_err(failed)? {
                below.push(entry.map_err(failed)?.path());
            }
        }
        level = below;
    }
    level.retain(|p| p.is_file());
    level.sort();
    Ok(level)
}

fn read(file: &Path) -> Result<Kept, Vec<Problem>> {
    let called = file.display().to_string();
    let problem = |reason: String| vec![Problem::file(called.clone(), reason)];
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|e| problem(format!("cannot be read: {e}")))?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| problem(format!("is damaged (line {}); apply the object again, or delete it", e.line())))?;
    if record.version != VERSION {
        return Err(problem(format!("has the version {}, and this agent reads {VERSION}", record.version)));
    }
    // What was valid for the agent that wrote it need not be so for this one.
    let parsed = api::parse(&called, record.object.to_string().as_bytes());
    match parsed.documents.into_iter().next() {
        Some(document) if parsed.problems.is_empty() => Ok(Kept {
            sourced: Sourced {
                object: Arc::new(document.object),
                source: SourceKind::Desired,
                file: file.to_owned(),
                document: 1,
                ignored: document.ignored,
            },
            set: record.set,
        }),
        _ if parsed.problems.is_empty() => Err(problem("holds no object".to_owned())),
        _ => Err(parsed.problems),
    }
}

//! What is remembered of workloads, on disk.
//!
//! ```text
//!   <root>/workloads/<namespace>/<Kind>/<name>      one JSON document a workload, written through `sys::atomic`
//! ```
//!
//! The manager notes what a pass found out and has it written before any worker is told; what could not be written counts
//! in memory, and is written by a later pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::api::ObjectKey;
use crate::api::problem::chain;
use crate::api::workload::Memory;
use crate::sys::atomic;

/// The version of the documents.
const VERSION: u32 = 1;

/// All that is remembered; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Memories(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<ObjectKey, Arc<Memory>>,
    /// What is on disk in another form, or ought to be gone.
    dirty: BTreeSet<ObjectKey>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    key: ObjectKey,
    memory: Arc<Memory>,
}

impl Memories {
    /// Reads all that is there. One that cannot be read is told of, and begins anew. Blocks.
    pub(super) fn open(dir: PathBuf) -> Result<Self, atomic::Error> {
        atomic::create_dir(&dir, 0o700)?;
        let mut state = State::default();
        for file in files(&dir) {
            if file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(atomic::TEMPORARY)) {
                // What a crash left of a write.
                let _ = fs::remove_file(&file);
                continue;
            }
            let read = fs::read(&file).map_err(|e| e.to_string());
            let parsed = read.and_then(|b| serde_json::from_slice::<Document>(&b).map_err(|e| e.to_string()));
            match parsed {
                Ok(document) if document.version == VERSION => {
                    state.known.insert(document.key, document.memory);
                }
                Ok(_) => tracing::warn!(file = %file.display(), "is of another release, and not read"),
                Err(error) => tracing::warn!(file = %file.display(), error, "what was remembered cannot be read"),
            }
        }
        Ok(Self(Arc::new(Shared { dir, state: Mutex::new(state) })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by whole insertions and removals only.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a workload.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<Memory>> {
        self.state().known.get(key).cloned()
    }

    /// Whether something is remembered of a workload.
    pub(super) fn knows(&self, key: &ObjectKey) -> bool {
        self.state().known.contains_key(key)
    }

    /// Remembers this.
    pub(super) fn set(&self, key: &ObjectKey, memory: Memory) {
        let mut state = self.state();
        if state.known.get(key).is_none_or(|old| **old != memory) {
            state.known.insert(key.clone(), Arc::new(memory));
            state.dirty.insert(key.clone());
        }
    }

    /// Forgets every workload that is not among these; says which.
    pub(super) fn retain(&self, keep: &BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
        let mut state = self.state();
        let gone: Vec<ObjectKey> = state.known.keys().filter(|key| !keep.contains(*key)).cloned().collect();
        for key in &gone {
            state.known.remove(key);
            state.dirty.insert(key.clone());
        }
        gone
    }

    /// Whether something has to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.state().dirty.is_empty()
    }

    /// Writes what has changed. Blocks.
    pub(super) fn write(&self) {
        let todo: Vec<(ObjectKey, Option<Arc<Memory>>)> = {
            let mut state = self.state();
            let dirty = std::mem::take(&mut state.dirty);
            dirty.into_iter().map(|key| (state.known.get(&key).cloned(), key)).map(|(m, key)| (key, m)).collect()
        };
        for (key, memory) in todo {
            if let Err(error) = self.put(&key, memory) {
                tracing::warn!(%key, error = %chain(&error), "what is to be remembered of it is not on disk yet");
                self.state().dirty.insert(key);
            }
        }
    }

    fn put(&self, key: &ObjectKey, memory: Option<Arc<Memory>>) -> Result<(), atomic::Error> {
        let path = self.0.dir.join(&key.namespace).join(key.kind.as_str()).join(&key.name);
        let Some(memory) = memory else { return atomic::remove(&path) };
        if let Some(dir) = path.parent() {
            atomic::create_dir(dir, 0o700)?;
        }
        let document = Document { version: VERSION, key: key.clone(), memory };
        // Maps with text for keys and nothing else: there is nothing that could fail.
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        atomic::write(&path, &bytes, 0o600)
    }
}

/// Every file three directories down.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut level = vec![dir.to_owned()];
    for _ in 0..3 {
        let entries = level.iter().filter_map(|path| fs::read_dir(path).ok()).flatten().flatten();
        level = entries.map(|entry| entry.path()).collect();
    }
    level.retain(|path| path.is_file());
    level
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn what_was_written_is_known_again_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| ObjectKey { kind: Kind::Deployment, namespace: "n".into(), name: name.into() };
        let memories = Memories::open(dir.path().join("workloads")).unwrap();
        for (name, settled) in [("a", 1), ("b", 2)] {
            memories.set(&key(name), Memory { settled, ..Memory::default() });
        }
        assert!(memories.is_dirty());
        memories.write();
        memories.set(&key("a"), Memory { settled: 1, ..Memory::default() });
        assert!(!memories.is_dirty(), "the same once more is nothing to write");
        assert_eq!(memories.retain(&[key("b")].into()), [key("a")]);
        memories.write();
        let again = Memories::open(dir.path().join("workloads")).unwrap();
        assert_eq!((again.get(&key("a")), again.get(&key("b")).unwrap().settled), (None, 2));
        fs::write(dir.path().join("workloads/n/Deployment/b"), b"{").unwrap();
        assert_eq!(Memories::open(dir.path().join("workloads")).unwrap().get(&key("b")), None);
    }
}

//! Claims: directories of this node that outlast the pods which mount them.
//!
//! ```text
//!   <root>/volumes/<namespace>/<claim>/claim.json    what was declared and where, and how far it is
//!                                      data/         what pods have mounted
//!   <root>/volumes/<namespace>/.gone-<random>/       being removed
//!
//!   declared ──▶ Bound ──declaration gone──▶ Terminating ──no pod has it──▶ removed, or Released (Retain)
//!                  ▲                              │                                  │
//!                  └────── declared again ────────┴──────────────────────────────────┘
//! ```
//!
//! Who has a claim mounted is known in memory only: a pod takes its claims when its sandbox is made, and a new agent hears
//! of it from those that run. Everything is changed under one lock, which is held over the disk; readers have a `watch`.

mod group;
mod record;
mod size;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource;
use tokio::sync::watch;

use super::{Context, Source};
use crate::api::problem::chain;
use crate::api::{Kind, ObjectKey, PodKey, PodUid, claim};
use crate::sys::{atomic, removal};
use record::Record;
pub use size::Sizes;
use view::io_error;
pub use view::{ClaimView, Declared, Error, Origin, Outcome, Phase, Retention, Set, Views};

/// State is nobody else's business; what lies in `data` is.
const DIR_MODE: u32 = 0o700;
/// What is mounted.
const DATA: &str = "data";
/// What a directory is called that is being removed; no name of a namespace or claim begins so.
const GONE: &str = ".gone-";

/// The claims of a node; clones share them. Methods that change something block on the disk.
#[derive(Debug, Clone)]
pub struct Claims(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<BTreeMap<ObjectKey, Entry>>,
    /// Directories that are no claims, though they have the names of such: why.
    damaged: BTreeMap<ObjectKey, String>,
    views: watch::Sender<Views>,
    sizes: Sizes,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    users: BTreeMap<String, String>,
}

/// The key of a claim.
pub fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::PersistentVolumeClaim, namespace: namespace.to_owned(), name: name.to_owned() }
}

impl Claims {
    /// Reads what is below `root`; makes that directory where it is not.
    ///
    /// # Errors
    /// If it cannot be read or made. A claim that cannot be read is told of when it is asked for.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        atomic::create_dir(&root, DIR_MODE)?;
        let (mut state, mut damaged) = (BTreeMap::new(), BTreeMap::new());
        for namespace in names(&root)? {
            let dir = root.join(&namespace);
            for name in names(&dir)?.into_iter().filter(|name| !name.starts_with('.')) {
                match Record::read(&dir.join(&name)) {
                    Ok(record) => {
                        state.insert(key(&namespace, &name), Entry { record, users: BTreeMap::new() });
                    }
                    Err(reason) => {
                        damaged.insert(key(&namespace, &name), reason);
                    }
                }
            }
        }
        let (views, _) = watch::channel(Views::default());
        let claims = Self(Arc::new(Shared { root, state: Mutex::new(state), damaged, views, sizes: Sizes::default() }));
        claims.publish(&claims.state());
        Ok(claims)
    }

    /// Removes what an earlier agent was removing when it ended.
    pub fn tidy(&self) {
        let root = &self.0.root;
        for namespace in names(root).unwrap_or_default() {
            let dir = root.join(namespace);
            for name in names(&dir).unwrap_or_default().into_iter().filter(|name| name.starts_with(GONE)) {
                let path = dir.join(name);
                if let Err(error) = removal::remove(&path) {
                    tracing::warn!(error = %chain(&error), path = %path.display(), "what is left of a claim stays");
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Entry>> {
        // Changed by whole insertions and removals only.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, key: &ObjectKey) -> PathBuf {
        self.0.root.join(&key.namespace).join(&key.name)
    }

    /// What pods have mounted of a claim.
    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        self.dir(key).join(DATA)
    }

    /// All claims, newest always.
    pub fn subscribe(&self) -> watch::Receiver<Views> {
        self.0.views.subscribe()
    }

    /// All claims as they are now.
    pub fn views(&self) -> Views {
        self.0.views.borrow().clone()
    }

    /// How large they are.
    pub fn sizes(&self) -> &Sizes {
        &self.0.sizes
    }

    /// Has the sizes measured, where they are not fresh.
    pub fn measure(&self) {
        let paths = self.views().values().map(|view| (view.key.clone(), view.path.clone())).collect();
        self.0.sizes.refresh(paths);
    }

    fn publish(&self, state: &BTreeMap<ObjectKey, Entry>) {
        let view = |(key, entry): (&ObjectKey, &Entry)| {
            let Record { uid, created, claim, origin, phase, .. } = entry.record.clone();
            let (path, users) = (self.path(key), entry.users.clone());
            (key.clone(), ClaimView { key: key.clone(), uid, created, claim, origin, phase, path, users })
        };
        let next: BTreeMap<_, _> = state.iter().map(view).collect();
        self.0.views.send_if_modified(|old| {
            let changed = **old != next;
            if changed {
                *old = Arc::new(next);
            }
            changed
        });
    }

    /// Makes a claim as it is declared: new, changed, or back before it was gone. Says whether its volume is new.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn declare(&self, key: &ObjectKey, declared: &Declared) -> Result<bool, Error> {
        let mut state = self.state();
        let made = self.ensure(&mut state, key, declared)?;
        self.publish(&state);
        Ok(made)
    }

    fn ensure(
        &self,
        state: &mut BTreeMap<ObjectKey, Entry>,
        key: &ObjectKey,
        declared: &Declared,
    ) -> Result<bool, Error> {
        if let Some(reason) = self.0.damaged.get(key) {
            return Err(Error::Damaged { name: key.name.clone(), reason: reason.clone() });
        }
        let dir = self.dir(key);
        let known = state.get(key).map(|entry| &entry.record);
        let next = Record::of(declared, known);
        let made = known.is_none();
        if known != Some(&next) {
            if made {
                record::make(&dir, &next)?;
            } else {
                next.write(&dir)?;
            }
            state.entry(key.clone()).and_modify(|e| e.record.clone_from(&next)).or_insert_with(|| {
                // Nobody has it yet.
                Entry { record: next, users: BTreeMap::new() }
            });
        }
        Ok(made)
    }

    /// Gives a pod a claim: from now on the claim is not removed until the pod has let go.
    ///
    /// # Errors
    /// If there is none and none is declared, if it goes, or if another pod has it that alone may.
    pub fn take(
        &self,
        key: &ObjectKey,
        declared: Option<&Declared>,
        (uid, pod): (&PodUid, &str),
    ) -> Result<PathBuf, Error> {
        let name = || key.name.clone();
        let mut state = self.state();
        let phase = state.get(key).map(|entry| entry.record.phase);
        match (phase, declared) {
            (Some(Phase::Bound), _) => {}
            (Some(Phase::Terminating), _) => return Err(Error::Terminating { name: name() }),
            (Some(Phase::Released) | None, Some(declared)) => {
                self.ensure(&mut state, key, declared)?;
            }
            (Some(Phase::Released) | None, None) => {
                return Err(match self.0.damaged.get(key) {
                    Some(reason) => Error::Damaged { name: name(), reason: reason.clone() },
                    None => Error::Missing { name: name() },
                });
            }
        }
        let Some(entry) = state.get_mut(key) else { return Err(Error::Missing { name: name() }) };
        let other = entry.users.iter().find(|(other, _)| *other != uid.as_str());
        if let Some((_, pod)) = other.filter(|_| claim::is_pod_only(&entry.record.claim)) {
            return Err(Error::Taken { name: name(), pod: pod.clone() });
        }
        entry.users.insert(uid.to_string(), pod.to_owned());
        self.publish(&state);
        Ok(self.path(key))
    }

    /// Notes that a pod has a claim that it took from an earlier agent.
    pub fn adopt(&self, key: &ObjectKey, (uid, pod): (&PodUid, &str)) {
        let mut state = self.state();
        if let Some(entry) = state.get_mut(key) {
            entry.users.insert(uid.to_string(), pod.to_owned());
            self.publish(&state);
        }
    }

    /// Whether a pod has a claim.
    pub fn has(&self, key: &ObjectKey, uid: &PodUid) -> bool {
        self.state().get(key).is_some_and(|entry| entry.users.contains_key(uid.as_str()))
    }

    /// A pod lets go of all its claims.
    pub fn release(&self, uid: &PodUid) {
        let mut state = self.state();
        for entry in state.values_mut() {
            entry.users.remove(uid.as_str());
        }
        self.publish(&state);
    }

    /// A person deletes a claim. Says whether there is one that can be deleted.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn delete(&self, key: &ObjectKey) -> Result<bool, Error> {
        let mut state = self.state();
        let Some(entry) = state.get_mut(key).filter(|entry| entry.record.phase == Phase::Bound) else {
            return Ok(false);
        };
        entry.enter(Phase::Terminating, &self.dir(key))?;
        self.publish(&state);
        Ok(true)
    }

    /// Finds out which claims nobody declares any more. What `is_gone` says of a file counts only if the directory that
    /// it lay in is the same still: an unmounted one is readable and empty, too.
    pub fn settle(
        &self,
        declared: &BTreeMap<ObjectKey, Declared>,
        sets: &BTreeMap<(String, String), Set>,
        is_gone: &dyn Fn(&Path) -> bool,
    ) -> Vec<(ObjectKey, Outcome)> {
        let mut out = Vec::new();
        let mut state = self.state();
        for (key, entry) in state.iter_mut().filter(|(key, entry)| {
            // What is declared stays, whatever it was before.
            entry.record.phase == Phase::Bound && !declared.contains_key(*key)
        }) {
            let lost = |record: &Record| is_gone(record.origin.file()) && record.lies_where_it_lay();
            let dir = self.0.root.join(&key.namespace).join(&key.name);
            let mut next = entry.record.clone();
            let goes = match &mut next.origin {
                Origin::Object { .. } => lost(&entry.record),
                Origin::Template { set, ordinal, retention, .. } => {
                    if let Some(set) = sets.get(&(key.namespace.clone(), set.clone())) {
                        *retention = set.retention;
                        retention.scaled && !set.ordinals.contains(ordinal)
                    } else {
                        retention.deleted && lost(&entry.record)
                    }
                }
            };
            if goes {
                next.phase = Phase::Terminating;
            }
            if next == entry.record {
                continue;
            }
            match next.write(&dir) {
                Ok(()) => {
                    entry.record = next;
                    if goes {
                        let pods = entry.users.values().cloned().collect();
                        out.push((key.clone(), Outcome::Terminating { pods }));
                    }
                }
                Err(error) => out.push((key.clone(), Outcome::Failed(error))),
            }
        }
        self.publish(&state);
        out
    }

    /// Removes, or releases, the deleted claims that no pod has.
    pub fn collect(&self) -> Vec<(ObjectKey, Outcome)> {
        let mut out = Vec::new();
        let mut state = self.state();
        let due: Vec<ObjectKey> = state
            .iter()
            .filter(|(_, entry)| entry.record.phase == Phase::Terminating && entry.users.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        let mut trees = Vec::new();
        for key in due {
            let dir = self.dir(&key);
            let Some(entry) = state.get_mut(&key) else { continue };
            let outcome = if claim::retains(&entry.record.claim) {
                entry.enter(Phase::Released, &dir).map(|()| Outcome::Released)
            } else {
                let away = dir.with_file_name(format!("{GONE}{:08x}", rand::random::<u32>()));
                atomic::commit(&dir, &away).map_err(Error::from).map(|()| {
                    state.remove(&key);
                    trees.push(away);
                    Outcome::Removed
                })
            };
            out.push((key, outcome.unwrap_or_else(Outcome::Failed)));
        }
        self.publish(&state);
        drop(state);
        for tree in trees {
            if let Err(error) = removal::remove(&tree) {
                tracing::warn!(error = %chain(&error), path = %tree.display(), "what is left of a claim stays");
            }
        }
        out
    }
}

impl Entry {
    fn enter(&mut self, phase: Phase, dir: &Path) -> Result<(), Error> {
        let next = Record { phase, ..self.record.clone() };
        next.write(dir)?;
        self.record = next;
        Ok(())
    }
}

/// Gives a pod its claim, with the pod's group.
pub(super) fn prepare(
    volume: &str,
    source: &PersistentVolumeClaimVolumeSource,
    context: &Context<'_>,
) -> Result<Source, super::Error> {
    let failed = |source| super::Error::Claim { volume: volume.to_owned(), source };
    let pod = PodKey::of(&context.pod.metadata);
    let key = key(&pod.namespace, &source.claim_name);
    let declared = context.declared.get(&source.claim_name);
    let path = context.claims.take(&key, declared, (context.uid, &pod.name)).map_err(failed)?;
    if let Some(group) = context.fs_group.filter(|_| source.read_only != Some(true)) {
        group::own(&path, group, context.group_on_mismatch)
            .map_err(|e| failed(io_error("set the group of", &path)(e)))?;
    }
    Ok(Source::Directory(path))
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    if dir.is_dir() {
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            names.extend(entry.map_err(io_error("list", dir))?.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

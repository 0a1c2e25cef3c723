//! The content-addressed store on disk: each layer once, the images made of them, and who needs what.
//!
//! ```text
//! <root>/format.json  lock
//!        layers/<key>/            layer.json, tar.zst, layer.erofs or tree/, damaged
//!        images/<top digest>/     index.json, <manifest digest>/{manifest,config,image}.json
//!        images/tags/<sha256>     what a reference meant, and who asked
//!        refs/<kind>/<owner>      the roots
//!        staging/  trash/         not yet whole · being removed
//! ```
//!
//! **State is files, committed by rename.** A directory is made in `staging/`, synced, and renamed to its place; what
//! goes is renamed to `trash/` first, so no reader ever meets a part of anything. Opening the store reads all of it
//! into an index in memory; every change goes to disk before (adding) or after (releasing) the index says so.
//!
//! **Concurrency.** One agent has the store open for writing (a `flock`); any number may read. Inside the agent a
//! [`Store`] is a cheap handle for all tasks. Three kinds of lock, taken in this order and never over an await:
//! `changes` (renames below `layers/` and `images/`: commits and sweeps exclude each other), one of `writers` (the
//! file of one ref or tag), `index` (held for lookups only, never for I/O).
//!
//! Whatever can leave something without a holder wakes whoever waits for [`Store::loosened`]: refs and tags that let go,
//! and commits, whose pull may have been given up meanwhile.
//!
//! Methods that touch the disk block; callers on an async runtime wrap them in `spawn_blocking`. Lookups don't.

mod access;
mod check;
pub mod convert;
pub mod driver;
mod error;
mod gc;
mod images;
mod index;
pub mod ingest;
mod key;
mod layers;
mod layout;
mod load;
mod lock;
mod refs;
mod staging;
mod tags;
pub mod tree;
mod usage;
mod why;

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use access::{Access, Proof};
pub use check::{Damage, Report};
pub use error::Error;
pub use gc::{SweepOptions, Swept, SweptLayer};
pub use images::{Image, ImageDocuments, ImageRecord};
pub use ingest::{Ingest, Ingested};
pub use key::{ImageId, LayerKey};
pub use layers::{LayerInfo, LayerSource};
pub use refs::{Held, Ref, RefKind, UnknownKind};
pub use tags::{Tag, TagOrigin};
pub use usage::{Capacity, ImageUsage, LayerUsage, Usage};
pub use why::{Chain, Why};

use convert::Limits;
use driver::{Backing, Driver, DriverChoice};
use index::Index;
use layout::Layout;
use lock::Lock;

/// How many refs and tags can be written at the same time.
const WRITERS: usize = 16;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; made with all its parents where it is missing.
    pub root: PathBuf,
    /// How new layers are written. Those that are there keep their form.
    pub driver: DriverChoice,
    /// What a layer's tar may ask for.
    pub limits: Limits,
}

impl Options {
    /// The defaults for a store at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), driver: DriverChoice::Auto, limits: Limits::default() }
    }
}

/// The store. Cheap to clone; all clones are one store, which closes with the last of them.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

/// How the store is open.
#[derive(Debug)]
enum Mode {
    /// For reading: nothing on disk is changed.
    Read,
    /// For all: the lock is held, and new layers are written by this driver.
    Write { _lock: Lock, driver: Driver, backing: Option<Backing> },
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    instance: String,
    mode: Mode,
    limits: Limits,
    /// Names this opening apart from earlier ones, in `staging/` and `trash/`.
    opening: String,
    /// Names things within this opening apart.
    next: AtomicU64,
    /// Damaged layers that a sound one took the place of, since the store was opened.
    repairs: AtomicU64,
    /// Woken when there may be something to collect.
    loose: tokio::sync::Notify,
    changes: Mutex<()>,
    writers: [Mutex<()>; WRITERS],
    index: Mutex<Index>,
}

/// Takes a lock; what a panicked holder left is as good as anything, for every change to it is a single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store for reading and writing, and makes it where there is none. What an earlier agent left half
    /// done stays where it is until [`Store::empty_staging_and_trash`].
    ///
    /// # Errors
    /// [`Error::Locked`] if another agent has it open, [`Error::Format`] if a newer one wrote it, or a failure of the
    /// disk. Documents that cannot be read fail nothing here: [`Store::check`] lists them.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let layout = Layout::new(&options.root);
        crate::sys::atomic::create_dir(layout.root(), layout::DIR_MODE)?;
        let lock = Lock::take(layout.root(), &layout.lock())?;
        let instance = layout.format(true)?.instance;
        layout.create()?;
        let (driver, backing) = Driver::choose(options.driver, layout.root())
            .map_err(|source| Error::Driver { path: layout.root().to_owned(), source })?;
        Self::load(layout, instance, Mode::Write { _lock: lock, driver, backing }, options.limits.clone())
    }

    /// Opens the store for reading, whether or not an agent has it open. What changes meanwhile is seen or not.
    ///
    /// # Errors
    /// If there is no store, a newer agent wrote it, or the disk fails.
    pub fn open_read_only(root: &Path) -> Result<Self, Error> {
        let layout = Layout::new(root);
        let instance = layout.format(false)?.instance;
        Self::load(layout, instance, Mode::Read, Limits::default())
    }

    fn load(layout: Layout, instance: String, mode: Mode, limits: Limits) -> Result<Self, Error> {
        let index = Mutex::new(load::load(&layout)?);
        Ok(Self(Arc::new(Inner {
            layout,
            instance,
            mode,
            limits,
            opening: layout::random_name(),
            next: AtomicU64::new(0),
            repairs: AtomicU64::new(0),
            loose: tokio::sync::Notify::new(),
            changes: Mutex::new(()),
            writers: std::array::from_fn(|_| Mutex::new(())),
            index,
        })))
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        self.0.layout.root()
    }

    /// A random name that this store was given once: eight hexadecimal digits.
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// How new layers are written; `None` for a store that is open for reading.
    pub fn driver(&self) -> Option<Driver> {
        match &self.0.mode {
            Mode::Write { driver, .. } => Some(*driver),
            Mode::Read => None,
        }
    }

    /// How this kernel mounts EROFS layers of this store, if it was found out when the store was opened.
    pub fn backing(&self) -> Option<Backing> {
        match self.0.mode {
            Mode::Write { backing, .. } => backing,
            Mode::Read => None,
        }
    }

    /// Waits until something was let go, or came into the store that nothing may hold any more: a sweep may then find
    /// something. For one waiter; cancel-safe, and what happened since the last wait ends the next at once.
    pub async fn loosened(&self) {
        self.0.loose.notified().await;
    }

    /// Wakes who waits for [`Store::loosened`].
    fn loosen(&self) {
        self.0.loose.notify_one();
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        locked(&self.0.index)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        locked(&self.0.changes)
    }

    /// The lock for the file of `name`: changes of one ref or tag come one after another, those of others don't wait.
    fn writer(&self, name: impl Hash) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % WRITERS as u64).unwrap_or(0);
        locked(&self.0.writers[slot])
    }

    fn writable(&self, action: &'static str) -> Result<Driver, Error> {
        self.driver().ok_or(Error::ReadOnly { action })
    }

    /// A name that nothing in `staging/` or `trash/` has. Short, so that a full disk's directories still take it.
    fn fresh_name(&self) -> String {
        format!("{}-{}", self.0.opening, self.0.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Wall-clock times in documents, as whole seconds since 1970.
mod seconds {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer};

    /// The present in whole seconds: what is kept in memory is then what a restart reads back.
    pub(super) fn now() -> SystemTime {
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        SystemTime::UNIX_EPOCH + Duration::from_secs(age)
    }

    /// Times before 1970 count as 1970: no clock of a node stands there on purpose.
    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let seconds = u64::deserialize(from)?;
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or_else(|| serde::de::Error::custom("a time beyond what the system can say"))
    }
}

#[cfg(test)]
mod tests;

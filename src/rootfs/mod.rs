//! An image's layers and a private upper directory as one mount *value*, which the pod's shim mounts.
//!
//! A layer is mounted once a node while anything uses it ([`Layers`]): the same file mounted twice would be two
//! superblocks and two page caches. The mount is a file descriptor; shims get copies of it over their sockets and hand
//! them back to a new agent, so the descriptor, the page cache and the single mount survive the agent's death.
//!
//! ```text
//! layers/<key>/layer.erofs ──fsmount──▶ Layer (one a key, weak) ──for_shim──▶ descriptor in each shim ──▶ overlay
//! ```

mod attached;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::mount::MountAttrFlags;

use crate::store::{LayerKey, Store};
use crate::sys::erofs;
use crate::sys::label;
use crate::sys::mount::{self, Mount, Tier};
use crate::sys::quota;

/// Why a layer cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not have the layer, or found it damaged.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The kernel refused a mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// A layer's image cannot be mounted.
    #[error(transparent)]
    Image(#[from] erofs::Error),
    /// A layer cannot be given its SELinux label.
    #[error("cannot give {} its SELinux label", path.display())]
    Label {
        /// The layer's content.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A descriptor could not be copied.
    #[error("cannot copy the descriptor of a layer mount")]
    Copy {
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The thread that holds the mounts has ended.
    #[error("the thread that holds layer mounts has ended")]
    ThreadGone,
}

/// One mounted layer. The mount goes when the last holder here and in every shim is gone.
#[derive(Debug)]
pub struct Layer {
    key: LayerKey,
    mount: Held,
}

#[derive(Debug)]
enum Held {
    Detached(Mount),
    Attached(attached::Attached),
}

impl Layer {
    /// The layer's key.
    pub const fn key(&self) -> &LayerKey {
        &self.key
    }

    /// A descriptor to hand to a shim: of the same mount on new kernels, of a clone on older ones.
    ///
    /// # Errors
    /// If the process is out of descriptors or the clone fails.
    pub fn for_shim(&self) -> Result<OwnedFd, Error> {
        match &self.mount {
            Held::Detached(mount) => {
                use std::os::fd::AsFd as _;
                mount.as_fd().try_clone_to_owned().map_err(|source| Error::Copy { source })
            }
            Held::Attached(attached) => Ok(attached.clone_mount()?.into_fd()),
        }
    }
}

/// The mounted layers of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    tier: Tier,
    attacher: Option<attached::Attacher>,
    /// What SELinux is to know the files of layers by.
    label: Option<String>,
    // Held while a layer is mounted (well under a millisecond), so that two callers never mount one layer twice.
    mounted: Mutex<HashMap<LayerKey, Weak<Layer>>>,
}

impl Layers {
    /// Finds out which tier the kernel has. `label` is what SELinux, where it runs, is to know the files of layers by.
    ///
    /// # Errors
    /// If the kernel can mount nothing at all.
    pub fn new(store: Store, label: Option<String>) -> Result<Self, Error> {
        let tier = Tier::probe()?;
        let attacher = match tier {
            Tier::Detached => None,
            Tier::Attached => Some(attached::Attacher::start()?),
        };
        Ok(Self(Arc::new(Shared { store, tier, attacher, label, mounted: Mutex::default() })))
    }

    /// How overlays take these layers.
    pub fn tier(&self) -> Tier {
        self.0.tier
    }

    /// Mounts the layers `keys`, or finds them mounted. Blocks for about 0.1 ms a layer that is not mounted yet.
    ///
    /// # Errors
    /// If a layer is not in the store, fails its seal, or cannot be mounted.
    pub fn mount(&self, keys: &[LayerKey]) -> Result<Vec<Arc<Layer>>, Error> {
        keys.iter().map(|key| self.one(key)).collect()
    }

    /// Takes over a mount that a shim kept through the agent's restart; one that is mounted already stays as it is.
    ///
    /// # Errors
    /// If the mount cannot be attached where the kernel needs that.
    pub fn adopt(&self, key: &LayerKey, fd: OwnedFd) -> Result<Arc<Layer>, Error> {
        let mut mounted = self.0.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = mounted.get(key).and_then(Weak::upgrade) {
            return Ok(layer);
        }
        let layer = self.hold(key, Mount::from_fd(fd))?;
        mounted.insert(key.clone(), Arc::downgrade(&layer));
        Ok(layer)
    }

    /// Forgets the mount of a layer that was replaced by a sound copy: new starts mount anew, old ones drain.
    pub fn forget(&self, key: &LayerKey) {
        self.0.mounted.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn one(&self, key: &LayerKey) -> Result<Arc<Layer>, Error> {
        let mut mounted = self.0.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = mounted.get(key).and_then(Weak::upgrade) {
            return Ok(layer);
        }
        let info = self.0.store.verify(key)?;
        let content = info.dir.join(info.driver.file_name());
        let label = self.0.label.as_deref();
        if let Some(label) = label {
            // Kernels read, and map, what lies below an overlay in the name of whoever does so above.
            label::give(&content, label).map_err(|source| Error::Label { path: content.clone(), source })?;
        }
        let layer = self.hold(key, source_mount(&content, label)?)?;
        mounted.retain(|_, layer| layer.strong_count() > 0);
        mounted.insert(key.clone(), Arc::downgrade(&layer));
        Ok(layer)
    }

    fn hold(&self, key: &LayerKey, mount: Mount) -> Result<Arc<Layer>, Error> {
        let mount = match &self.0.attacher {
            None => Held::Detached(mount),
            Some(attacher) => Held::Attached(attacher.attach(mount)?),
        };
        Ok(Arc::new(Layer { key: key.clone(), mount }))
    }
}

/// A detached read-only mount of a layer's content: an EROFS file, or the directory driver's tree.
fn source_mount(content: &Path, label: Option<&str>) -> Result<Mount, Error> {
    if content.is_dir() {
        let tree = Mount::clone_path(content, false)?;
        tree.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        return Ok(tree);
    }
    Ok(erofs::mount(content, label)?.0)
}

/// The two directories that an overlay needs for one attempt of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    /// What the container writes.
    pub upper: PathBuf,
    /// The kernel's scratch space, on the same file system.
    pub work: PathBuf,
}

impl Writable {
    /// Makes both directories, 0755 and 0700, below `attempt` (which is not readable by others); `is_counted`: where the
    /// file system can, it counts what is written (see [`quota`]).
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn create(attempt: &Path, is_counted: bool) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let (upper, work) = (attempt.join("upper"), attempt.join("work"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(attempt)?;
        if is_counted {
            quota::mark(attempt);
        }
        std::fs::DirBuilder::new().mode(0o755).create(&upper)?;
        std::fs::DirBuilder::new().mode(0o700).create(&work)?;
        Ok(Self { upper, work })
    }
}

#[cfg(test)]
mod tests;

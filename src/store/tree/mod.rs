//! What a layer holds, read without any mount: one layer by itself, or a stack of them merged as overlayfs would.
//!
//! ```text
//!   LayerTree (erofs file, directory)   ──▶  Merged (top layer first)  ──▶  write_tar · diff · resolve
//! ```
//!
//! Paths are relative to the layer's root, without `.` and `..`; the empty path is the root itself. No method of
//! [`LayerTree`] follows a symbolic link, in no component; only [`Merged::resolve`] does, and it never leaves the root.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod diff;
mod export;
mod host;
mod merged;

pub use diff::{Difference, diff};
pub use export::write_tar;
pub use host::HostTree;
pub use merged::Merged;

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a step.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The step, as in `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The layer's metadata contradicts itself.
    #[error("layer {} is damaged: {what}", path.display())]
    Damaged {
        /// The layer's file or directory.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// Nothing of that name is there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path inside the tree.
        path: PathBuf,
    },
    /// A component of the path that is not a directory, or a file that is none.
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        /// The path inside the tree.
        path: PathBuf,
        /// `directory`, `regular file` or `symbolic link`.
        wanted: &'static str,
    },
    /// Who takes the tree's content refused bytes.
    #[error("cannot hand on the tree's content")]
    Out(#[source] io::Error),
    /// More symbolic links than a path may lead through.
    #[error("{} leads through too many symbolic links", path.display())]
    Loop {
        /// The path inside the tree.
        path: PathBuf,
    },
}

impl Error {
    /// A mapper for `map_err`.
    pub(in crate::store) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A directory; an opaque one hides the directories of the same name in the layers below.
    Directory {
        /// Whether lower layers are hidden.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, byte for byte.
        target: Box<[u8]>,
    },
    /// A character device.
    Char {
        /// Its number.
        device: Device,
    },
    /// A block device.
    Block {
        /// Its number.
        device: Device,
    },
    /// A named pipe.
    Fifo,
    /// A socket (only in a container's writable layer).
    Socket,
    /// Hides the entry of that name in the layers below.
    Whiteout,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// 12 bits.
    pub major: u32,
    /// 20 bits.
    pub minor: u32,
}

/// One inode's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: Time,
    /// Names that share this inode.
    pub links: u32,
    /// A number that names sharing one inode have in common, within this layer.
    pub inode: u64,
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, a single component.
    pub name: Box<[u8]>,
    /// What it stands for.
    pub node: Node,
}

/// An extended attribute: full name (`security.capability`) and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// One layer, or a container's writable layer.
pub trait LayerTree: Send + Sync + fmt::Debug {
    /// The metadata of what `path` names; `None` when it is not in this layer.
    fn node(&self, path: &Path) -> Result<Option<Node>, Error>;
    /// The names in the directory `path`, sorted by bytes, whiteouts included, `.` and `..` not.
    fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, Error>;
    /// The content of the regular file `path`.
    fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, Error>;
    /// The extended attributes of `path`, sorted by name, those of overlayfs left out.
    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>, Error>;
    /// Whether the layer says what its root directory's mode and owner are; if not, those of the layer below count.
    fn root_declared(&self) -> bool;
}

/// The tree of a plain directory with overlay whiteouts: a container's writable layer. `first` is the host's id of its
/// user 0, which is another than 0 where the container is in a user namespace.
///
/// # Errors
/// If it cannot be opened.
pub fn directory(root: &Path, first: u32) -> Result<Arc<dyn LayerTree>, Error> {
    Ok(Arc::new(HostTree::open(root)?.mapped(first)))
}

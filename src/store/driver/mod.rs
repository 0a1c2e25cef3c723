//! How a layer lies on disk: one EROFS file, or an unpacked directory where EROFS is missing.
//!
//! ```text
//!   <layer>/layer.erofs   the whole layer            │ erofs
//!   <layer>/tree/         the layer, unpacked        │ directory
//!           data/         files that the tar itself replaced, needed to rebuild it
//!           files.zst     which file of tar.zst lies where
//!           undeclared    there when the tar does not say what its root directory is
//!   <layer>/tar.zst       what rebuilds the layer's tar from the above, bit for bit
//! ```
//!
//! A driver takes file data as it streams and the finished `draft::Draft` at the end; no name out of a tar is ever
//! resolved as a path on the host. Layers are immutable once made, so reading needs no lock.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod crc32c;
mod directory;
pub(in crate::store) mod draft;
mod erofs;
pub(in crate::store) mod record;

use crate::oci::{Algorithm, DiffId};
use crate::store::tree::{self, LayerTree};
use crate::sys::erofs as image;
pub use crate::sys::erofs::Backing;
use draft::{Draft, FileId};
pub(in crate::store) use record::length as tar_length;

/// Which driver a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// EROFS where the kernel can mount it from the store's file system, else directories.
    #[default]
    Auto,
    /// EROFS, whatever the kernel says.
    Erofs,
    /// Directories.
    Directory,
}

impl FromStr for DriverChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "erofs" => Ok(Self::Erofs),
            "directory" => Ok(Self::Directory),
            _ => Err(Error::Unknown { name: text.chars().take(80).collect() }),
        }
    }
}

/// What went wrong with a layer on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a step.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The step, as in `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No driver has that name.
    #[error("storage driver {name:?} is not known; expected auto, erofs or directory")]
    Unknown {
        /// The name, cut to a bounded length.
        name: String,
    },
    /// The layer is not what was committed.
    #[error("layer {} is damaged: {what}", path.display())]
    Damaged {
        /// The file or directory in which it shows.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The layer holds more than the format can say.
    #[error("layer is too large: {what}")]
    TooLarge {
        /// Which limit of the format.
        what: &'static str,
    },
    /// Who takes a rebuilt tar refused bytes.
    #[error("cannot hand on the rebuilt tar")]
    Out(#[source] std::io::Error),
    /// The tree could not be read.
    #[error("cannot read the layer's tree")]
    Tree(#[from] tree::Error),
}

impl Error {
    /// A mapper for `map_err`.
    pub(in crate::store) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// One layer being written. Files come one after another, each as `begin_file`, `data` and `hole` in order,
/// `end_file`; then the tree.
pub(in crate::store) trait LayerWriter: Send + std::fmt::Debug {
    fn begin_file(&mut self) -> Result<FileId, Error>;
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error>;
    fn hole(&mut self, length: u64) -> Result<(), Error>;
    fn end_file(&mut self) -> Result<(), Error>;
    /// Writes names and metadata and syncs everything.
    fn finish(self: Box<Self>, draft: &Draft, identity: [u8; 16]) -> Result<Sealed, Error>;
}

/// What a writer knows of a finished layer.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Sealed {
    pub(in crate::store) bytes: u64,
    pub(in crate::store) metadata: u64,
    pub(in crate::store) checksum: u32,
    pub(in crate::store) disk_bytes: u64,
}

/// A storage driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// One EROFS file a layer (`layer.erofs`).
    Erofs,
    /// One directory a layer (`tree/`).
    Directory,
}

/// What a committed layer looked like; kept in `layer.json`, compared before a container starts on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Length of the layer's file in bytes; for a directory, the sum over its files.
    pub bytes: u64,
    /// Where the metadata starts (EROFS), or the number of names (directory).
    pub metadata: u64,
    /// CRC-32C over the metadata.
    pub checksum: u32,
    /// Length of `tar.zst`.
    pub tar_bytes: u64,
}

impl Driver {
    /// The driver for a store at `root`, and how the kernel mounts an EROFS file that lies there (`None`: not at all, or
    /// it could not be tried).
    ///
    /// # Errors
    /// If `Auto` cannot try it below `root`. A full disk is no reason: an agent must start to make room.
    pub fn choose(choice: DriverChoice, root: &Path) -> Result<(Self, Option<Backing>), Error> {
        if choice == DriverChoice::Directory {
            return Ok((Self::Directory, None));
        }
        match (Self::probe(root), choice) {
            (Ok(Ok(backing)), _) => Ok((Self::Erofs, Some(backing))),
            (Ok(Err(error)), DriverChoice::Erofs) => {
                tracing::warn!(reason = %crate::api::problem::chain(&error), "this kernel cannot mount EROFS layers: no container can start");
                Ok((Self::Erofs, None))
            }
            (Ok(Err(error)), _) => {
                let reason = crate::api::problem::chain(&error);
                tracing::warn!(%reason, "this kernel cannot mount EROFS layers; they are unpacked into directories");
                Ok((Self::Directory, None))
            }
            (Err(error), DriverChoice::Erofs) => {
                tracing::debug!(reason = %crate::api::problem::chain(&error), "whether EROFS layers can be mounted was not tried");
                Ok((Self::Erofs, None))
            }
            (Err(Error::Io { source, .. }), _) if is_full(&source) => {
                let driver = if kernel_has_erofs() { Self::Erofs } else { Self::Directory };
                tracing::warn!(
                    driver = driver.name(),
                    "the disk is full: the storage driver is chosen without a trial"
                );
                Ok((driver, None))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Mounts an empty layer that lies below `root`, where nobody sees it; the inner error says why that cannot be done.
    fn probe(root: &Path) -> Result<Result<Backing, image::Error>, Error> {
        let dir = root.join(format!(".probe-{}", std::process::id()));
        // Left by a process of that number that was killed meanwhile.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).map_err(Error::io("create", &dir))?;
        let written = Self::Erofs.begin(&dir).and_then(|writer| writer.finish(&Draft::new(), [0; 16]));
        let result =
            written.map(|_| image::mount(&dir.join(Self::Erofs.file_name()), None).map(|(_, backing)| backing));
        std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        result
    }

    /// Starts a layer in the directory `staging`.
    pub(in crate::store) fn begin(self, staging: &Path) -> Result<Box<dyn LayerWriter>, Error> {
        match self {
            Self::Erofs => Ok(Box::new(erofs::Writer::create(staging.join(self.file_name()))?)),
            Self::Directory => Ok(Box::new(directory::Writer::create(staging)?)),
        }
    }

    /// The driver that wrote the layer in `layer_dir`, whatever the store uses now.
    ///
    /// # Errors
    /// If the directory holds no layer.
    pub fn of_layer(layer_dir: &Path) -> Result<Self, Error> {
        let has = |driver: Self| layer_dir.join(driver.file_name()).symlink_metadata().is_ok();
        [Self::Erofs, Self::Directory]
            .into_iter()
            .find(|driver| has(*driver))
            .ok_or_else(|| Error::Damaged { path: layer_dir.to_owned(), what: "it holds no layer".to_owned() })
    }

    /// `erofs` or `directory`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Directory => "directory",
        }
    }

    /// What the driver mounts or binds, below the layer's directory.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Erofs => "layer.erofs",
            Self::Directory => "tree",
        }
    }

    /// The layer's tree, read without a mount.
    ///
    /// # Errors
    /// If the layer is missing or damaged.
    pub fn open_tree(self, layer_dir: &Path) -> Result<Box<dyn LayerTree>, Error> {
        let path = layer_dir.join(self.file_name());
        Ok(match self {
            Self::Erofs => Box::new(erofs::Tree::open(path)?),
            Self::Directory => Box::new(directory::open(layer_dir)?),
        })
    }

    /// Compares size and metadata with what was committed: cheap, reads no file data.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they differ, [`Error::Io`] when a file is gone or cannot be read.
    pub fn verify_seal(self, layer_dir: &Path, seal: &Seal) -> Result<(), Error> {
        let record = layer_dir.join(record::FILE);
        let length = record.metadata().map_err(Error::io("stat", &record))?.len();
        if length != seal.tar_bytes {
            let what = format!("it has {length} bytes and not {}", seal.tar_bytes);
            return Err(Error::Damaged { path: record, what });
        }
        let path = layer_dir.join(self.file_name());
        match self {
            Self::Erofs => erofs::verify_seal(&path, seal),
            Self::Directory => directory::verify_seal(layer_dir, seal),
        }
    }

    /// Checks the seal, rebuilds the layer's tar and compares it with `diff_id`; reads everything.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they differ.
    pub fn verify_full(self, layer_dir: &Path, seal: &Seal, diff_id: &DiffId) -> Result<(), Error> {
        self.verify_seal(layer_dir, seal)?;
        let digest = match diff_id.0.algorithm() {
            Algorithm::Sha256 => self.hash::<sha2::Sha256>(layer_dir)?,
            Algorithm::Sha512 => self.hash::<sha2::Sha512>(layer_dir)?,
        };
        if digest == diff_id.0.hex() {
            return Ok(());
        }
        let what = format!("its content has the diffID {}:{digest} and not {diff_id}", diff_id.0.algorithm().name());
        Err(Error::Damaged { path: layer_dir.to_owned(), what })
    }

    fn hash<D: sha2::Digest>(self, layer_dir: &Path) -> Result<String, Error> {
        let mut hash = Hasher(D::new());
        self.rebuild_tar(layer_dir, &mut hash)?;
        Ok(hash.0.finalize().iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Writes the tar that the layer was made from, bit for bit.
    ///
    /// # Errors
    /// If the layer cannot be read or `out` refuses bytes.
    pub fn rebuild_tar(self, layer_dir: &Path, out: &mut dyn Write) -> Result<(), Error> {
        let path = layer_dir.join(self.file_name());
        match self {
            Self::Erofs => erofs::rebuild(layer_dir, &path, out),
            Self::Directory => directory::rebuild(layer_dir, out),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn kernel_has_erofs() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_ascii_whitespace().next_back() == Some("erofs"))
}

/// Hashes what is written to it.
struct Hasher<D>(D);

impl<D: sha2::Digest> Write for Hasher<D> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! How a layer lies on disk: one EROFS file, or an unpacked directory where EROFS is missing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::oci::DiffId;
use crate::store::tree::{self, LayerTree};

/// Which driver a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// EROFS where the kernel can mount it from the store's file system, else directories.
    #[default]
    Auto,
    /// EROFS, unprobed.
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
    /// The tree could not be read.
    #[error("cannot read the layer's tree")]
    Tree(#[from] tree::Error),
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
    /// The driver for a store at `root`; `Auto` probes whether the kernel mounts an EROFS file that lies there.
    ///
    /// # Errors
    /// If the probe cannot write below `root`.
    pub fn choose(choice: DriverChoice, _root: &Path) -> Result<Self, Error> {
        match choice {
            DriverChoice::Auto | DriverChoice::Erofs => Ok(Self::Erofs),
            DriverChoice::Directory => Ok(Self::Directory),
        }
    }

    /// The driver that wrote the layer in `layer_dir`, whatever the store uses now.
    ///
    /// # Errors
    /// If the directory holds no layer.
    pub fn of_layer(_layer_dir: &Path) -> Result<Self, Error> {
        todo!()
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
    pub fn open_tree(self, _layer_dir: &Path) -> Result<Box<dyn LayerTree>, Error> {
        todo!()
    }

    /// Compares size and metadata with what was committed: cheap, reads no file data.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they differ.
    pub fn verify_seal(self, _layer_dir: &Path, _seal: &Seal) -> Result<(), Error> {
        todo!()
    }

    /// Rebuilds the layer's tar and compares it with `diff_id`; reads everything.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they differ.
    pub fn verify_full(self, _layer_dir: &Path, _seal: &Seal, _diff_id: &DiffId) -> Result<(), Error> {
        todo!()
    }

    /// Writes the tar that the layer was made from, bit for bit.
    ///
    /// # Errors
    /// If the layer cannot be read or `out` refuses bytes.
    pub fn rebuild_tar(self, _layer_dir: &Path, _out: &mut dyn Write) -> Result<(), Error> {
        todo!()
    }
}

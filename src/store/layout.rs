//! Where things lie below the store's root, and `format.json`, which says who may read them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::key::{ImageId, LayerKey};
use crate::sys::{atomic, removal};

/// The version of the layout that this release writes; a higher one is refused.
const VERSION: u32 = 1;
/// Features that this release understands; a store that names another is refused.
const FEATURES: [&str; 0] = [];
/// Directories belong to the agent alone, whatever its umask is.
pub(super) const DIR_MODE: u32 = 0o700;
/// Documents are written by the agent alone.
pub(super) const FILE_MODE: u32 = 0o600;

/// `format.json`: what a reader must know before it reads anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    /// The version of the layout.
    pub(super) version: u32,
    /// What else a reader must understand; an unknown word means: hands off.
    #[serde(default)]
    pub(super) features: BTreeSet<String>,
    /// Random, made once: goes into names of cgroups and interfaces, so that several agents fit on one machine.
    pub(super) instance: String,
}

/// The paths of a store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, key: &LayerKey) -> PathBuf {
        self.layers().join(key.to_string())
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The directory of everything known by one index (or lone manifest).
    pub(super) fn top(&self, top: &crate::oci::Digest) -> PathBuf {
        self.images().join(top.file_name())
    }

    pub(super) fn image(&self, id: &ImageId) -> PathBuf {
        self.top(&id.top).join(id.manifest.file_name())
    }

    pub(super) fn tags(&self) -> PathBuf {
        self.images().join("tags")
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Makes the directories of the store, and forces their mode where they are there already.
    pub(super) fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt as _;
        let dirs = [self.layers(), self.tags(), self.refs(), self.staging(), self.trash(), self.images()];
        for dir in dirs.iter().chain([&self.root]) {
            atomic::create_dir(dir, DIR_MODE)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(DIR_MODE))
                .map_err(Error::at("set the mode of", dir))?;
        }
        Ok(())
    }

    /// Reads `format.json`; makes it where it is missing and `create` is set.
    pub(super) fn format(&self, create: bool) -> Result<Format, Error> {
        let path = self.root.join("format.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
                let format = Format { version: VERSION, features: BTreeSet::new(), instance: random_name() };
                atomic::write(&path, &to_json(&format, &path)?, FILE_MODE)?;
                return Ok(format);
            }
            Err(e) => return Err(Error::at("read", path)(e)),
        };
        let format: Format = serde_json::from_slice(&text).map_err(|source| Error::Document { path, source })?;
        let refused = |what| Error::Format { root: self.root.clone(), what };
        if format.version > VERSION {
            return Err(refused(format!("layout version {}", format.version)));
        }
        match format.features.iter().find(|f| !FEATURES.contains(&f.as_str())) {
            Some(feature) => Err(refused(format!("feature {feature:?}"))),
            None => Ok(format),
        }
    }
}

/// Eight random hexadecimal digits.
pub(super) fn random_name() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// One document of the store as text, for people to read too.
pub(super) fn to_json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, Error> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|source| Error::Document { path: path.to_owned(), source })?;
    text.push(b'\n');
    Ok(text)
}

/// Whether nothing of that name is there, or something else is where its directory should be.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Reads one document of the store; `None` where there is none.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, Error> {
    match std::fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| Error::Document { path: path.to_owned(), source })
        }
        Err(e) if is_absent(&e) => Ok(None),
        // Not ours, whatever it is; it must not keep the store from opening.
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => {
            Err(Error::Document { path: path.to_owned(), source: serde::de::Error::custom("it is a directory") })
        }
        Err(e) => Err(Error::at("read", path)(e)),
    }
}

/// The entries of a directory in the order of their names; none where it is missing or no directory. Names that are no UTF-8 are not
/// ours, and left out.
pub(super) fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(Error::at("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::at("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a file or a whole directory. What is not there is fine.
pub(super) fn remove_all(path: &Path) -> Result<(), Error> {
    removal::remove(path).map_err(|e| Error::at("remove", e.path)(e.source))
}

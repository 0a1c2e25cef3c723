//! Stored layers: `layers/<key>/layer.json` and what it says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Store;
use super::driver::{self, Driver, Seal};
use super::error::Error;
use super::index::LayerEntry;
use super::key::LayerKey;
use super::layout::{FILE_MODE, is_absent, read_json};
use super::tree::{LayerTree, Merged};
use crate::oci::{DiffId, Digest};
use crate::sys::atomic;

/// Where a layer's bytes came from; what one has to ask for to fetch them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerSource {
    /// The digest of the (usually compressed) blob, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    /// How many bytes arrived.
    pub bytes: u64,
}

/// A stored layer, as `layer.json` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInfo {
    /// The version of this document.
    pub version: u32,
    /// The layer's key, which is also its directory's name.
    pub key: LayerKey,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// What it takes on disk, with what rebuilds its tar.
    pub disk_bytes: u64,
    /// The sum of its files' sizes.
    pub content_bytes: u64,
    /// How many files, directories, links and so on it holds.
    pub entries: u64,
    /// The driver that made it.
    pub driver: Driver,
    /// What a cheap look must find, for the layer to be whole.
    pub seal: Seal,
    /// Where it came from.
    pub source: LayerSource,
    /// When it was committed, by the wall clock: for show only.
    #[serde(with = "super::seconds")]
    pub created: SystemTime,
    /// The layer's directory.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What describes a layer, in its directory.
pub(super) const DOCUMENT: &str = "layer.json";
/// The version of [`LayerInfo`] that this release writes.
pub(super) const VERSION: u32 = 1;
/// Says what was found wrong with a layer; there only if something was. It goes with the layer when that is replaced.
const DAMAGED: &str = "damaged";
/// As much of a problem as is kept.
const MAX_PROBLEM: usize = 1024;

/// Reads a layer's document; one that speaks of another layer is not valid.
pub(super) fn read(dir: &Path, key: &LayerKey) -> Result<Option<LayerInfo>, Error> {
    let path = dir.join(DOCUMENT);
    let Some(mut info) = read_json::<LayerInfo>(&path)? else { return Ok(None) };
    let problem = if info.key != *key {
        format!("it describes {}", info.key)
    } else if info.version > VERSION {
        format!("version {} is newer than this release", info.version)
    } else {
        dir.clone_into(&mut info.dir);
        return Ok(Some(info));
    };
    Err(Error::Document { path, source: serde::de::Error::custom(problem) })
}

/// What was found wrong with a layer earlier.
pub(super) fn read_damage(dir: &Path) -> Result<Option<String>, Error> {
    let path = dir.join(DAMAGED);
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::at("read", path)(e)),
    }
}

impl Store {
    /// The stored layer for the uppermost of `stack` (lowest first), if it is here and not known to be damaged.
    pub fn find_layer(&self, stack: &[DiffId]) -> Option<LayerKey> {
        self.index().find_layer(stack).map(|info| info.key.clone())
    }

    /// The stored layers of a whole stack, lowest first, if all of them are here.
    pub fn find_stack(&self, stack: &[DiffId]) -> Option<Vec<LayerKey>> {
        let index = self.index();
        (1..=stack.len()).map(|end| index.find_layer(&stack[..end]).map(|info| info.key.clone())).collect()
    }

    /// What is known of a layer.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] if it is not here, [`Error::Damaged`] if it is not fit for use.
    pub fn layer(&self, key: &LayerKey) -> Result<Arc<LayerInfo>, Error> {
        let index = self.index();
        let entry = index.layers.get(key).ok_or_else(|| Error::UnknownLayer { key: key.clone() })?;
        let damaged = || {
            let problem = entry.damage.clone().unwrap_or_default();
            Error::Damaged { key: key.clone(), problem }
        };
        entry.sound().cloned().ok_or_else(damaged)
    }

    /// All sound layers, in no order.
    pub fn layers(&self) -> Vec<Arc<LayerInfo>> {
        self.index().layers.values().filter_map(LayerEntry::sound).cloned().collect()
    }

    /// The layers that are known to be damaged, each with what was found.
    pub fn damaged_layers(&self) -> Vec<(LayerKey, String)> {
        let index = self.index();
        let damaged = index.layers.iter().filter_map(|(key, entry)| Some((key.clone(), entry.damage.clone()?)));
        damaged.collect()
    }

    /// How many damaged layers were exchanged for sound ones since the store was opened.
    pub fn repairs(&self) -> u64 {
        self.0.repairs.load(Ordering::Relaxed)
    }

    /// Takes the cheap look that must precede every mount of a layer: is it there, whole in length, and its metadata
    /// what was committed? A layer that is not is marked as damaged, so that it will be fetched again.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], or [`Error::Damaged`].
    pub fn verify(&self, key: &LayerKey) -> Result<Arc<LayerInfo>, Error> {
        let info = self.layer(key)?;
        self.judge(&info, info.driver.verify_seal(&info.dir, &info.seal))?;
        Ok(info)
    }

    /// Rebuilds the layer's tar and compares it with its diffID; reads all of it.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify_full(&self, key: &LayerKey) -> Result<Arc<LayerInfo>, Error> {
        let info = self.layer(key)?;
        self.judge(&info, info.driver.verify_full(&info.dir, &info.seal, &info.diff_id))?;
        Ok(info)
    }

    /// Turns a driver's verdict into ours, and remembers damage. A disk that fails, or has no descriptors left, says
    /// nothing about the layer.
    fn judge(&self, info: &LayerInfo, verdict: Result<(), driver::Error>) -> Result<(), Error> {
        let source = match verdict {
            Ok(()) => return Ok(()),
            Err(source) => source,
        };
        if !is_damage(&source) {
            return Err(Error::Driver { path: info.dir.clone(), source });
        }
        let problem = crate::api::problem::chain(&source);
        if self.driver().is_some()
            && let Err(error) = self.mark_damaged(&info.key, &problem)
        {
            // In memory it counts all the same, and a later look finds it again.
            tracing::warn!(layer = %info.key, %error, "cannot write down that a layer is damaged");
        }
        Err(Error::Damaged { key: info.key.clone(), problem })
    }

    /// Remembers that a layer is not what was committed, across restarts too: it is no longer found, and a commit of
    /// the same key takes its place. Mounts of it go on until they are given up.
    ///
    /// # Errors
    /// If that cannot be written down; in memory it counts all the same.
    pub fn mark_damaged(&self, key: &LayerKey, problem: &str) -> Result<(), Error> {
        self.writable("mark a layer as damaged")?;
        let problem: String = problem.chars().take(MAX_PROBLEM).collect();
        let _changes = self.changes();
        match self.index().layers.get_mut(key) {
            Some(entry) => entry.damage = Some(problem.clone()),
            None => return Err(Error::UnknownLayer { key: key.clone() }),
        }
        let dir = self.0.layout.layer(key);
        if !dir.is_dir() {
            // Gone altogether: there is nothing left that a restart could take for sound.
            return Ok(());
        }
        Ok(atomic::write(&dir.join(DAMAGED), problem.as_bytes(), FILE_MODE)?)
    }

    /// A layer's tree, read without a mount.
    ///
    /// # Errors
    /// As [`Store::layer`], or if the driver fails.
    pub fn open_tree(&self, key: &LayerKey) -> Result<Arc<dyn LayerTree>, Error> {
        let info = self.layer(key)?;
        let tree = info.driver.open_tree(&info.dir);
        tree.map(Arc::from).map_err(|source| Error::Driver { path: info.dir.clone(), source })
    }

    /// The merged tree of a stack of layers, lowest first.
    ///
    /// # Errors
    /// As [`Store::open_tree`].
    pub fn merged(&self, layers: &[LayerKey]) -> Result<Merged, Error> {
        let trees: Result<Vec<_>, Error> = layers.iter().rev().map(|key| self.open_tree(key)).collect();
        Ok(Merged::new(trees?))
    }

    /// How long the tar is that a layer was made from.
    ///
    /// # Errors
    /// As [`Store::layer`], or if what would rebuild the tar cannot be read.
    pub fn tar_length(&self, key: &LayerKey) -> Result<u64, Error> {
        let info = self.layer(key)?;
        driver::tar_length(&info.dir).map_err(|source| Error::Driver { path: info.dir.clone(), source })
    }

    /// Writes the tar that a layer was made from, bit for bit.
    ///
    /// # Errors
    /// As [`Store::layer`], or if the layer cannot be read or `out` refuses.
    pub fn rebuild_tar(&self, key: &LayerKey, out: &mut dyn Write) -> Result<(), Error> {
        let info = self.layer(key)?;
        info.driver.rebuild_tar(&info.dir, out).map_err(|source| Error::Driver { path: info.dir.clone(), source })
    }
}

/// Whether a driver's error is about the layer, not about the machine's state at the moment.
fn is_damage(error: &driver::Error) -> bool {
    match error {
        driver::Error::Damaged { .. } => true,
        driver::Error::Io { source, .. } => matches!(
            source.kind(),
            // A part of it is gone, or what is there does not decompress.
            std::io::ErrorKind::NotFound
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::UnexpectedEof
        ),
        driver::Error::Tree(error) => matches!(error, super::tree::Error::Damaged { .. }),
        _ => false,
    }
}

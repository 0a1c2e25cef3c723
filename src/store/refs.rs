//! The roots: `refs/<kind>/<owner>` says which manifests, and during a pull which stacks of layers, somebody needs.
//!
//! A ref is on disk before what it holds is used, and gone only after its last use. In memory it counts from before it
//! is written until after it is removed, so a sweep that runs meanwhile errs on the side of keeping.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Store;
use super::error::Error;
use super::index::Holding;
use super::layout::{DIR_MODE, FILE_MODE, to_json};
use crate::oci::{DiffId, Digest};
use crate::sys::atomic;

/// Who holds an image.
///
/// A tag that a person made is a root by itself ([`crate::store::Store::set_tag`]); a ref of kind tag is there only from
/// the begin of the pull that makes the tag until it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefKind {
    /// A pod that is desired, running or being stopped; the owner is its uid.
    Pod,
    /// A pull in progress.
    Pull,
    /// `lamina pin`.
    Pin,
    /// A tag that a person made; the owner is the full reference.
    Tag,
    /// A build in progress.
    Build,
    /// A workload, for templates that it may go back to or will need again.
    Workload,
    /// An archive in an image directory; the owner is its path.
    File,
}

impl RefKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [Self::Pod, Self::Pull, Self::Pin, Self::Tag, Self::Build, Self::Workload, Self::File];

    /// The name of the kind's directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Pull => "pull",
            Self::Pin => "pin",
            Self::Tag => "tag",
            Self::Build => "build",
            Self::Workload => "workload",
            Self::File => "file",
        }
    }
}

impl fmt::Display for RefKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no kind of ref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of ref; expected pod, pull, pin, tag, build or workload")]
pub struct UnknownKind(String);

impl FromStr for RefKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// One root: who holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// What sort of holder it is.
    pub kind: RefKind,
    /// The holder's name, unique within its kind.
    pub owner: String,
    /// What it holds.
    pub held: Held,
}

/// What a ref holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Images, by the digest of their manifest.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub manifests: BTreeSet<Digest>,
    /// Stacks of layers, lowest first, of images whose documents are not stored yet: each layer of each stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<Vec<DiffId>>,
    /// The images that those layers are for, by the digest of their manifest: holders may wait for them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub awaited: BTreeSet<Digest>,
}

/// A ref's document. The owner is inside too, for its file's name may only stand for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RefFile {
    /// The version of this document.
    pub(super) version: u32,
    /// The holder's name.
    pub(super) owner: String,
    /// What it holds.
    #[serde(flatten)]
    pub(super) held: Held,
}

/// The version that this release writes.
const VERSION: u32 = 1;
/// Longer owners than this are named by their digest; a file name may have 255 bytes.
const MAX_NAME: usize = 200;

/// The file name for an owner: its own text where that can be one, else a digest of it.
fn file_name(owner: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let readable = !owner.is_empty() && owner.len() <= MAX_NAME && owner.bytes().all(plain);
    // A leading dot is for temporary files, `sha256-` for owners that have no plain name.
    if readable && !owner.starts_with('.') && !owner.starts_with("sha256-") {
        owner.to_owned()
    } else {
        Digest::sha256_of(owner.as_bytes()).file_name()
    }
}

impl Store {
    /// Adds an image to what `owner` holds: durable when this returns, and in force from its beginning. Hold first,
    /// then look whether the image is there.
    ///
    /// # Errors
    /// If the ref cannot be written; it is then not in force.
    pub fn hold(&self, kind: RefKind, owner: &str, manifest: &Digest) -> Result<(), Error> {
        self.change_ref(kind, owner, |held| {
            held.manifests.insert(manifest.clone());
        })
    }

    /// Adds stacks of layers (lowest first) to what a pull holds, before the first of them is fetched. An image that is
    /// made of such layers alone is held with them.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn hold_layers(&self, owner: &str, stacks: &[Vec<DiffId>]) -> Result<(), Error> {
        self.change_ref(RefKind::Pull, owner, |held| {
            for stack in stacks {
                if !held.stacks.contains(stack) {
                    held.stacks.push(stack.clone());
                }
            }
        })
    }

    /// As [`Store::hold_layers`] for the one image that a pull is about. That it is not here yet is no damage until the
    /// ref is released, whoever holds it already.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn hold_pull(&self, owner: &str, manifest: &Digest, stack: &[DiffId]) -> Result<(), Error> {
        self.change_ref(RefKind::Pull, owner, |held| {
            held.awaited.insert(manifest.clone());
            if !held.stacks.iter().any(|known| known == stack) {
                held.stacks.push(stack.to_vec());
            }
        })
    }

    /// Makes `owner` hold exactly these images; none is as [`Store::release`].
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn hold_only(&self, kind: RefKind, owner: &str, manifests: &[Digest]) -> Result<(), Error> {
        if manifests.is_empty() {
            return self.release(kind, owner);
        }
        self.change_ref(kind, owner, |held| {
            *held = Held { manifests: manifests.iter().cloned().collect(), ..Held::default() };
        })
    }

    /// Lets go of all that `owner` holds. An owner that holds nothing is fine. Needs no free space.
    ///
    /// # Errors
    /// If the ref cannot be removed; it is then still in force.
    pub fn release(&self, kind: RefKind, owner: &str) -> Result<(), Error> {
        self.writable("release a ref")?;
        let _writer = self.writer((kind, owner));
        let slot = (kind, owner.to_owned());
        let path = self.ref_path(kind, owner);
        let index = self.index();
        if !index.refs.contains_key(&slot) && !index.unreadable.iter().any(|document| document.path == path) {
            return Ok(());
        }
        drop(index);
        atomic::remove(&path)?;
        let mut index = self.index();
        index.reread(&path);
        if let Some(holding) = index.refs.remove(&slot) {
            index.note_release(&holding, Instant::now());
            let released = index.ids_of(&holding.held.manifests);
            drop(index);
            self.note_use(&released);
            self.loosen();
        }
        Ok(())
    }

    /// All roots: the refs, and as refs of kind tag the tags that people made.
    pub fn refs(&self) -> Vec<Ref> {
        self.index().roots().collect()
    }

    fn ref_path(&self, kind: RefKind, owner: &str) -> PathBuf {
        self.0.layout.refs().join(kind.name()).join(file_name(owner))
    }

    fn change_ref(&self, kind: RefKind, owner: &str, change: impl FnOnce(&mut Held)) -> Result<(), Error> {
        self.writable("hold an image")?;
        let _writer = self.writer((kind, owner));
        let slot = (kind, owner.to_owned());
        let before = self.index().refs.get(&slot).cloned();
        let mut held = before.as_ref().map(|holding| holding.held.clone()).unwrap_or_default();
        change(&mut held);
        if kind == RefKind::Tag && before.is_none() && self.index().tag_holds(owner, &held) {
            return Ok(());
        }
        if before.as_ref().is_some_and(|before| before.held == held) {
            return Ok(());
        }
        // While the file changes, what was held and what will be held both count.
        let mut both = before.clone().unwrap_or_default().held;
        both.manifests.extend(held.manifests.iter().cloned());
        both.stacks.extend(held.stacks.iter().cloned());
        both.awaited.extend(held.awaited.iter().cloned());
        self.index().refs.insert(slot.clone(), Holding::new(both));
        let written = self.write_ref(kind, owner, &held);
        let mut index = self.index();
        let after = if written.is_ok() { Some(Holding::new(held)) } else { before.clone() };
        match after {
            Some(after) => index.refs.insert(slot, after),
            None => index.refs.remove(&slot),
        };
        if let Some(before) = before {
            index.note_release(&before, Instant::now());
            self.loosen();
        }
        written
    }

    fn write_ref(&self, kind: RefKind, owner: &str, held: &Held) -> Result<(), Error> {
        let path = self.ref_path(kind, owner);
        let file = RefFile { version: VERSION, owner: owner.to_owned(), held: held.clone() };
        atomic::create_dir(&self.0.layout.refs().join(kind.name()), DIR_MODE)?;
        atomic::write(&path, &to_json(&file, &path)?, FILE_MODE)?;
        self.index().reread(&path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_never_leaves_its_directory() {
        for owner in ["", ".", "..", "../x", "a/b", ".tmp-1", "sha256-x", &"a".repeat(300), "r.example/a:1"] {
            let name = file_name(owner);
            assert!(name.starts_with("sha256-") && name.len() == 71, "{owner} → {name}");
        }
        assert_eq!(file_name("5e2c-41"), "5e2c-41");
    }
}

//! Tags: what a full reference meant when it was last resolved, and who asked.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::Store;
use super::error::Error;
use super::key::ImageId;
use super::layout::{FILE_MODE, to_json};
use super::refs::RefKind;
use crate::oci::{Digest, Reference};
use crate::sys::atomic;

/// Who made a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagOrigin {
    /// Someone at the command line (pull, load, build, commit, tag): it holds its image until `rmi`.
    Person,
    /// A pod's image name was resolved: it holds nothing, and goes with the image.
    Resolved,
}

/// A tag as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The full reference.
    pub reference: Reference,
    /// What it means.
    #[serde(flatten)]
    pub image: ImageId,
    /// Who made it.
    pub origin: TagOrigin,
    /// When it was set, by the wall clock: for show only.
    #[serde(with = "super::seconds")]
    pub set_at: SystemTime,
}

/// The file name of a reference's tag: a digest, since a reference may be longer than a file name and holds `/`.
pub(super) fn file_name(reference: &Reference) -> String {
    Digest::sha256_of(reference.to_string().as_bytes()).hex().to_owned()
}

impl Store {
    /// Writes down what `reference` means, durably. A tag that a person made stays a person's when a pod resolves the
    /// same reference again, and moves to what it means now.
    ///
    /// # Errors
    /// [`Error::UnknownImage`] if the image is not in the store, or a failure of the disk.
    pub fn set_tag(&self, reference: &Reference, image: &ImageId, origin: TagOrigin) -> Result<(), Error> {
        self.write_tag(reference, image, origin, true).map(drop)
    }

    /// As [`Store::set_tag`], for whoever found the image by that reference: where it means another by now, it goes on to
    /// mean that, and the answer is `false`.
    ///
    /// # Errors
    /// As [`Store::set_tag`].
    pub fn confirm_tag(&self, reference: &Reference, image: &ImageId, origin: TagOrigin) -> Result<bool, Error> {
        self.write_tag(reference, image, origin, false)
    }

    fn write_tag(&self, reference: &Reference, image: &ImageId, origin: TagOrigin, moves: bool) -> Result<bool, Error> {
        self.writable("set a tag")?;
        // Against sweeps: the image must not go between the look and the write.
        let _changes = self.changes();
        let writer = self.writer(reference);
        let mut index = self.index();
        if !index.images.contains_key(image) {
            return Err(Error::UnknownImage { digest: image.top.clone() });
        }
        let before = index.tags.get(reference).cloned();
        if !moves && before.as_ref().is_some_and(|tag| tag.image.manifest != image.manifest) {
            return Ok(false);
        }
        let person = before.as_ref().is_some_and(|tag| tag.origin == TagOrigin::Person);
        let origin = if person { TagOrigin::Person } else { origin };
        if before.as_ref().is_some_and(|tag| tag.image == *image && tag.origin == origin) {
            drop((index, writer));
            if origin == TagOrigin::Person {
                self.release(RefKind::Tag, &reference.to_string())?;
            }
            return Ok(true);
        }
        drop(index);
        let tag = Tag { reference: reference.clone(), image: image.clone(), origin, set_at: super::seconds::now() };
        let path = self.tag_path(reference);
        atomic::write(&path, &to_json(&tag, &path)?, FILE_MODE)?;
        index = self.index();
        index.reread(&path);
        index.tags.insert(reference.clone(), tag);
        if let Some(before) = before {
            index.note_manifest(&before.image.manifest, Instant::now());
            self.loosen();
        }
        drop(index);
        drop(writer);
        // From here on the tag itself holds the image; a ref that did so until now would outlast its next move.
        if origin == TagOrigin::Person {
            self.release(RefKind::Tag, &reference.to_string())?;
        }
        Ok(true)
    }

    /// What `reference` was last resolved to.
    pub fn tag(&self, reference: &Reference) -> Option<Tag> {
        self.index().tags.get(reference).cloned()
    }

    /// Forgets a tag, and a ref of kind tag that the reference owns. Returns the tag, if there was one.
    ///
    /// # Errors
    /// If the disk fails; the tag is then still there.
    pub fn remove_tag(&self, reference: &Reference) -> Result<Option<Tag>, Error> {
        self.writable("remove a tag")?;
        self.release(RefKind::Tag, &reference.to_string())?;
        let _writer = self.writer(reference);
        let path = self.tag_path(reference);
        atomic::remove(&path)?;
        let mut index = self.index();
        index.reread(&path);
        let tag = index.tags.remove(reference);
        if let Some(tag) = &tag {
            index.note_manifest(&tag.image.manifest, Instant::now());
            let released = index.ids_of([&tag.image.manifest]);
            drop(index);
            self.note_use(&released);
            self.loosen();
        }
        Ok(tag)
    }

    /// All tags, in the order of their references.
    pub fn tags(&self) -> Vec<Tag> {
        self.index().tags.values().cloned().collect()
    }

    pub(super) fn tag_path(&self, reference: &Reference) -> PathBuf {
        self.0.layout.tags().join(file_name(reference))
    }
}

//! Is the store sound? Each layer against its seal (or, fully, against its diffID), each image's documents against
//! their digests, each ref and tag against what it names.

use std::path::{Path, PathBuf};

use super::Store;
use super::error::Error;
use super::key::{ImageId, LayerKey};
use super::layout::remove_all;
use crate::oci::{Digest, Reference};

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A layer is not what was committed.
    Layer {
        /// The layer.
        key: LayerKey,
        /// What was found.
        problem: String,
        /// The images that need it.
        images: Vec<ImageId>,
    },
    /// A layer that an image needs is not there.
    MissingLayer {
        /// The layer.
        key: LayerKey,
        /// The images that need it.
        images: Vec<ImageId>,
    },
    /// An image's documents are not what their digests say.
    Image {
        /// The image.
        image: ImageId,
        /// What was found.
        problem: String,
    },
    /// A root holds a manifest that is not there.
    MissingImage {
        /// The manifest.
        manifest: Digest,
        /// Who holds it: `pod/<uid>` and so on.
        holder: String,
    },
    /// A tag names an image that is not there.
    Tag {
        /// The tag.
        reference: Reference,
    },
    /// A document cannot be read, or a name is none of the store's.
    Document {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
}

/// What [`Store::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many layers were looked at.
    pub layers: usize,
    /// How many images were looked at.
    pub images: usize,
    /// What is not as it should be; empty for a sound store.
    pub damage: Vec<Damage>,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Store {
    /// Checks everything; with `full` also every byte of every layer. Layers found damaged are marked, so that they
    /// are fetched again.
    ///
    /// # Errors
    /// If the disk fails in a way that says nothing about the store.
    pub fn check(&self, full: bool) -> Result<Report, Error> {
        let mut report = Report::default();
        self.check_layers(full, &mut report)?;
        self.check_images(&mut report)?;
        self.check_names(&mut report);
        Ok(report)
    }

    /// Gives up a document that [`Store::check`] named as unreadable, and what it may have described. Until then a ref
    /// or tag among them keeps everything from being collected.
    ///
    /// # Errors
    /// If it cannot be removed. A path that is no such document is left alone.
    pub fn discard_document(&self, path: &Path) -> Result<(), Error> {
        self.writable("give up a document")?;
        let _changes = self.changes();
        if self.index().unreadable.iter().any(|document| document.path == path) {
            remove_all(path)?;
            self.index().reread(path);
        }
        Ok(())
    }

    fn check_layers(&self, full: bool, report: &mut Report) -> Result<(), Error> {
        let mut keys: Vec<LayerKey> = self.index().layers.keys().cloned().collect();
        keys.sort_unstable();
        report.layers = keys.len();
        for key in keys {
            // One known to be damaged fails here too, with what was found before.
            let verdict = if full { self.verify_full(&key) } else { self.verify(&key) };
            match verdict {
                // The second: swept meanwhile.
                Ok(_) | Err(Error::UnknownLayer { .. }) => {}
                Err(Error::Damaged { problem, .. }) => {
                    let images = self.index().images_of(&key);
                    report.damage.push(Damage::Layer { key, problem, images });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn check_images(&self, report: &mut Report) -> Result<(), Error> {
        let records = self.images();
        report.images = records.len();
        let mut missing = std::collections::BTreeSet::new();
        for record in records {
            match self.documents(&record.id).and_then(|documents| documents.check(&record)) {
                // The second: swept meanwhile.
                Ok(()) | Err(Error::UnknownImage { .. }) => {}
                Err(e @ (Error::Image { .. } | Error::Digest { .. })) => {
                    report.damage.push(Damage::Image { image: record.id.clone(), problem: e.to_string() });
                }
                Err(Error::File(e)) if e.source.kind() == std::io::ErrorKind::NotFound => {
                    report.damage.push(Damage::Image { image: record.id.clone(), problem: e.to_string() });
                }
                Err(e) => return Err(e),
            }
            let index = self.index();
            missing.extend(record.layers.iter().filter(|key| !index.layers.contains_key(key)).cloned());
        }
        for key in missing {
            let images = self.index().images_of(&key);
            report.damage.push(Damage::MissingLayer { key, images });
        }
        Ok(())
    }

    fn check_names(&self, report: &mut Report) {
        let index = self.index();
        // A holder's ref is there before its image is: it waits for a pull that is under way, or will be again.
        let awaited: std::collections::BTreeSet<&Digest> =
            index.refs.values().flat_map(|holding| &holding.held.awaited).collect();
        for root in index.roots().filter(|root| root.kind != super::RefKind::Tag) {
            let absent = root.held.manifests.iter();
            let absent = absent.filter(|m| !index.by_manifest.contains_key(m) && !awaited.contains(m));
            report.damage.extend(absent.map(|manifest| Damage::MissingImage {
                manifest: manifest.clone(),
                holder: format!("{}/{}", root.kind, root.owner),
            }));
        }
        let dangling = index.tags.values().filter(|tag| !index.images.contains_key(&tag.image));
        report.damage.extend(dangling.map(|tag| Damage::Tag { reference: tag.reference.clone() }));
        let unreadable = index.unreadable.iter().filter(|document| document.path.symlink_metadata().is_ok());
        report.damage.extend(unreadable.map(|u| Damage::Document { path: u.path.clone(), problem: u.problem.clone() }));
    }
}

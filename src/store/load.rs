//! Reads the whole store into an [`Index`].
//!
//! A document that cannot be read stops nothing: what it describes is left out (a layer: entered as damaged, since its
//! key is in its directory's name) and the document is remembered for `check`. Only a disk that fails is an error.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::error::Error;
use super::images::{self, ImageRecord};
use super::index::{Holding, Index, LayerEntry, Unreadable, monotonic};
use super::key::{ImageId, LayerKey};
use super::layers;
use super::layout::{Layout, list, read_json};
use super::refs::{RefFile, RefKind};
use super::tags::Tag;
use crate::oci::Digest;
use crate::sys::atomic::TEMPORARY;

/// Reads everything below `layout`.
pub(super) fn load(layout: &Layout) -> Result<Index, Error> {
    let now = Instant::now();
    let mut index = Index::default();
    layers_of(layout, &mut index, now)?;
    images_of(layout, &mut index, now)?;
    tags_of(layout, &mut index)?;
    refs_of(layout, &mut index)?;
    Ok(index)
}

/// What a reader made of one document: `Ok(None)` and a note in the index where it is there and not valid.
fn lenient<T>(
    (layout, index): (&Layout, &mut Index),
    path: &Path,
    read: Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let (problem, is_there) = match read {
        Ok(Some(value)) => return Ok(Some(value)),
        Ok(None) => ("it is missing".to_owned(), false),
        Err(Error::Document { source, .. }) => (source.to_string(), true),
        Err(e) => return Err(e),
    };
    // What a ref or tag holds, or which layers a held image has, cannot be told then.
    let root = is_there && (path.starts_with(layout.refs()) || path.starts_with(layout.images()));
    index.unreadable.push(Unreadable { path: path.to_owned(), problem, root });
    Ok(None)
}

fn unknown(index: &mut Index, path: &Path) {
    let problem = "its name is none that the store gives".to_owned();
    index.unreadable.push(Unreadable { path: path.to_owned(), problem, root: false });
}

fn layers_of(layout: &Layout, index: &mut Index, now: Instant) -> Result<(), Error> {
    for name in list(&layout.layers())? {
        let path = layout.layers().join(&name);
        let Ok(key) = name.parse::<LayerKey>() else {
            unknown(index, &path);
            continue;
        };
        let read = layers::read(&path, &key);
        let info = lenient((layout, index), &path.join(layers::DOCUMENT), read)?.map(Arc::new);
        let damage = match &info {
            Some(_) => layers::read_damage(&path)?,
            None => Some("layer.json cannot be read".to_owned()),
        };
        index.layers.insert(key, LayerEntry { info, damage, idle_since: now });
    }
    Ok(())
}

fn images_of(layout: &Layout, index: &mut Index, now: Instant) -> Result<(), Error> {
    for top_name in list(&layout.images())? {
        let dir = layout.images().join(&top_name);
        if dir == layout.tags() {
            continue;
        }
        let Ok(top) = Digest::from_file_name(&top_name) else {
            unknown(index, &dir);
            continue;
        };
        for name in list(&dir)? {
            if name == images::INDEX || name.starts_with(TEMPORARY) {
                continue;
            }
            let path = dir.join(&name);
            let Ok(manifest) = Digest::from_file_name(&name) else {
                unknown(index, &path);
                continue;
            };
            let id = ImageId { top: top.clone(), manifest };
            let read = images::read_record(&path, &id);
            if let Some((record, used)) = lenient((layout, index), &path.join(images::DOCUMENT), read)? {
                let record: Arc<ImageRecord> = Arc::new(record);
                index.add_image(record, monotonic(used, now));
            }
        }
    }
    Ok(())
}

fn tags_of(layout: &Layout, index: &mut Index) -> Result<(), Error> {
    for name in list(&layout.tags())? {
        if name.starts_with(TEMPORARY) {
            continue;
        }
        let path = layout.tags().join(&name);
        let Some(tag) = lenient((layout, index), &path, read_json::<Tag>(&path))? else { continue };
        if super::tags::file_name(&tag.reference) == name {
            index.tags.insert(tag.reference.clone(), tag);
        } else {
            unknown(index, &path);
        }
    }
    Ok(())
}

fn refs_of(layout: &Layout, index: &mut Index) -> Result<(), Error> {
    for kind in RefKind::ALL {
        let dir = layout.refs().join(kind.name());
        for name in list(&dir)? {
            if name.starts_with(TEMPORARY) {
                continue;
            }
            let path = dir.join(&name);
            let Some(file) = lenient((layout, index), &path, read_json::<RefFile>(&path))? else { continue };
            index.refs.insert((kind, file.owner), Holding::new(file.held));
        }
    }
    Ok(())
}

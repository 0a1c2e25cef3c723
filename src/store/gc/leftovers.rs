//! What a process that ended in the middle of something left behind.

use std::path::Path;

use crate::store::error::Error;
use crate::store::images;
use crate::store::layout::{list, remove_all};
use crate::store::{Store, locked};
use crate::sys::atomic::TEMPORARY;

impl Store {
    /// Removes what an earlier process left: all of `staging/` and `trash/`, temporary files, images
    /// without their record. What this process has under way stays. Call it once after every source has been read.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest was tried too.
    pub fn empty_staging_and_trash(&self) -> Result<(), Error> {
        self.writable("empty staging and trash")?;
        let layout = &self.0.layout;
        let mut result = Ok(());
        let mut remove = |path: &Path| {
            let removed = remove_all(path);
            if result.is_ok() {
                result = removed;
            }
        };
        for dir in [layout.staging(), layout.trash()] {
            for name in list(&dir)?.iter().filter(|name| !name.starts_with(&self.0.opening)) {
                remove(&dir.join(name));
            }
        }
        // With all of these locks held no document of the store is being written.
        let _changes = self.changes();
        let _writers: Vec<_> = self.0.writers.iter().map(locked).collect();
        let mut dirs = vec![layout.root().to_owned(), layout.tags()];
        dirs.extend(crate::store::RefKind::ALL.map(|kind| layout.refs().join(kind.name())));
        for name in list(&layout.images())? {
            let top = layout.images().join(&name);
            let names = list(&top)?;
            if top == layout.tags() || names.iter().any(|name| top.join(name).join(images::DOCUMENT).exists()) {
                dirs.extend(names.iter().filter(|name| *name != images::INDEX).map(|name| top.join(name)));
                dirs.push(top);
            } else {
                remove(&top);
            }
        }
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            for name in list(dir)?.iter().filter(|name| name.starts_with(TEMPORARY)) {
                remove(&dir.join(name));
            }
        }
        result
    }
}

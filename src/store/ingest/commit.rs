//! The last step of an ingest: a finished layer gets its document, is made durable, and takes its place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::oci::DiffId;
use crate::store::Store;
use crate::store::convert::Converted;
use crate::store::driver::Driver;
use crate::store::error::Error;
use crate::store::index::LayerEntry;
use crate::store::key::LayerKey;
use crate::store::layers::{self, LayerInfo, LayerSource};
use crate::store::layout::{FILE_MODE, to_json};
use crate::store::staging::Staging;
use crate::sys::atomic;

impl Store {
    /// Commits the layer in `staging` under `key`: after this it is there whatever happens, or an error says why not.
    /// A sound layer of that key stays as it is; anything else in its place is exchanged for this one in one step, so
    /// that a mount of the old file goes on and a new one finds the new file.
    pub(in crate::store) fn commit_layer(
        &self,
        staging: &Staging,
        key: LayerKey,
        diff_id: DiffId,
        (driver, converted, source): (Driver, Converted, LayerSource),
    ) -> Result<LayerKey, Error> {
        let mut info = LayerInfo {
            version: layers::VERSION,
            key: key.clone(),
            diff_id,
            disk_bytes: converted.disk_bytes,
            content_bytes: converted.content_bytes,
            entries: converted.entries,
            driver,
            seal: converted.seal,
            source,
            created: crate::store::seconds::now(),
            dir: staging.path().to_owned(),
        };
        let document = staging.path().join(layers::DOCUMENT);
        atomic::write(&document, &to_json(&info, &document)?, FILE_MODE)?;
        staging.sync()?;
        let place = self.0.layout.layer(&key);
        let _changes = self.changes();
        if self.index().layers.get(&key).is_some_and(|entry| entry.sound().is_some()) {
            return Ok(key);
        }
        if place.symlink_metadata().is_ok() {
            renameat_with(CWD, staging.path(), CWD, &place, RenameFlags::EXCHANGE)
                .map_err(|e| Error::at("replace", &place)(e.into()))?;
            atomic::sync_dir(&self.0.layout.layers())?;
        } else {
            atomic::commit(staging.path(), &place)?;
        }
        info.dir = place;
        let repaired = self.index().layers.get(&key).is_some_and(|entry| entry.sound().is_none());
        let entry = LayerEntry { info: Some(Arc::new(info)), damage: None, idle_since: Instant::now() };
        self.index().layers.insert(key.clone(), entry);
        self.loosen();
        if repaired {
            self.0.repairs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(key)
    }
}

//! `lamina load`: every image of a local archive or directory into the store, each under its names.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc::UnboundedSender;

use super::error::Error;
use super::images::Images;
use super::layout::{Item, Layout};
use super::name::{ImageName, LayoutTag};
use super::pull::{self, blocking};
use super::request::{Holder, Progress, PullPolicy, PullRequest, Pulled};
use crate::oci::{Platform, Reference};
use crate::store::convert::{Compression, Inflate, InflateError};
use crate::store::{RefKind, TagOrigin};

/// How much of an archive is expanded at once.
const PIECE: usize = 1 << 20;
/// The most bytes that a compressed archive may expand to: several of the largest images there are. What does not fit
/// on the disk is found by the disk.
const MOST_EXPANDED: u64 = 256 << 30;

/// One loaded image.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image, held by its first name.
    pub pulled: Pulled,
    /// The names that it has now. Never empty: one without any is named after the file.
    pub references: Vec<Reference>,
}

impl Images {
    /// Loads all images of `path` (an OCI layout or a docker archive, a directory or a tar, which
    /// may be compressed by gzip or zstd) for `platform`, this node's
    /// if not said. They are a person's: each stays until `rmi` takes its last name.
    ///
    /// # Errors
    /// If the archive or one of its images cannot be read or stored; images before it stay loaded.
    pub async fn load(
        &self,
        path: &Path,
        platform: Option<Platform>,
        progress: Option<UnboundedSender<Progress>>,
    ) -> Result<Vec<Loaded>, Error> {
        self.load_for(path, platform, progress, None).await
    }

    /// As [`Images::load`], for this node; the images are held by `holder`, and their names hold nothing.
    ///
    /// # Errors
    /// As [`Images::load`].
    pub async fn load_held(&self, path: &Path, holder: Holder) -> Result<Vec<Loaded>, Error> {
        self.load_for(path, None, None, Some(holder)).await
    }

    async fn load_for(
        &self,
        path: &Path,
        platform: Option<Platform>,
        progress: Option<UnboundedSender<Progress>>,
        holder: Option<Holder>,
    ) -> Result<Vec<Loaded>, Error> {
        let by = if holder.is_some() { TagOrigin::Resolved } else { TagOrigin::Person };
        let platform = platform.unwrap_or_else(Platform::host);
        let given = path.to_owned();
        let staging = self.0.store.root().join("staging");
        let plain = blocking(move || expanded(&given, &staging)).await?;
        let source = plain.as_ref().map_or(path, |plain| &plain.0);
        let owned = source.to_owned();
        let items = blocking(move || Layout::open(&owned).map(|layout| layout.items().to_vec())).await?;
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let references = references(path, &item);
            let Some(first) = references.first() else { continue };
            let request = PullRequest {
                image: ImageName::Registry(first.clone()),
                policy: PullPolicy::Always,
                secrets: Vec::new(),
                holder: holder.clone().unwrap_or_else(|| (RefKind::Tag, first.to_string())),
                by,
                progress: progress.clone(),
                platform: Some(platform.clone()),
            };
            let owned = source.to_owned();
            let layout = blocking(move || Layout::open(&owned)).await?;
            let tag = LayoutTag::Digest(item.descriptor.digest.clone());
            let resolved = self.0.resolve_layout(layout, &tag, &platform).await?;
            let pulled = pull::fetch(&self.0, &request, resolved).await?;
            for reference in references.get(1..).unwrap_or_default() {
                let (store, reference, id) = (self.0.store.clone(), reference.clone(), pulled.image.id());
                let what = reference.to_string();
                blocking(move || store.set_tag(&reference, &id, by).map_err(|source| Error::Store { what, source }))
                    .await?;
            }
            all.push(Loaded { pulled, references });
        }
        Ok(all)
    }
}

/// A file of ours that goes with its owner.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now is at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An archive that is compressed as a whole, expanded below `staging`: it is read out of order. `None`: it is not
/// compressed, or a directory, or cannot be opened (which is said where it is read).
fn expanded(path: &Path, staging: &Path) -> Result<Option<Temporary>, Error> {
    // NONBLOCK: a FIFO of that name must not hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(None) };
    let mut file = File::from(file);
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut buffer = vec![0; PIECE];
    let mut got = file.read(&mut buffer).map_err(read)?;
    if Compression::sniff(&buffer[..got]) == Compression::None {
        return Ok(None);
    }
    let plain = Temporary(staging.join(format!("load-{:016x}", rand::random::<u64>())));
    let write = |source| Error::Write { path: plain.0.clone(), source };
    let mut options = File::options();
    let mut to = options.write(true).create_new(true).mode(0o600).open(&plain.0).map_err(write)?;
    let mut inflate = Inflate::new(None, MOST_EXPANDED);
    let refused = |error: InflateError| match error {
        InflateError::Out(source) => match source.downcast() {
            Ok(source) => write(*source),
            Err(source) => write(io::Error::other(source)),
        },
        error => Error::Archive { path: path.to_owned(), reason: error.to_string() },
    };
    while got > 0 {
        let mut out = |bytes: &[u8]| to.write_all(bytes).map_err(|e| InflateError::Out(Box::new(e)));
        inflate.feed(&buffer[..got], &mut out).map_err(refused)?;
        got = file.read(&mut buffer).map_err(read)?;
    }
    inflate.finish().map_err(refused)?;
    Ok(Some(plain))
}

/// What an image will be called: by the archive's names, else by the archive's own.
fn references(path: &Path, item: &Item) -> Vec<Reference> {
    let layout = |tag: &str| {
        let dir = path.to_owned();
        let tag = if tag.is_empty() { LayoutTag::Only } else { LayoutTag::Tag(tag.to_owned()) };
        ImageName::Layout { dir, tag }.reference()
    };
    let named = |name: &String| {
        // A bare word in an OCI layout is a tag; docker writes full references.
        if name.contains(['/', ':']) { name.parse().ok() } else { layout(name) }
    };
    let mut all: Vec<Reference> = item.names.iter().filter_map(named).collect();
    if all.is_empty() {
        all.extend(layout(item.descriptor.digest.short()));
    }
    all.dedup();
    all
}

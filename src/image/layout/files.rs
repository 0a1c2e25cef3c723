//! Files by name in a directory or a tar, without ever following a name out of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::table::Table;
use crate::image::error::Error;
use crate::image::pull::blocking;

/// As much of a layer as is read at once: large enough that reading costs nothing beside inflating.
const PIECE: usize = 1 << 20;

/// A directory or a tar.
#[derive(Debug)]
pub(super) enum Files {
    Directory { path: PathBuf, dir: File },
    Tar { path: PathBuf, file: Arc<File>, table: Table },
}

/// Where a file's bytes are: in which open file, from where, how many.
type Place = (Arc<File>, u64, u64);

impl Files {
    /// Opens a directory, or reads the table of a tar.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        // NONBLOCK: a FIFO of that name must not hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| read(e.into()))?);
        let kind = file.metadata().map_err(read)?;
        if kind.is_dir() {
            return Ok(Self::Directory { path: path.to_owned(), dir: file });
        }
        if !kind.is_file() {
            let reason = "it is neither a directory nor a regular file".to_owned();
            return Err(Error::Archive { path: path.to_owned(), reason });
        }
        let table = Table::read(&file, kind.len())
            .map_err(|reason| Error::Archive { path: path.to_owned(), reason: reason.to_string() })?;
        Ok(Self::Tar { path: path.to_owned(), file: Arc::new(file), table })
    }

    /// Where `name` is; `None` if there is no such file.
    pub(super) fn find(&self, name: &str) -> Result<Option<Place>, Error> {
        match self {
            Self::Tar { file, table, .. } => {
                Ok(table.find(name).map(|(start, length)| (Arc::clone(file), start, length)))
            }
            Self::Directory { path, dir } => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                // A link within the layout is fine (tools deduplicate so); one that leads out is not.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(e) => return Err(Error::Read { path: path.join(name), source: e.into() }),
                };
                let meta = file.metadata().map_err(|source| Error::Read { path: path.join(name), source })?;
                if !meta.is_file() {
                    let reason = format!("{name} is not a regular file");
                    return Err(Error::Archive { path: path.clone(), reason });
                }
                Ok(Some((Arc::new(file), 0, meta.len())))
            }
        }
    }

    /// Reads a file of at most `max` bytes; `None` if there is none.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some((file, start, length)) = self.find(name)? else { return Ok(None) };
        let too_large = || Error::Archive {
            path: self.path().to_owned(),
            reason: format!("{name} is larger than the {max} bytes allowed"),
        };
        if length > max {
            return Err(too_large());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| too_large())?];
        file.read_exact_at(&mut bytes, start).map_err(|source| Error::Read { path: self.path().join(name), source })?;
        Ok(Some(bytes))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. } | Self::Tar { path, .. } => path,
        }
    }
}

/// A layer that is being read from disk.
#[derive(Debug)]
pub(in crate::image) struct LayoutBlob {
    file: Arc<File>,
    path: PathBuf,
    at: u64,
    left: u64,
}

impl LayoutBlob {
    pub(super) fn new(file: Arc<File>, path: PathBuf, start: u64, length: u64) -> Self {
        Self { file, path, at: start, left: length }
    }

    /// The next piece; `None` after the last.
    pub(in crate::image) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let want = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if want == 0 {
            return Ok(None);
        }
        let (file, at, path) = (Arc::clone(&self.file), self.at, self.path.clone());
        let piece = blocking(move || {
            let mut piece = BytesMut::zeroed(want);
            let got = match file.read_at(&mut piece, at) {
                // It was cut short since its size was read.
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            }
            .map_err(|source| Error::Read { path, source })?;
            piece.truncate(got);
            Ok(piece.freeze())
        })
        .await?;
        let got = u64::try_from(piece.len()).unwrap_or(0);
        self.at += got;
        self.left -= got;
        Ok(Some(piece))
    }
}

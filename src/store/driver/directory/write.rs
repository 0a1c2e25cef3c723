//! Writes a layer as a directory: numbered files while the tar streams, the tree at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    linkat, lsetxattr, makedev, mkdirat, mknodat, openat2, symlinkat, utimensat,
};

use super::{DATA, FILES, TREE, UNDECLARED, measure};
use crate::store::driver::draft::{Content, Draft, FileId, Inode, InodeId};
use crate::store::driver::{Error, LayerWriter, Sealed};
use crate::store::tree::Device;

/// The writer.
#[derive(Debug)]
pub(in crate::store::driver) struct Writer {
    layer_dir: PathBuf,
    /// Files begun so far.
    files: u64,
    current: Option<(File, PathBuf, u64)>,
    disk_bytes: u64,
}

/// The tree while it is made.
struct Building<'a> {
    writer: &'a Writer,
    draft: &'a Draft,
    root: OwnedFd,
    /// Where the first name of each inode lies.
    placed: HashMap<InodeId, PathBuf>,
    /// Where each numbered file went.
    files: HashMap<u64, PathBuf>,
}

impl Writer {
    pub(in crate::store::driver) fn create(layer_dir: &Path) -> Result<Self, Error> {
        for name in [TREE, DATA] {
            let path = layer_dir.join(name);
            std::fs::DirBuilder::new().mode(0o755).create(&path).map_err(Error::io("create", &path))?;
        }
        Ok(Self { layer_dir: layer_dir.to_owned(), files: 0, current: None, disk_bytes: 0 })
    }

    fn numbered(&self, file: u64) -> PathBuf {
        self.layer_dir.join(DATA).join(file.to_string())
    }

    /// Writes the list of places and the marker, and makes everything durable.
    fn settle(&self, files: &HashMap<u64, PathBuf>, declared: bool) -> Result<(), Error> {
        let path = self.layer_dir.join(FILES);
        (|| {
            let mut list = zstd::stream::write::Encoder::new(File::create_new(&path)?, 1)?;
            for number in 0..self.files {
                list.write_all(files.get(&number).map(|p| p.as_os_str().as_bytes()).unwrap_or_default())?;
                list.write_all(&[0])?;
            }
            list.finish()?;
            if !declared {
                File::create_new(self.layer_dir.join(UNDECLARED))?;
            }
            // One call for thousands of files.
            let dir = File::open(&self.layer_dir)?;
            rustix::fs::syncfs(&dir)?;
            Ok(())
        })()
        .map_err(Error::io("write", &path))
    }
}

impl LayerWriter for Writer {
    fn begin_file(&mut self) -> Result<FileId, Error> {
        let id = self.files;
        let path = self.numbered(id);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        self.current = Some((file.map_err(Error::io("create", &path))?, path, 0));
        self.files += 1;
        Ok(FileId(id))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some((file, path, at)) = &mut self.current {
            file.write_all_at(bytes, *at).map_err(Error::io("write", path))?;
            *at += bytes.len() as u64;
        }
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        if let Some((file, path, at)) = &mut self.current {
            *at += length;
            file.set_len(*at).map_err(Error::io("write", path))?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Error> {
        if let Some((file, path, _)) = self.current.take() {
            let stat = file.metadata().map_err(Error::io("stat", &path))?;
            self.disk_bytes += stat.blocks() * 512;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, draft: &Draft, _identity: [u8; 16]) -> Result<Sealed, Error> {
        let tree = self.layer_dir.join(TREE);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&tree, flags, Mode::empty()).map_err(|e| Error::io("open", &tree)(e.into()))?;
        let (placed, files) = (HashMap::new(), HashMap::new());
        let mut building = Building { writer: &self, draft, root, placed, files };
        let directories = building.fill()?;
        // Bottom up, since making something in a directory changes its time.
        for (path, id) in directories.iter().rev() {
            building.metadata(path, *id)?;
        }
        let files = building.files;
        let declared = draft.directory(Draft::ROOT).is_some_and(|d| !d.implicit);
        self.settle(&files, declared)?;
        let (bytes, metadata, checksum) = measure(&self.layer_dir)?;
        // Directories and links, at a block each, are estimated: measuring them would cost a call each.
        let disk_bytes = self.disk_bytes + directories.len() as u64 * 4096;
        Ok(Sealed { bytes, metadata, checksum, disk_bytes })
    }
}

impl Building<'_> {
    fn fail(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = self.writer.layer_dir.join(TREE).join(path);
        move |source| Error::Io { action, path, source }
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Error> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
            .map_err(|e| self.fail("open", path)(e.into()))
    }

    /// Makes every name; gives the directories, each before those in it.
    fn fill(&mut self) -> Result<Vec<(PathBuf, InodeId)>, Error> {
        let draft = self.draft;
        let mut directories = vec![(PathBuf::new(), Draft::ROOT)];
        let mut next = 0;
        while let Some((path, id)) = directories.get(next).cloned() {
            next += 1;
            let dir = self.directory(&path)?;
            for (name, child) in draft.directory(id).iter().flat_map(|d| &d.children) {
                let place = path.join(OsStr::from_bytes(name));
                if draft.directory(*child).is_some() {
                    directories.push((place.clone(), *child));
                }
                let made = self.make(dir.as_fd(), OsStr::from_bytes(name), &place, *child);
                made.map_err(self.fail("create", &place))?;
            }
        }
        Ok(directories)
    }

    fn make(&mut self, dir: BorrowedFd<'_>, name: &OsStr, place: &Path, id: InodeId) -> io::Result<()> {
        let inode = self.draft.get(id);
        if let Some(first) = self.placed.get(&id) {
            return Ok(linkat(&self.root, first, dir, name, AtFlags::empty())?);
        }
        let node = |kind, device: Device| mknodat(dir, name, kind, Mode::RUSR, makedev(device.major, device.minor));
        match &inode.content {
            Content::Directory(_) => return Ok(mkdirat(dir, name, Mode::RWXU)?),
            Content::File { data, .. } => {
                rustix::fs::renameat(rustix::fs::CWD, self.writer.numbered(data.0), dir, name)?;
                self.files.insert(data.0, place.to_owned());
            }
            Content::Symlink(target) => symlinkat(OsStr::from_bytes(target), dir, name)?,
            Content::Char(device) => node(FileType::CharacterDevice, *device)?,
            Content::Block(device) => node(FileType::BlockDevice, *device)?,
            Content::Fifo => node(FileType::Fifo, Device::default())?,
            Content::Whiteout => node(FileType::CharacterDevice, Device::default())?,
        }
        if inode.links > 1 {
            self.placed.insert(id, place.to_owned());
        }
        Ok(apply(dir, name, inode)?)
    }

    fn metadata(&self, path: &Path, id: InodeId) -> Result<(), Error> {
        let dir = self.directory(path)?;
        apply(dir.as_fd(), OsStr::new("."), self.draft.get(id)).map_err(|e| self.fail("set up", path)(e.into()))
    }
}

/// Owner first, since changing it clears modes and capabilities; times last.
fn apply(dir: BorrowedFd<'_>, name: &OsStr, inode: &Inode) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let place = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    for (key, value) in inode.xattrs.iter().flatten() {
        lsetxattr(&place, OsStr::from_bytes(key), value, XattrFlags::empty())?;
    }
    if inode.directory().is_some_and(|d| d.opaque) {
        lsetxattr(&place, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    if !matches!(inode.content, Content::Symlink(_)) {
        chmodat(dir, name, Mode::from_raw_mode(u32::from(inode.mode)), AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: inode.mtime.nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

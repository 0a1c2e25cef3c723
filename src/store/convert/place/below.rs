//! The part of placing that looks into the layers below: parents that only they have, targets of hard links.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::super::{Error, Limits, spend_content};
use super::{Placed, Placer};
use crate::store::driver::LayerWriter;
use crate::store::driver::draft::{Content, Draft, Inode, InodeId};
use crate::store::tree::{Kind, Node, Time, Xattr};

/// Writes files of lower layers, which a hard link needs in this one, into it.
pub(in crate::store::convert) struct Copier<'a> {
    pub(in crate::store::convert) writer: &'a mut dyn LayerWriter,
    pub(in crate::store::convert) content_bytes: &'a mut u64,
    pub(in crate::store::convert) limits: &'a Limits,
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier").field("content_bytes", &self.content_bytes).finish_non_exhaustive()
    }
}

/// Where one component leads that this layer does not have.
pub(super) enum Step {
    Into(InodeId),
    Link(Box<[u8]>),
    /// The layers below are not known yet.
    Depends,
}

/// How much of a file is copied at once.
const CHUNK: usize = 256 << 10;

impl Placer {
    /// The path in the layers below of `name` in directory `dir`, unless this layer hides it.
    fn path_below(&self, dir: InodeId, name: &[u8]) -> Option<PathBuf> {
        let names = self.draft.way_below(dir)?;
        Some(names.into_iter().chain([name]).map(OsStr::from_bytes).collect())
    }

    /// Hides every name that the layers below have in the root directory.
    pub(super) fn hide_all_below(&mut self) -> Result<Placed, Error> {
        let Some(below) = self.below.clone() else { return Ok(Placed::Depends) };
        for entry in below.read_dir(Path::new(""))? {
            self.spend(super::ENTRY_COST + entry.name.len() as u64)?;
            self.hide(Draft::ROOT, &entry.name, Time::default())?;
        }
        Ok(Placed::Done)
    }

    /// What `name` in `dir` is when this layer does not have it (or hides it).
    pub(super) fn step_below(&mut self, dir: InodeId, name: &[u8], hidden: bool, path: &[u8]) -> Result<Step, Error> {
        let Some(below) = &self.below else { return Ok(Step::Depends) };
        let found = match self.path_below(dir, name) {
            Some(place) if !hidden => below.node(&place)?.map(|node| (place, node)),
            _ => None,
        };
        let inode = match found {
            None => Inode::implicit(),
            Some((place, node)) => match &node.kind {
                Kind::Directory { .. } => {
                    let xattrs = below.xattrs(&place)?;
                    copied(&node, Inode::implicit().content, xattrs)
                }
                Kind::Symlink { target } => return Ok(Step::Link(target.clone())),
                _ => return Err(Error::refused(path, "a component of its path is not a directory")),
            },
        };
        self.spend(super::ENTRY_COST + name.len() as u64)?;
        Ok(Step::Into(self.insert(dir, name, inode)?))
    }

    /// Copies `name` of the layers below into `dir` of this one, so that it can get another name here.
    pub(super) fn copy_up(
        &mut self,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
        copier: &mut Copier<'_>,
    ) -> Result<InodeId, Error> {
        let missing = || Error::refused(path, "it is a hard link to nothing");
        let place = self.path_below(dir, name).ok_or_else(missing)?;
        let Some(below) = self.below.clone() else { return Err(missing()) };
        let node = below.node(&place)?.ok_or_else(missing)?;
        let content = match &node.kind {
            Kind::File { size } => {
                spend_content(copier.content_bytes, *size, copier.limits)?;
                let file = super::writer(copier).begin_file()?;
                let mut left = *size;
                let mut from = below.open(&place)?;
                let mut chunk = vec![0; CHUNK];
                while left > 0 {
                    let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                    let buffer = chunk.get_mut(..want).unwrap_or_default();
                    let copy = |source| Error::Copy { path: place.clone(), source };
                    from.read_exact(buffer).map_err(copy)?;
                    super::writer(copier).data(buffer)?;
                    left -= want as u64;
                }
                super::writer(copier).end_file()?;
                Content::File { data: file, size: *size }
            }
            Kind::Symlink { target } => Content::Symlink(target.clone()),
            Kind::Char { device } => Content::Char(*device),
            Kind::Block { device } => Content::Block(*device),
            Kind::Fifo => Content::Fifo,
            Kind::Directory { .. } => return Err(Error::refused(path, "it is a hard link to a directory")),
            Kind::Socket | Kind::Whiteout => return Err(missing()),
        };
        let inode = copied(&node, content, below.xattrs(&place)?);
        self.insert(dir, name, inode)
    }
}

/// A lower layer's inode in this one.
fn copied(node: &Node, content: Content, xattrs: Vec<Xattr>) -> Inode {
    let mut inode = Inode::new(content, node.mode);
    inode.uid = node.uid;
    inode.gid = node.gid;
    inode.mtime = node.mtime;
    inode.xattrs = (!xattrs.is_empty()).then(|| xattrs.into());
    inode
}

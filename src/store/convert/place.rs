//! Where a tar's entries land: what unpacking them one after another would leave, worked out in memory.
//!
//! As long as every parent directory was declared by the tar itself, and every hard link's target is in it, an entry's
//! place does not depend on the layers below, and it is placed at once. From the first entry on for which that does
//! not hold, entries wait until the layers below are there ([`Placer::finish_on`]); then parents that only they have
//! are looked up in them, links included, and keep their mode and owner.
//!
//! Rules, as unpackers of images have them:
//! - symbolic links in a parent's path are followed, and never lead out of the root;
//! - a later entry replaces an earlier one of the same name; a directory on a directory only changes its metadata;
//! - `.wh.name` hides `name` of the layers below and `.wh..wh..opq` everything in its directory, whether it comes
//!   before or after this layer's own entries, which stay (image-spec `layer.md#whiteouts`).

use crate::store::driver::LayerWriter;
use crate::store::driver::draft::{Content, Draft, FileId, Inode, InodeId};
use crate::store::tree::{Device, Merged, Time};

use super::tar::{TarEntry, What};
use super::{Error, Limits};
use names::{Name, components};

mod below;
pub(super) mod names;
mod xattrs;

pub(super) use below::Copier;

/// Symbolic links that a path may lead through, as in the kernel.
const LINKS: usize = 40;
/// Longest target of a symbolic link, as in the kernel.
const TARGET: usize = 4095;
/// What an entry costs in memory besides its texts.
const ENTRY_COST: u64 = 128;

/// Entries on their way into a [`Draft`].
#[derive(Debug)]
pub(super) struct Placer {
    draft: Draft,
    /// Entries that cannot be placed without the layers below, and all after them.
    waiting: Vec<(TarEntry, Option<FileId>)>,
    below: Option<Merged>,
    limits: Limits,
    metadata: u64,
    /// The parent that was resolved last; entries come directory by directory.
    last: Option<(Vec<u8>, InodeId)>,
}

/// What became of an attempt to place something.
enum Placed {
    Done,
    /// The layers below decide.
    Depends,
}

/// Where a path's directory is.
enum Parent {
    Is(InodeId),
    Depends,
}

impl Placer {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { draft: Draft::new(), waiting: Vec::new(), below: None, limits: limits.clone(), metadata: 0, last: None }
    }

    pub(super) fn stands_alone(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next entry; `file` is where its data goes.
    pub(super) fn take(&mut self, mut entry: TarEntry, file: Option<FileId>) -> Result<(), Error> {
        let xattrs: usize = entry.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        let cost = ENTRY_COST + (entry.path.len() + entry.link.len() + xattrs) as u64;
        self.spend(cost)?;
        self.check(&entry)?;
        xattrs::clean(&mut entry, self.limits.xattr_bytes)?;
        if self.waiting.is_empty() {
            match self.place(&mut entry, file, None)? {
                Placed::Done => return Ok(()),
                Placed::Depends => {}
            }
        }
        self.waiting.push((entry, file));
        Ok(())
    }

    /// The tree of a layer that stands alone.
    pub(super) fn finish(mut self) -> Draft {
        self.draft.drop_idle_whiteouts();
        self.draft
    }

    /// The tree of a layer that depends on those below it.
    pub(super) fn finish_on(mut self, below: Merged, copier: &mut Copier<'_>) -> Result<Draft, Error> {
        self.below = Some(below);
        self.last = None;
        for (mut entry, file) in std::mem::take(&mut self.waiting) {
            if let Placed::Depends = self.place(&mut entry, file, Some(copier))? {
                return Err(Error::refused(&entry.path, "its place cannot be told"));
            }
        }
        Ok(self.finish())
    }

    fn spend(&mut self, cost: u64) -> Result<(), Error> {
        self.metadata = self
            .metadata
            .checked_add(cost)
            .filter(|all| *all <= self.limits.metadata_bytes)
            .ok_or(Error::Limit { what: "bytes of metadata", limit: self.limits.metadata_bytes })?;
        Ok(())
    }

    /// What can be said of an entry without knowing its place.
    fn check(&self, entry: &TarEntry) -> Result<(), Error> {
        let refuse = |what| Err(Error::refused(&entry.path, what));
        components(&entry.path, &entry.path, self.limits.depth)?;
        match entry.what {
            What::Symlink if entry.link.is_empty() => refuse("it is a symbolic link to nothing"),
            What::Symlink if entry.link.len() > TARGET => refuse("its target is too long"),
            What::HardLink => components(&entry.link, &entry.path, self.limits.depth).map(|_| ()),
            // Overlayfs would take it for a whiteout.
            What::Char(Device { major: 0, minor: 0 }) => refuse("it is a device 0:0"),
            _ => Ok(()),
        }
    }

    fn place(
        &mut self,
        entry: &mut TarEntry,
        file: Option<FileId>,
        copier: Option<&mut Copier<'_>>,
    ) -> Result<Placed, Error> {
        let path = std::mem::take(&mut entry.path);
        let result = self.place_at(&path, entry, file, copier);
        entry.path = path;
        result
    }

    fn place_at(
        &mut self,
        path: &[u8],
        entry: &mut TarEntry,
        file: Option<FileId>,
        copier: Option<&mut Copier<'_>>,
    ) -> Result<Placed, Error> {
        let parts = components(path, path, self.limits.depth)?;
        let Some((last, parents)) = parts.split_last() else {
            if entry.what != What::Directory {
                return Err(Error::refused(path, "it would replace the root directory"));
            }
            let root = Draft::ROOT;
            self.declare(root, entry);
            return Ok(Placed::Done);
        };
        let name = Name::parse(last, path)?;
        let Parent::Is(dir) = self.parent(parents, path)? else { return Ok(Placed::Depends) };
        match name {
            Name::Ignored => {}
            // Overlayfs always merges the roots of all layers, so this takes a whiteout for each name below.
            Name::Opaque if dir == Draft::ROOT => return self.hide_all_below(),
            Name::Opaque => {
                if let Some(directory) = self.draft.directory_mut(dir) {
                    directory.opaque = true;
                }
            }
            Name::Whiteout(hidden) => {
                self.hide(dir, hidden, entry.mtime)?;
            }
            Name::Plain(name) => return self.put(dir, name, path, entry, file, copier),
        }
        Ok(Placed::Done)
    }

    /// Hides `name` of the layers below. What this layer has stays; a directory of it no longer shows what lies below.
    fn hide(&mut self, dir: InodeId, name: &[u8], mtime: Time) -> Result<(), Error> {
        if let Some(own) = self.draft.child(dir, name) {
            if let Some(directory) = self.draft.directory_mut(own) {
                directory.opaque = true;
            }
            return Ok(());
        }
        let mut inode = Inode::new(Content::Whiteout, 0);
        inode.mtime = mtime;
        self.insert(dir, name, inode)?;
        Ok(())
    }

    fn put(
        &mut self,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
        entry: &mut TarEntry,
        file: Option<FileId>,
        copier: Option<&mut Copier<'_>>,
    ) -> Result<Placed, Error> {
        let content = match (entry.what, file) {
            (What::HardLink, _) => return self.hard_link(dir, name, path, entry, copier),
            (What::Directory, _) => {
                let id = match self.draft.child(dir, name) {
                    Some(own) if self.draft.directory(own).is_some() => own,
                    _ => self.insert(dir, name, Inode::implicit())?,
                };
                self.declare(id, entry);
                return Ok(Placed::Done);
            }
            (What::File(size), Some(data)) => Content::File { data, size },
            (What::File(_), None) => return Err(Error::refused(path, "it has no data")),
            (What::Symlink, _) => Content::Symlink(std::mem::take(&mut entry.link).into()),
            (What::Char(device), _) => Content::Char(device),
            (What::Block(device), _) => Content::Block(device),
            (What::Fifo, _) => Content::Fifo,
        };
        let mode = if entry.what == What::Symlink { 0o777 } else { entry.mode };
        let mut inode = Inode::new(content, mode);
        set(&mut inode, entry);
        self.insert(dir, name, inode)?;
        Ok(Placed::Done)
    }

    /// A directory's own entry; an earlier one's attributes stay unless this one has them too.
    fn declare(&mut self, id: InodeId, entry: &mut TarEntry) {
        let inode = self.draft.get_mut(id);
        inode.mode = entry.mode;
        let earlier = inode.xattrs.take().map(<[_]>::into_vec).unwrap_or_default();
        for (name, value) in earlier {
            if !entry.xattrs.iter().any(|(n, _)| *n == name) {
                entry.xattrs.push((name, value));
            }
        }
        entry.xattrs.sort();
        set(inode, entry);
        if let Some(directory) = self.draft.directory_mut(id) {
            directory.implicit = false;
        }
    }

    fn insert(&mut self, dir: InodeId, name: &[u8], inode: Inode) -> Result<InodeId, Error> {
        let (id, replaced) =
            self.draft.insert(dir, name, inode).ok_or(Error::Limit { what: "inodes", limit: u64::from(u32::MAX) })?;
        if replaced {
            self.last = None;
        }
        Ok(id)
    }

    /// The directory that `parts` lead to, following links, made where the layers below say so.
    fn parent(&mut self, parts: &[&[u8]], path: &[u8]) -> Result<Parent, Error> {
        let key = parts.join(&b'/');
        if let Some((last, id)) = &self.last
            && *last == key
        {
            return Ok(Parent::Is(*id));
        }
        let result = self.walk(parts, path)?;
        if let Parent::Is(id) = result {
            self.last = Some((key, id));
        }
        Ok(result)
    }

    fn walk(&mut self, parts: &[&[u8]], path: &[u8]) -> Result<Parent, Error> {
        let (mut at, mut depth) = (Draft::ROOT, 0);
        let mut todo: Vec<Box<[u8]>> = parts.iter().rev().map(|p| Box::from(*p)).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match &*part {
                b"" | b"." => continue,
                b".." => {
                    // The root is its own parent.
                    at = self.draft.parent(at);
                    depth = usize::saturating_sub(depth, 1);
                    continue;
                }
                _ => {}
            }
            let own = self.draft.child(at, &part);
            let target = match own.map(|id| (id, &self.draft.get(id).content)) {
                Some((id, Content::Directory(_))) => {
                    (at, depth) = (id, depth + 1);
                    continue;
                }
                Some((_, Content::Symlink(target))) => target.clone(),
                // Unpacking would find nothing there and make a directory.
                Some((_, Content::Whiteout)) | None => match self.step_below(at, &part, own.is_some(), path)? {
                    below::Step::Into(id) => {
                        (at, depth) = (id, depth + 1);
                        continue;
                    }
                    below::Step::Link(target) => target,
                    below::Step::Depends => return Ok(Parent::Depends),
                },
                Some(_) => return Err(Error::refused(path, "a component of its path is not a directory")),
            };
            links += 1;
            if links > LINKS {
                return Err(Error::refused(path, "its path leads through too many symbolic links"));
            }
            if target.first() == Some(&b'/') {
                (at, depth) = (Draft::ROOT, 0);
            }
            todo.extend(target.split(|b| *b == b'/').rev().map(Box::from));
            // Links that lead to links could make a path of any length.
            if todo.len() > 2 * self.limits.depth + TARGET {
                return Err(Error::refused(path, "its path is too long once links are followed"));
            }
        }
        if depth >= self.limits.depth {
            return Err(Error::refused(path, "it lies too deep"));
        }
        Ok(Parent::Is(at))
    }

    fn hard_link(
        &mut self,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
        entry: &TarEntry,
        copier: Option<&mut Copier<'_>>,
    ) -> Result<Placed, Error> {
        let parts = components(&entry.link, path, self.limits.depth)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(Error::refused(path, "it is a hard link to a directory"));
        };
        let Parent::Is(from) = self.parent(parents, path)? else { return Ok(Placed::Depends) };
        let target = match self.draft.child(from, last) {
            Some(own) => own,
            None => match copier {
                Some(copier) => self.copy_up(from, last, path, copier)?,
                None => return Ok(Placed::Depends),
            },
        };
        match self.draft.get(target).content {
            Content::Directory(_) => return Err(Error::refused(path, "it is a hard link to a directory")),
            Content::Whiteout => return Err(Error::refused(path, "it is a hard link to nothing")),
            _ => {}
        }
        // A link to itself changes nothing; `link` counts before it removes.
        if self.draft.link(dir, name, target) {
            self.last = None;
        }
        Ok(Placed::Done)
    }
}

/// Owner, time and attributes.
fn set(inode: &mut Inode, entry: &mut TarEntry) {
    inode.uid = entry.uid;
    inode.gid = entry.gid;
    inode.mtime = entry.mtime;
    let xattrs = std::mem::take(&mut entry.xattrs);
    inode.xattrs = (!xattrs.is_empty()).then(|| xattrs.into());
}

/// Used by [`below`].
fn writer<'a>(copier: &'a mut Copier<'_>) -> &'a mut dyn LayerWriter {
    copier.writer
}

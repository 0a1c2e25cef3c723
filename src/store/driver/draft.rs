//! A layer's tree while it is made: names and metadata in memory, file data already on disk.

use std::collections::BTreeMap;

use crate::store::tree::{Device, Time, Xattr};

/// An inode of a [`Draft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store) struct InodeId(u32);

/// Where a driver put a file's data: a block number, or a file's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct FileId(pub(in crate::store) u64);

/// What an inode is.
#[derive(Debug)]
pub(in crate::store) enum Content {
    File { data: FileId, size: u64 },
    Directory(Box<Directory>),
    Symlink(Box<[u8]>),
    Char(Device),
    Block(Device),
    Fifo,
    Whiteout,
}

/// A directory's own part.
#[derive(Debug, Default)]
pub(in crate::store) struct Directory {
    pub(in crate::store) children: BTreeMap<Box<[u8]>, InodeId>,
    /// Hides what lower layers have under its name.
    pub(in crate::store) opaque: bool,
    /// Only known because something lies in it.
    pub(in crate::store) implicit: bool,
    parent: Option<InodeId>,
    name: Box<[u8]>,
}

/// Metadata and content.
#[derive(Debug)]
pub(in crate::store) struct Inode {
    pub(in crate::store) content: Content,
    pub(in crate::store) mode: u16,
    pub(in crate::store) uid: u32,
    pub(in crate::store) gid: u32,
    pub(in crate::store) mtime: Time,
    /// Names; 0 once the last was replaced. For a directory 1 while it is there.
    pub(in crate::store) links: u32,
    pub(in crate::store) xattrs: Option<Box<[Xattr]>>,
}

impl Inode {
    /// A directory that nothing declared: what unpackers make then, without the time of day.
    pub(in crate::store) fn implicit() -> Self {
        let directory = Directory { implicit: true, ..Directory::default() };
        Self::new(Content::Directory(Box::new(directory)), 0o755)
    }

    /// Owned by root, dated 1970, without attributes.
    pub(in crate::store) fn new(content: Content, mode: u16) -> Self {
        Self { content, mode, uid: 0, gid: 0, mtime: Time::default(), links: 0, xattrs: None }
    }

    pub(in crate::store) fn directory(&self) -> Option<&Directory> {
        match &self.content {
            Content::Directory(d) => Some(d),
            _ => None,
        }
    }
}

/// The tree.
#[derive(Debug)]
pub(in crate::store) struct Draft {
    inodes: Vec<Inode>,
}

impl Draft {
    /// The root is always there.
    pub(in crate::store) const ROOT: InodeId = InodeId(0);

    pub(in crate::store) fn new() -> Self {
        Self { inodes: vec![Inode { links: 1, ..Inode::implicit() }] }
    }

    /// Number of inodes ever made; ids are below it.
    pub(in crate::store) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// The inodes that still have a name, in the order in which they came.
    pub(in crate::store) fn live(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        (0..).map(InodeId).zip(&self.inodes).filter(|(_, inode)| inode.links > 0)
    }

    #[expect(clippy::indexing_slicing, reason = "ids come from this draft alone and inodes are never removed")]
    pub(in crate::store) fn get(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    #[expect(clippy::indexing_slicing, reason = "ids come from this draft alone and inodes are never removed")]
    pub(in crate::store) fn get_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    pub(in crate::store) fn directory(&self, id: InodeId) -> Option<&Directory> {
        self.get(id).directory()
    }

    pub(in crate::store) fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.get_mut(id).content {
            Content::Directory(d) => Some(d),
            _ => None,
        }
    }

    /// The directory that holds `id`; the root holds itself.
    pub(in crate::store) fn parent(&self, id: InodeId) -> InodeId {
        self.directory(id).and_then(|d| d.parent).unwrap_or(Self::ROOT)
    }

    /// The names from the root to directory `id`, unless a directory on the way hides what lower layers have there.
    pub(in crate::store) fn way_below(&self, id: InodeId) -> Option<Vec<&[u8]>> {
        let (mut names, mut at) = (Vec::new(), id);
        loop {
            let directory = self.directory(at)?;
            if directory.opaque {
                return None;
            }
            if at == Self::ROOT {
                names.reverse();
                return Some(names);
            }
            names.push(&*directory.name);
            at = directory.parent.unwrap_or(Self::ROOT);
        }
    }

    pub(in crate::store) fn child(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        self.directory(dir).and_then(|d| d.children.get(name).copied())
    }

    /// A new inode under `name` of `dir`; what had that name before is gone. `None` if there are too many inodes.
    ///
    /// A directory that takes a non-directory's place is opaque: unpacking would have removed whatever lower layers
    /// have there before the directory came.
    pub(in crate::store) fn insert(&mut self, dir: InodeId, name: &[u8], mut inode: Inode) -> Option<(InodeId, bool)> {
        let id = InodeId(u32::try_from(self.inodes.len()).ok()?);
        let before = self.child(dir, name);
        if let Content::Directory(new) = &mut inode.content {
            new.parent = Some(dir);
            new.name = name.into();
            new.opaque |= before.is_some_and(|old| self.directory(old).is_none());
        }
        self.inodes.push(inode);
        Some((id, self.link(dir, name, id)))
    }

    /// Another name for `id`; says whether something else had that name.
    pub(in crate::store) fn link(&mut self, dir: InodeId, name: &[u8], id: InodeId) -> bool {
        // Counted first, so that a link to itself never falls to zero.
        self.get_mut(id).links += 1;
        let Some(directory) = self.directory_mut(dir) else { return false };
        let old = match directory.children.get_mut(name) {
            Some(place) => Some(std::mem::replace(place, id)),
            None => directory.children.insert(name.into(), id),
        };
        if let Some(old) = old {
            self.unlink(old);
        }
        old.is_some()
    }

    /// Takes one name from `id`, and with a directory's last name everything in it. No recursion: depth is the tar's.
    fn unlink(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let inode = self.get_mut(id);
            inode.links = inode.links.saturating_sub(1);
            if inode.links == 0 {
                if let Content::Directory(d) = &mut inode.content {
                    pending.extend(std::mem::take(&mut d.children).into_values());
                }
                inode.xattrs = None;
            }
        }
    }

    /// Removes whiteouts that can hide nothing because a directory above them is opaque. Overlayfs would list them.
    pub(in crate::store) fn drop_idle_whiteouts(&mut self) {
        let mut pending = vec![(Self::ROOT, false)];
        while let Some((id, covered)) = pending.pop() {
            let Some(directory) = self.directory(id) else { continue };
            let covered = covered || directory.opaque;
            let mut idle = Vec::new();
            for (name, child) in &directory.children {
                match &self.get(*child).content {
                    Content::Directory(_) => pending.push((*child, covered)),
                    Content::Whiteout if covered => idle.push((name.clone(), *child)),
                    _ => {}
                }
            }
            for (name, child) in idle {
                if let Some(directory) = self.directory_mut(id) {
                    directory.children.remove(&name);
                }
                self.unlink(child);
            }
        }
    }
}

impl InodeId {
    /// As an index into a table with one row an inode.
    pub(in crate::store) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As a number for the disk; starts at 1.
    pub(in crate::store) fn number(self) -> u32 {
        self.0.saturating_add(1)
    }
}

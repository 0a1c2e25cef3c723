//! A stack of layers as one tree, merged as overlayfs merges them.
//!
//! Going down the stack, the first layer that has a name decides what it is. Directories of one name are merged down
//! to the first layer where the name is something else, is hidden by a whiteout, or is an opaque directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Entry, Error, Kind, LayerTree, Node, Time, Xattr};

/// Symbolic links that a path may lead through, as in the kernel.
const LINKS: usize = 40;

/// A stack of layers as one tree.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    pub(super) layers: Vec<Arc<dyn LayerTree>>,
}

/// What a name of the merged tree is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) node: Node,
    /// The layer that has it.
    pub(super) origin: usize,
    /// For a directory the layers that it is merged from, the top one first; none otherwise.
    pub(super) layers: Vec<usize>,
    /// Whether layers further down are hidden.
    closed: bool,
}

impl Found {
    fn new(origin: usize, mut node: Node) -> Self {
        let (layers, closed) = match &mut node.kind {
            // What is opaque is the layer's business, not the tree's.
            Kind::Directory { opaque } => (vec![origin], std::mem::take(opaque)),
            _ => (Vec::new(), true),
        };
        Self { node, origin, layers, closed }
    }

    /// Takes what a layer further down has under this name into account.
    fn add(&mut self, layer: usize, below: &Kind) {
        match below {
            _ if self.closed => {}
            Kind::Directory { opaque } => {
                self.layers.push(layer);
                self.closed = *opaque;
            }
            _ => self.closed = true,
        }
    }
}

impl Merged {
    /// Merges `layers`, top layer first. Without any layer it is an empty root.
    pub fn new(layers: Vec<Arc<dyn LayerTree>>) -> Self {
        Self { layers }
    }

    /// The metadata of the root directory: that of the highest layer that declares it.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub fn root(&self) -> Result<Node, Error> {
        Ok(self.root_found()?.node)
    }

    pub(super) fn root_found(&self) -> Result<Found, Error> {
        let mut found: Option<Found> = None;
        let mut declared = None;
        for (at, layer) in self.layers.iter().enumerate() {
            let node = layer.node(Path::new(""))?.ok_or_else(|| Error::Missing { path: PathBuf::new() })?;
            if declared.is_none() && layer.root_declared() {
                declared = Some((at, node.clone()));
            }
            match &mut found {
                None => found = Some(Found::new(at, node)),
                Some(found) => found.add(at, &node.kind),
            }
        }
        let mut found = found.unwrap_or_else(|| Found { layers: Vec::new(), ..Found::new(0, empty_root()) });
        if let Some((at, node)) = declared {
            let own = Found::new(at, node);
            (found.node, found.origin) = (own.node, own.origin);
        }
        Ok(found)
    }

    pub(super) fn find(&self, path: &Path) -> Result<Option<Found>, Error> {
        let mut at = self.root_found()?;
        let mut done = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            done.push(name);
            let mut next: Option<Found> = None;
            for layer in &at.layers {
                let Some(node) = self.layer(*layer).map(|l| l.node(&done)).transpose()?.flatten() else { continue };
                match &mut next {
                    None if node.kind == Kind::Whiteout => break,
                    None => next = Some(Found::new(*layer, node)),
                    Some(found) => found.add(*layer, &node.kind),
                }
                if next.as_ref().is_some_and(|found| found.closed) {
                    break;
                }
            }
            match next {
                Some(found) => at = found,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn layer(&self, at: usize) -> Option<&Arc<dyn LayerTree>> {
        self.layers.get(at)
    }

    /// The names in the directory `path`, which is merged from `layers`.
    pub(super) fn children(&self, path: &Path, layers: &[usize]) -> Result<BTreeMap<Box<[u8]>, Found>, Error> {
        let mut names: BTreeMap<Box<[u8]>, Found> = BTreeMap::new();
        for at in layers {
            let Some(layer) = self.layer(*at) else { continue };
            for Entry { name, node } in layer.read_dir(path)? {
                match names.get_mut(&name) {
                    Some(found) => found.add(*at, &node.kind),
                    None => {
                        names.insert(name, Found::new(*at, node));
                    }
                }
            }
        }
        names.retain(|_, found| found.node.kind != Kind::Whiteout);
        Ok(names)
    }

    fn existing(&self, path: &Path) -> Result<Found, Error> {
        self.find(path)?.ok_or_else(|| Error::Missing { path: path.to_owned() })
    }

    /// The metadata of `path`, no symbolic link followed; `None` when nothing is there.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub fn node(&self, path: &Path) -> Result<Option<Node>, Error> {
        Ok(self.find(path)?.map(|found| found.node))
    }

    /// The names in the directory `path`, sorted by bytes, without whiteouts.
    ///
    /// # Errors
    /// If a layer cannot be read or `path` is not a directory.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, Error> {
        let found = self.existing(path)?;
        if !matches!(found.node.kind, Kind::Directory { .. }) {
            return Err(Error::Kind { path: path.to_owned(), wanted: "directory" });
        }
        let children = self.children(path, &found.layers)?;
        Ok(children.into_iter().map(|(name, found)| Entry { name, node: found.node }).collect())
    }

    /// The content of the regular file `path`.
    ///
    /// # Errors
    /// If a layer cannot be read or `path` is not a regular file.
    pub fn open(&self, path: &Path) -> Result<Box<dyn Read + Send>, Error> {
        let found = self.existing(path)?;
        match (&found.node.kind, self.layer(found.origin)) {
            (Kind::File { .. }, Some(layer)) => layer.open(path),
            _ => Err(Error::Kind { path: path.to_owned(), wanted: "regular file" }),
        }
    }

    /// The extended attributes of `path`, without those of overlayfs.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>, Error> {
        let found = self.existing(path)?;
        self.layer(found.origin).map_or(Ok(Vec::new()), |layer| layer.xattrs(path))
    }

    /// Where `path` leads when every symbolic link is followed inside the root; absolute links start at this root,
    /// and `..` of the root is the root.
    ///
    /// # Errors
    /// If nothing is there, a component is not a directory, or there are too many links.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        let mut todo: Vec<Vec<u8>> = parts(path.as_os_str().as_bytes());
        let (mut at, mut links) = (PathBuf::new(), 0);
        while let Some(part) = todo.pop() {
            match &*part {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                name => at.push(OsStr::from_bytes(name)),
            }
            match self.node(&at)?.map(|node| node.kind) {
                None => return Err(Error::Missing { path: at }),
                Some(Kind::Symlink { target }) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Error::Loop { path: path.to_owned() });
                    }
                    if target.first() == Some(&b'/') {
                        at = PathBuf::new();
                    } else {
                        at.pop();
                    }
                    todo.extend(parts(&target));
                }
                Some(Kind::Directory { .. }) => {}
                Some(_) if todo.iter().all(Vec::is_empty) => {}
                Some(_) => return Err(Error::Kind { path: at, wanted: "directory" }),
            }
        }
        Ok(at)
    }
}

/// The components of a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn empty_root() -> Node {
    Node {
        kind: Kind::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        links: 2,
        inode: 0,
    }
}

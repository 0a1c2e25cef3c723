//! What is different between two trees. Directories that both have from the same layers are not looked into, so the
//! diff of a container costs what its writable layer holds.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::merged::Found;
use super::{Error, Kind, Merged};

/// How a path differs between two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only in the second.
    Added,
    /// In both, not the same.
    Changed,
    /// Only in the first.
    Deleted,
}

/// What is different in `after`, sorted by path. Everything in an added directory is listed; what was in a deleted one
/// is not.
///
/// # Errors
/// If a layer cannot be read.
pub fn diff(before: &Merged, after: &Merged) -> Result<Vec<(PathBuf, Difference)>, Error> {
    let pair = Pair { before, after };
    let mut out = Vec::new();
    let mut pending = vec![(PathBuf::new(), Some(before.root_found()?), after.root_found()?)];
    while let Some((path, old, new)) = pending.pop() {
        let old_layers = old.as_ref().map(|o| o.layers.as_slice()).unwrap_or_default();
        if pair.same_layers(old_layers, &new.layers) {
            continue;
        }
        let mut old_names = before.children(&path, old_layers)?;
        for (name, new) in after.children(&path, &new.layers)? {
            let child = path.join(OsStr::from_bytes(&name));
            let old = old_names.remove(&name);
            match &old {
                None => out.push((child.clone(), Difference::Added)),
                Some(old) if !pair.equal(&child, old, &new)? => out.push((child.clone(), Difference::Changed)),
                Some(_) => {}
            }
            if !new.layers.is_empty() {
                pending.push((child, old, new));
            }
        }
        out.extend(old_names.into_keys().map(|name| (path.join(OsStr::from_bytes(&name)), Difference::Deleted)));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

struct Pair<'a> {
    before: &'a Merged,
    after: &'a Merged,
}

impl Pair<'_> {
    fn same_layer(&self, before: usize, after: usize) -> bool {
        matches!((self.before.layer(before), self.after.layer(after)), (Some(a), Some(b)) if Arc::ptr_eq(a, b))
    }

    fn same_layers(&self, before: &[usize], after: &[usize]) -> bool {
        before.len() == after.len() && before.iter().zip(after).all(|(b, a)| self.same_layer(*b, *a))
    }

    fn equal(&self, path: &Path, old: &Found, new: &Found) -> Result<bool, Error> {
        let (a, b) = (&old.node, &new.node);
        if self.same_layer(old.origin, new.origin) && a.inode == b.inode {
            return Ok(true);
        }
        let alike = a.kind == b.kind && (a.mode, a.uid, a.gid, a.mtime) == (b.mode, b.uid, b.gid, b.mtime);
        if !alike || self.before.xattrs(path)? != self.after.xattrs(path)? {
            return Ok(false);
        }
        match a.kind {
            Kind::File { .. } => same_content(path, self.before.open(path)?, self.after.open(path)?),
            _ => Ok(true),
        }
    }
}

fn same_content(path: &Path, before: impl Read, after: impl Read) -> Result<bool, Error> {
    use std::io::BufRead as _;
    /// Two of these are held at a time.
    const CHUNK: usize = 128 << 10;
    let mut before = std::io::BufReader::with_capacity(CHUNK, before);
    let mut after = std::io::BufReader::with_capacity(CHUNK, after);
    loop {
        let old = before.fill_buf().map_err(Error::io("read", path))?;
        let new = after.fill_buf().map_err(Error::io("read", path))?;
        let both = old.len().min(new.len());
        if both == 0 || old.get(..both) != new.get(..both) {
            return Ok(old.is_empty() && new.is_empty());
        }
        before.consume(both);
        after.consume(both);
    }
}

//! Writes a set of files so that readers see all of the old or all of the new.
//!
//! ```text
//!   volume/
//!     ..2f6c1a09/      the files, in a directory that is never changed once it is named
//!     ..data ─────────▶ ..2f6c1a09      replaced by one rename
//!     app.conf ───────▶ ..data/app.conf
//! ```
//!
//! The layout is the kubelet's, so that programs which watch `..data` work here too.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::{Path, PathBuf};

use super::Error;
use super::projection::{File, Files};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
/// With a group of its own, that group may read, as on a kubelet.
const GROUP_READ: u32 = 0o440;

/// Brings `root` to hold exactly `files`. Says whether anything had to be changed.
pub(super) fn write(volume: &str, root: &Path, files: &Files, group: Option<u32>) -> Result<bool, Error> {
    let writer = Writer { volume, root, group };
    if writer.holds(files) {
        return Ok(false);
    }
    let old = fs::read_link(root.join(DATA)).ok();
    let dir = format!("..{:08x}", rand::random::<u32>());
    for (path, file) in files {
        writer.file(&root.join(&dir).join(path), file)?;
    }
    let made = root.join(&dir);
    if files.is_empty() {
        writer.dir(&made)?;
    }
    let new = root.join(NEW_DATA);
    // Left by an earlier try that did not get far.
    let _ = fs::remove_file(&new);
    symlink(&dir, &new).map_err(writer.failed("link", &new))?;
    fs::rename(&new, root.join(DATA)).map_err(writer.failed("replace", &root.join(DATA)))?;
    writer.links(files)?;
    if let Some(old) = old {
        let old = root.join(old);
        fs::remove_dir_all(&old).map_err(writer.failed("remove", &old))?;
    }
    Ok(true)
}

struct Writer<'a> {
    volume: &'a str,
    root: &'a Path,
    group: Option<u32>,
}

impl Writer<'_> {
    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let (volume, path) = (self.volume.to_owned(), path.to_owned());
        move |source| Error::Io { volume, action, path, source }
    }

    /// Whether the content is what it should be already.
    fn holds(&self, files: &Files) -> bool {
        let data = self.root.join(DATA);
        if fs::symlink_metadata(&data).is_err() {
            return false;
        }
        let mut found = BTreeSet::new();
        if list(&data, Path::new(""), &mut found).is_err() || found.len() != files.len() {
            return false;
        }
        files.iter().all(|(path, file)| {
            found.contains(Path::new(path))
                && fs::read(data.join(path)).is_ok_and(|old| old == file.content)
                && fs::metadata(data.join(path)).is_ok_and(|m| {
                    m.permissions().mode() & 0o777 == self.mode(file.mode) && m.uid() == file.user.unwrap_or_default()
                })
        })
    }

    fn mode(&self, mode: u32) -> u32 {
        if self.group.is_some() { mode | GROUP_READ } else { mode }
    }

    fn dir(&self, path: &Path) -> Result<(), Error> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(self.failed("create", path))
    }

    fn file(&self, path: &Path, File { content, mode, user }: &File) -> Result<(), Error> {
        if let Some(parent) = path.parent() {
            self.dir(parent)?;
        }
        let mode = self.mode(*mode);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map_err(self.failed("create", path))?;
        io::Write::write_all(&mut file, content).map_err(self.failed("write", path))?;
        if self.group.is_some() || user.is_some() {
            chown(path, *user, self.group).map_err(self.failed("set the owner of", path))?;
        }
        // The umask must not narrow it.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(self.failed("set the mode of", path))
    }

    /// One link a first path component, and none more.
    fn links(&self, files: &Files) -> Result<(), Error> {
        let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
        for name in &wanted {
            let (link, target) = (self.root.join(name), Path::new(DATA).join(name));
            match symlink(&target, &link) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(self.failed("link", &link)(e)),
                _ => {}
            }
        }
        for entry in fs::read_dir(self.root).map_err(self.failed("list", self.root))? {
            let name = entry.map_err(self.failed("list", self.root))?.file_name();
            let path = self.root.join(&name);
            // Only what was put there by this: a directory that was made for a subPath is in use.
            let ours = || fs::read_link(&path).is_ok_and(|to| to.starts_with(DATA));
            if name.to_str().is_none_or(|n| !n.starts_with("..") && !wanted.contains(n)) && ours() {
                fs::remove_file(&path).map_err(self.failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The files below `root/below`, by path.
fn list(root: &Path, below: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, into)?;
        } else {
            into.insert(path);
        }
    }
    Ok(())
}

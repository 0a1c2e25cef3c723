//! Removes a tree in which somebody else may have done anything: containers write there, and more than they may mount
//! there, for a volume with `mountPropagation: Bidirectional` brings a container's mounts to the host.
//!
//! - No link is followed, and no mount is crossed: what is mounted in the tree is unmounted (lazily), and what it shows
//!   stays as it is. `rm -r` and [`std::fs::remove_dir_all`] would empty it.
//! - It takes no more descriptors and no more stack however deep the tree is: what lies too deep is moved up first.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

use super::mount;

/// How many directories are open at most.
const DEEPEST: usize = 64;
/// How many mounts may lie on one another at one place.
const MOST_MOUNTS: u32 = 1000;
/// What a directory that lay too deep is called at the top, a mark of this removal, and a number.
const MOVED: &str = ".lamina-removed-";

/// What could not be removed, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove {}", path.display())]
pub struct Error {
    /// The file or directory.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// A directory on the way down.
struct Open {
    dir: Dir,
    name: OsString,
    /// Whether something went since it was last read from its start.
    progress: bool,
}

/// Removes `root`, a file or a directory with all that is in it. Nothing there is fine. Blocks.
///
/// # Errors
/// The first thing that does not go. What went before that is gone; trying again goes on from there.
pub fn remove(root: &Path) -> Result<(), Error> {
    for place in removed(root)? {
        tracing::warn!(
            place = %place.display(),
            "something was mounted in what is removed; it is unmounted, and what it shows stays as it is"
        );
    }
    Ok(())
}

/// Gives the places where something was mounted.
fn removed(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source: Errno| Error { path: root.to_owned(), source: source.into() };
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else { return Err(failed(Errno::INVAL)) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let top = match openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        result => result.map_err(failed)?,
    };
    let mut removal = Removal { top, open: Vec::new(), mark: rand::random(), moved: 0, detached: Vec::new() };
    match removal.run(name) {
        Ok(()) => Ok(removal.detached),
        Err((name, source)) => {
            let below: PathBuf = removal.open.iter().skip(1).map(|o| o.name.as_os_str()).chain([&*name]).collect();
            let path = if removal.open.is_empty() { root.to_owned() } else { root.join(below) };
            Err(Error { path, source })
        }
    }
}

type Failure = (OsString, io::Error);

struct Removal {
    /// What holds the root of the tree.
    top: OwnedFd,
    open: Vec<Open>,
    /// Nobody knows it: no name at the top is taken, by a removal that did not come to its end or on purpose.
    mark: u64,
    moved: u64,
    detached: Vec<PathBuf>,
}

impl Removal {
    fn run(&mut self, root: &OsStr) -> Result<(), Failure> {
        self.entry(root, FileType::Unknown)?;
        while let Some(last) = self.open.last_mut() {
            match last.dir.read() {
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_bytes();
                    if !matches!(name, b"." | b"..") {
                        let (name, kind) = (OsStr::from_bytes(name).to_owned(), entry.file_type());
                        self.entry(&name, kind)?;
                    }
                }
                Some(Err(error)) => return Err((OsString::new(), error.into())),
                None => self.leave()?,
            }
        }
        Ok(())
    }

    /// The directory that entries are removed from.
    fn at(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.open.last().map_or_else(|| Ok(self.top.as_fd()), |open| open.dir.fd())
    }

    /// Removes one name from the directory that is read; a directory is entered, or moved up where that would be too deep.
    fn entry(&mut self, name: &OsStr, kind: FileType) -> Result<(), Failure> {
        let failed = |error: Errno| (name.to_owned(), error.into());
        for _ in 0..MOST_MOUNTS {
            let tried = match kind {
                FileType::Directory => Err(Errno::ISDIR),
                _ => unlinkat(self.at().map_err(failed)?, name, AtFlags::empty()),
            };
            let tried = match tried {
                Err(Errno::ISDIR) => self.enter(name),
                result => result,
            };
            match tried {
                Ok(()) => {
                    self.progressed();
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                // A mount point: of a file, of a directory.
                Err(error @ (Errno::BUSY | Errno::XDEV)) => self.detach(name).map_err(|_| failed(error))?,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(Errno::BUSY))
    }

    fn enter(&mut self, name: &OsStr) -> Result<(), Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let below = openat2(self.at()?, name, flags, Mode::empty(), resolve)?;
        if self.open.len() < DEEPEST {
            self.open.push(Open { dir: Dir::new(below)?, name: name.to_owned(), progress: true });
            return Ok(());
        }
        let Some(top) = self.open.first() else { return Ok(()) };
        let new = format!("{MOVED}{:016x}-{}", self.mark, self.moved);
        renameat(self.at()?, name, top.dir.fd()?, &new)?;
        self.moved += 1;
        self.open.first_mut().into_iter().for_each(|top| top.progress = true);
        Ok(())
    }

    fn progressed(&mut self) {
        self.open.last_mut().into_iter().for_each(|last| last.progress = true);
    }

    /// Goes up from a directory that was read to its end. What came meanwhile is read, too, for as long as that helps.
    fn leave(&mut self) -> Result<(), Failure> {
        let Some(mut last) = self.open.pop() else { return Ok(()) };
        let tried = self.at().and_then(|at| unlinkat(at, &last.name, AtFlags::REMOVEDIR));
        match tried {
            Ok(()) | Err(Errno::NOENT) => {
                self.progressed();
                Ok(())
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if last.progress => {
                last.progress = false;
                last.dir.rewind();
                self.open.push(last);
                Ok(())
            }
            // Something was mounted on it after it was entered.
            Err(error @ Errno::BUSY) => {
                self.detach(&last.name).map_err(|_| (last.name.clone(), error.into()))?;
                self.open.push(last);
                Ok(())
            }
            Err(error) => Err((last.name, error.into())),
        }
    }

    /// Unmounts what is mounted at a name.
    fn detach(&mut self, name: &OsStr) -> Result<(), mount::Error> {
        let number = self.at().map_or(-1, |at| at.as_raw_fd());
        let at = PathBuf::from(format!("/proc/self/fd/{number}"));
        let place = std::fs::read_link(&at).unwrap_or_else(|_| at.clone()).join(name);
        mount::detach(&at.join(name))?;
        if !self.detached.contains(&place) {
            self.detached.push(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        remove(&root).unwrap();
        remove(&root.join("none/none")).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), "").unwrap();
        for n in 0..3000 {
            fs::write(root.join(format!("a/{n}")), "").unwrap();
        }
        symlink("../../outside", root.join("a/link")).unwrap();
        symlink("../outside/kept", root.join("kept")).unwrap();
        remove(&root).unwrap();
        assert!(!root.exists() && dir.path().join("outside/kept").exists());
        // A link or a file may be the whole of it.
        symlink("outside", dir.path().join("link")).unwrap();
        remove(&dir.path().join("link")).unwrap();
        assert!(fs::symlink_metadata(dir.path().join("link")).is_err() && dir.path().join("outside/kept").exists());
    }

    #[test]
    fn what_is_mounted_there_is_unmounted_and_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("in/place")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        fs::write(root.join("file"), "").unwrap();
        let bind = |from: &Path, to: &Path| {
            assert!(Command::new("mount").arg("--bind").arg(from).arg(to).status().unwrap().success());
        };
        // Twice at one place; a file on a file; and the root itself.
        bind(&outside, &root.join("in/place"));
        bind(&outside, &root.join("in/place"));
        bind(&outside.join("kept"), &root.join("file"));
        bind(&root, &root);
        let detached = removed(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        for place in ["root", "root/in/place", "root/file"] {
            assert!(detached.contains(&dir.path().canonicalize().unwrap().join(place)), "{place}: {detached:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
    }

    #[test]
    fn no_depth_is_too_deep() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut at = openat(CWD, &root, flags, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::from_raw_mode(0o700)).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn names_at_the_top_that_are_taken_hold_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        // As an earlier removal left it that did not come to its end, or as a container planted it.
        for n in 0..100 {
            fs::create_dir_all(root.join(format!("{MOVED}{n}/full"))).unwrap();
        }
        for n in 100..200 {
            fs::write(root.join(format!("{MOVED}{n}")), "").unwrap();
        }
        for n in 0..100 {
            fs::create_dir_all(root.join(format!("{n}/{}", "d/".repeat(2 * DEEPEST)))).unwrap();
        }
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn what_does_not_go_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        let attribute = |flag: &str| Command::new("chattr").arg(flag).arg(root.join("a/b/file")).status();
        assert!(attribute("+i").unwrap().success());
        let error = remove(&root).unwrap_err();
        assert!(attribute("-i").unwrap().success());
        assert_eq!(error.path, root.join("a/b/file"));
        assert_eq!(error.source.kind(), io::ErrorKind::PermissionDenied);
        remove(&root).unwrap();
        assert!(!root.exists());
    }
}

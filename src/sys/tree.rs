//! Going through trees that somebody may be changing meanwhile, as to count what they take on disk: every directory is
//! entered by its descriptor, no link is followed, and what vanishes counts as nothing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

/// How deep a tree is looked at, so that nobody can have the agent open a descriptor for each of any number of
/// directories in one another. What lies deeper is not counted.
const DEEPEST: usize = 256;
/// How many files with several names are remembered, so that they count once; past these they count for each name.
const MOST_LINKED: usize = 1 << 16;

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In whole blocks, as `du` counts.
    pub bytes: u64,
    /// Files, directories and what else has an inode.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// What the tree at `root` takes, itself included. Counting ends once it is more than `most` bytes: more than that need
/// not be known. A root that is not there, or cannot be read, takes nothing.
pub fn usage(root: &Path, most: u64) -> Usage {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    count(CWD, root, &mut usage, &mut linked);
    let Some(top) = enter(CWD, root) else { return usage };
    // The way down to where counting is: never more open directories than that is long.
    let mut open = vec![top];
    while let Some(dir) = open.last_mut() {
        let Some(Ok(entry)) = dir.read() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(parent) = dir.fd() else { continue };
        let name = Path::new(OsStr::from_bytes(name.to_bytes()));
        let kind = count(parent, name, &mut usage, &mut linked);
        if usage.bytes > most {
            return usage;
        }
        let below = (kind == Some(FileType::Directory)).then(|| enter(parent, name)).flatten();
        if let Some(below) = below.filter(|_| open.len() < DEEPEST) {
            open.push(below);
        }
    }
    usage
}

/// Does `each` to everything below the open directory `top`, which is not followed out of by any link: to what a
/// descriptor that is good for nothing but its place names. What vanishes meanwhile is passed over.
///
/// # Errors
/// What `each` fails with; if something cannot be opened; if there are more than 256 directories in one another, each of
/// which is a descriptor while it is gone through.
pub fn each_below(top: &OwnedFd, mut each: impl FnMut(&OwnedFd, &Stat) -> io::Result<()>) -> io::Result<()> {
    let mut open = vec![Dir::read_from(top)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(dir.fd()?, name, flags, Mode::empty()) {
            // Somebody removed it meanwhile.
            Err(Errno::NOENT) => continue,
            opened => opened?,
        };
        let found = fstat(&file)?;
        each(&file, &found)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            if open.len() >= DEEPEST {
                return Err(io::Error::other(format!("it has more than {DEEPEST} directories in one another")));
            }
            open.push(Dir::new(openat(&file, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?);
        }
    }
    Ok(())
}

fn enter(at: impl std::os::fd::AsFd, name: &Path) -> Option<Dir> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let fd: OwnedFd = openat(at, name, flags, Mode::empty()).ok()?;
    Dir::new(fd).ok()
}

/// Counts one name; says what it is.
fn count(
    at: impl std::os::fd::AsFd,
    name: &Path,
    usage: &mut Usage,
    linked: &mut HashSet<(u64, u64)>,
) -> Option<FileType> {
    let found = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind != FileType::Directory && found.st_nlink > 1 {
        let is_new = linked.len() >= MOST_LINKED || linked.insert((found.st_dev, found.st_ino));
        if !is_new {
            return Some(kind);
        }
    }
    let bytes = u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512);
    *usage += Usage { bytes, inodes: 1 };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_tree_counts_each_file_once_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        assert_eq!(usage(&root, u64::MAX), Usage::default());
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        fs::write(root.join("a/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(root.join("a/file"), root.join("a/b/again")).unwrap();
        symlink("../../outside", root.join("a/b/link")).unwrap();
        symlink("..", root.join("a/b/up")).unwrap();
        fs::File::create(root.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        let blocks = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().blocks() * 512;
        let bytes = ["", "a", "a/b", "a/file", "a/b/link", "a/b/up", "sparse"].map(blocks).iter().sum();
        assert_eq!(usage(&root, u64::MAX), Usage { bytes, inodes: 7 });
    }

    #[test]
    fn counting_ends_where_no_more_need_be_known() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..100 {
            fs::write(dir.path().join(n.to_string()), vec![1; 8192]).unwrap();
        }
        let some = usage(dir.path(), 50_000);
        assert!(some.bytes > 50_000 && some.inodes < 20, "{some:?}");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_counted_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = rustix::fs::openat(CWD, dir.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..2 * DEEPEST {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        }
        assert_eq!(usage(dir.path(), u64::MAX).inodes, DEEPEST as u64 + 1);
    }
}

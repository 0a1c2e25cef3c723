//! Paths below a directory that must not lead out of it, whatever links its content has.
//!
//! `openat2` with `RESOLVE_IN_ROOT` resolves as if the directory were `/`: absolute links and `..` stay inside, links of
//! `/proc` that jump are refused.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// A rename elsewhere makes `openat2` give up with `EAGAIN`; this often it is asked again.
const RETRIES: u32 = 64;

/// As many links as the kernel follows in one path.
const LINKS: u32 = 40;

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..RETRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens `path` as a process sees it whose root is `root`, links followed.
///
/// # Errors
/// If it is not there, or a link of `/proc` lies on the way.
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open_with(root.as_fd(), path, flags, Mode::empty(), resolve)
}

/// As [`open`], but no component may be a link, and nothing may lead out.
///
/// # Errors
/// As [`open`], and if there is a link (`ELOOP`).
pub fn open_plain(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    open_with(root.as_fd(), path.strip_prefix("/").unwrap_or(path), flags, Mode::empty(), resolve)
}

/// Opens a path below a volume: links are followed, but one that leads out of the volume is an error, not cut off.
///
/// # Errors
/// If it is not there or leads out (`EXDEV`).
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    open_with(root.as_fd(), path, flags, Mode::empty(), resolve)
}

/// Opens a path below a volume as [`open_beneath`] does, and makes a directory where there is nothing, as Kubernetes does
/// for a `subPath`: whoever may use the volume may use that, so it gets the volume's mode.
///
/// # Errors
/// As [`open_beneath`], and if it cannot be made.
pub fn open_or_make_beneath(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open_beneath(root, path, OFlags::PATH) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        result => return result,
    }
    // A link that appears meanwhile may lead elsewhere in the volume, not out of it.
    let made = make_directories(root, path, 0o755)?;
    let mode = rustix::fs::fstat(root)?.st_mode & 0o7777;
    let readable = openat2(&made, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH)?;
    rustix::fs::fchmod(&readable, Mode::from_raw_mode(mode))?;
    Ok(made)
}

/// Opens the directory `path`, as a process sees it whose root is `root`, and makes what is missing of it. A link to
/// nothing on the way leads to where it points, inside.
///
/// # Errors
/// If a part of it is something else, or cannot be made.
pub fn make_directories(root: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        result => return result,
    }
    // Directories, not links, all the way from the root.
    let mut walked = PathBuf::new();
    let mut ahead: VecDeque<OsString> = components(path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            walked.pop();
            continue;
        }
        let next = walked.join(&name);
        match open_plain(root, &next, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => walked = next,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let parent = open_plain(root, dot(&walked), OFlags::PATH | OFlags::DIRECTORY)?;
                match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => walked = next,
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                links += 1;
                let parent = open_plain(root, dot(&walked), OFlags::PATH | OFlags::DIRECTORY)?;
                let target = read_link(&parent, &name)?;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    walked = PathBuf::new();
                }
                for name in components(&target).into_iter().rev() {
                    ahead.push_front(name);
                }
            }
            Err(e) => return Err(e),
        }
    }
    open_plain(root, dot(&walked), OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens the file `path`, as a process sees it whose root is `root`, or makes an empty one and the directories above.
/// A link to nothing (`/etc/resolv.conf` of many images) leads to where it points, inside.
///
/// # Errors
/// If it cannot be made.
pub fn make_file(root: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match open(root, &path, OFlags::PATH) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            result => return result,
        }
        let name = path.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let above = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let parent = make_directories(root, &above, 0o755)?;
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match open_with(parent.as_fd(), Path::new(&name), flags, Mode::from_raw_mode(mode), ResolveFlags::BENEATH) {
            Ok(_) => return open_plain(&parent, Path::new(&name), OFlags::PATH | OFlags::NOFOLLOW),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => path = above.join(read_link(&parent, &name)?),
            Err(e) => return Err(e),
        }
    }
    Err(Errno::LOOP.into())
}

fn read_link(parent: &OwnedFd, name: &OsStr) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(|_| Errno::NOTDIR)?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// Opens the directory `name` directly below `root`, and if something else has that name, takes that away first: a
/// link there would lead elsewhere what is mounted on it.
///
/// # Errors
/// If it cannot be made.
pub fn real_directory(root: impl AsFd, name: &Path, mode: u32) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open_plain(root, name, flags) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            rustix::fs::unlinkat(root, name, AtFlags::empty())?;
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        result => return result,
    }
    rustix::fs::mkdirat(root, name, Mode::from_raw_mode(mode))?;
    open_plain(root, name, flags)
}

fn dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with a canary beside it that nothing may touch.
    fn tree() -> (tempfile::TempDir, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/real")).unwrap();
        std::fs::create_dir(dir.path().join("canary")).unwrap();
        let root = std::fs::File::open(dir.path().join("root")).unwrap();
        (dir, root)
    }

    fn untouched(dir: &tempfile::TempDir) {
        assert_eq!(std::fs::read_dir(dir.path().join("canary")).unwrap().count(), 0);
    }

    #[test]
    fn links_that_lead_out_stay_inside() {
        let (dir, root) = tree();
        symlink(dir.path().join("canary"), dir.path().join("root/absolute")).unwrap();
        symlink("../../canary", dir.path().join("root/real/relative")).unwrap();
        make_directories(&root, Path::new("/absolute/made"), 0o755).unwrap();
        make_directories(&root, Path::new("/real/relative/made"), 0o755).unwrap();
        make_file(&root, Path::new("/absolute/file"), 0o644).unwrap();
        make_directories(&root, Path::new("../../canary/made"), 0o755).unwrap();
        untouched(&dir);
        assert!(dir.path().join("root/canary/made").is_dir());
        let inside = dir.path().join("root").join(dir.path().strip_prefix("/").unwrap()).join("canary");
        assert!(inside.join("made").is_dir() && inside.join("file").is_file());
    }

    #[test]
    fn loops_and_files_on_the_way_are_errors() {
        let (dir, root) = tree();
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        std::fs::write(dir.path().join("root/file"), "").unwrap();
        assert_eq!(make_directories(&root, Path::new("a/x"), 0o755).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        let error = make_directories(&root, Path::new("file/x"), 0o755).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn a_file_behind_a_link_to_nothing_is_made_inside() {
        let (dir, root) = tree();
        symlink(dir.path().join("canary/new"), dir.path().join("root/dangling")).unwrap();
        symlink("../../../canary/new", dir.path().join("root/real/dangling")).unwrap();
        make_file(&root, Path::new("/dangling"), 0o644).unwrap();
        make_file(&root, Path::new("/real/dangling"), 0o644).unwrap();
        untouched(&dir);
        assert!(dir.path().join("root/canary/new").is_file());
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_replaced() {
        let (dir, root) = tree();
        symlink(dir.path().join("canary"), dir.path().join("root/dev")).unwrap();
        std::fs::write(dir.path().join("root/proc"), "file").unwrap();
        for name in ["dev", "proc", "sys", "real"] {
            real_directory(&root, Path::new(name), 0o755).unwrap();
            let path = dir.path().join("root").join(name);
            assert!(path.is_dir() && !path.is_symlink());
        }
        untouched(&dir);
    }

    #[test]
    fn a_missing_part_of_a_volume_is_made_with_the_volumes_mode_and_inside() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, root) = tree();
        std::fs::set_permissions(dir.path().join("root"), std::fs::Permissions::from_mode(0o2777)).unwrap();
        symlink("../canary", dir.path().join("root/out")).unwrap();
        symlink("../canary/new", dir.path().join("root/nothing")).unwrap();
        open_or_make_beneath(&root, Path::new("real/new/deep")).unwrap();
        let made = std::fs::metadata(dir.path().join("root/real/new/deep")).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o2777);
        assert_eq!(open_or_make_beneath(&root, Path::new("out/new")).unwrap_err().raw_os_error(), Some(libc::EXDEV));
        assert!(open_or_make_beneath(&root, Path::new("nothing")).is_err());
        untouched(&dir);
    }

    #[test]
    fn a_volume_is_not_left() {
        let (dir, root) = tree();
        symlink("../canary", dir.path().join("root/out")).unwrap();
        symlink("real", dir.path().join("root/in")).unwrap();
        let error = open_beneath(&root, Path::new("out"), OFlags::PATH).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        assert!(open_beneath(&root, Path::new("/real"), OFlags::PATH).is_err());
        open_beneath(&root, Path::new("in"), OFlags::PATH).unwrap();
    }
}

//! SELinux labels of files: the extended attribute `security.selinux`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, fstat, openat};
use rustix::io::Errno;

use super::tree;

/// The extended attribute that holds a file's label.
pub const ATTRIBUTE: &str = "security.selinux";
/// No policy has longer ones.
const LONGEST: usize = 4096;

/// Gives a label to a file, or to a directory and all that is in it; does nothing where the file itself has it. A file
/// system without labels stays as it is. What is reached is not followed out of by any link.
///
/// # Errors
/// If the kernel refuses.
pub fn give(path: &Path, label: &str) -> io::Result<()> {
    let top = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if has(&top, label)? {
        return Ok(());
    }
    // The top last: as long as it has not its label, the next try begins anew.
    if FileType::from_raw_mode(fstat(&top)?.st_mode) == FileType::Directory {
        let inside = openat(&top, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        tree::each_below(&inside, |file, _| set(file, label))?;
    }
    set(&top, label)
}

/// A file that was opened as a place only is reached by its descriptor's name.
fn name(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn has(file: &OwnedFd, label: &str) -> io::Result<bool> {
    let mut found = vec![0; LONGEST];
    match rustix::fs::getxattr(name(file), ATTRIBUTE, &mut found) {
        Ok(length) => {
            let found = found.get(..length).unwrap_or_default();
            Ok(found.strip_suffix(b"\0").unwrap_or(found) == label.as_bytes())
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn set(file: &OwnedFd, label: &str) -> io::Result<()> {
    match rustix::fs::setxattr(name(file), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(path: &Path) -> String {
        let mut found = vec![0; LONGEST];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut found).unwrap_or(0);
        String::from_utf8(found[..length].to_vec()).unwrap()
    }

    #[test]
    fn all_that_is_below_has_the_label_and_nothing_that_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "").unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        give(&root, "u:r:t:s0").unwrap();
        for path in ["", "a", "a/b", "a/b/file", "link"] {
            assert_eq!(label(&root.join(path)), "u:r:t:s0", "{path}");
        }
        assert_eq!(label(&outside), "");
        // What is right at its top is right.
        std::fs::write(root.join("later"), "").unwrap();
        give(&root, "u:r:t:s0").unwrap();
        assert_eq!(label(&root.join("later")), "");
        give(&root, "u:r:t:s1").unwrap();
        assert_eq!(label(&root.join("later")), "u:r:t:s1");
        give(&root.join("later"), "u:r:t:s2").unwrap();
        assert_eq!((label(&root.join("later")), label(&root)), ("u:r:t:s2".to_owned(), "u:r:t:s1".to_owned()));
    }
}

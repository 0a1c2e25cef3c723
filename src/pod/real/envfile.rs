//! Reads a file of variables out of a volume that containers write: whatever lies there, nothing outside the volume is
//! read, and nothing is waited for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::api::env::file::MAX_FILE;
use crate::sys::inside;

/// The text of the file `path` below `root`; nothing if there is none.
pub(super) fn read(root: &Path, path: &Path) -> io::Result<Option<String>> {
    let top = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match inside::open_beneath(&top, path, flags) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    File::from(file).take(limit + 1).read_to_end(&mut text)?;
    if text.len() > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} KiB", MAX_FILE >> 10)));
    }
    String::from_utf8(text).map(Some).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_else_is() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::write(root.join("dir/file"), vec![b'x'; MAX_FILE]).unwrap();
        std::fs::write(root.join("large"), vec![b'x'; MAX_FILE + 1]).unwrap();
        std::fs::write(root.join("bytes"), [0xff]).unwrap();
        symlink("dir/file", root.join("link")).unwrap();
        symlink(outside.path().join("secret"), root.join("out")).unwrap();
        symlink(outside.path(), root.join("outside")).unwrap();
        rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        let said = |path: &str| read(root, Path::new(path));
        assert_eq!(said("dir/file").unwrap().unwrap().len(), MAX_FILE);
        assert_eq!(said("link").unwrap().unwrap().len(), MAX_FILE);
        assert!(said("none").unwrap().is_none() && said("no/file").unwrap().is_none());
        for path in ["large", "bytes", "out", "outside/secret", "fifo", "dir"] {
            assert!(said(path).is_err(), "{path}");
        }
    }
}

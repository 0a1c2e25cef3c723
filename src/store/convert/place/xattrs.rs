//! Which extended attributes of an entry a layer keeps.
//!
//! An image must not speak to overlayfs, nor to the host's security modules; everything else stays.

use super::super::Error;
use super::super::tar::{TarEntry, What};

/// Longest name without its namespace, as in the kernel.
const NAME: usize = 255;
/// Longest value that EROFS can say.
const VALUE: usize = 65_535;

fn keep(name: &[u8], what: What) -> bool {
    if name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default" && what == What::Directory
    {
        return true;
    }
    if let Some(rest) = name.strip_prefix(b"trusted.") {
        return !rest.is_empty() && !rest.starts_with(b"overlay.");
    }
    // The kernel has user attributes on files and directories only.
    match name.strip_prefix(b"user.") {
        Some(rest) => {
            matches!(what, What::File(_) | What::Directory) && !rest.is_empty() && !rest.starts_with(b"overlay.")
        }
        None => false,
    }
}

/// Drops what a layer does not keep, sorts the rest, and refuses what is beyond a limit.
pub(super) fn clean(entry: &mut TarEntry, total: usize) -> Result<(), Error> {
    let what = entry.what;
    entry.xattrs.retain(|(name, _)| keep(name, what));
    entry.xattrs.sort();
    let mut sum = 0;
    for (name, value) in &entry.xattrs {
        let bare = name.iter().position(|b| *b == b'.').map_or(0, |dot| name.len() - dot - 1);
        if bare > NAME || name.contains(&0) || value.len() > VALUE {
            return Err(Error::refused(&entry.path, "an extended attribute is too long"));
        }
        sum += name.len() + value.len();
    }
    if sum > total {
        return Err(Error::refused(&entry.path, "its extended attributes are too long together"));
    }
    Ok(())
}

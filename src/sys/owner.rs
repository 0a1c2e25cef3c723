//! Files made in another's name.

use std::io;
use std::thread;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::capability;

/// Does `work` on a thread whose new files are user `id`'s and group `id`'s; whatever else the caller may do, it may.
///
/// A file system that is mounted with mapped ids takes new files from those alone whom the mapping knows.
///
/// # Errors
/// If there is no thread for it, or the kernel does not let it be somebody else.
pub fn with<T: Send>(id: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let done = |joined: thread::Result<io::Result<T>>| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("as-owner".into()).spawn_scoped(scope, || {
            become_owner(id)?;
            Ok(work())
        })?;
        done(thread.join())
    })
}

/// Threads have these ids each for itself; the calls tell who one was before, and never of an error.
fn become_owner(id: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setfsuid(user);
    setfsgid(group);
    if (setfsuid(user), setfsgid(group)) != (user, group) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // With root's id went what only root may do to files.
    let permitted = capability::permitted()?;
    capability::set(permitted, permitted)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn new_files_are_anothers_and_old_ones_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (closed, made) = (dir.path().join("closed"), dir.path().join("closed/made"));
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        with(4321, || fs::write(&made, "x")).unwrap().unwrap();
        let stat = fs::metadata(&made).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (4321, 4321));
        // Nobody else has become anybody.
        fs::write(closed.join("mine"), "x").unwrap();
        assert_eq!(fs::metadata(closed.join("mine")).unwrap().uid(), fs::metadata(&closed).unwrap().uid());
    }
}

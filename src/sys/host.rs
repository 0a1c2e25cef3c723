//! The host's files as process 1 sees them, for an agent in a container that shares the host's process ids: programs of
//! the host (CNI plugins, credential helpers) are found and run there.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::thread::UnshareFlags;

use super::namespace::{self, Namespace};

/// Where programs are looked for when nothing says so.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The mount namespace of process 1, where it is another than the caller's; none without a view of process 1.
///
/// # Errors
/// If it cannot be opened.
pub fn mounts() -> io::Result<Option<OwnedFd>> {
    let (first, own) = ("/proc/1/ns/mnt", "/proc/self/ns/mnt");
    match (fs::read_link(first), fs::read_link(own)) {
        (Ok(there), Ok(here)) if there != here => Ok(Some(fs::File::open(first)?.into())),
        _ => Ok(None),
    }
}

/// Does something with the host's files: looks for one, starts a program. On a thread of its own where they are others
/// than the caller's, so that nothing else changes its view.
///
/// # Errors
/// If the host's mounts cannot be entered.
pub fn within<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(host) = mounts()? else { return Ok(work()) };
    let entered = move || {
        // A thread that shares its directory with others may not go elsewhere.
        #[expect(deprecated, reason = "the replacement only adds an unsafe marker for flags that are not used here")]
        rustix::thread::unshare(UnshareFlags::FS)?;
        namespace::enter(host.as_fd(), Namespace::Mount)?;
        Ok(work())
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("host".to_owned())
            .spawn_scoped(scope, entered)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// Where the inner run of the test below looks.
    const PLACE: &str = "LAMINA_TEST_PLACE";

    #[test]
    fn from_other_mounts_the_files_are_those_of_process_1() {
        if let Some(place) = std::env::var_os(PLACE) {
            let file = PathBuf::from(place).join("there");
            assert!(mounts().unwrap().is_some() && !file.exists());
            assert!(within(|| file.exists()).unwrap());
            assert!(!file.exists(), "nothing else changed its view");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there"), "").unwrap();
        // Process ids of their own, so that the first of them is one that can be looked at; then mounts of its own for the
        // test, in which the directory is covered.
        let inner = r#"mount -t tmpfs none "$LAMINA_TEST_PLACE" && exec "$0" --exact --test-threads 1 "$1""#;
        let outer = format!("unshare --mount sh -c '{inner}' \"$0\" \"$1\"; exit $?");
        let said = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "sh", "-c", &outer])
            .arg(std::env::current_exe().unwrap())
            .arg("sys::host::tests::from_other_mounts_the_files_are_those_of_process_1")
            .env(PLACE, dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&said.stderr));
    }

    #[test]
    fn where_the_files_are_the_same_it_is_done_at_once() {
        let thread = std::thread::current().id();
        let (there, other) = (mounts().unwrap().is_some(), within(|| std::thread::current().id()).unwrap() != thread);
        assert_eq!(there, other);
    }
}

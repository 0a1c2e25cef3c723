//! Whether anybody has a file open for writing, asked of the kernel by way of a lease that is given back at once.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `F_SETSIG` of `fcntl.h`: the same on every architecture that Linux has.
const SET_SIGNAL: libc::c_int = 10;

/// Whether some process has `file` (a regular file, opened for reading) open for writing at this moment. Where the
/// kernel cannot tell (some network file systems, a file of another owner and no `CAP_LEASE`) the answer is no.
///
/// # Errors
/// If the lease cannot be given back; the file must then be closed.
pub fn has_writer(file: &File) -> io::Result<bool> {
    // Whoever opens the file for writing while the lease is held is kept waiting until it is given back, and the kernel
    // tells us by a signal: by default one that would end the process, so it is made one that is ignored by default.
    if control(file, SET_SIGNAL, libc::SIGURG).is_err() {
        return Ok(false);
    }
    match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => control(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) => Ok(error.raw_os_error() == Some(libc::EAGAIN)),
    }
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take a number and touch no memory; the descriptor is open while `file` is borrowed.
    #[expect(unsafe_code, reason = "neither std, rustix nor nix has leases")]
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_writer_is_seen_while_it_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert!(!has_writer(&file).unwrap());
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(has_writer(&file).unwrap());
        drop(writer);
        assert!(!has_writer(&file).unwrap());
    }
}

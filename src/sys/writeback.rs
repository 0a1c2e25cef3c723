//! Write-back that is started early, so that the fsync at the end of a large file has little left to do.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Starts writing `length` bytes from `offset` to the disk, without waiting for them and without making anything
/// durable. Errors show up again in the fsync that must follow, so none is reported here.
#[expect(unsafe_code, reason = "neither std nor rustix has sync_file_range")]
pub fn start(file: &File, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        // SAFETY: the call takes numbers only, and the descriptor is open for as long as `file` is borrowed.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

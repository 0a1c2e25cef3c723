//! Loop devices, for kernels before 6.12 that cannot mount EROFS straight from a file.
//!
//! A device is configured read-only with `autoclear`: it goes by itself with the last mount of it, so a crash of the
//! agent leaves none behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What a loop device call attempted, on what, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// The step.
    pub action: &'static str,
    /// The device or the file of that step.
    pub path: PathBuf,
    /// The error.
    pub source: io::Error,
}

fn fail<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |e| Error { action, path, source: e.into() }
}

/// `LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO` of `linux/loop.h`. Direct, where the file system of
/// the image can: what is read is cached once, by the file system that is mounted, and not a second time for the image.
const FLAGS: u32 = 1 | 4 | 16;
/// Devices may be taken by others between asking for a free one and configuring it.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Numbers and argument types of `linux/loop.h`.
mod ioctl {
    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, super::Config);
}

/// A loop device whose backing file is set; keep the handle open until the device is mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Puts a read-only, self-clearing loop device over `file`.
    ///
    /// # Errors
    /// If the kernel has no loop driver or no device is free.
    pub fn over(file: &Path) -> Result<Self, Error> {
        let control = Path::new("/dev/loop-control");
        let handle = OpenOptions::new().read(true).write(true).open(control).map_err(fail("open", control))?;
        let backing = File::open(file).map_err(fail("open", file))?;
        let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..ATTEMPTS {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument; the descriptor is open.
            #[expect(unsafe_code, reason = "an ioctl")]
            let number =
                unsafe { ioctl::get_free(handle.as_raw_fd()) }.map_err(fail("get a free device of", control))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device =
                OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(&path).map_err(fail("open", &path))?;
            let config = Config {
                fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
                block_size: 0,
                info: Info {
                    numbers: [0; 5],
                    number: 0,
                    encrypt_type: 0,
                    encrypt_key_size: 0,
                    flags: FLAGS,
                    file_name: [0; 64],
                    crypt_name: [0; 64],
                    encrypt_key: [0; 32],
                    init: [0; 2],
                },
                reserved: [0; 8],
            };
            // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `Config` mirrors field by field, and keeps
            // a reference of its own to the backing file.
            #[expect(unsafe_code, reason = "an ioctl")]
            match unsafe { ioctl::configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(Self { path, _open: device }),
                Err(nix::errno::Errno::EBUSY) => last = nix::errno::Errno::EBUSY.into(),
                Err(e) => return Err(fail("configure", &path)(e)),
            }
        }
        Err(Error { action: "get a free device of", path: control.to_owned(), source: last })
    }

    /// The device's path, to mount from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}

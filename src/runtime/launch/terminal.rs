//! Descriptors 0, 1 and 2: streams of the caller, or a terminal from the container's own `/dev/pts`.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat, fstatfs};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::report::Reporter;
use super::{Error, Stage, Stdio};
use crate::sys::inside;
use crate::sys::mount::Mount;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: u64 = 0x1cd1;

/// What becomes 0, 1 and 2.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) fds: [OwnedFd; 3],
    pub(super) is_terminal: bool,
}

/// Opens the three, below the container's root; `console` puts a terminal at `/dev/console` too.
pub(super) fn open(root: &OwnedFd, stdio: Stdio<'_>, report: &Reporter, console: bool) -> Result<Streams, Error> {
    let fail = || Error::at::<std::io::Error>(Stage::Stdio, "");
    match stdio {
        Stdio::Fds { stdin, stdout, stderr } => {
            let one = |fd: Option<BorrowedFd<'_>>, flags| match fd {
                Some(fd) => fd.try_clone_to_owned(),
                None => null(root, flags),
            };
            let fds = [
                one(stdin, OFlags::RDONLY).map_err(fail())?,
                one(stdout, OFlags::WRONLY).map_err(fail())?,
                one(stderr, OFlags::WRONLY).map_err(fail())?,
            ];
            Ok(Streams { fds, is_terminal: false })
        }
        Stdio::Terminal { size } => {
            let (master, slave) = pair(root).map_err(fail())?;
            if let Some((rows, columns)) = size {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                rustix::termios::tcsetwinsize(&slave, size).map_err(Error::at(Stage::Stdio, "(size)"))?;
            }
            rustix::process::ioctl_tiocsctty(&slave).map_err(Error::at(Stage::Stdio, "(controlling terminal)"))?;
            if console {
                let place = inside::make_file(root, Path::new("dev/console"), 0o600).map_err(fail())?;
                Mount::clone_at(&slave, Path::new(""), false)
                    .and_then(|mount| mount.attach_to(&place))
                    .map_err(Error::mount(Stage::Stdio, "(/dev/console)"))?;
            }
            report.terminal(master.as_fd()).map_err(fail())?;
            let copies = (slave.try_clone(), slave.try_clone());
            let (Ok(a), Ok(b)) = copies else { return Err(Error::refuse(Stage::Stdio, "", libc::EMFILE)) };
            Ok(Streams { fds: [a, b, slave], is_terminal: true })
        }
    }
}

/// The container's `/dev/null`, if it is one still; else an end of a pipe that behaves like one as nearly as can be.
fn null(root: &OwnedFd, flags: OFlags) -> std::io::Result<OwnedFd> {
    let found = inside::open_plain(root, Path::new("dev/null"), flags | OFlags::NOFOLLOW | OFlags::NONBLOCK);
    if let Ok(fd) = found {
        let stat = fstat(&fd)?;
        let is_character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if is_character && stat.st_rdev == rustix::fs::makedev(1, 3) {
            rustix::fs::fcntl_setfl(&fd, flags)?;
            return Ok(fd);
        }
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(if flags.contains(OFlags::WRONLY) { write } else { read })
}

/// A terminal of the container's devpts. Its content may do what it likes to its `/dev`, so what was opened is checked.
fn pair(root: &OwnedFd) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let master = inside::open_plain(root, Path::new("dev/pts/ptmx"), flags)?;
    let stat = fstat(&master)?;
    let is_ptmx = fstatfs(&master)?.f_type.cast_unsigned() == DEVPTS && stat.st_rdev == rustix::fs::makedev(5, 2);
    if !is_ptmx {
        return Err(std::io::Error::from_raw_os_error(libc::ENODEV));
    }
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR)?;
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

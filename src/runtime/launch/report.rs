//! What a child tells its parent before it becomes the program: one packet each, then end of file by exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{Child, Error, Stage};
use crate::sys::process;

/// How long a start may take; far more than any needs that is not stuck.
const DEADLINE: Duration = Duration::from_mins(1);

/// A path, a name and the error of a mount fit; longer ones are cut.
const LONGEST: usize = 4096;

/// First bytes of packets.
const TERMINAL: u8 = b't';
const READY: u8 = b'r';
const STAND_IN: u8 = b's';
const FAILED: u8 = b'f';

/// The parent's end.
#[derive(Debug)]
pub(super) struct Receiver(OwnedFd);

/// The child's end, closed by exec.
#[derive(Debug)]
pub(super) struct Reporter(OwnedFd);

pub(super) fn channel() -> Result<(Receiver, Reporter), Error> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|e| Error::Fork { source: e.into() })?;
    Ok((Receiver(ours), Reporter(theirs)))
}

impl Reporter {
    /// Runs what becomes the program; when that returns, tells why and ends the process.
    pub(super) fn run(&self, body: impl FnOnce(&Self) -> Error) -> ! {
        let error = body(self);
        let (stage, subject, source) = match &error {
            Error::Step { stage, subject, source } => (*stage, subject.as_str(), source),
            Error::Fork { source } => (Stage::Namespace, "", source),
            Error::Died | Error::TimedOut { .. } => process::exit_now(1),
        };
        let position = Stage::ALL.iter().position(|s| *s == stage).unwrap_or_default();
        let mut packet = vec![FAILED, u8::try_from(position).unwrap_or_default()];
        packet.extend(source.raw_os_error().unwrap_or(libc::EINVAL).to_le_bytes());
        packet.extend(subject.bytes());
        packet.truncate(LONGEST);
        // With nobody left to tell there is nothing else to do.
        let _ = self.send(&packet, None);
        process::exit_now(1)
    }

    /// Says that nothing is left to do but to execute the program.
    pub(super) fn ready(&self) -> io::Result<()> {
        self.send(&[READY], None)
    }

    /// Says that another child of the parent becomes the program, and that this one ends.
    pub(super) fn stand_in(&self, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
        let mut packet = vec![STAND_IN];
        packet.extend(pid.to_le_bytes());
        self.send(&packet, Some(pidfd))
    }

    /// Hands over the master of the terminal.
    pub(super) fn terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&[TERMINAL], Some(master))
    }

    fn send(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: &[BorrowedFd<'_>] = fd.as_slice();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Receiver {
    /// Waits until the child has executed its program or has given up; reaps it in the second case.
    pub(super) fn wait(self, pid: i32, pidfd: OwnedFd) -> Result<Child, Error> {
        let mut stand_in = None;
        let heard = self.listen(&mut stand_in);
        let reap = |pidfd: &OwnedFd| {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        };
        match (heard, stand_in) {
            (Ok(terminal), None) => Ok(Child { pid, pidfd, terminal }),
            (Ok(terminal), Some((other, other_fd))) => {
                // Its work is done.
                reap(&pidfd);
                Ok(Child { pid: other, pidfd: other_fd, terminal })
            }
            (Err(error), stand_in) => {
                let other = stand_in.map(|(_, fd)| fd);
                for child in std::iter::once(pidfd).chain(other) {
                    // It may have ended already. Nothing that the child could do keeps a SIGKILL from it.
                    let _ = pidfd_send_signal(&child, Signal::KILL);
                    reap(&child);
                }
                Err(error)
            }
        }
    }

    fn listen(&self, stand_in: &mut Option<(i32, OwnedFd)>) -> Result<Option<OwnedFd>, Error> {
        let deadline = Instant::now() + DEADLINE;
        let (mut terminal, mut ready) = (None, false);
        let mut packet = vec![0; LONGEST];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or_default(), tv_nsec: 999_999_999 };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(0) => return Err(Error::TimedOut { seconds: DEADLINE.as_secs() }),
                _ => {}
            }
            let (length, fd) = match self.receive(&mut packet) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Error::Died),
                Ok(received) => received,
            };
            match packet.get(..length).unwrap_or_default() {
                [] if ready => return Ok(terminal),
                [TERMINAL] => terminal = fd,
                [READY] => ready = true,
                [STAND_IN, a, b, c, d] => {
                    *stand_in = fd.map(|fd| (i32::from_le_bytes([*a, *b, *c, *d]), fd));
                }
                [FAILED, stage, a, b, c, d, subject @ ..] => {
                    return Err(Error::Step {
                        stage: Stage::ALL.get(usize::from(*stage)).copied().unwrap_or(Stage::Exec),
                        subject: String::from_utf8_lossy(subject).into_owned(),
                        source: io::Error::from_raw_os_error(i32::from_le_bytes([*a, *b, *c, *d])),
                    });
                }
                _ => return Err(Error::Died),
            }
        }
    }

    fn receive(&self, packet: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(packet)];
        let received = recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((received.bytes, fd))
    }
}

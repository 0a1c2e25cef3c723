//! Frames on a Unix stream socket: eight bytes of header, a JSON body, and descriptors beside them.
//!
//! ```text
//!  0        4     5        8
//!  ┌────────┬─────┬────────┬───────────────┐
//!  │ length │ fds │ 0 0 0  │ body          │   length: of the body, little-endian
//!  └────────┴─────┴────────┴───────────────┘
//! ```
//!
//! Descriptors travel (SCM_RIGHTS) with the first byte of their frame, so that they are there no later than the header
//! that counts them. Both halves work on sockets that block and on those that do not.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The longest body: a spec with an environment of the largest size that a manifest may have (1 MiB) fits many times.
pub const MAX_BODY: usize = 4 << 20;
/// The most descriptors of one frame (the kernel's own limit is 253).
pub const MAX_FDS: usize = 64;
/// The most that may wait to be sent to a peer that does not read.
pub const MAX_QUEUED: usize = 8 << 20;

const HEADER: usize = 8;
/// What one call receives at most; small, for it lies on the stack of a process that should stay small.
const CHUNK: usize = 16 << 10;

/// What is wrong with a conversation; none of it can be mended but by closing the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("cannot {action}")]
    Socket {
        /// `send` or `receive`.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer closed the socket in the middle of a frame.
    #[error("the peer closed the socket in the middle of a frame")]
    Cut,
    /// A header announces a body over [`MAX_BODY`], descriptors over [`MAX_FDS`], or has other bytes than it may.
    #[error("a frame header of {length} bytes and {fds} descriptors is not allowed")]
    Header {
        /// The length it announces.
        length: usize,
        /// The descriptors it announces.
        fds: usize,
    },
    /// Descriptors were lost on the way (this process has too many open) or are more than were announced.
    #[error("descriptors were lost or not announced ({have} of {announced})")]
    Descriptors {
        /// How many came.
        have: usize,
        /// How many should have come.
        announced: usize,
    },
    /// A body is not a message.
    #[error("a message cannot be read")]
    Message(#[from] serde_json::Error),
    /// The peer does not read what it is sent.
    #[error("the peer does not read: {0} bytes wait for it")]
    Stalled(usize),
}

/// A message as it came.
#[derive(Debug)]
pub struct Frame {
    /// The JSON text.
    pub body: Vec<u8>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    /// The message in the body.
    ///
    /// # Errors
    /// If the body is not one.
    pub fn message<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// The receiving half: bytes and descriptors in, frames out.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

/// What a call of [`Receiver::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes; there may be a frame.
    Some,
    /// The peer has closed the socket, between two frames.
    End,
}

impl Receiver {
    /// Takes once what the socket has; `WouldBlock` comes back as the error that it is.
    ///
    /// # Errors
    /// If the socket fails, was closed inside a frame, or descriptors got lost.
    pub fn receive(&mut self, socket: impl AsFd) -> Result<Received, Error> {
        let mut chunk = [0_u8; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match recvmsg(&socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let got = got.map_err(|e| Error::Socket { action: "receive", source: e.into() })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > 2 * MAX_FDS {
            return Err(Error::Descriptors { have: self.fds.len(), announced: 0 });
        }
        if got.bytes == 0 {
            return if self.bytes.is_empty() { Ok(Received::End) } else { Err(Error::Cut) };
        }
        self.bytes.extend_from_slice(chunk.get(..got.bytes).unwrap_or_default());
        Ok(Received::Some)
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// If the header is not allowed, or its descriptors are missing.
    pub fn take(&mut self) -> Result<Option<Frame>, Error> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, l3, fds, zeros @ ..] = *header;
        let fds = usize::from(fds);
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > MAX_BODY || fds > MAX_FDS || zeros != [0; 3] {
            return Err(Error::Header { length, fds });
        }
        if self.fds.len() < fds {
            return Err(Error::Descriptors { have: self.fds.len(), announced: fds });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.bytes.drain(..HEADER + length);
        if self.bytes.is_empty() {
            // One large message must not keep its buffer for the life of the process.
            self.bytes = Vec::new();
        }
        Ok(Some(Frame { body, fds: self.fds.drain(..fds).collect() }))
    }
}

/// The sending half: frames in, bytes and descriptors out as the socket takes them.
#[derive(Debug, Default)]
pub struct Sender {
    queue: VecDeque<Outgoing>,
    queued: usize,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Sender {
    /// Puts a message in line.
    ///
    /// # Errors
    /// If it is longer than [`MAX_BODY`], has more descriptors than [`MAX_FDS`], or the peer has not been reading.
    pub fn push(&mut self, message: &impl serde::Serialize, fds: Vec<OwnedFd>) -> Result<(), Error> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - HEADER;
        let refused = Error::Header { length, fds: fds.len() };
        if length > MAX_BODY || fds.len() > MAX_FDS {
            return Err(refused);
        }
        let (Ok(announced), Ok(count)) = (u32::try_from(length), u8::try_from(fds.len())) else { return Err(refused) };
        if let Some(header) = bytes.first_chunk_mut::<HEADER>() {
            let [l0, l1, l2, l3] = announced.to_le_bytes();
            *header = [l0, l1, l2, l3, count, 0, 0, 0];
        }
        if self.queued + bytes.len() > MAX_QUEUED {
            return Err(Error::Stalled(self.queued));
        }
        self.queued += bytes.len();
        self.queue.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends what the socket takes; `true` when nothing waits any more. On a blocking socket that is always so.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn flush(&mut self, socket: impl AsFd) -> Result<bool, Error> {
        while let Some(first) = self.queue.front_mut() {
            let rest = first.bytes.get(first.sent..).unwrap_or_default();
            let borrowed: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !borrowed.is_empty() {
                // The space is for MAX_FDS, and push lets no more in.
                let _ = control.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            match sendmsg(&socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    first.sent += n;
                    self.queued = self.queued.saturating_sub(n);
                    drop(borrowed);
                    // They went with the first byte.
                    first.fds = Vec::new();
                    if first.sent >= first.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(Error::Socket { action: "send", source: e.into() }),
            }
        }
        Ok(true)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Error {
    /// Whether the socket merely has nothing now.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Socket { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

//! Netlink: messages, their nested attributes, and a socket on which requests are answered one after another.
//!
//! Only what the pod network needs, in the kernel's own words (`rtnetlink(7)`, `linux/netfilter/nf_tables.h`). Blocks;
//! each answer comes from the kernel at once.

pub mod route;

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// `NLM_F_REQUEST`
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`
const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`
const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: what is made must not be there.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;
/// `NLM_F_REPLACE`
pub const REPLACE: u16 = 0x100;
/// `NLM_F_APPEND`
pub const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`; an acknowledgement is one with the number 0.
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// The rest of an attribute's kind.
const KIND_MASK: u16 = 0x3fff;
/// As large as a datagram of the kernel's gets.
const RECEIVE: usize = 64 * 1024;
/// The kernel answers at once; a socket that does not is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kinds of netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables.
    Netfilter,
}

/// One message while it is written.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this kind with the header of its family.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(family_header);
        Self { bytes }
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds an attribute that is a C string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that holds others.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        inner(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// Adds bytes that are no attribute: the header of a family within an attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finished(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("netlink does not answer")]
    Socket(#[source] io::Error),
    /// The kernel refused, and may have said why.
    #[error("the kernel refuses{}", said(.reason))]
    Refused {
        /// In its own words; empty when there are none.
        reason: String,
        /// The error number.
        source: io::Error,
    },
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

impl Error {
    /// Whether the kernel refused with this error number.
    pub fn is(&self, errno: i32) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(errno))
    }
}

fn socket_error(error: rustix::io::Errno) -> Error {
    Error::Socket(error.into())
}

/// A netlink socket. It stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no such family.
    pub fn open(family: Family) -> Result<Self, Error> {
        let protocol: Option<Protocol> = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(socket_error)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE)).map_err(socket_error)?;
        explain_errors(&fd);
        Ok(Self { fd, sequence: 0 })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Has the kernel do one thing.
    ///
    /// # Errors
    /// If it refuses.
    pub fn ask(&mut self, message: Message) -> Result<(), Error> {
        let sequence = self.next();
        let bytes = message.finished(sequence, ACK);
        send(&self.fd, &bytes, SendFlags::empty()).map_err(socket_error)?;
        self.answers(sequence, |_, _| {})
    }

    /// Asks for a list; each entry is the message's kind and what follows its header.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn list(&mut self, message: Message) -> Result<Vec<(u16, Vec<u8>)>, Error> {
        let sequence = self.next();
        send(&self.fd, &message.finished(sequence, DUMP), SendFlags::empty()).map_err(socket_error)?;
        let mut all = Vec::new();
        self.answers(sequence, |kind, body| all.push((kind, body.to_vec())))?;
        Ok(all)
    }

    /// Has the kernel do several things at once or none of them; `first` and `last` are the marks of a batch.
    ///
    /// # Errors
    /// If it refuses one of them.
    pub fn batch(&mut self, first: Message, messages: Vec<Message>, last: Message) -> Result<(), Error> {
        let count = messages.len();
        let mut bytes = first.finished(self.next(), 0);
        let mut asked = 0;
        for (i, message) in messages.into_iter().enumerate() {
            let sequence = self.next();
            // One answer tells of all: an error anywhere is told in any case, before it.
            let flags = if i + 1 == count { ACK } else { 0 };
            asked = sequence;
            bytes.extend(message.finished(sequence, flags));
        }
        bytes.extend(last.finished(self.next(), 0));
        // A datagram as long as the rules are; the limit for everybody else may be lower.
        if sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() * 2 + 4096).is_err() {
            sockopt::set_socket_send_buffer_size(&self.fd, bytes.len() * 2 + 4096).map_err(socket_error)?;
        }
        send(&self.fd, &bytes, SendFlags::empty()).map_err(socket_error)?;
        self.answers(asked, |_, _| {})
    }

    /// Reads until what was asked with `last` is answered.
    fn answers(&self, last: u32, mut each: impl FnMut(u16, &[u8])) -> Result<(), Error> {
        let mut buffer = vec![0; RECEIVE];
        loop {
            let (length, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty()).map_err(socket_error)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while rest.len() >= HEADER {
                let size = word(rest, 0) as usize;
                let (Some(body), kind) = (rest.get(HEADER..size), half(rest, 4)) else { break };
                let sequence = word(rest, 8);
                match kind {
                    ERROR => {
                        let code = word(body, 0).cast_signed();
                        if code != 0 {
                            let source = io::Error::from_raw_os_error(-code);
                            return Err(Error::Refused { reason: explanation(body), source });
                        }
                        if sequence == last {
                            return Ok(());
                        }
                    }
                    DONE if sequence == last => return Ok(()),
                    DONE => {}
                    kind if sequence == last => each(kind, body),
                    _ => {}
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Asks the kernel for its own words on what it refuses; without them the error number has to do.
fn explain_errors(fd: &OwnedFd) {
    const NETLINK_EXT_ACK: i32 = 11;
    let on: i32 = 1;
    // SAFETY: the option's value is a live `int`, whose size is passed.
    #[expect(unsafe_code, reason = "an option without a wrapper")]
    let _ = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), libc::SOL_NETLINK, NETLINK_EXT_ACK, (&raw const on).cast(), 4)
    };
}

/// The kernel's own words in an error message, which follow the message that it is about.
fn explanation(body: &[u8]) -> String {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    // The whole message is repeated, or its header alone; which of the two, the flags would say. One of them parses.
    let whole = 4 + (word(body, 4) as usize).next_multiple_of(4);
    for start in [whole, 4 + HEADER] {
        let found = attributes(body.get(start..).unwrap_or_default()).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
        if let Some((_, text)) = found {
            return String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        }
    }
    String::new()
}

/// A 32-bit number at a place; 0 where there is none.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Takes attributes apart: their kinds and contents.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0));
        if length < 4 {
            return None;
        }
        let kind = half(rest, 2) & KIND_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_are_written_are_read_again() {
        let mut message = Message::new(16, CREATE, &[0; 16]);
        message.text(3, "eth0").nest(18, |m| {
            m.text(1, "veth").attribute(2, &7u32.to_ne_bytes());
        });
        let bytes = message.finished(9, ACK);
        assert_eq!(word(&bytes, 0) as usize, bytes.len());
        assert_eq!(word(&bytes, 8), 9);
        let all: Vec<_> = attributes(&bytes[HEADER + 16..]).collect();
        assert_eq!(all[0], (3, &b"eth0\0"[..]));
        let inner: Vec<_> = attributes(all[1].1).collect();
        assert_eq!((all[1].0, inner[0], inner[1].0), (18, (1, &b"veth\0"[..]), 2));
    }

    #[test]
    fn nonsense_from_the_kernel_is_no_attribute() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn a_refusal_says_what_the_kernel_says() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let error = socket.ask(Message::new(17, 0, &[0; 16])).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
}

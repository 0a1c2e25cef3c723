//! What a container reads: bytes from the client that is attached, one at a time.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::reactor::{Interest, Reactor, Source, Token};

/// How much of a client's input is held while the container does not read: one chunk.
const CHUNK: usize = 4 << 10;

/// The open input of a container.
#[derive(Debug)]
pub(super) struct Input {
    container: u64,
    /// Close it when the first client has gone (`stdinOnce`).
    once: bool,
    to: OwnedFd,
    /// Waited for while something is pending.
    to_token: Option<Token>,
    from: Option<From>,
    pending: Vec<u8>,
    closing: bool,
}

#[derive(Debug)]
struct From {
    fd: OwnedFd,
    /// `None` while something is pending.
    token: Option<Token>,
}

/// Whether an input is still of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum After {
    Open,
    Closed,
}

impl Input {
    /// `to` is the write end of the container's input.
    pub(super) fn new(container: u64, to: OwnedFd, once: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&to, true)?;
        Ok(Self { container, once, to, to_token: None, from: None, pending: Vec::new(), closing: false })
    }

    /// Takes input from `from`; an earlier client's is taken no longer.
    pub(super) fn attach(&mut self, reactor: &mut Reactor, from: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&from, true)?;
        let token = if self.pending.is_empty() {
            Some(reactor.add(&from, Source::InputFrom(self.container), Interest::Read)?)
        } else {
            None
        };
        self.detach(reactor);
        self.from = Some(From { fd: from, token });
        Ok(())
    }

    fn detach(&mut self, reactor: &mut Reactor) {
        if let Some(From { fd, token: Some(token) }) = self.from.take() {
            reactor.remove(&fd, token);
        }
    }

    /// A client has input, or has gone.
    pub(super) fn readable(&mut self, reactor: &mut Reactor) -> After {
        let Some(from) = &self.from else { return After::Open };
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&from.fd, &mut chunk) {
            Ok(n @ 1..) => {
                self.pending.extend_from_slice(chunk.get(..n).unwrap_or_default());
                self.push(reactor)
            }
            Err(Errno::AGAIN | Errno::INTR) => After::Open,
            Ok(_) | Err(_) => {
                self.detach(reactor);
                if self.once { self.close(reactor) } else { After::Open }
            }
        }
    }

    /// The container takes more, or has closed its end.
    pub(super) fn writable(&mut self, reactor: &mut Reactor) -> After {
        self.push(reactor)
    }

    /// Closes it as soon as what is pending has been written.
    pub(super) fn close(&mut self, reactor: &mut Reactor) -> After {
        self.closing = true;
        self.detach(reactor);
        self.push(reactor)
    }

    fn push(&mut self, reactor: &mut Reactor) -> After {
        if !self.pending.is_empty() {
            match rustix::io::write(&self.to, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return After::Closed,
            }
        }
        let waits = !self.pending.is_empty();
        if waits && self.to_token.is_none() {
            self.to_token = reactor.add(&self.to, Source::InputTo(self.container), Interest::Write).ok();
        } else if !waits {
            self.pending = Vec::new();
            if let Some(token) = self.to_token.take() {
                reactor.remove(&self.to, token);
            }
            if self.closing {
                return After::Closed;
            }
        }
        if let Some(from) = &mut self.from {
            match from.token {
                Some(token) if waits => {
                    reactor.remove(&from.fd, token);
                    from.token = None;
                }
                None if !waits => {
                    from.token = reactor.add(&from.fd, Source::InputFrom(self.container), Interest::Read).ok();
                }
                _ => {}
            }
        }
        After::Open
    }

    /// Takes its descriptors out of the reactor: for an input that is closed now.
    pub(super) fn end(mut self, reactor: &mut Reactor) {
        self.detach(reactor);
        if let Some(token) = self.to_token.take() {
            reactor.remove(&self.to, token);
        }
    }
}

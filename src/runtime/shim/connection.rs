//! One client of the shim: its hello, its requests as they come, what it is sent as it takes it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::reactor::Token;
use crate::runtime::protocol::frame::{Error, Received, Receiver, Sender};
use crate::runtime::protocol::{Failure, FailureKind, FromShim, Hello, Request, ToShim, VERSIONS};

/// A connected client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: UnixStream,
    pub(super) token: Token,
    receiver: Receiver,
    sender: Sender,
    greeted: bool,
    /// Whether the reactor was asked for room to write.
    pub(super) wants_room: bool,
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Something to do.
    Request { id: u64, request: Request, fds: Vec<OwnedFd> },
    /// Something that this shim cannot read, from a client that may be newer.
    Unreadable { id: u64, failure: Failure },
}

/// As much of a message as is needed to answer one that is not understood.
#[derive(serde::Deserialize)]
struct Envelope {
    request: OnlyId,
}

#[derive(serde::Deserialize)]
struct OnlyId {
    id: u64,
}

impl Connection {
    pub(super) fn new(socket: UnixStream, token: Token) -> Self {
        Self {
            socket,
            token,
            receiver: Receiver::default(),
            sender: Sender::default(),
            greeted: false,
            wants_room: false,
        }
    }

    /// Takes what has come; `None` when the conversation is over.
    pub(super) fn receive(&mut self, hello: &Hello) -> Option<Vec<Incoming>> {
        match self.receiver.receive(&self.socket) {
            Ok(Received::Some) => {}
            Ok(Received::End) => return None,
            Err(e) if e.would_block() => {}
            Err(e) => return Self::over(&e),
        }
        let mut incoming = Vec::new();
        loop {
            let frame = match self.receiver.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Some(incoming),
                Err(e) => return Self::over(&e),
            };
            match frame.message::<ToShim>() {
                Ok(ToShim::Hello(theirs)) => {
                    self.greeted = VERSIONS.common(theirs.versions).is_some();
                    self.send(&FromShim::Hello(hello.clone()), Vec::new());
                    if !self.greeted {
                        // It reads from the answer why.
                        let _ = self.flush();
                        return None;
                    }
                }
                Ok(ToShim::Request { id, request }) if self.greeted => {
                    incoming.push(Incoming::Request { id, request, fds: frame.fds });
                }
                Ok(ToShim::Request { .. }) => return None,
                Err(e) => {
                    let Ok(envelope) = frame.message::<Envelope>() else { return Self::over(&e) };
                    let message = format!("the shim cannot read this request: {}", crate::api::problem::chain(&e));
                    let failure = Failure::new(FailureKind::Invalid, message);
                    incoming.push(Incoming::Unreadable { id: envelope.request.id, failure });
                }
            }
        }
    }

    fn over<T>(error: &Error) -> Option<T> {
        super::note(&format!("a client was cut off: {}", crate::api::problem::chain(error)));
        None
    }

    /// Puts a message in line; one that does not read any more finds its socket closed.
    pub(super) fn send(&mut self, message: &FromShim, fds: Vec<OwnedFd>) {
        if let Err(e) = self.sender.push(message, fds) {
            super::note(&format!("a client was cut off: {}", crate::api::problem::chain(&e)));
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Whether it has said hello, and so hears of events.
    pub(super) fn greeted(&self) -> bool {
        self.greeted
    }

    /// Sends what the client takes: `Some(true)` when nothing waits any more, `None` when it has gone.
    pub(super) fn flush(&mut self) -> Option<bool> {
        self.sender.flush(&self.socket).ok()
    }
}

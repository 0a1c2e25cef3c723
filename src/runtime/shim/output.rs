//! What a container writes: to its log, and to whoever looks on.
//!
//! A viewer that is too slow either makes the container wait (`wait`, for a client that owns the pod) or is cut off. In
//! both cases no more than one chunk a viewer is held. A source that waits is taken out of the reactor, since the kernel
//! would go on telling of its end.

use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::io::Errno;

use super::reactor::{Interest, Reactor, Source, Token};
use crate::runtime::logs::{Stream, Writer};

/// How much is read at once; a pipe holds twice that.
pub(super) const CHUNK: usize = 32 << 10;
/// How many chunks are read of one output when its container has ended and the rest is wanted: more than the largest
/// pipe that an ordinary user may make (1 MiB) holds.
const LAST_CHUNKS: usize = 64;

#[derive(Debug)]
struct Output {
    stream: Stream,
    fd: OwnedFd,
    /// `None` while a viewer makes it wait.
    token: Option<Token>,
}

#[derive(Debug)]
struct Viewer {
    number: u64,
    stream: Stream,
    fd: OwnedFd,
    token: Token,
    wait: bool,
    pending: Vec<u8>,
}

/// The outputs of one container.
#[derive(Debug)]
pub(super) struct Outputs {
    container: u64,
    log: Writer,
    sources: Vec<Output>,
    viewers: Vec<Viewer>,
    next_viewer: u64,
}

/// What one read brought.
enum Pumped {
    Bytes,
    Nothing,
    End,
}

impl Outputs {
    pub(super) fn new(container: u64, log: Writer) -> Self {
        Self { container, log, sources: Vec::new(), viewers: Vec::new(), next_viewer: 0 }
    }

    pub(super) fn log(&self) -> &Writer {
        &self.log
    }

    /// Reads from `fd` from now on.
    pub(super) fn add(&mut self, reactor: &mut Reactor, stream: Stream, fd: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let token = reactor.add(&fd, Source::Output(self.container, stream), Interest::Read)?;
        self.sources.push(Output { stream, fd, token: Some(token) });
        Ok(())
    }

    /// Copies a stream to `fd` too, from now on. If the stream has ended, so does the copy.
    pub(super) fn view(&mut self, reactor: &mut Reactor, stream: Stream, fd: OwnedFd, wait: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let number = self.next_viewer;
        self.next_viewer += 1;
        let token = reactor.add(&fd, Source::Viewer(self.container, number), Interest::Gone)?;
        self.viewers.push(Viewer { number, stream, fd, token, wait, pending: Vec::new() });
        Ok(())
    }

    /// Lets the viewers go whose stream will bring no more; called once all outputs of a start are known.
    pub(super) fn settle(&mut self, reactor: &mut Reactor) {
        let over = |viewer: &Viewer| {
            viewer.pending.is_empty() && !self.sources.iter().any(|output| output.stream == viewer.stream)
        };
        let numbers: Vec<_> = self.viewers.iter().filter(|v| over(v)).map(|v| v.number).collect();
        for number in numbers {
            self.leave(reactor, number);
        }
    }

    /// Takes once what a stream has.
    pub(super) fn readable(&mut self, reactor: &mut Reactor, stream: Stream, buffer: &mut [u8]) {
        if let Pumped::End = self.pump(reactor, stream, buffer) {
            self.end(reactor, stream);
        }
    }

    fn pump(&mut self, reactor: &mut Reactor, stream: Stream, buffer: &mut [u8]) -> Pumped {
        let Some(output) = self.sources.iter_mut().find(|o| o.stream == stream && o.token.is_some()) else {
            return Pumped::Nothing;
        };
        let got = match rustix::io::read(&output.fd, &mut *buffer) {
            Ok(n @ 1..) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Pumped::Nothing,
            // EIO: the other end of a terminal has been closed by its last user.
            Ok(_) | Err(_) => return Pumped::End,
        };
        let bytes = buffer.get(..got).unwrap_or_default();
        self.log.write(stream, bytes, Timestamp::now());
        let mut gone = Vec::new();
        let mut waits = false;
        for viewer in self.viewers.iter_mut().filter(|v| v.stream == stream) {
            let sent = match rustix::io::write(&viewer.fd, bytes) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => {
                    gone.push(viewer.number);
                    continue;
                }
            };
            match bytes.get(sent..) {
                None | Some([]) => {}
                Some(rest) if viewer.wait => {
                    viewer.pending = rest.to_vec();
                    reactor.change(&viewer.fd, viewer.token, Interest::Write);
                    waits = true;
                }
                Some(_) => gone.push(viewer.number),
            }
        }
        if waits && let Some(token) = output.token.take() {
            reactor.remove(&output.fd, token);
        }
        for number in gone {
            self.leave(reactor, number);
        }
        Pumped::Bytes
    }

    /// Something happened to a viewer: it takes more, or it has gone.
    pub(super) fn viewer(&mut self, reactor: &mut Reactor, number: u64, gone: bool) {
        let Some(viewer) = self.viewers.iter_mut().find(|v| v.number == number) else { return };
        let mut gone = gone;
        if !gone && !viewer.pending.is_empty() {
            match rustix::io::write(&viewer.fd, &viewer.pending) {
                Ok(n) => drop(viewer.pending.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => gone = true,
            }
        }
        let stream = viewer.stream;
        if gone {
            self.leave(reactor, number);
        } else if viewer.pending.is_empty() {
            viewer.pending = Vec::new();
            reactor.change(&viewer.fd, viewer.token, Interest::Gone);
        }
        self.resume(reactor, stream);
        self.settle(reactor);
    }

    /// Reads a stream again if nobody makes it wait any more.
    fn resume(&mut self, reactor: &mut Reactor, stream: Stream) {
        if self.viewers.iter().any(|v| v.stream == stream && !v.pending.is_empty()) {
            return;
        }
        for output in self.sources.iter_mut().filter(|o| o.stream == stream && o.token.is_none()) {
            match reactor.add(&output.fd, Source::Output(self.container, stream), Interest::Read) {
                Ok(token) => output.token = Some(token),
                Err(e) => super::note(&format!("cannot read a container's output any more: {e}")),
            }
        }
    }

    fn leave(&mut self, reactor: &mut Reactor, number: u64) {
        if let Some(at) = self.viewers.iter().position(|v| v.number == number) {
            let viewer = self.viewers.swap_remove(at);
            reactor.remove(&viewer.fd, viewer.token);
            self.resume(reactor, viewer.stream);
        }
    }

    fn end(&mut self, reactor: &mut Reactor, stream: Stream) {
        self.log.end(stream, Timestamp::now());
        if let Some(at) = self.sources.iter().position(|o| o.stream == stream) {
            let output = self.sources.swap_remove(at);
            if let Some(token) = output.token {
                reactor.remove(&output.fd, token);
            }
        }
        self.settle(reactor);
    }

    /// Takes what a container that has ended left in its pipes, so that its log is whole before its end is told. A
    /// stream that a viewer makes wait comes later.
    pub(super) fn drain(&mut self, reactor: &mut Reactor, buffer: &mut [u8]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..LAST_CHUNKS {
                match self.pump(reactor, stream, buffer) {
                    Pumped::Bytes => {}
                    Pumped::Nothing => break,
                    Pumped::End => {
                        self.end(reactor, stream);
                        break;
                    }
                }
            }
        }
    }

    /// Closes everything: the end of the container's part in this world.
    pub(super) fn close(&mut self, reactor: &mut Reactor) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end(reactor, stream);
        }
        while let Some(number) = self.viewers.first().map(|v| v.number) {
            self.leave(reactor, number);
        }
    }
}

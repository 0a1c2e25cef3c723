//! What the shim waits for: descriptors with the meaning that each has.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::runtime::logs::Stream;

/// How many events are taken at once: with one round a source, a flood of one cannot starve another.
const ROUND: usize = 32;

/// What a descriptor is to the shim. Containers are known by their number, which is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody wants to connect.
    Listener,
    /// A signal came.
    Signals,
    /// A client sent something, or takes more.
    Client(u64),
    /// A container wrote something.
    Output(u64, Stream),
    /// A viewer of a container's output takes more, or is gone.
    Viewer(u64, u64),
    /// A client has input for a container.
    InputFrom(u64),
    /// A container takes more input, or takes none any more.
    InputTo(u64),
}

/// A registration; goes back to [`Reactor::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(u64);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Bytes, or the end.
    Read,
    /// Room.
    Write,
    /// Both.
    ReadWrite,
    /// Only that the other end has gone.
    Gone,
}

impl From<Interest> for epoll::EventFlags {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::IN,
            Interest::Write => Self::OUT,
            Interest::ReadWrite => Self::IN | Self::OUT,
            Interest::Gone => Self::empty(),
        }
    }
}

/// What happened to a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    /// Which.
    pub(super) source: Source,
    /// The other end is gone; there may still be bytes.
    pub(super) gone: bool,
}

/// An epoll instance and what its numbers mean. Descriptors are taken out before they are closed, since other processes
/// may hold the same open file.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: OwnedFd,
    next: u64,
    sources: BTreeMap<Token, Source>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, next: 0, sources: BTreeMap::new() })
    }

    pub(super) fn add(&mut self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<Token> {
        let token = Token(self.next);
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.0), interest.into())?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Waits for something else from now on. Fails only if the descriptor was never added.
    pub(super) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) {
        let changed = epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.0), interest.into());
        if let Err(e) = changed {
            super::note(&format!("cannot wait for a descriptor: {e}"));
        }
    }

    pub(super) fn remove(&mut self, fd: impl AsFd, token: Token) {
        let _ = epoll::delete(&self.epoll, fd);
        self.sources.remove(&token);
    }

    /// Waits until something happens or the time is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<(Token, Ready)>> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); ROUND];
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            waited => waited?,
        };
        Ok(events
            .iter()
            .filter_map(|event| {
                let token = Token(event.data.u64());
                let flags = event.flags;
                let gone = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                let source = *self.sources.get(&token)?;
                Some((token, Ready { source, gone }))
            })
            .collect())
    }

    /// Whether a registration is still there: an earlier event of the same round may have ended it.
    pub(super) fn has(&self, token: Token) -> bool {
        self.sources.contains_key(&token)
    }
}

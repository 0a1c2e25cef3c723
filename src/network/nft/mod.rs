//! nftables without the `nft` program: rules as values, and a table of them that replaces the one before at once.
//!
//! Only the matches and verdicts that pods need; [`encode`] writes them as the kernel reads them. A table belongs to one
//! agent, so that several on a machine do not disturb one another, nor the rules of anybody else.

mod encode;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use super::Protocol;
use crate::sys::netlink::{Error, Family, Message, Socket};

/// Where in a packet's way a chain looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// As it comes in, before anything is known of it.
    Raw,
    /// As it comes in, where its destination can be changed.
    Incoming,
    /// As a process of the host sends it, where its destination can be changed.
    Outgoing,
    /// As it leaves, where its source can be changed.
    Leaving,
    /// On its way to a process of the host.
    ToHost,
    /// On its way through the host.
    Through,
    /// On its way from a process of the host.
    FromHost,
}

/// What a rule asks of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// It is of this protocol.
    Protocol(Protocol),
    /// It is of the family of this address.
    FamilyOf(IpAddr),
    /// It comes from there.
    From(IpNet),
    /// It goes there.
    To(IpNet),
    /// It goes to an address of the host.
    ToThisHost,
    /// It goes to this port.
    ToPort(u16),
    /// It came by this interface.
    In(String),
    /// It leaves by another than this interface.
    NotOut(String),
    /// It leaves by this interface.
    Out(String),
    /// Its destination was changed.
    Redirected,
    /// A draw: one in so many.
    OneIn(u32),
    /// Its source's share: which of so many it is.
    Share {
        /// Of how many.
        of: u32,
        /// Which.
        is: u32,
        /// Whether sources are IPv6 addresses.
        v6: bool,
    },
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is dropped.
    Drop,
    /// Its sender is told that nobody is there.
    Reject,
    /// It goes on in another chain and comes back.
    Jump(String),
    /// It gets another destination.
    Redirect(IpAddr, u16),
    /// It gets the source address of the interface by which it leaves.
    Masquerade,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What it asks; all of it must hold.
    pub(crate) matches: Vec<Match>,
    /// What then happens.
    pub(crate) verdict: Verdict,
    /// Whose it is, for a person who lists rules.
    pub(crate) comment: String,
}

/// A chain of rules; without a hook others jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// A table; chains that others jump to come before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) chains: Vec<Chain>,
}

/// The way to the kernel's tables. Kept open: its end waits for all that was removed through it, a dozen milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Tables(Option<Socket>);

impl Tables {
    /// Puts this table in the place of the one of its name: packets meet either the old rules or the new ones.
    pub(crate) fn replace(&mut self, table: &Table) -> Result<(), Error> {
        let mut messages = encode::removal(&table.name);
        messages.extend(encode::table(table));
        self.commit(messages)
    }

    /// Removes a table; one that is not there is fine.
    pub(crate) fn remove(&mut self, table: &str) -> Result<(), Error> {
        self.commit(encode::removal(table))
    }

    fn commit(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        let mut socket = self.0.take().map_or_else(|| Socket::open(Family::Netfilter), Ok)?;
        let (first, last) = encode::marks();
        socket.batch(first, messages, last)?;
        // After an error there may be answers in it that nobody waits for.
        self.0 = Some(socket);
        Ok(())
    }
}

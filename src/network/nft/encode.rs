//! Rules in the kernel's form: `linux/netfilter/nf_tables.h`. Numbers are big-endian there, but for what registers hold.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Chain, Hook, Match, Rule, Table, Verdict};
use crate::sys::netlink::{APPEND, CREATE, Message};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;

const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The first registers of 16 bytes.
const ONE: u32 = 1;
const TWO: u32 = 2;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// `struct nfgenmsg`
fn header(family: u8, resource: u16) -> Vec<u8> {
    let mut header = vec![family, 0];
    header.extend(resource.to_be_bytes());
    header
}

/// What begins and what ends a batch.
pub(super) fn marks() -> (Message, Message) {
    let mark = |kind| Message::new(kind, 0, &header(0, SUBSYSTEM >> 8));
    (mark(BATCH_BEGIN), mark(BATCH_END))
}

/// Takes a table away, whether it is there or not: it is made first, which does nothing where it is.
pub(super) fn removal(name: &str) -> Vec<Message> {
    let mut delete = Message::new(DELETE_TABLE, 0, &header(INET, 0));
    delete.text(1, name);
    vec![new_table(name), delete]
}

fn new_table(name: &str) -> Message {
    let mut message = Message::new(NEW_TABLE, CREATE, &header(INET, 0));
    message.text(1, name);
    message
}

/// Everything of a table, in the order in which it can be made.
pub(super) fn table(table: &Table) -> Vec<Message> {
    let mut messages = vec![new_table(&table.name)];
    messages.extend(table.chains.iter().map(|chain| new_chain(&table.name, chain)));
    for chain in &table.chains {
        messages.extend(chain.rules.iter().map(|rule| new_rule(&table.name, &chain.name, rule)));
    }
    messages
}

/// A hook's number, its priority, and the type of its chains.
fn place(hook: Hook) -> (u32, i32, &'static str) {
    match hook {
        Hook::Raw => (0, -300, "filter"),
        Hook::Incoming => (0, -100, "nat"),
        Hook::Outgoing => (3, -100, "nat"),
        Hook::Leaving => (4, 100, "nat"),
        Hook::ToHost => (1, 0, "filter"),
        Hook::Through => (2, 0, "filter"),
        Hook::FromHost => (3, 0, "filter"),
    }
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let mut message = Message::new(NEW_CHAIN, CREATE, &header(INET, 0));
    message.text(1, table).text(3, &chain.name);
    if let Some(hook) = chain.hook {
        let (number, priority, kind) = place(hook);
        message.nest(4, |m| {
            m.attribute(1, &number.to_be_bytes()).attribute(2, &priority.to_be_bytes());
        });
        message.text(7, kind);
    }
    message
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut message = Message::new(NEW_RULE, CREATE | APPEND, &header(INET, 0));
    message.text(1, table).text(2, chain);
    message.nest(4, |m| {
        for part in &rule.matches {
            look(m, part);
        }
        act(m, &rule.verdict);
    });
    if !rule.comment.is_empty() {
        // As the nft program stores a comment: a type, a length, a C string.
        let text: Vec<u8> = rule.comment.bytes().take(120).chain([0]).collect();
        let mut comment = vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)];
        comment.extend(text);
        message.attribute(7, &comment);
    }
    message
}

fn expression(message: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    message.nest(1, |m| {
        m.text(1, name).nest(2, data);
    });
}

fn number(message: &mut Message, kind: u16, value: u32) {
    message.attribute(kind, &value.to_be_bytes());
}

fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |m| {
        m.attribute(1, bytes);
    });
}

fn meta(message: &mut Message, key: u32) {
    expression(message, "meta", |m| {
        number(m, 1, ONE);
        number(m, 2, key);
    });
}

/// Loads a part of the network header (`base` 1) or the transport header (`base` 2).
fn payload(message: &mut Message, base: u32, offset: u32, length: u32) {
    expression(message, "payload", |m| {
        number(m, 1, ONE);
        number(m, 2, base);
        number(m, 3, offset);
        number(m, 4, length);
    });
}

fn compare_in(message: &mut Message, register: u32, how: u32, bytes: &[u8]) {
    expression(message, "cmp", |m| {
        number(m, 1, register);
        number(m, 2, how);
        value(m, 3, bytes);
    });
}

fn compare(message: &mut Message, how: u32, bytes: &[u8]) {
    compare_in(message, ONE, how, bytes);
}

fn mask(message: &mut Message, mask: &[u8]) {
    expression(message, "bitwise", |m| {
        number(m, 1, ONE);
        number(m, 2, ONE);
        number(m, 3, u32::try_from(mask.len()).unwrap_or_default());
        value(m, 4, mask);
        value(m, 5, &vec![0; mask.len()]);
    });
}

/// An interface's name fills its register.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

fn family(message: &mut Message, address: IpAddr) {
    meta(message, 15);
    compare(message, EQUAL, &[family_of(address)]);
}

/// Where the source and the destination of a packet are in its header, and how long they are.
fn places(v6: bool) -> (u32, u32, u32) {
    if v6 { (8, 24, 16) } else { (12, 16, 4) }
}

fn address(message: &mut Message, net: IpNet, destination: bool) {
    family(message, net.addr());
    let (from, to, length) = places(net.addr().is_ipv6());
    payload(message, 1, if destination { to } else { from }, length);
    if net.prefix_len() < net.max_prefix_len() {
        mask(message, &octets(net.netmask()));
    }
    compare(message, EQUAL, &octets(net.network()));
}

fn look(message: &mut Message, part: &Match) {
    match part {
        Match::Protocol(protocol) => {
            meta(message, 16);
            compare(message, EQUAL, &[protocol.number()]);
        }
        Match::FamilyOf(address) => family(message, *address),
        Match::From(net) => address(message, *net, false),
        Match::To(net) => address(message, *net, true),
        Match::ToThisHost => {
            expression(message, "fib", |m| {
                number(m, 1, ONE);
                // The type of address; of the destination.
                number(m, 2, 3);
                number(m, 3, 2);
            });
            // RTN_LOCAL
            compare(message, EQUAL, &2u32.to_ne_bytes());
        }
        Match::ToPort(port) => {
            payload(message, 2, 2, 2);
            compare(message, EQUAL, &port.to_be_bytes());
        }
        Match::In(link) => {
            meta(message, 6);
            compare(message, EQUAL, &name(link));
        }
        Match::Out(link) => {
            meta(message, 7);
            compare(message, EQUAL, &name(link));
        }
        Match::NotOut(link) => {
            meta(message, 7);
            compare(message, NOT_EQUAL, &name(link));
        }
        Match::Redirected => {
            expression(message, "ct", |m| {
                number(m, 1, ONE);
                number(m, 2, 2);
            });
            // IPS_DST_NAT
            mask(message, &0x20u32.to_ne_bytes());
            compare(message, NOT_EQUAL, &0u32.to_ne_bytes());
        }
        Match::OneIn(count) => {
            expression(message, "numgen", |m| {
                number(m, 1, ONE);
                number(m, 2, *count);
                // At random.
                number(m, 3, 1);
            });
            compare(message, EQUAL, &0u32.to_ne_bytes());
        }
        Match::Share { of, is, v6 } => {
            let (from, _, length) = places(*v6);
            payload(message, 1, from, length);
            expression(message, "hash", |m| {
                number(m, 1, ONE);
                number(m, 2, TWO);
                number(m, 3, length);
                number(m, 4, *of);
                // Always the same, so that new rules keep sources where they are.
                number(m, 5, 1);
            });
            compare_in(message, TWO, EQUAL, &is.to_ne_bytes());
        }
    }
}

fn immediate(message: &mut Message, register: u32, bytes: &[u8]) {
    expression(message, "immediate", |m| {
        number(m, 1, register);
        value(m, 2, bytes);
    });
}

fn verdict(message: &mut Message, code: i32, chain: Option<&str>) {
    expression(message, "immediate", |m| {
        number(m, 1, 0);
        m.nest(2, |m| {
            m.nest(2, |m| {
                m.attribute(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    m.text(2, chain);
                }
            });
        });
    });
}

fn act(message: &mut Message, what: &Verdict) {
    match what {
        Verdict::Drop => verdict(message, 0, None),
        Verdict::Jump(chain) => verdict(message, -3, Some(chain)),
        // ICMP of the packet's family: the port is unreachable.
        Verdict::Reject => expression(message, "reject", |m| {
            number(m, 1, 2);
            m.attribute(2, &[1]);
        }),
        Verdict::Masquerade => expression(message, "masq", |_| {}),
        Verdict::Redirect(to, port) => {
            immediate(message, ONE, &octets(*to));
            immediate(message, TWO, &port.to_be_bytes());
            expression(message, "nat", |m| {
                number(m, 1, 1);
                number(m, 2, u32::from(family_of(*to)));
                number(m, 3, ONE);
                number(m, 5, TWO);
            });
        }
    }
}

//! One question, one answer: from our own names, or from the host's resolvers.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, CNAME, PTR, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::names::{Known, Names, Record};

/// How long an answer may be kept by whoever asked: pods come and go.
const SECONDS: u32 = 5;
/// What an answer by UDP may have, when the question does not allow more.
const PLAIN: usize = 512;
/// How long each of the host's resolvers has.
const PATIENCE: Duration = Duration::from_secs(3);
const PORT: u16 = 53;

/// Answers a question; none for what is not one.
pub(super) async fn answer(names: &Names, host: &Path, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let packet = Packet::parse(query).ok().filter(|p| !p.has_flags(PacketFlag::RESPONSE))?;
    let question = packet.questions.first()?;
    let name = question.qname.to_string();
    let (mut answers, code) = match names.look(name.trim_end_matches('.')) {
        Known::Elsewhere => return Some(forward(host, query, tcp).await.unwrap_or_else(|| failure(&packet))),
        Known::Nothing => (Vec::new(), RCODE::NameError),
        Known::Records(records) => (records, RCODE::NoError),
    };
    // A client takes its resolver's word: turning them makes all pods of a service be asked.
    if answers.len() > 1 {
        let turn = usize::from(packet.id()) % answers.len();
        answers.rotate_left(turn);
    }
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *reply.rcode_mut() = code;
    reply.questions.push(question.clone());
    let record = |of: &str, data: RData<'static>| {
        ResourceRecord::new(Name::new_unchecked(of).into_owned(), CLASS::IN, SECONDS, data)
    };
    let asked = |kind: TYPE| question.qtype == QTYPE::TYPE(kind) || question.qtype == QTYPE::ANY;
    let mut upstream = Vec::new();
    for answer in &answers {
        match answer {
            Record::Address(address) if asked(kind(*address)) => {
                reply.answers.push(record(&name, data(*address)));
            }
            Record::Service { port, target } if asked(TYPE::SRV) => {
                let target_name = Name::new_unchecked(target).into_owned();
                let service = SRV { priority: 0, weight: 100, port: *port, target: target_name };
                reply.answers.push(record(&name, RData::SRV(service)));
                if let Known::Records(records) = names.look(target) {
                    for found in records {
                        if let Record::Address(address) = found {
                            reply.additional_records.push(record(target, data(address)));
                        }
                    }
                }
            }
            Record::Pointer(to) if asked(TYPE::PTR) => {
                reply.answers.push(record(&name, RData::PTR(PTR(Name::new_unchecked(to).into_owned()))));
            }
            Record::Alias(to) => {
                reply.answers.push(record(&name, RData::CNAME(CNAME(Name::new_unchecked(to).into_owned()))));
                if let Known::Records(records) = names.look(to) {
                    for found in records {
                        if let Record::Address(address) = found
                            && asked(kind(address))
                        {
                            reply.answers.push(record(to, data(address)));
                        }
                    }
                } else if question.qtype != QTYPE::TYPE(TYPE::CNAME) {
                    let mut next = Packet::new_query(rand::random());
                    next.set_flags(PacketFlag::RECURSION_DESIRED);
                    let mut question = question.clone();
                    question.qname = Name::new_unchecked(to).into_owned();
                    next.questions.push(question);
                    upstream.extend(forward(host, &next.build_bytes_vec().ok()?, true).await);
                }
            }
            _ => {}
        }
    }
    for bytes in &upstream {
        if let Ok(more) = Packet::parse(bytes) {
            reply.answers.extend(more.answers.into_iter().map(ResourceRecord::into_owned));
        }
    }
    let limit = packet.opt().map_or(PLAIN, |opt| usize::from(opt.udp_packet_size).max(PLAIN));
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if tcp || bytes.len() <= limit {
        return Some(bytes);
    }
    // Whoever asked comes again by TCP.
    reply.answers.clear();
    reply.additional_records.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec().ok()
}

/// The type of an address' record.
const fn kind(address: IpAddr) -> TYPE {
    if address.is_ipv4() { TYPE::A } else { TYPE::AAAA }
}

fn data(address: IpAddr) -> RData<'static> {
    match address {
        IpAddr::V4(address) => RData::A(A { address: address.to_bits() }),
        IpAddr::V6(address) => RData::AAAA(AAAA { address: address.to_bits() }),
    }
}

fn failure(packet: &Packet<'_>) -> Vec<u8> {
    let mut reply = Packet::new_reply(packet.id());
    *reply.rcode_mut() = RCODE::ServerFailure;
    reply.questions.clone_from(&packet.questions);
    reply.build_bytes_vec().unwrap_or_default()
}

/// The resolvers that the host asks, as its file says now.
fn servers(host: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(host).unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(Ok(address)) = words.next().map(str::parse)
        {
            all.push(address);
        }
    }
    all
}

/// Asks the host's resolvers, one after the other.
async fn forward(host: &Path, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    for server in servers(host) {
        let asked = async { if tcp { by_tcp(server, query).await } else { by_udp(server, query).await } };
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(answer);
        }
    }
    None
}

async fn by_udp(server: IpAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((server, PORT)).await?;
    socket.send(query).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answer.get(..2) == query.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: IpAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((server, PORT)).await?;
    write(&mut stream, query).await?;
    read(&mut stream).await
}

/// Reads a message with its length before it.
pub(super) async fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let mut bytes = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await
}

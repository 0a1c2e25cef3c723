//! Where a request may go: a registry on the internet must not be able to send us to what only this node can reach.
//!
//! A redirect (or a token realm) may lead to an address no closer than the server that named it: a public one leads to
//! public addresses, one on a private network also to private ones, one on loopback to all but link-local ones, where
//! clouds keep their metadata. Hosts named in `registries.yaml` may lie anywhere. Names are checked as they are
//! resolved for the connection itself, so a name that changes its address between check and use changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How close to this node an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Distance {
    /// Anybody can reach it.
    Public,
    /// A private network, this node's perhaps.
    Private,
    /// This machine.
    Loopback,
    /// This link, or nothing that a registry could be at.
    Link,
}

impl Distance {
    /// Of an address.
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let [a, b, c, _] = ip.octets();
        match (a, b, c) {
            (127 | 0, ..) => Self::Loopback,
            (169, 254, _) | (224.., ..) => Self::Link,
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) | (192, 0, 0) => {
                Self::Private
            }
            _ => Self::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        if ip.is_loopback() || ip.is_unspecified() {
            return Self::Loopback;
        }
        let embedded = |high: u16, low: u16| Self::of_v4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
        match ip.segments() {
            // IPv4 in other clothes: mapped, compatible, NAT64, 6to4.
            [0, 0, 0, 0, 0, 0xffff | 0, high, low]
            | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
            | [0x2002, high, low, ..] => embedded(high, low),
            [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 => Self::Link,
            [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Self::Private,
            _ => Self::Public,
        }
    }
}

/// Up to which distance a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Anywhere: the administrator or the image's name said where.
    Any,
    /// No closer than this: another server said where.
    UpTo(Distance),
}

impl Reach {
    /// For what a server at `from` leads to. A server whose address is not known (behind a proxy) counts as public.
    pub(super) fn from_server(from: Option<SocketAddr>) -> Self {
        let distance = from.map_or(Distance::Public, |addr| Distance::of(addr.ip()));
        Self::UpTo(distance.min(Distance::Loopback))
    }

    /// Whether an address is within reach.
    pub(super) fn allows(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::UpTo(closest) => Distance::of(ip) <= closest,
        }
    }

    /// Whether a host that is written as an address is within reach; names are checked when they are resolved.
    pub(super) fn allows_host(self, url: &reqwest::Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        bare.parse().map_or(true, |ip| self.allows(ip))
    }
}

/// A name that could not be resolved to an address within reach.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// The resolver failed.
    #[error("cannot resolve host name {host}")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its addresses are all out of reach.
    #[error("host name {host} leads to an address that this server may not send us to")]
    OutOfReach {
        /// The name.
        host: String,
    },
}

/// The system's resolver, held to a reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver(pub(super) Reach);

impl Resolver {
    /// As reqwest takes it.
    pub(super) fn shared(reach: Reach) -> Arc<Self> {
        Arc::new(Self(reach))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, reach) = (name.as_str().to_owned(), self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            let found: Vec<_> = found.map_err(|source| ResolveError::Lookup { host: host.clone(), source })?.collect();
            let within: Vec<_> = found.into_iter().filter(|addr| reach.allows(addr.ip())).collect();
            if within.is_empty() {
                return Err(ResolveError::OutOfReach { host }.into());
            }
            Ok(Box::new(within.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(ip: &str) -> Distance {
        Distance::of(ip.parse().unwrap())
    }

    #[test]
    fn addresses_are_sorted_by_distance_however_they_are_written() {
        for (ip, want) in [
            ("8.8.8.8", Distance::Public),
            ("10.1.2.3", Distance::Private),
            ("172.31.0.1", Distance::Private),
            ("172.32.0.1", Distance::Public),
            ("100.64.0.1", Distance::Private),
            ("127.9.9.9", Distance::Loopback),
            ("0.0.0.0", Distance::Loopback),
            ("169.254.169.254", Distance::Link),
            ("255.255.255.255", Distance::Link),
            ("::1", Distance::Loopback),
            ("::ffff:169.254.169.254", Distance::Link),
            ("::ffff:127.0.0.1", Distance::Loopback),
            ("64:ff9b::a9fe:a9fe", Distance::Link),
            ("2002:7f00:1::", Distance::Loopback),
            ("fe80::1", Distance::Link),
            ("fd00:ec2::254", Distance::Private),
            ("2606:4700::1111", Distance::Public),
        ] {
            assert_eq!(distance(ip), want, "{ip}");
        }
    }

    #[test]
    fn a_server_leads_no_closer_than_it_is() {
        let from = |ip: &str| Reach::from_server(Some(SocketAddr::new(ip.parse().unwrap(), 443)));
        let to = |ip: &str| ip.parse::<IpAddr>().unwrap();
        assert!(!from("8.8.8.8").allows(to("10.0.0.1")));
        assert!(from("10.0.0.2").allows(to("10.0.0.1")) && !from("10.0.0.2").allows(to("127.0.0.1")));
        assert!(from("127.0.0.1").allows(to("127.0.0.1")) && !from("127.0.0.1").allows(to("169.254.169.254")));
        assert!(!Reach::from_server(None).allows(to("10.0.0.1")));
    }

    #[tokio::test]
    async fn a_name_that_leads_out_of_reach_is_not_connected_to() {
        let reach = Reach::UpTo(Distance::Public);
        let error = Resolver(reach).resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(error.downcast_ref::<ResolveError>().is_some_and(|e| matches!(e, ResolveError::OutOfReach { .. })));
        assert!(Resolver(Reach::Any).resolve("localhost".parse().unwrap()).await.is_ok());
    }
}

//! The node's own range of addresses: taken from a pool, where nobody else on the machine has one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::sys::netlink::route;

/// How many bits of an address are the node's own range.
const NODE: u8 = 24;

/// A node's range: the first address is the bridge's, then pods'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) v4: Ipv4Net,
    /// Unique local addresses, where the machine has IPv6.
    pub(super) v6: Option<Ipv6Net>,
}

impl Range {
    /// How many addresses it has.
    pub(super) fn size(&self) -> u32 {
        1 << (32 - u32::from(self.v4.prefix_len())).min(31)
    }

    pub(super) fn v4_of(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.v4.network().to_bits().wrapping_add(number))
    }

    pub(super) fn v6_of(&self, number: u32) -> Option<Ipv6Addr> {
        self.v6.map(|net| Ipv6Addr::from_bits(net.network().to_bits().wrapping_add(u128::from(number))))
    }

    /// Which of its addresses this is.
    pub(super) fn number(&self, address: Ipv4Addr) -> Option<u32> {
        self.v4.contains(&address).then(|| address.to_bits() - self.v4.network().to_bits())
    }
}

/// Whether a range overlaps with nothing in use.
pub(super) fn is_free(net: Ipv4Net, used: &[route::Range]) -> bool {
    !used.iter().any(|range| match range.address {
        IpAddr::V4(address) if range.prefix > 0 => Ipv4Net::new(address, range.prefix)
            .is_ok_and(|other| other.contains(&net.network()) || net.contains(&other.network())),
        _ => false,
    })
}

/// A range of the pool that overlaps with nothing in use; where the search begins differs from node to node.
pub(super) fn choose(pool: Ipv4Net, instance: &str, v6: bool, used: &[route::Range]) -> Option<Range> {
    let hash: [u8; 32] = Sha256::digest(instance).into();
    let size = NODE.max(pool.prefix_len());
    let count = 1u32 << (size - pool.prefix_len()).min(31);
    let start = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % count;
    let step = u32::from(size).checked_sub(32).map_or_else(|| 1u32 << (32 - u32::from(size)), |_| 1);
    let nth = |n: u32| {
        let first = pool.network().to_bits().wrapping_add(((start + n) % count).wrapping_mul(step));
        Ipv4Net::new(Ipv4Addr::from_bits(first), size).ok()
    };
    let v4 = (0..count).filter_map(nth).find(|net| is_free(*net, used))?;
    Some(Range { v4, v6: v6.then(|| local(instance)).flatten() })
}

/// A unique local prefix: a random one, so that none is met twice (RFC 4193).
pub(super) fn local(instance: &str) -> Option<Ipv6Net> {
    let hash: [u8; 32] = Sha256::digest(instance).into();
    let mut bits = [0; 16];
    bits[0] = 0xfd;
    bits[1..8].copy_from_slice(&hash[4..11]);
    Ipv6Net::new(Ipv6Addr::from(bits), 64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(text: &str) -> route::Range {
        let (address, prefix) = text.split_once('/').unwrap();
        route::Range { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), link: 1 }
    }

    #[test]
    fn a_range_is_where_nobody_else_is() {
        let pool: Ipv4Net = "10.88.0.0/22".parse().unwrap();
        let first = choose(pool, "a", true, &[]).unwrap();
        assert!(pool.contains(&first.v4) && first.v4.prefix_len() == 24);
        assert_eq!(choose(pool, "a", true, &[]), Some(first));
        assert!(first.v6.unwrap().network().octets()[0] == 0xfd);
        let own = used(&first.v4.to_string());
        let second = choose(pool, "a", false, &[own]).unwrap();
        assert!(second.v4 != first.v4 && second.v6.is_none());
        let two = [used("10.88.0.7/23"), used("0.0.0.0/0"), used("fd00::1/8")];
        for name in ["a", "b", "c", "d", "e"] {
            let range = choose(pool, name, false, &two).unwrap();
            assert!(range.v4.to_string() == "10.88.2.0/24" || range.v4.to_string() == "10.88.3.0/24");
        }
        assert_eq!(choose(pool, "a", false, &[used("10.88.0.0/16")]), None);
    }

    #[test]
    fn a_small_pool_is_taken_whole() {
        let range = choose("192.168.9.0/28".parse().unwrap(), "a", true, &[]).unwrap();
        assert_eq!(range.v4.to_string(), "192.168.9.0/28");
        assert_eq!((range.size(), range.v4_of(2).to_string()), (16, "192.168.9.2".to_owned()));
        assert_eq!(range.number("192.168.9.3".parse().unwrap()), Some(3));
        assert_eq!(range.number("192.168.8.3".parse().unwrap()), None);
    }
}

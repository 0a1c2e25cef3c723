//! Links, addresses and routes of one network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::{CREATE, EXCLUSIVE, Error, Family, Message, REPLACE, Socket, attributes, word};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// An address that nobody else can have needs no asking around for it, which would take a second.
const IFA_F_NODAD: u32 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const IFF_UP: u32 = 1;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u32 = 255;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The longest packet that it takes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
}

/// A range of addresses in use: an interface's, or a route's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first address, or the address of an interface in it.
    pub address: IpAddr,
    /// How many bits of it count.
    pub prefix: u8,
    /// The interface.
    pub link: u32,
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into())
}

/// `struct ifinfomsg`
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(change.to_ne_bytes());
    header
}

/// The interfaces of one namespace.
#[derive(Debug)]
pub struct Route(Socket);

/// One end of a pair of interfaces.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address; of the kernel's choice when there is none.
    pub hardware: Option<[u8; 6]>,
}

impl Route {
    /// Those of the calling thread's namespace, whichever it enters later.
    ///
    /// # Errors
    /// If the kernel has no netlink.
    pub fn open() -> Result<Self, Error> {
        Ok(Self(Socket::open(Family::Route)?))
    }

    /// Every interface.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let answers = self.0.list(Message::new(GET_LINK, 0, &link_header(0, 0, 0)))?;
        let read = |(kind, body): (u16, Vec<u8>)| {
            let mut link = Link {
                index: word(&body, 4),
                name: String::new(),
                mtu: 0,
                up: word(&body, 8) & IFF_UP != 0,
                master: None,
            };
            for (kind, value) in attributes(body.get(16..)?) {
                match kind {
                    IFLA_IFNAME => String::from_utf8_lossy(value).trim_end_matches('\0').clone_into(&mut link.name),
                    IFLA_MTU => link.mtu = word(value, 0),
                    IFLA_MASTER => link.master = Some(word(value, 0)),
                    _ => {}
                }
            }
            (kind == NEW_LINK).then_some(link)
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// An interface by name.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// If the kernel has none, or the name is taken.
    pub fn add_bridge(&mut self, bridge: End<'_>, mtu: u32) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0));
        end(&mut message, bridge, mtu);
        message.nest(IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "bridge");
        });
        self.0.ask(message)
    }

    /// Makes a pair of interfaces: one here, a port of the bridge `master`, the other in the namespace `there`.
    ///
    /// # Errors
    /// If a name is taken, or the kernel refuses.
    pub fn add_pair(
        &mut self,
        here: End<'_>,
        master: u32,
        other: End<'_>,
        there: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0));
        end(&mut message, here, mtu);
        message.attribute(IFLA_MASTER, &master.to_ne_bytes());
        message.nest(IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&link_header(0, 0, 0));
                    end(m, other, mtu);
                    m.attribute(IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.0.ask(message)
    }

    /// Has a bridge send a packet back by the port that it came from, when that is where it goes.
    ///
    /// # Errors
    /// If it is not the port of a bridge.
    pub fn reflect(&mut self, port: u32) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, 0, &link_header(port, 0, 0));
        message.nest(IFLA_LINKINFO, |m| {
            m.text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |m| {
                m.attribute(IFLA_BRPORT_MODE, &[1]);
            });
        });
        self.0.ask(message)
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn up(&mut self, index: u32) -> Result<(), Error> {
        self.0.ask(Message::new(NEW_LINK, 0, &link_header(index, IFF_UP, IFF_UP)))
    }

    /// Removes an interface; one that is gone is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self, index: u32) -> Result<(), Error> {
        match self.0.ask(Message::new(DELETE_LINK, 0, &link_header(index, 0, 0))) {
            Err(e) if e.is(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Gives an interface an address; one that it has is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut header = vec![family(address), prefix, 0, SCOPE_UNIVERSE];
        header.extend(index.to_ne_bytes());
        let mut message = Message::new(NEW_ADDRESS, CREATE | REPLACE, &header);
        message.attribute(IFA_LOCAL, &octets(address)).attribute(IFA_ADDRESS, &octets(address));
        if address.is_ipv6() {
            message.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.0.ask(message)
    }

    /// Leads what is for `to` (all, when its prefix is 0) through an interface, by a gateway or directly.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_route(&mut self, index: u32, to: (IpAddr, u8), gateway: Option<IpAddr>) -> Result<(), Error> {
        let scope = if gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let mut header = vec![family(to.0), to.1, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, TYPE_UNICAST];
        header.extend([0; 4]);
        let mut message = Message::new(NEW_ROUTE, CREATE | REPLACE, &header);
        if to.1 > 0 {
            message.attribute(RTA_DST, &octets(to.0));
        }
        if let Some(gateway) = gateway {
            message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        self.0.ask(message)
    }

    /// The addresses of all interfaces.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn addresses(&mut self) -> Result<Vec<Range>, Error> {
        let answers = self.0.list(Message::new(GET_ADDRESS, 0, &[0; 8]))?;
        let read = |(kind, body): (u16, Vec<u8>)| {
            let (mut local, mut peer) = (None, None);
            for (kind, value) in attributes(body.get(8..)?) {
                match kind {
                    IFA_LOCAL => local = address(value),
                    IFA_ADDRESS => peer = address(value),
                    _ => {}
                }
            }
            let range = Range { address: local.or(peer)?, prefix: *body.get(1)?, link: word(&body, 4) };
            (kind == NEW_ADDRESS).then_some(range)
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// All routes but those to the machine's own addresses; a default route has the prefix 0.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn routes(&mut self) -> Result<Vec<Range>, Error> {
        let answers = self.0.list(Message::new(GET_ROUTE, 0, &[0; 12]))?;
        let read = |(kind, body): (u16, Vec<u8>)| {
            let v6 = *body.first()? == 10;
            let none: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let mut range = Range { address: none, prefix: *body.get(1)?, link: 0 };
            let mut table = u32::from(*body.get(4)?);
            for (kind, value) in attributes(body.get(12..)?) {
                match kind {
                    RTA_DST => range.address = address(value)?,
                    RTA_OIF => range.link = word(value, 0),
                    RTA_TABLE => table = word(value, 0),
                    _ => {}
                }
            }
            let other = *body.get(7)? != TYPE_UNICAST || table == TABLE_LOCAL;
            (kind == NEW_ROUTE && !other).then_some(range)
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }
}

fn end(message: &mut Message, end: End<'_>, mtu: u32) {
    message.text(IFLA_IFNAME, end.name).attribute(IFLA_MTU, &mtu.to_ne_bytes());
    if let Some(hardware) = end.hardware {
        message.attribute(IFLA_ADDRESS, &hardware);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::namespace::{Namespace, unshare};

    /// Runs in a network namespace of its own, which goes with its thread.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(&[Namespace::Net]).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    #[test]
    fn a_bridge_gets_addresses_and_routes_and_goes() {
        apart(|| {
            let mut route = Route::open().unwrap();
            let hardware = [0x0a, 0x58, 10, 0, 0, 1];
            route.add_bridge(End { name: "b0", hardware: Some(hardware) }, 1400).unwrap();
            let bridge = route.link("b0").unwrap().unwrap();
            assert_eq!((bridge.mtu, bridge.up), (1400, false));
            route.up(bridge.index).unwrap();
            let (four, six): (IpAddr, IpAddr) = ("10.9.8.1".parse().unwrap(), "fd00:9::1".parse().unwrap());
            for _ in 0..2 {
                route.add_address(bridge.index, four, 24).unwrap();
                route.add_address(bridge.index, six, 64).unwrap();
                route.add_route(bridge.index, ("10.7.0.0".parse().unwrap(), 16), None).unwrap();
                route
                    .add_route(bridge.index, ("0.0.0.0".parse().unwrap(), 0), Some("10.9.8.9".parse().unwrap()))
                    .unwrap();
            }
            let range = |address, prefix| Range { address, prefix, link: bridge.index };
            let addresses = route.addresses().unwrap();
            assert!(addresses.contains(&range(four, 24)) && addresses.contains(&range(six, 64)), "{addresses:?}");
            let routes = route.routes().unwrap();
            assert!(routes.contains(&range("10.7.0.0".parse().unwrap(), 16)), "{routes:?}");
            assert!(routes.contains(&range("0.0.0.0".parse().unwrap(), 0)), "{routes:?}");
            let taken = route.add_bridge(End { name: "b0", hardware: None }, 1400).unwrap_err();
            assert!(taken.is(libc::EEXIST), "{taken}");
            route.remove(bridge.index).unwrap();
            route.remove(bridge.index).unwrap();
            assert_eq!(route.link("b0").unwrap(), None);
        });
    }

    #[test]
    fn a_pair_reaches_into_another_namespace() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                unshare(&[Namespace::Net]).unwrap();
                tx.send((crate::sys::namespace::own(Namespace::Net).unwrap(), Route::open().unwrap())).unwrap();
                wait.recv().unwrap();
            });
            let (namespace, mut there) = rx.recv().unwrap();
            apart(|| {
                use std::os::fd::AsFd as _;
                let mut here = Route::open().unwrap();
                here.add_bridge(End { name: "b0", hardware: None }, 1500).unwrap();
                let bridge = here.link("b0").unwrap().unwrap();
                let ends = ["v0", "eth0"].map(|name| End { name, hardware: None });
                here.add_pair(ends[0], bridge.index, ends[1], namespace.as_fd(), 1500).unwrap();
                assert_eq!(here.link("v0").unwrap().unwrap().master, Some(bridge.index));
                let port = here.link("v0").unwrap().unwrap().index;
                here.reflect(port).unwrap();
                assert!(here.reflect(bridge.index).is_err());
                assert!(there.link("eth0").unwrap().is_some());
            });
            done.send(()).unwrap();
            other.join().unwrap();
        });
    }
}

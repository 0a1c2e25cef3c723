//! The bridge, the veth pairs to it, and what is set in a pod's namespace. Blocks.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Error;
use super::lease::Lease;
use super::subnet::Range;
use crate::sys::namespace::{self, Namespace};
use crate::sys::netlink::route::{End, Link, Route};
use crate::sys::netlink::{self};

/// The interface in a pod.
pub(super) const INSIDE: &str = "eth0";
/// Where no uplink says otherwise.
const MTU: u32 = 1500;
/// Held, in this network namespace, by the agent that looks for a range of addresses.
const LOCK: &str = "lamina-network";
/// Looking takes milliseconds; whoever holds the lock longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is added to a name's start for the bridge of an instance: 15 characters, as many as a name may have.
pub(super) fn bridge_name(instance: &str) -> String {
    format!("lamina-{}", instance.get(..8).unwrap_or(instance))
}

fn pair_prefix(instance: &str) -> String {
    format!("lv{}.", instance.get(..8).unwrap_or(instance))
}

/// The host's end of a pod's pair, by the number of its address.
pub(super) fn pair_name(instance: &str, number: u32) -> String {
    format!("{}{number:x}", pair_prefix(instance))
}

/// Waits for the right to look for a range. Nobody else finds the same one while this is held.
pub(super) fn lock() -> Result<UnixListener, Error> {
    let address = SocketAddr::from_abstract_name(LOCK).map_err(Error::io("name a lock"))?;
    let begin = Instant::now();
    loop {
        match UnixListener::bind_addr(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result.map_err(Error::io("wait for another agent that sets up its network")),
        }
    }
}

/// Whether the machine has IPv6.
pub(super) fn has_v6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

fn set(path: &str, value: &str) -> Result<(), Error> {
    if fs::read_to_string(path).is_ok_and(|text| text.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(Error::io(format!("write {value} to {path}")))
}

/// The interface by which packets leave the machine.
fn uplink(route: &mut Route) -> Result<Option<Link>, netlink::Error> {
    let routes = route.routes()?;
    let default = routes.iter().filter(|r| r.prefix == 0).min_by_key(|r| r.address.is_ipv6());
    let index = default.map(|r| r.link);
    Ok(route.links()?.into_iter().find(|link| Some(link.index) == index))
}

/// The addresses by which others reach the machine: one a family, of the uplink where there is one.
pub(super) fn host_addresses() -> Result<Vec<IpAddr>, Error> {
    let failed = || Error::kernel("list the machine's addresses");
    let mut route = Route::open().map_err(failed())?;
    let up = uplink(&mut route).map_err(failed())?;
    let all = route.addresses().map_err(failed())?;
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    };
    let Some(up) = up else { return Ok(Vec::new()) };
    let on = |v4: bool| {
        let mut of = all.iter().filter(|r| r.link == up.index && r.address.is_ipv4() == v4 && usable(&r.address));
        of.next().map(|r| r.address)
    };
    Ok(on(true).into_iter().chain(on(false)).collect())
}

/// A hardware address that says which address is behind it, so that nobody is sent to a predecessor's.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Lets packets through the machine. Interfaces that learn their routes from a router go on doing so.
fn forward(v6: bool) -> Result<(), Error> {
    set("/proc/sys/net/ipv4/ip_forward", "1")?;
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !v6 || fs::read_to_string(all).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    let failed = || Error::io("list the interfaces");
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf").map_err(failed())? {
        let path = entry.map_err(failed())?.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            set(&path.to_string_lossy(), "2")?;
        }
    }
    set(all, "1")
}

/// Has the machine say nothing of shorter ways to who sends through the bridge: there is none, and each such word counts
/// against the errors that a sender may be told, so that in the end it is not told that nobody is at a port. What is said
/// for all interfaces outweighs what is said for one; so each of the others says it by itself from then on.
fn no_redirects(bridge: &str) -> Result<(), Error> {
    let conf = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/send_redirects");
    if fs::read_to_string(conf("all")).is_ok_and(|text| text.trim() != "0") {
        let failed = || Error::io("list the interfaces");
        for entry in fs::read_dir("/proc/sys/net/ipv4/conf").map_err(failed())? {
            let name = entry.map_err(failed())?.file_name().to_string_lossy().into_owned();
            let others = name != "all" && name != bridge;
            // One may go meanwhile.
            if others
                && let Err(error) = set(&conf(&name), "1")
                && Path::new(&conf(&name)).exists()
            {
                return Err(error);
            }
        }
        set(&conf("all"), "0")?;
    }
    set(&conf(bridge), "0")
}

/// Makes the bridge where it is missing, with everything that it needs. Gives its interface.
/// The range of services leads there, too: the host can reach them, and other agents see it as taken.
pub(super) fn ensure(name: &str, range: &Range, services: Option<Range>) -> Result<Link, Error> {
    let failed = |what: &str| Error::kernel(format!("{what} the bridge {name}"));
    let mut route = Route::open().map_err(failed("look for"))?;
    let mtu = uplink(&mut route).map_err(failed("find the uplink of"))?.map_or(MTU, |link| link.mtu);
    let gateway = range.v4_of(1);
    let mut made = false;
    let bridge = if let Some(bridge) = route.link(name).map_err(failed("look for"))? {
        bridge
    } else {
        made = true;
        // Of its own choice it would be that of a port, and change with them.
        let end = End { name, hardware: Some(hardware(gateway)) };
        route.add_bridge(end, mtu.max(1280)).map_err(|e| missing(e, "bridge", failed("make")))?;
        let made = route.link(name).map_err(failed("look for"))?;
        made.ok_or_else(|| Error::io(format!("find the bridge {name}"))(io::ErrorKind::NotFound.into()))?
    };
    let mut rest = || {
        set(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
        if range.v6.is_some() {
            set(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        route.add_address(bridge.index, gateway.into(), range.v4.prefix_len()).map_err(failed("give an address to"))?;
        if let (Some(net), Some(v6)) = (range.v6, range.v6_of(1)) {
            route.add_address(bridge.index, v6.into(), net.prefix_len()).map_err(failed("give an address to"))?;
        }
        route.up(bridge.index).map_err(failed("bring up"))?;
        let six = services.and_then(|s| s.v6).filter(|_| range.v6.is_some()).map(IpNet::V6);
        for net in services.map(|s| IpNet::V4(s.v4)).into_iter().chain(six) {
            let to = (net.network(), net.prefix_len());
            route.add_route(bridge.index, to, None).map_err(failed("lead services to"))?;
        }
        no_redirects(name)?;
        forward(range.v6.is_some())
    };
    if let Err(error) = rest() {
        if made {
            // What cannot be used is not left lying about; that it could not be made is what is told.
            let _ = Route::open().and_then(|mut route| route.remove(bridge.index));
        }
        return Err(error);
    }
    Ok(bridge)
}

fn missing(error: netlink::Error, what: &'static str, failed: impl FnOnce(netlink::Error) -> Error) -> Error {
    if error.is(libc::EOPNOTSUPP) { Error::Missing { what, source: error } } else { failed(error) }
}

/// Opens links of another network namespace, and sets what its interfaces begin with.
fn inside(namespace: &OwnedFd) -> Result<Route, Error> {
    let namespace = namespace.try_clone().map_err(Error::io("keep the pod's namespace"))?;
    // A thread of its own: it has no way back, and ends there.
    let work = move || {
        namespace::enter(namespace.as_fd(), Namespace::Net).map_err(Error::io("enter the pod's network"))?;
        // All goes by way of the host, whatever neighbours say.
        for place in ["all", "default"] {
            set(&format!("/proc/sys/net/ipv4/conf/{place}/accept_redirects"), "0")?;
            if has_v6() {
                set(&format!("/proc/sys/net/ipv6/conf/{place}/accept_redirects"), "0")?;
                set(&format!("/proc/sys/net/ipv6/conf/{place}/accept_ra"), "0")?;
            }
        }
        Route::open().map_err(Error::kernel("see the pod's interfaces"))
    };
    std::thread::spawn(work).join().map_err(|_| Error::io("enter the pod's network")(io::ErrorKind::Other.into()))?
}

/// Connects a namespace to the bridge. The host's end comes up last: when it is up, all is done.
pub(super) fn connect(
    bridge: &Link,
    pair: &str,
    lease: &Lease,
    range: &Range,
    namespace: &OwnedFd,
) -> Result<(), Error> {
    let failed = |what: &str| Error::kernel(format!("{what} of pod {}", lease.pod));
    let mut host = Route::open().map_err(failed("see the interfaces"))?;
    let mut pod = inside(namespace)?;
    if let Some(half) = host.link(pair).map_err(failed("find the interface"))? {
        host.remove(half.index).map_err(failed("remove the interface"))?;
    }
    let here = End { name: pair, hardware: None };
    let there = End { name: INSIDE, hardware: lease.v4.map(hardware) };
    host.add_pair(here, bridge.index, there, namespace.as_fd(), bridge.mtu)
        .map_err(|e| missing(e, "veth", failed("make the interfaces")))?;
    let eth = pod.link(INSIDE).map_err(failed("find the inner interface"))?;
    let eth = eth.ok_or_else(|| Error::io("find the pod's interface")(io::ErrorKind::NotFound.into()))?.index;
    let mut ways: Vec<(IpAddr, IpAddr, u8)> = Vec::new();
    ways.extend(lease.v4.map(|v4| (v4.into(), range.v4_of(1).into(), 32)));
    ways.extend(lease.v6.zip(range.v6_of(1)).map(|(v6, gateway)| (v6.into(), gateway.into(), 128)));
    for (address, _, prefix) in &ways {
        pod.add_address(eth, *address, *prefix).map_err(failed("set an address"))?;
    }
    pod.up(eth).map_err(failed("bring up the inner interface"))?;
    for (_, gateway, prefix) in ways {
        let anywhere: IpAddr =
            if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        pod.add_route(eth, (gateway, prefix), None).map_err(failed("set a route"))?;
        pod.add_route(eth, (anywhere, 0), Some(gateway)).map_err(failed("set the default route"))?;
    }
    let link = host.link(pair).map_err(failed("find the interface"))?;
    let link = link.ok_or_else(|| Error::io("find the pod's interface")(io::ErrorKind::NotFound.into()))?;
    // Where rules see bridged packets, too, one that comes back to its pod does not leave the bridge.
    host.reflect(link.index).map_err(failed("set the interface"))?;
    host.up(link.index).map_err(failed("bring up the interface"))
}

/// Whether all was done for a pod.
pub(super) fn is_connected(pair: &str) -> bool {
    let flags = fs::read_to_string(Path::new("/sys/class/net").join(pair).join("flags"));
    // `IFF_UP`, in the hexadecimal that the kernel writes.
    flags.is_ok_and(|text| {
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1)
    })
}

/// Removes an interface of ours; one that is gone is fine.
pub(super) fn remove(name: &str) -> Result<(), Error> {
    let failed = || Error::kernel(format!("remove the interface {name}"));
    let mut route = Route::open().map_err(failed())?;
    match route.link(name).map_err(failed())? {
        Some(link) => route.remove(link.index).map_err(failed()),
        None => Ok(()),
    }
}

/// The interfaces that lead to pods of an instance.
pub(super) fn pairs(instance: &str) -> Result<Vec<Link>, Error> {
    let failed = || Error::kernel("list the interfaces");
    let links = Route::open().map_err(failed())?.links().map_err(failed())?;
    let prefix = pair_prefix(instance);
    Ok(links.into_iter().filter(|link| link.name.starts_with(&prefix)).collect())
}

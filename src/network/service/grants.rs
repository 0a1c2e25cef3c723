//! Which service has which cluster address and node ports: one small file, written before they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

use super::families::{Family, asked, families};
use super::{key, wants_address};
use crate::network::subnet::Range;
use crate::network::{Error, Protocol};
use crate::sys::atomic;

const FILE: &str = "services.json";
/// The range that Kubernetes has for them.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What one service has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct Grant {
    pub(in crate::network) address: Option<Ipv4Addr>,
    #[serde(default)]
    pub(in crate::network) v6: Option<Ipv6Addr>,
    /// By port and protocol, as in `80/TCP`.
    #[serde(default)]
    pub(in crate::network) node_ports: BTreeMap<String, u16>,
}

impl Grant {
    /// Its addresses of these families, in their order.
    pub(in crate::network) fn addresses(&self, families: &[Family]) -> Vec<IpAddr> {
        let of = |family: &Family| match family {
            Family::Four => self.address.map(IpAddr::from),
            Family::Six => self.v6.map(IpAddr::from),
        };
        families.iter().filter_map(of).collect()
    }
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    range: Option<Ipv4Net>,
    #[serde(default)]
    v6: Option<Ipv6Net>,
    #[serde(default)]
    services: BTreeMap<String, Grant>,
}

/// All grants of a node.
#[derive(Debug)]
pub(in crate::network) struct Grants {
    path: PathBuf,
    file: File,
}

/// How a port is named in a [`Grant`].
pub(super) fn port_key(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

impl Grants {
    pub(in crate::network) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let file = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::io(format!("understand {}", path.display()))(e.into()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::default(),
            Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
        };
        Ok(Self { path, file })
    }

    /// From where cluster addresses are taken, once there was a service.
    pub(in crate::network) fn range(&self) -> Option<Range> {
        self.file.range.map(|v4| Range { v4, v6: self.file.v6 })
    }

    pub(in crate::network) fn of(&self, service: &str) -> Grant {
        self.file.services.get(service).cloned().unwrap_or_default()
    }

    /// Gives every service what it asks for, and with `all` takes back what others had. What cannot be had is told, by
    /// service.
    pub(in crate::network) fn update(
        &mut self,
        services: &[&Service],
        all: bool,
        range: Range,
        host_ports: &BTreeSet<(Protocol, u16)>,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut next = self.file.clone();
        (next.range, next.v6) = (Some(range.v4), range.v6);
        let keys: BTreeSet<String> = services.iter().map(|s| key(s)).collect();
        if all {
            next.services.retain(|name, _| keys.contains(name));
        }
        let mut problems = Vec::new();
        // What is asked for by number comes before what may be any.
        let mut order: Vec<&&Service> = services.iter().collect();
        order.sort_by_key(|s| (asked(s).is_empty(), key(s)));
        for service in order {
            let name = key(service);
            let mut grant = next.services.remove(&name).unwrap_or_default();
            for problem in next.addresses(service, &mut grant, range) {
                problems.push((name.clone(), problem));
            }
            if let Err(problem) = next.node_ports(service, &mut grant, host_ports) {
                problems.push((name.clone(), problem));
            }
            next.services.insert(name, grant);
        }
        if next != self.file {
            let bytes = serde_json::to_vec(&next).map_err(|e| Error::io("write what services have")(e.into()))?;
            atomic::write(&self.path, &bytes, 0o600)?;
            self.file = next;
        }
        Ok(problems)
    }
}

impl File {
    /// Gives a service an address of each of its families. What cannot be had is told.
    fn addresses(&self, service: &Service, grant: &mut Grant, range: Range) -> Vec<String> {
        let before = (grant.address.take(), grant.v6.take());
        if !wants_address(service) {
            return Vec::new();
        }
        let families = match families(service, range.v6.is_some()) {
            Ok(families) => families,
            Err(problem) => return vec![problem],
        };
        let asked = asked(service);
        let mut problems = Vec::new();
        for family in families {
            let wanted = asked.iter().copied().find(|a| Family::of(*a) == family);
            let holder = |a: IpAddr| {
                let has = |g: &Grant| g.addresses(&Family::ALL).contains(&a);
                self.services.iter().find(|(_, g)| has(g)).map(|(name, _)| name)
            };
            if let Some(wanted) = wanted
                && let Some(holder) = holder(wanted)
            {
                problems.push(format!("spec.clusterIP: {wanted} is taken by service {holder}"));
                continue;
            }
            let free = |a: &IpAddr| holder(*a).is_none();
            let found = match (family, range.v6) {
                (Family::Four, _) => {
                    let kept = before.0.filter(|a| range.v4.contains(a)).map(IpAddr::from);
                    wanted.or(kept).or_else(|| range.v4.hosts().map(IpAddr::from).find(free))
                }
                (Family::Six, Some(net)) => {
                    let kept = before.1.filter(|a| net.contains(a)).map(IpAddr::from);
                    // The network's own address is nobody's.
                    wanted.or(kept).or_else(|| net.hosts().skip(1).map(IpAddr::from).find(free))
                }
                (Family::Six, None) => None,
            };
            match found {
                Some(IpAddr::V4(address)) => grant.address = Some(address),
                Some(IpAddr::V6(address)) => grant.v6 = Some(address),
                None => problems.push(format!("every address of {} is taken", range.v4)),
            }
        }
        problems
    }

    fn node_ports(
        &self,
        service: &Service,
        grant: &mut Grant,
        host_ports: &BTreeSet<(Protocol, u16)>,
    ) -> Result<(), String> {
        let before = std::mem::take(&mut grant.node_ports);
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() != Some("NodePort") {
            return Ok(());
        }
        let mut problem = None;
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = Protocol::of(port.protocol.as_deref());
            let Ok(number) = u16::try_from(port.port) else { continue };
            let key = port_key(number, protocol);
            let suffix = format!("/{protocol}");
            let mine: BTreeSet<u16> = grant.node_ports.values().copied().collect();
            let taken = |candidate: u16| {
                let others = self.services.values().flat_map(|g| g.node_ports.iter());
                host_ports.contains(&(protocol, candidate))
                    || mine.contains(&candidate)
                    || others.into_iter().any(|(key, n)| *n == candidate && key.ends_with(&suffix))
            };
            let wanted = port.node_port.filter(|n| *n != 0).and_then(|n| u16::try_from(n).ok());
            let found = match wanted {
                Some(n) if taken(n) => {
                    problem = Some(format!("spec.ports[{i}].nodePort: {protocol} {n} is taken"));
                    continue;
                }
                Some(n) => Some(n),
                None => {
                    before.get(&key).copied().filter(|n| !taken(*n)).or_else(|| NODE_PORTS.clone().find(|n| !taken(*n)))
                }
            };
            if let Some(found) = found {
                grant.node_ports.insert(key, found);
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

//! The names of services and pods, and what each stands for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::super::service::Resolved;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Record {
    /// An address.
    Address(IpAddr),
    /// A port of another name.
    Service { port: u16, target: String },
    /// Another name's address backwards.
    Pointer(String),
    /// Another name.
    Alias(String),
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// This; nothing means that there is the name, but not of that type.
    Records(Vec<Record>),
    /// There is no such name.
    Nothing,
    /// Others must be asked.
    Elsewhere,
}

/// All names of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::network) struct Names {
    domain: String,
    records: BTreeMap<String, Vec<Record>>,
    /// Names above others, which have nothing of their own.
    above: BTreeSet<String>,
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let mut name = String::new();
            for byte in address.octets().into_iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 0xf, byte >> 4);
            }
            name + "ip6.arpa"
        }
    }
}

impl Names {
    /// Those of services.
    pub(in crate::network) fn of(domain: &str, services: &[Resolved]) -> Self {
        let mut names = Self { domain: domain.to_ascii_lowercase(), ..Self::default() };
        for service in services {
            names.service(service);
        }
        names.above = names.records.keys().flat_map(|name| parents(name)).map(str::to_owned).collect();
        names
    }

    fn add(&mut self, name: &str, record: Record) {
        let records = self.records.entry(name.to_ascii_lowercase()).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    fn service(&mut self, service: &Resolved) {
        let whole = format!("{}.{}.svc.{}", service.name, service.namespace, self.domain);
        if let Some(elsewhere) = &service.elsewhere {
            return self.add(&whole, Record::Alias(elsewhere.trim_end_matches('.').to_owned()));
        }
        let port_name = |port: &super::super::service::Port| {
            let name = port.name.as_ref()?;
            Some(format!("_{name}._{}.{whole}", port.protocol.to_string().to_ascii_lowercase()))
        };
        if !service.addresses.is_empty() {
            for address in &service.addresses {
                self.add(&whole, Record::Address(*address));
                self.add(&reverse(*address), Record::Pointer(whole.clone()));
            }
            for port in &service.ports {
                if let Some(name) = port_name(port) {
                    self.add(&name, Record::Service { port: port.number, target: whole.clone() });
                }
            }
            return;
        }
        self.records.entry(whole.to_ascii_lowercase()).or_default();
        for (called, address) in &service.pods {
            let pod = format!("{called}.{whole}");
            self.add(&whole, Record::Address(*address));
            self.add(&pod, Record::Address(*address));
            self.add(&reverse(*address), Record::Pointer(pod.clone()));
            for port in &service.ports {
                let number = port.endpoints.iter().find(|(a, _)| a == address).map(|(_, number)| *number);
                if let (Some(name), Some(number)) = (port_name(port), number) {
                    self.add(&name, Record::Service { port: number, target: pod.clone() });
                }
            }
        }
    }

    /// What a name stands for; `name` without the dot at its end.
    pub(super) fn look(&self, name: &str) -> Known {
        let name = name.to_ascii_lowercase();
        if let Some(records) = self.records.get(&name) {
            return Known::Records(records.clone());
        }
        let Some(below) = name.strip_suffix(&self.domain).filter(|b| b.is_empty() || b.ends_with('.')) else {
            return Known::Elsewhere;
        };
        // An address written as a name: 10-88-0-2.namespace.pod.domain.
        let parts: Vec<&str> = below.trim_end_matches('.').split('.').collect();
        if let [address, _, "pod"] = parts[..]
            && let Ok(address) = address.replace('-', ".").parse().or_else(|_| address.replace('-', ":").parse())
        {
            return Known::Records(vec![Record::Address(address)]);
        }
        if below.is_empty() || self.above.contains(&name) { Known::Records(Vec::new()) } else { Known::Nothing }
    }
}

/// The names above a name.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.split_once('.')?.1;
        Some(rest)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::super::Protocol;
    use super::super::super::service::Port;
    use super::*;

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2));
    const CLUSTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

    fn service(name: &str, address: Option<IpAddr>) -> Resolved {
        Resolved {
            namespace: "default".into(),
            name: name.into(),
            addresses: address.into_iter().collect(),
            elsewhere: None,
            sticky: false,
            ports: vec![Port {
                name: Some("http".into()),
                protocol: Protocol::Tcp,
                number: 80,
                outside: None,
                endpoints: vec![(POD, 8080)],
            }],
            pods: vec![("web-0".into(), POD)],
        }
    }

    #[test]
    fn a_service_is_its_cluster_address_or_its_pods() {
        let alias = Resolved { elsewhere: Some("db.example.com.".into()), ..service("far", None) };
        let names = Names::of("cluster.local", &[service("web", Some(CLUSTER)), service("bare", None), alias]);
        let look = |name: &str| names.look(name);
        let records = |records: Vec<Record>| Known::Records(records);
        assert_eq!(look("WEB.default.svc.cluster.local"), records(vec![Record::Address(CLUSTER)]));
        assert_eq!(look("bare.default.svc.cluster.local"), records(vec![Record::Address(POD)]));
        assert_eq!(look("web-0.bare.default.svc.cluster.local"), records(vec![Record::Address(POD)]));
        let target = |target: &str| target.to_owned();
        assert_eq!(
            look("_http._tcp.web.default.svc.cluster.local"),
            records(vec![Record::Service { port: 80, target: target("web.default.svc.cluster.local") }])
        );
        assert_eq!(
            look("_http._tcp.bare.default.svc.cluster.local"),
            records(vec![Record::Service { port: 8080, target: target("web-0.bare.default.svc.cluster.local") }])
        );
        assert_eq!(look("far.default.svc.cluster.local"), records(vec![Record::Alias("db.example.com".into())]));
        assert_eq!(
            look("1.0.96.10.in-addr.arpa"),
            records(vec![Record::Pointer("web.default.svc.cluster.local".into())])
        );
        assert_eq!(
            look("10-88-0-9.default.pod.cluster.local"),
            records(vec![Record::Address(Ipv4Addr::new(10, 88, 0, 9).into())])
        );
        let six: IpAddr = "fd00::1:2".parse().unwrap();
        let both = Resolved { addresses: vec![CLUSTER, six], ..service("both", None) };
        let names = Names::of("cluster.local", &[both]);
        let found = names.look("both.default.svc.cluster.local");
        assert_eq!(found, records(vec![Record::Address(CLUSTER), Record::Address(six)]));
        let back = "2.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(names.look(back), records(vec![Record::Pointer("both.default.svc.cluster.local".into())]));
        assert_eq!(names.look("fd00--1-2.default.pod.cluster.local"), records(vec![Record::Address(six)]));
        assert_eq!(look("default.svc.cluster.local"), records(vec![]));
        assert_eq!(look("nothing.default.svc.cluster.local"), Known::Nothing);
        assert_eq!(look("example.com"), Known::Elsewhere);
        assert_eq!(look("notcluster.local"), Known::Elsewhere);
        assert_eq!(look("9.9.9.9.in-addr.arpa"), Known::Elsewhere);
    }
}

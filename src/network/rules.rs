//! The table of rules of one agent, from what is handed out. Pure.
//!
//! ```text
//!   raw       pods do not reach the host's loopback
//!   ports     host ports ──▶ pods            (met on the way in and by processes of the host)
//!   services  cluster addresses and node ports ──▶ service-N ──▶ one of its pods
//!   refuse-*  services without a ready pod, and ports that they do not have
//!   leaving   pods ──▶ elsewhere by the host's address; a pod that comes back to itself likewise
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::lease::Lease;
use super::nft::{Chain, Hook, Match, Rule, Table, Verdict};
use super::service::{Family, Port, Resolved};
use super::subnet::Range;

/// What the rules are made from.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) table: &'a str,
    pub(super) bridge: &'a str,
    pub(super) range: Option<Range>,
    pub(super) leases: &'a [&'a Lease],
    pub(super) services: &'a [Resolved],
}

const PORTS: &str = "ports";
const SERVICES: &str = "services";

fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn loopback() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
}

/// The table.
pub(super) fn table(input: &Input<'_>) -> Table {
    let chain = |name: &str, hook, rules| Chain { name: name.to_owned(), hook, rules };
    let jump = |to: &str| Rule { matches: Vec::new(), verdict: Verdict::Jump(to.to_owned()), comment: String::new() };
    let mut chains = Vec::new();
    let mut services = Vec::new();
    for (service, port, family) in ways(input) {
        let shares = shares(service, port, family);
        if shares.is_empty() {
            continue;
        }
        let name = format!("service-{}", chains.len());
        let places = [cluster_place(service, port, family), node_place(service, port, family)];
        for place in places.into_iter().flatten() {
            let verdict = Verdict::Jump(name.clone());
            services.push(Rule { matches: place, verdict, comment: called(service) });
        }
        chains.push(chain(&name, None, shares));
    }
    let by_address = refusals(input, false);
    let by_port = refusals(input, true);
    chains.extend([
        chain(SERVICES, None, services),
        chain(PORTS, None, ports(input)),
        chain("raw", Some(Hook::Raw), guard(input)),
        chain("incoming", Some(Hook::Incoming), vec![jump(SERVICES), jump(PORTS)]),
        chain("outgoing", Some(Hook::Outgoing), vec![jump(SERVICES), jump(PORTS)]),
        chain("refuse-through", Some(Hook::Through), by_address.clone()),
        chain("refuse-from", Some(Hook::FromHost), by_address),
        chain("refuse-to", Some(Hook::ToHost), by_port),
        chain("leaving", Some(Hook::Leaving), leaving(input)),
    ]);
    Table { name: input.table.to_owned(), chains }
}

fn called(service: &Resolved) -> String {
    format!("service {}/{}", service.namespace, service.name)
}

/// Every port of every service, by each family that the service has an address of.
fn ways<'a>(input: &Input<'a>) -> impl Iterator<Item = (&'a Resolved, &'a Port, Family)> {
    let ports = input.services.iter().flat_map(|s| s.ports.iter().map(move |p| (s, p)));
    let families = |(s, p)| Family::ALL.into_iter().map(move |f| (s, p, f));
    ports.flat_map(families).filter(|(service, _, family): &(&Resolved, _, _)| service.address(*family).is_some())
}

fn place(port: &Port, family: Family, number: u16, place: Match) -> Vec<Match> {
    let any: IpAddr = match family {
        Family::Four => Ipv4Addr::UNSPECIFIED.into(),
        Family::Six => Ipv6Addr::UNSPECIFIED.into(),
    };
    vec![Match::FamilyOf(any), Match::Protocol(port.protocol), Match::ToPort(number), place]
}

/// Where a service's port is met: at its cluster address.
fn cluster_place(service: &Resolved, port: &Port, family: Family) -> Option<Vec<Match>> {
    service.address(family).map(|address| place(port, family, port.number, Match::To(alone(address))))
}

/// And at the node's port.
fn node_place(service: &Resolved, port: &Port, family: Family) -> Option<Vec<Match>> {
    let number = port.outside.filter(|_| service.address(family).is_some())?;
    Some(place(port, family, number, Match::ToThisHost))
}

/// One of a service's pods: by the client's address, or by a draw among those that are left.
fn shares(service: &Resolved, port: &Port, family: Family) -> Vec<Rule> {
    let count = u32::try_from(port.endpoints(family).count()).unwrap_or(u32::MAX);
    let rule = |(is, (address, number)): (u32, (IpAddr, u16))| Rule {
        matches: match (service.sticky, count - is) {
            (_, 1) if is + 1 == count && !service.sticky => Vec::new(),
            (true, _) => vec![Match::Share { of: count, is, v6: family == Family::Six }],
            (false, left) => vec![Match::OneIn(left)],
        },
        verdict: Verdict::Redirect(address, number),
        comment: called(service),
    };
    (0..count).zip(port.endpoints(family)).map(rule).collect()
}

/// What was not redirected though it goes to a service: its sender is told at once that nobody is there.
fn refusals(input: &Input<'_>, node_ports: bool) -> Vec<Rule> {
    let refuse = |matches, service: &Resolved| Rule { matches, verdict: Verdict::Reject, comment: called(service) };
    if node_ports {
        let empty = ways(input).filter(|(_, port, family)| port.endpoints(*family).next().is_none());
        return empty.filter_map(|(s, port, family)| Some(refuse(node_place(s, port, family)?, s))).collect();
    }
    let all = input.services.iter().flat_map(|s| s.addresses.iter().map(move |a| (s, *a)));
    all.map(|(service, address)| refuse(vec![Match::To(alone(address))], service)).collect()
}

/// The bridge lets the host's loopback in for host ports, so pods must be kept from it.
fn guard(input: &Input<'_>) -> Vec<Rule> {
    vec![Rule {
        matches: vec![Match::In(input.bridge.to_owned()), Match::To(loopback())],
        verdict: Verdict::Drop,
        comment: "the host's loopback is not for pods".to_owned(),
    }]
}

fn ports(input: &Input<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for lease in input.leases {
        for port in &lease.ports {
            for to in lease.addresses().into_iter().filter(|a| port.ip.is_none_or(|ip| ip.is_ipv4() == a.is_ipv4())) {
                let place = match port.ip.filter(|ip| !ip.is_unspecified()) {
                    Some(ip) => Match::To(alone(ip)),
                    None => Match::ToThisHost,
                };
                rules.push(Rule {
                    matches: vec![Match::FamilyOf(to), Match::Protocol(port.protocol), Match::ToPort(port.port), place],
                    verdict: Verdict::Redirect(to, port.target),
                    comment: format!("pod {}", lease.pod),
                });
            }
        }
    }
    rules
}

fn leaving(input: &Input<'_>) -> Vec<Rule> {
    let rule = |matches, comment: &str| Rule { matches, verdict: Verdict::Masquerade, comment: comment.to_owned() };
    let mut rules = Vec::new();
    if let Some(range) = input.range {
        for net in [Some(IpNet::V4(range.v4)), range.v6.map(IpNet::V6)].into_iter().flatten() {
            let out = Match::NotOut(input.bridge.to_owned());
            rules.push(rule(vec![Match::From(net), out], "pods by the host's address"));
        }
    }
    let local = vec![Match::From(loopback()), Match::Out(input.bridge.to_owned())];
    rules.push(rule(local, "the host's loopback to a pod"));
    let with_ports = input.leases.iter().filter(|l| !l.ports.is_empty()).flat_map(|l| l.addresses());
    let endpoints = input.services.iter().flat_map(|s| &s.ports).flat_map(|p| &p.endpoints);
    let all: BTreeSet<IpAddr> = with_ports.chain(endpoints.map(|(address, _)| *address)).collect();
    for address in all {
        let itself = vec![Match::From(alone(address)), Match::To(alone(address)), Match::Redirected];
        rules.push(rule(itself, "a pod to itself"));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::{HostPort, Protocol};
    use super::*;

    fn lease(ip: Option<&str>) -> Lease {
        Lease {
            pod: "default/web".into(),
            v4: Some("10.88.0.2".parse().unwrap()),
            v6: Some("fd00::2".parse().unwrap()),
            ports: vec![HostPort {
                protocol: Protocol::Tcp,
                ip: ip.map(|ip| ip.parse().unwrap()),
                port: 8080,
                target: 80,
            }],
        }
    }

    fn rules(lease: &Lease) -> Vec<Rule> {
        ports(&Input { table: "t", bridge: "b", range: None, leases: &[lease], services: &[] })
    }

    #[test]
    fn a_host_port_leads_to_the_pod_in_each_family_that_its_address_has() {
        let to = |ip: Option<&str>| -> Vec<Verdict> { rules(&lease(ip)).into_iter().map(|r| r.verdict).collect() };
        let four = Verdict::Redirect("10.88.0.2".parse().unwrap(), 80);
        let six = Verdict::Redirect("fd00::2".parse().unwrap(), 80);
        assert_eq!(to(None), [four.clone(), six.clone()]);
        assert_eq!(to(Some("0.0.0.0")), std::slice::from_ref(&four));
        assert_eq!(to(Some("::")), [six]);
        assert_eq!(to(Some("192.0.2.1")), [four]);
        assert!(rules(&lease(Some("192.0.2.1")))[0].matches.contains(&Match::To("192.0.2.1/32".parse().unwrap())));
        assert!(rules(&lease(None))[0].matches.contains(&Match::ToThisHost));
    }

    fn service(sticky: bool, endpoints: u8) -> Resolved {
        let endpoints = (0..endpoints).map(|n| (Ipv4Addr::new(10, 88, 0, 2 + n).into(), 8080)).collect();
        Resolved {
            namespace: "default".into(),
            name: "web".into(),
            addresses: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
            elsewhere: None,
            sticky,
            ports: vec![Port { name: None, protocol: Protocol::Tcp, number: 80, outside: Some(30080), endpoints }],
            pods: Vec::new(),
        }
    }

    fn chains(service: Resolved) -> Table {
        table(&Input { table: "t", bridge: "b", range: None, leases: &[], services: &[service] })
    }

    fn chain<'t>(table: &'t Table, name: &str) -> &'t [Rule] {
        table.chains.iter().find(|c| c.name == name).map_or(&[], |c| &c.rules)
    }

    #[test]
    fn a_service_draws_among_its_pods_or_keeps_a_client_with_one() {
        let drawn = chains(service(false, 3));
        assert_eq!(chain(&drawn, "services").len(), 2, "by its address and by the node's port");
        let matches: Vec<_> = chain(&drawn, "service-0").iter().map(|r| r.matches.clone()).collect();
        assert_eq!(matches, [vec![Match::OneIn(3)], vec![Match::OneIn(2)], vec![]]);
        let kept = chains(service(true, 2));
        let share = |is| vec![Match::Share { of: 2, is, v6: false }];
        let matches: Vec<_> = chain(&kept, "service-0").iter().map(|r| r.matches.clone()).collect();
        assert_eq!(matches, [share(0), share(1)]);
    }

    #[test]
    fn each_family_of_a_service_leads_to_pods_of_that_family() {
        let mut both = service(false, 1);
        both.addresses.push("fd00::9".parse().unwrap());
        both.ports[0].endpoints.push(("fd00::2".parse().unwrap(), 8080));
        let table = chains(both.clone());
        assert_eq!(chain(&table, "services").len(), 4, "each by its address and by the node's port");
        let to: Vec<_> = [0, 1].map(|n| chain(&table, &format!("service-{n}"))[0].verdict.clone()).into();
        let (four, six) = ("10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(to, [Verdict::Redirect(four, 8080), Verdict::Redirect(six, 8080)]);
        assert_eq!(chain(&table, "refuse-through").len(), 2);
        // A family without a pod is refused, and one that the service does not have is nobody's.
        both.ports[0].endpoints.pop();
        assert_eq!(chain(&chains(both.clone()), "refuse-to").len(), 1);
        both.addresses.pop();
        assert_eq!(chain(&chains(both), "refuse-to").len(), 0);
    }

    #[test]
    fn a_service_without_a_pod_is_refused() {
        let none = chains(service(false, 0));
        assert_eq!(chain(&none, "services"), []);
        assert_eq!(chain(&none, "refuse-to").len(), 1);
        assert_eq!(chain(&none, "refuse-through").len(), 1);
        assert!(chain(&chains(service(false, 1)), "refuse-to").is_empty());
    }
}

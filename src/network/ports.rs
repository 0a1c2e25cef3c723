//! Ports of the host that a pod asks for, and who has them already.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::{Error, Kind, Protocol};

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address; all of them when there is none.
    pub ip: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => write!(f, "port {} {} of {ip}", self.protocol, self.port),
            None => write!(f, "port {} {}", self.protocol, self.port),
        }
    }
}

impl HostPort {
    /// Whether only one of the two can be had.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let all = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
        self.protocol == other.protocol
            && self.port == other.port
            && (all(self.ip) || all(other.ip) || self.ip == other.ip)
    }

    /// Whether a process of the host listens there.
    fn listened_on(&self) -> bool {
        let at = SocketAddr::new(self.ip.unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()), self.port);
        let tried = match self.protocol {
            Protocol::Tcp => TcpListener::bind(at).map(drop),
            Protocol::Udp => UdpSocket::bind(at).map(drop),
            Protocol::Sctp => Ok(()),
        };
        tried.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
    }
}

/// The ports of the host that a pod asks for, each with its field's path.
pub(super) fn of(pod: &Pod) -> Vec<(String, HostPort)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let host = Kind::of(pod) == Kind::Host;
    let lists: [(&str, &[Container]); 2] =
        [("containers", &spec.containers), ("initContainers", spec.init_containers.as_deref().unwrap_or_default())];
    let mut all = Vec::new();
    for (list, containers) in lists {
        for (c, container) in containers.iter().enumerate() {
            for (p, port) in container.ports.iter().flatten().enumerate() {
                let asked = port.host_port.filter(|n| *n != 0).or_else(|| host.then_some(port.container_port));
                let number = |n: i32| u16::try_from(n).ok();
                let (Some(on_host), Some(target)) = (asked.and_then(number), number(port.container_port)) else {
                    continue;
                };
                let ip = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
                let path = format!("spec.{list}[{c}].ports[{p}].hostPort");
                all.push((
                    path,
                    HostPort { protocol: Protocol::of(port.protocol.as_deref()), ip, port: on_host, target },
                ));
            }
        }
    }
    all
}

/// Refuses what another pod has (`taken`: who has what) or, with `listening`, a process of the host.
pub(super) fn check<'a>(
    wanted: &[(String, HostPort)],
    taken: impl Iterator<Item = (&'a str, &'a HostPort)> + Clone,
    listening: bool,
) -> Result<(), Error> {
    for (path, port) in wanted {
        let holder = taken.clone().find(|(_, other)| port.collides(other)).map(|(pod, _)| format!("pod {pod}"));
        let process = || (listening && port.listened_on()).then(|| "a process on this machine".to_owned());
        if let Some(holder) = holder.or_else(process) {
            return Err(Error::Taken { path: path.clone(), port: port.to_string(), holder });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    fn port(protocol: Protocol, ip: Option<&str>, port: u16) -> HostPort {
        HostPort { protocol, ip: ip.map(|ip| ip.parse().unwrap()), port, target: 80 }
    }

    #[test]
    fn a_pod_asks_for_host_ports_and_on_the_hosts_network_for_all() {
        let spec = serde_json::json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
            {"containerPort": 53, "protocol": "UDP"},
        ]}]});
        let own = of(&pod(spec.clone()));
        assert_eq!(
            own,
            [("spec.containers[0].ports[0].hostPort".into(), port(Protocol::Tcp, Some("127.0.0.1"), 8080))]
        );
        let mut host = spec;
        host["hostNetwork"] = true.into();
        assert_eq!(of(&pod(host)).len(), 2);
    }

    #[test]
    fn ports_collide_by_protocol_number_and_address() {
        let one = port(Protocol::Tcp, None, 80);
        assert!(one.collides(&port(Protocol::Tcp, Some("127.0.0.1"), 80)));
        assert!(one.collides(&port(Protocol::Tcp, Some("0.0.0.0"), 80)));
        assert!(!one.collides(&port(Protocol::Udp, None, 80)));
        assert!(!one.collides(&port(Protocol::Tcp, None, 81)));
        let local = port(Protocol::Tcp, Some("127.0.0.1"), 80);
        assert!(!local.collides(&port(Protocol::Tcp, Some("127.0.0.2"), 80)));
        assert!(local.collides(&local));
    }

    #[test]
    fn whoever_has_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let wanted = [("spec.x".to_owned(), port(Protocol::Tcp, Some("127.0.0.1"), number))];
        let error = check(&wanted, std::iter::empty(), true).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.x: port TCP ") && error.ends_with("taken by a process on this machine"),
            "{error}"
        );
        let held = port(Protocol::Tcp, None, number);
        let error = check(&wanted, [("default/web", &held)].into_iter(), false).unwrap_err().to_string();
        assert!(error.ends_with("taken by pod default/web"), "{error}");
        check(&wanted, std::iter::empty(), false).unwrap();
    }
}

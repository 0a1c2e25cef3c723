//! Services: which pods are behind each, and by which addresses and ports they are reached. Pure but for `grants`.
//!
//! ```text
//!   Service ─ selector ─▶ ready pods ─▶ endpoints by port ─▶ rules, names
//!           └ grants: cluster address, node ports, on disk
//! ```

mod families;
mod grants;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Protocol;
use crate::api::PodKey;
use crate::api::ids::DEFAULT_NAMESPACE;

pub(super) use families::{Family, families};
pub(super) use grants::Grants;
pub(super) use variables::variables;

/// What a service without a cluster address says.
const HEADLESS: &str = "None";

/// A pod, as services see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name.
    pub pod: PodKey,
    /// By these it is selected.
    pub labels: BTreeMap<String, String>,
    /// Whether it wants requests.
    pub ready: bool,
    /// Where it is: one a family; never empty.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<(String, Protocol, u16)>,
    /// What it is called below its subdomain.
    pub hostname: Option<String>,
    /// The service that names it.
    pub subdomain: Option<String>,
}

impl Backend {
    /// A pod as it is shown; none while it has no address, or has ended.
    pub fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let addresses: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
        let sidecars = spec.init_containers.iter().flatten();
        let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
        let named = ports.filter_map(|p| {
            Some((p.name.clone()?, Protocol::of(p.protocol.as_deref()), u16::try_from(p.container_port).ok()?))
        });
        Some(Self {
            pod: PodKey::of(&pod.metadata),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
            addresses,
            ports: named.collect(),
            hostname: spec.hostname.clone().filter(|h| !h.is_empty()),
            subdomain: spec.subdomain.clone().filter(|s| !s.is_empty()),
        })
    }
}

/// A port of a service, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) outside: Option<u16>,
    /// Where its pods are, by every family that the service has.
    pub(super) endpoints: Vec<(IpAddr, u16)>,
}

/// A service with everything known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) namespace: String,
    pub(super) name: String,
    /// One a family; none, when it is headless or elsewhere.
    pub(super) addresses: Vec<IpAddr>,
    /// The name that it stands for.
    pub(super) elsewhere: Option<String>,
    /// Whether a client stays with one pod.
    pub(super) sticky: bool,
    pub(super) ports: Vec<Port>,
    /// Its pods: what they are called below it, and where they are.
    pub(super) pods: Vec<(String, IpAddr)>,
}

impl Resolved {
    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(*a) == family)
    }
}

impl Port {
    /// Its endpoints of a family.
    pub(super) fn endpoints(&self, family: Family) -> impl Iterator<Item = (IpAddr, u16)> {
        self.endpoints.iter().copied().filter(move |(address, _)| Family::of(*address) == family)
    }
}

/// `namespace/name` of a service.
pub(super) fn key(service: &Service) -> String {
    let meta = &service.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

/// Whether a service has an address of its own.
pub(super) fn wants_address(service: &Service) -> bool {
    let spec = service.spec.clone().unwrap_or_default();
    let first = spec.cluster_ip.as_ref().or_else(|| spec.cluster_ips.as_ref()?.first());
    spec.type_.as_deref() != Some("ExternalName") && first.is_none_or(|address| address != HEADLESS)
}

/// The port of a pod that a service's port leads to.
fn target(port: &ServicePort, protocol: Protocol, backend: &Backend) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            backend.ports.iter().find(|(n, p, _)| n == name && *p == protocol).map(|(_, _, number)| *number)
        }
    }
}

/// Joins a service of these families with what it was granted and the pods that there are.
pub(super) fn resolve(
    service: &Service,
    granted: &grants::Grant,
    families: &[Family],
    backends: &[Backend],
) -> Resolved {
    let spec = service.spec.clone().unwrap_or_default();
    let key = key(service);
    let (namespace, name) = key.split_once('/').unwrap_or((DEFAULT_NAMESPACE, &key));
    let selector = spec.selector.clone().unwrap_or_default();
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    let mut behind: Vec<&Backend> = backends
        .iter()
        .filter(|b| !selector.is_empty() && b.pod.namespace == namespace && (b.ready || unready_too))
        .filter(|b| selector.iter().all(|(k, v)| b.labels.get(k) == Some(v)))
        .collect();
    behind.sort_by_key(|b| &b.addresses);
    let at = |b: &Backend| -> Vec<IpAddr> {
        b.addresses.iter().copied().filter(|a| families.contains(&Family::of(*a))).collect()
    };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::of(port.protocol.as_deref());
        let number = u16::try_from(port.port).ok()?;
        Some(Port {
            name: port.name.clone().filter(|n| !n.is_empty()),
            protocol,
            number,
            outside: granted.node_ports.get(&grants::port_key(number, protocol)).copied(),
            endpoints: behind
                .iter()
                .filter_map(|b| Some((at(b), target(port, protocol, b)?)))
                .flat_map(|(at, number)| at.into_iter().map(move |address| (address, number)))
                .collect(),
        })
    });
    let called = |b: &Backend, address: IpAddr| match (&b.hostname, b.subdomain.as_deref()) {
        (Some(hostname), Some(subdomain)) if subdomain == name => hostname.clone(),
        _ => address.to_string().replace(['.', ':'], "-"),
    };
    let pods = behind.iter().flat_map(|b| at(b).into_iter().map(|a| (called(b, a), a))).collect();
    Resolved {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        addresses: if wants_address(service) { granted.addresses(families) } else { Vec::new() },
        elsewhere: spec.external_name.clone().filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        ports: ports.collect(),
        pods,
    }
}

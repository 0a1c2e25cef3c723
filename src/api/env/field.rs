//! Fields of a pod and resources of its containers, as values of the environment.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::super::ids::DEFAULT_NAMESPACE;
use super::super::quantity::{Quantity, QuantityError};

/// What fields of a pod say of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// `spec.nodeName`.
    pub name: String,
    /// `status.hostIP` and `status.hostIPs`.
    pub host_ips: Vec<String>,
    /// `status.podIP` and `status.podIPs`; the host's with `hostNetwork`.
    pub pod_ips: Vec<String>,
    /// What `limits.cpu` means without a limit, in thousandths of a core.
    pub cpu_milli: u64,
    /// What `limits.memory` means without a limit, in bytes.
    pub memory: u64,
}

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Whether a `fieldPath` is one that the environment may refer to.
pub fn is_field(path: &str) -> bool {
    FIELDS.contains(&path) || keyed(path).is_some()
}

/// `metadata.labels['key']` and `metadata.annotations['key']`: which map, and which key.
fn keyed(path: &str) -> Option<(bool, &str)> {
    let (labels, rest) = match path.strip_prefix("metadata.labels[") {
        Some(rest) => (true, rest),
        None => (false, path.strip_prefix("metadata.annotations[")?),
    };
    let key = rest.strip_suffix(']')?;
    let key = ['\'', '"'].iter().find_map(|q| key.strip_prefix(*q)?.strip_suffix(*q))?;
    (!key.is_empty()).then_some((labels, key))
}

/// The value of a field; nothing if there is no such field.
pub(super) fn value(pod: &Pod, path: &str, node: &NodeFacts) -> Option<String> {
    let meta = &pod.metadata;
    if let Some((labels, key)) = keyed(path) {
        let map = if labels { &meta.labels } else { &meta.annotations };
        return Some(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" => first(&node.host_ips),
        "status.hostIPs" => node.host_ips.join(","),
        "status.podIP" => first(&node.pod_ips),
        "status.podIPs" => node.pod_ips.join(","),
        _ => return None,
    })
}

/// The value of a resource, divided and rounded up; nothing if there is no such resource or container.
pub(super) fn resource(
    pod: &Pod,
    own: &Container,
    field: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Option<Result<String, QuantityError>> {
    let container = match field.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own,
        Some(name) => pod.spec.as_ref()?.containers.iter().find(|c| c.name == name)?,
    };
    let (list, name) = field.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|m| m.get(name));
    let request = resources.and_then(|r| r.requests.as_ref()).and_then(|m| m.get(name));
    let (given, whole) = match (list, name) {
        ("limits", "cpu") => (limit, i128::from(node.cpu_milli)),
        ("limits", "memory") => (limit, i128::from(node.memory) * 1000),
        // A limit without a request is a request, too.
        ("requests", "cpu" | "memory") => (request.or(limit), 0),
        _ => return None,
    };
    let read = || -> Result<String, QuantityError> {
        let value = given.map(Quantity::of).transpose()?.map_or(whole, Quantity::milli);
        let divisor = field.divisor.as_ref().filter(|d| !d.0.is_empty()).map(Quantity::of).transpose()?;
        let divisor = divisor.map(Quantity::milli).filter(|d| *d > 0).unwrap_or(1000);
        Ok(((value + divisor - 1) / divisor).to_string())
    };
    Some(read())
}

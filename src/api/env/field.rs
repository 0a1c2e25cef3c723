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
    /// Variables that lead to the services of the pod's namespace.
    pub services: Vec<(String, String)>,
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

/// What a file of a `downwardAPI` volume may show.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Whether a `fieldPath` is one that a file of a `downwardAPI` volume may show.
pub fn is_file_field(path: &str) -> bool {
    FILE_FIELDS.contains(&path) || keyed(path).is_some()
}

/// The text of a file of a `downwardAPI` volume: labels and annotations as a whole are a line each, the value quoted.
pub fn file_field(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let map = match path {
        "metadata.labels" => &meta.labels,
        "metadata.annotations" => &meta.annotations,
        _ if is_file_field(path) => return value(pod, path, &NodeFacts::default()),
        _ => return None,
    };
    let lines: Vec<_> = map.iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    Some(lines.join("\n"))
}

/// As Go quotes a text, which is what programs that read these files expect.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c if c.is_control() => out.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The text of a file of a `downwardAPI` volume that shows a resource of a container, which it must name.
pub fn file_resource(
    pod: &Pod,
    field: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Option<Result<String, QuantityError>> {
    let name = field.container_name.as_deref()?;
    let spec = pod.spec.as_ref()?;
    let container = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)?;
    resource(pod, container, field, node)
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
        Some(name) => {
            let spec = pod.spec.as_ref()?;
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)?
        }
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

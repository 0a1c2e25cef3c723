//! Containers: names, images, environment, ports, resources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVarSource, PodSpec, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::super::ids::{check_label, check_subdomain};
use super::super::quantity::Quantity;
use super::data::check_key;
use super::{Findings, security, unique, volume};

/// The longest image reference: a repository of 255, a tag of 128, a digest, and the signs between.
const MAX_IMAGE: usize = 512;
/// What `resourceFieldRef` may name.
const RESOURCES: &[&str] = &["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

pub(super) fn containers(spec: &PodSpec, at: &str, found: &mut Findings) {
    let at = format!("{at}.containers");
    if spec.containers.is_empty() {
        found.add(&at, "must have at least one container");
    }
    unique(spec.containers.iter().map(|c| c.name.as_str()).enumerate(), found, |i| format!("{at}[{i}].name"));
    let mut host_ports = Vec::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let at = format!("{at}[{i}]");
        one(container, spec, &at, found);
        for (p, port) in container.ports.iter().flatten().enumerate() {
            let at = format!("{at}.ports[{p}]");
            let Some(number) = host_port(port, spec.host_network == Some(true), &at, found) else { continue };
            let key = (number, port.protocol.as_deref().unwrap_or("TCP"));
            if host_ports.contains(&key) {
                found.add(format_args!("{at}.hostPort"), format!("{} {} is there twice", key.1, key.0));
            }
            host_ports.push(key);
        }
    }
}

fn one(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    found.check(format_args!("{at}.name"), check_label(&container.name));
    found.check(format_args!("{at}.image"), image(container.image.as_deref().unwrap_or_default()));
    found.one_of(
        format_args!("{at}.imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    environment(container, spec, at, found);
    ports(container.ports.as_deref().unwrap_or_default(), at, found);
    resources(container, at, found);
    volume::mounts(container, spec.volumes.as_deref().unwrap_or_default(), at, found);
    security::container(container, spec.security_context.as_ref(), at, found);
}

/// A rough look: the image module reads references, and what it refuses is refused before anything starts.
fn image(image: &str) -> Result<(), &'static str> {
    match image {
        "" => Err("must not be empty"),
        i if i.len() > MAX_IMAGE => Err("is too long for an image's name"),
        i if i.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) => {
            Err("must not contain spaces or control characters")
        }
        _ => Ok(()),
    }
}

fn environment(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    for (i, from) in container.env_from.iter().flatten().enumerate() {
        let at = format!("{at}.envFrom[{i}]");
        match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), None) => found.check(format_args!("{at}.configMapRef.name"), check_subdomain(&map.name)),
            (None, Some(secret)) => found.check(format_args!("{at}.secretRef.name"), check_subdomain(&secret.name)),
            _ => found.add(&at, "must have either configMapRef or secretRef"),
        }
        if from.prefix.as_deref().is_some_and(|p| !p.is_empty()) {
            found.check(format_args!("{at}.prefix"), env_name(from.prefix.as_deref().unwrap_or_default()));
        }
    }
    for (i, env) in container.env.iter().flatten().enumerate() {
        let at = format!("{at}.env[{i}]");
        found.check(format_args!("{at}.name"), env_name(&env.name));
        let Some(from) = &env.value_from else { continue };
        if env.value.as_deref().is_some_and(|v| !v.is_empty()) {
            found.add(format_args!("{at}.valueFrom"), "must not stand beside a value");
        }
        value_from(from, container, spec, &format!("{at}.valueFrom"), found);
    }
}

fn env_name(name: &str) -> Result<(), &'static str> {
    let good = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if good { Ok(()) } else { Err("must be printable ASCII without '='") }
}

fn value_from(from: &EnvVarSource, container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    let count = [
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
    ];
    if count.iter().filter(|c| **c).count() != 1 {
        found.add(at, "must have exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef");
    }
    if let Some(key) = &from.config_map_key_ref {
        found.check(format_args!("{at}.configMapKeyRef.name"), check_subdomain(&key.name));
        found.check(format_args!("{at}.configMapKeyRef.key"), check_key(&key.key));
    }
    if let Some(key) = &from.secret_key_ref {
        found.check(format_args!("{at}.secretKeyRef.name"), check_subdomain(&key.name));
        found.check(format_args!("{at}.secretKeyRef.key"), check_key(&key.key));
    }
    if let Some(field) = &from.field_ref
        && !super::super::env::is_field(&field.field_path)
    {
        found.add(format_args!("{at}.fieldRef.fieldPath"), "is not a field of a pod that can be referred to");
    }
    if let Some(resource) = &from.resource_field_ref {
        resource_field(resource, container, spec, &format!("{at}.resourceFieldRef"), found);
    }
}

fn resource_field(
    field: &ResourceFieldSelector,
    container: &Container,
    spec: &PodSpec,
    at: &str,
    found: &mut Findings,
) {
    found.one_of(format_args!("{at}.resource"), Some(&field.resource), RESOURCES);
    let name = field.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(&container.name);
    if !spec.containers.iter().any(|c| c.name == name) {
        found.add(format_args!("{at}.containerName"), format!("there is no container {name:?}"));
    }
    if let Some(divisor) = field.divisor.as_ref().filter(|d| !d.0.is_empty()) {
        match Quantity::of(divisor) {
            Ok(q) if q.milli() < 0 => found.add(format_args!("{at}.divisor"), "must not be negative"),
            result => found.check(format_args!("{at}.divisor"), result.map(|_| ())),
        }
    }
}

fn ports(ports: &[ContainerPort], at: &str, found: &mut Findings) {
    let names = ports.iter().map(|p| p.name.as_deref().unwrap_or_default());
    unique(names.enumerate(), found, |i| format!("{at}.ports[{i}].name"));
    for (i, port) in ports.iter().enumerate() {
        let at = format!("{at}.ports[{i}]");
        found.range(format_args!("{at}.containerPort"), Some(port.container_port), 1, 65535);
        found.one_of(format_args!("{at}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let letters = name.bytes().any(|b| b.is_ascii_lowercase());
            if name.len() > 15 || check_label(name).is_err() || !letters || name.contains("--") {
                found.add(
                    format_args!("{at}.name"),
                    "must have no more than 15 lower case letters, digits and single '-', and at least one letter",
                );
            }
        }
    }
}

/// The port that a container takes on the host, if it takes one.
fn host_port(port: &ContainerPort, host_network: bool, at: &str, found: &mut Findings) -> Option<i32> {
    let number = port.host_port.filter(|n| *n != 0);
    found.range(format_args!("{at}.hostPort"), number, 1, 65535);
    match number {
        Some(n) if host_network && n != port.container_port => {
            found.add(format_args!("{at}.hostPort"), "must be the containerPort when hostNetwork is true");
        }
        Some(_) if !host_network => {
            found.add(format_args!("{at}.hostPort"), "not supported yet without hostNetwork: true");
        }
        _ => {}
    }
    if host_network { Some(port.container_port) } else { number }
}

fn resources(container: &Container, at: &str, found: &mut Findings) {
    let Some(resources) = &container.resources else { return };
    let at = format!("{at}.resources");
    let requests = quantities(resources.requests.as_ref(), &format!("{at}.requests"), true, found);
    let limits = quantities(resources.limits.as_ref(), &format!("{at}.limits"), false, found);
    for (name, request) in &requests {
        if limits.get(name).is_some_and(|limit| request > limit) {
            found.add(format_args!("{at}.requests[{name:?}]"), "must not be more than its limit");
        }
    }
}

fn quantities<'a>(
    resources: Option<&'a BTreeMap<String, Text>>,
    at: &str,
    requests: bool,
    found: &mut Findings,
) -> BTreeMap<&'a str, Quantity> {
    let mut read = BTreeMap::new();
    for (name, text) in resources.into_iter().flatten() {
        let at = format!("{at}[{name:?}]");
        match name.as_str() {
            "cpu" | "memory" => {}
            // A request for disk steers a scheduler and nothing else.
            "ephemeral-storage" if requests => {}
            "ephemeral-storage" => found.add(&at, "not supported yet"),
            n if n.starts_with("hugepages-") => found.add(&at, "hugepages are not supported yet"),
            n if n.contains('/') && n.contains('=') => found.add(&at, "CDI devices are not supported yet"),
            _ => found.add(&at, "is not a resource of this node"),
        }
        match Quantity::of(text) {
            Ok(q) if q.milli() < 0 => found.add(&at, "must not be negative"),
            Ok(q) => {
                read.insert(name.as_str(), q);
            }
            Err(error) => found.add(&at, error.to_string()),
        }
    }
    read
}

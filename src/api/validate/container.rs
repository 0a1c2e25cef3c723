//! Containers: names, images, environment, ports, resources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVarSource, FileKeySelector, PodSpec, ResourceFieldSelector, ResourceRequirements,
    Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::super::ids::{HUGE_PAGES, check_label, check_subdomain, is_device, page_size};
use super::super::quantity::Quantity;
use super::data::check_key;
use super::{Findings, lifecycle, mount, security, unique};

/// The longest image reference: a repository of 255, a tag of 128, a digest, and the signs between.
const MAX_IMAGE: usize = 512;
/// What `resourceFieldRef` may name.
const RESOURCES: &[&str] = &["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

pub(super) fn containers(spec: &PodSpec, at: &str, found: &mut Findings) {
    let at = format!("{at}.containers");
    if spec.containers.is_empty() {
        found.add(&at, "must have at least one container");
    }
    let mut host_ports = Vec::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let at = format!("{at}[{i}]");
        one(container, spec, &at, found);
        lifecycle::container(container, spec, &at, found);
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

pub(super) fn inits(spec: &PodSpec, at: &str, found: &mut Findings) {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    for (i, container) in inits.iter().enumerate() {
        let at = format!("{at}.initContainers[{i}]");
        one(container, spec, &at, found);
        lifecycle::init(container, spec, &at, found);
    }
    // One name, one container: their logs and exits lie side by side.
    let names = inits.iter().chain(&spec.containers).map(|c| c.name.as_str());
    unique(names.enumerate(), found, |i| match i.checked_sub(inits.len()) {
        None => format!("{at}.initContainers[{i}].name"),
        Some(i) => format!("{at}.containers[{i}].name"),
    });
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
    for (i, policy) in container.resize_policy.iter().flatten().enumerate() {
        let at = format!("{at}.resizePolicy[{i}]");
        found.one_of(format_args!("{at}.resourceName"), Some(&policy.resource_name), &["cpu", "memory"]);
        let policies = ["NotRequired", "RestartContainer"];
        found.one_of(format_args!("{at}.restartPolicy"), Some(&policy.restart_policy), &policies);
    }
    mount::mounts(container, spec.volumes.as_deref().unwrap_or_default(), at, found);
    security::container(container, spec, at, found);
}

/// A rough look: the image module reads references, and what it refuses is refused before anything starts.
pub(super) fn image(image: &str) -> Result<(), &'static str> {
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
        from.file_key_ref.is_some(),
    ];
    if count.iter().filter(|c| **c).count() != 1 {
        found.add(
            at,
            "must have exactly one of configMapKeyRef, secretKeyRef, fieldRef, resourceFieldRef and fileKeyRef",
        );
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
    if let Some(key) = &from.file_key_ref {
        file_key(key, spec, &format!("{at}.fileKeyRef"), found);
    }
}

/// The longest key of a file of variables.
const MAX_FILE_KEY: usize = 128;

fn file_key(key: &FileKeySelector, spec: &PodSpec, at: &str, found: &mut Findings) {
    found.check(format_args!("{at}.key"), env_name(&key.key));
    if key.key.len() > MAX_FILE_KEY {
        found.add(format_args!("{at}.key"), format!("must be no longer than {MAX_FILE_KEY} characters"));
    }
    if key.path.is_empty() {
        found.add(format_args!("{at}.path"), "must not be empty");
    }
    found.check(format_args!("{at}.path"), super::relative_path(&key.path));
    let volume = spec.volumes.iter().flatten().find(|v| v.name == key.volume_name);
    let plain = |v: &Volume| *v == Volume { name: v.name.clone(), ..Volume::default() };
    if !volume.is_some_and(|v| v.empty_dir.is_some() || plain(v)) {
        found.add(format_args!("{at}.volumeName"), format!("there is no emptyDir volume {:?}", key.volume_name));
    }
}

fn resource_field(
    field: &ResourceFieldSelector,
    container: &Container,
    spec: &PodSpec,
    at: &str,
    found: &mut Findings,
) {
    let name = field.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(&container.name);
    resource_of(field, name, spec, at, found);
}

/// A resource of the container of that name.
pub(super) fn resource_of(field: &ResourceFieldSelector, name: &str, spec: &PodSpec, at: &str, found: &mut Findings) {
    found.one_of(format_args!("{at}.resource"), Some(&field.resource), RESOURCES);
    if !spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == name) {
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
    if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        found.check(format_args!("{at}.hostIP"), super::pod::address(ip));
    }
    if host_network && number.is_some_and(|n| n != port.container_port) {
        found.add(format_args!("{at}.hostPort"), "must be the containerPort when hostNetwork is true");
    }
    if host_network { Some(port.container_port) } else { number }
}

/// What a whole pod asks for and may use: no less than its containers.
pub(super) fn of_pod(spec: &PodSpec, at: &str, found: &mut Findings) {
    let Some(resources) = &spec.resources else { return };
    let pod = format!("{at}.resources");
    requirements(resources, &pod, found);
    for map in [&resources.requests, &resources.limits] {
        // What containers may not have either is told of already.
        let theirs =
            |name: &&String| name.contains('/') || name.as_str() == "ephemeral-storage" || name.starts_with(HUGE_PAGES);
        for name in map.iter().flat_map(BTreeMap::keys).filter(theirs) {
            found.add(format_args!("{pod}[{name:?}]"), "is for containers; a whole pod has cpu and memory");
        }
    }
    for name in ["cpu", "memory"] {
        let of =
            |map: Option<&BTreeMap<String, Text>>| map.and_then(|m| m.get(name)).and_then(|t| Quantity::of(t).ok());
        let limit = of(resources.limits.as_ref());
        let request = of(resources.requests.as_ref()).or(limit);
        let mut sum = 0_i128;
        for (i, container) in spec.containers.iter().enumerate() {
            let own = container.resources.as_ref();
            let own_limit = of(own.and_then(|r| r.limits.as_ref()));
            let own_request = of(own.and_then(|r| r.requests.as_ref())).or(own_limit);
            sum = sum.saturating_add(own_request.map_or(0, Quantity::milli));
            if own_limit.zip(limit).is_some_and(|(own, pod)| own > pod) {
                let at = format!("{at}.containers[{i}].resources.limits[{name:?}]");
                found.add(at, "must not be more than the pod's own limit");
            }
        }
        if request.is_some_and(|pod| pod.milli() < sum) {
            found.add(
                format_args!("{pod}.requests[{name:?}]"),
                "must not be less than what the containers ask for together",
            );
        }
    }
}

fn resources(container: &Container, at: &str, found: &mut Findings) {
    if let Some(resources) = &container.resources {
        requirements(resources, &format!("{at}.resources"), found);
    }
}

fn requirements(resources: &ResourceRequirements, at: &str, found: &mut Findings) {
    let requests = quantities(resources.requests.as_ref(), &format!("{at}.requests"), found);
    let limits = quantities(resources.limits.as_ref(), &format!("{at}.limits"), found);
    let huge: Vec<_> = requests.iter().chain(&limits).filter(|(name, _)| name.starts_with(HUGE_PAGES)).collect();
    for (name, quantity) in &huge {
        // They cannot be promised twice, so what is asked for is what there may be.
        if [requests.get(*name), limits.get(*name)].into_iter().flatten().any(|other| other != *quantity)
            || !limits.contains_key(*name)
        {
            found.add(format_args!("{at}.limits[{name:?}]"), "must be given, and be what is requested");
        }
    }
    if !huge.is_empty() && !requests.keys().chain(limits.keys()).any(|name| ["cpu", "memory"].contains(name)) {
        found.add(at, "huge pages need cpu or memory beside them");
    }
    for (name, request) in &requests {
        if limits.get(name).is_some_and(|limit| request > limit) {
            found.add(format_args!("{at}.requests[{name:?}]"), "must not be more than its limit");
        }
    }
}

fn huge_page(name: &str, text: &Text, at: &str, found: &mut Findings) {
    let Some(size) = page_size(name) else {
        return found.add(at, "must name the size of a page, as in hugepages-2Mi");
    };
    if Quantity::of(text).is_ok_and(|quantity| !quantity.units().is_multiple_of(size)) {
        found.add(at, "must be a whole number of pages");
    }
}

fn quantities<'a>(
    resources: Option<&'a BTreeMap<String, Text>>,
    at: &str,
    found: &mut Findings,
) -> BTreeMap<&'a str, Quantity> {
    let mut read = BTreeMap::new();
    for (name, text) in resources.into_iter().flatten() {
        let at = format!("{at}[{name:?}]");
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {}
            n if n.starts_with(HUGE_PAGES) => huge_page(n, text, &at, found),
            // A device of the node's, which is there once or not at all.
            n if is_device(n) => {
                if Quantity::of(text).is_ok_and(|q| q.milli() != 1000) {
                    found.add(&at, "must be 1: a container has a device or has it not");
                }
            }
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

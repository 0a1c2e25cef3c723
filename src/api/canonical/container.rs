//! The canonical form of a container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, ContainerResizePolicy, EnvFromSource, EnvVar, HTTPGetAction, Lifecycle,
    LifecycleHandler, Probe, ResourceFieldSelector, ResourceRequirements, SeccompProfile, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{is_default_seccomp, list, map, quantity, set, text};

pub(super) fn container(mut c: Container, host_network: bool, pod_seccomp: Option<&SeccompProfile>) -> Container {
    let policy = text(c.image_pull_policy.take());
    let image = c.image.clone().unwrap_or_default();
    let mut ports: Vec<_> = c.ports.into_iter().flatten().map(|p| port(p, host_network)).collect();
    ports.sort_by(|a, b| (a.container_port, &a.protocol, &a.name).cmp(&(b.container_port, &b.protocol, &b.name)));
    let mut mounts: Vec<_> = c.volume_mounts.into_iter().flatten().map(mount).collect();
    mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    Container {
        args: list(c.args),
        command: list(c.command),
        env: list(c.env).map(|env| env.into_iter().map(variable).collect()),
        env_from: list(c.env_from).map(|from| from.into_iter().map(variables).collect()),
        image: c.image,
        image_pull_policy: Some(policy.unwrap_or_else(|| default_pull_policy(&image).to_owned())),
        lifecycle: c.lifecycle.and_then(lifecycle),
        liveness_probe: c.liveness_probe.map(probe),
        name: c.name,
        ports: list(Some(ports)),
        readiness_probe: c.readiness_probe.map(probe),
        resize_policy: resize(c.resize_policy),
        resources: c.resources.and_then(resources),
        restart_policy: text(c.restart_policy),
        restart_policy_rules: list(c.restart_policy_rules),
        security_context: c.security_context.and_then(|s| security(s, pod_seccomp)),
        startup_probe: c.startup_probe.map(probe),
        stdin: set(c.stdin),
        stdin_once: set(c.stdin_once),
        termination_message_path: text(c.termination_message_path).filter(|p| p != "/dev/termination-log"),
        termination_message_policy: text(c.termination_message_policy).filter(|p| p != "File"),
        tty: set(c.tty),
        volume_devices: list(c.volume_devices),
        volume_mounts: list(Some(mounts)),
        working_dir: text(c.working_dir),
    }
}

/// Which resources a running container cannot take on; that it can take on all others goes without saying.
fn resize(all: Option<Vec<ContainerResizePolicy>>) -> Option<Vec<ContainerResizePolicy>> {
    let mut all: Vec<_> = all.into_iter().flatten().filter(|p| p.restart_policy == "RestartContainer").collect();
    all.sort_by(|a, b| a.resource_name.cmp(&b.resource_name));
    list(Some(all))
}

/// A probe with its defaults.
fn probe(mut p: Probe) -> Probe {
    p.initial_delay_seconds = p.initial_delay_seconds.filter(|s| *s != 0);
    for (field, default) in [
        (&mut p.period_seconds, 10),
        (&mut p.timeout_seconds, 1),
        (&mut p.success_threshold, 1),
        (&mut p.failure_threshold, 3),
    ] {
        *field = Some(field.filter(|n| *n != 0).unwrap_or(default));
    }
    p.http_get = p.http_get.map(page);
    if let Some(grpc) = &mut p.grpc {
        grpc.service = text(grpc.service.take());
        grpc.mode = text(grpc.mode.take()).filter(|m| m != "Plaintext");
    }
    if let Some(tcp) = &mut p.tcp_socket {
        tcp.host = text(tcp.host.take());
    }
    p
}

fn page(mut page: HTTPGetAction) -> HTTPGetAction {
    page.host = text(page.host);
    page.path = Some(text(page.path).unwrap_or_else(|| "/".to_owned()));
    page.scheme = Some(text(page.scheme).unwrap_or_else(|| "HTTP".to_owned()));
    page.http_headers = list(page.http_headers);
    page.protocol = text(page.protocol).filter(|p| p != "HTTP1");
    page
}

fn lifecycle(l: Lifecycle) -> Option<Lifecycle> {
    let hook = |hook: Option<LifecycleHandler>| hook.map(|h| LifecycleHandler { http_get: h.http_get.map(page), ..h });
    let l = Lifecycle { post_start: hook(l.post_start), pre_stop: hook(l.pre_stop), stop_signal: text(l.stop_signal) };
    (l != Lifecycle::default()).then_some(l)
}

/// What `imagePullPolicy` is when a manifest leaves it out: `Always` for `:latest` or neither tag nor digest.
pub fn default_pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let fixed = image.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if fixed { "IfNotPresent" } else { "Always" }
}

fn variable(mut env: EnvVar) -> EnvVar {
    env.value = text(env.value);
    if let Some(from) = &mut env.value_from {
        if let Some(field) = &mut from.field_ref {
            field.api_version = text(field.api_version.take()).filter(|v| v != "v1");
        }
        if let Some(resource) = &mut from.resource_field_ref {
            resource_field(resource);
        }
        if let Some(key) = &mut from.config_map_key_ref {
            key.optional = set(key.optional);
        }
        if let Some(key) = &mut from.secret_key_ref {
            key.optional = set(key.optional);
        }
        if let Some(key) = &mut from.file_key_ref {
            key.optional = set(key.optional);
        }
    }
    env
}

pub(super) fn resource_field(resource: &mut ResourceFieldSelector) {
    resource.container_name = text(resource.container_name.take());
    let divisor = resource.divisor.take().filter(|d| !d.0.is_empty()).map(quantity);
    resource.divisor = divisor.filter(|d| d.0 != "0" && d.0 != "1");
}

fn variables(mut from: EnvFromSource) -> EnvFromSource {
    from.prefix = text(from.prefix);
    if let Some(map) = &mut from.config_map_ref {
        map.optional = set(map.optional);
    }
    if let Some(secret) = &mut from.secret_ref {
        secret.optional = set(secret.optional);
    }
    from
}

fn port(mut port: ContainerPort, host_network: bool) -> ContainerPort {
    port.name = text(port.name);
    port.host_ip = text(port.host_ip);
    port.protocol = Some(text(port.protocol).unwrap_or_else(|| "TCP".to_owned()));
    port.host_port = port.host_port.filter(|p| *p != 0);
    if host_network {
        port.host_port = Some(port.container_port);
    }
    port
}

fn mount(mut mount: VolumeMount) -> VolumeMount {
    mount.mount_path = format!("/{}", mount.mount_path.trim_matches('/'));
    mount.mount_propagation = text(mount.mount_propagation).filter(|p| p != "None");
    mount.read_only = set(mount.read_only);
    mount.bind_mount_options = list(mount.bind_mount_options).map(|mut options| {
        options.sort_unstable();
        options
    });
    mount.recursive_read_only = text(mount.recursive_read_only).filter(|r| r != "Disabled");
    mount.sub_path = text(mount.sub_path);
    mount.sub_path_expr = text(mount.sub_path_expr);
    mount
}

/// A limit without a request is the request, too.
pub(super) fn resources(mut r: ResourceRequirements) -> Option<ResourceRequirements> {
    let reduce = |m: Option<BTreeMap<String, Text>>| -> BTreeMap<String, Text> {
        m.into_iter().flatten().map(|(name, q)| (name, quantity(q))).collect()
    };
    let limits = reduce(r.limits.take());
    let mut requests = reduce(r.requests.take());
    for (name, limit) in &limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    r.limits = map(Some(limits));
    r.requests = map(Some(requests));
    r.claims = list(r.claims);
    (r != ResourceRequirements::default()).then_some(r)
}

fn security(mut s: SecurityContext, pod_seccomp: Option<&SeccompProfile>) -> Option<SecurityContext> {
    s.privileged = set(s.privileged);
    s.read_only_root_filesystem = set(s.read_only_root_filesystem);
    s.allow_privilege_escalation = s.allow_privilege_escalation.filter(|allow| !allow);
    s.proc_mount = text(s.proc_mount).filter(|p| p != "Default");
    s.capabilities = s.capabilities.and_then(capabilities);
    // A profile of its own counts where it is another than what the container has anyway.
    s.seccomp_profile = s.seccomp_profile.filter(|own| match pod_seccomp {
        Some(pod) => own != pod,
        None => !is_default_seccomp(own),
    });
    s.se_linux_options = s.se_linux_options.filter(|o| *o != k8s_openapi::api::core::v1::SELinuxOptions::default());
    (s != SecurityContext::default()).then_some(s)
}

fn capabilities(c: Capabilities) -> Option<Capabilities> {
    let names = |names: Option<Vec<String>>| {
        list(names).map(|names| {
            let mut names: Vec<_> =
                names.into_iter().map(|n| n.strip_prefix("CAP_").map(str::to_owned).unwrap_or(n)).collect();
            names.sort_unstable();
            names.dedup();
            names
        })
    };
    let c = Capabilities { add: names(c.add), drop: names(c.drop) };
    (c != Capabilities::default()).then_some(c)
}

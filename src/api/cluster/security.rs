//! The Pod Security Standards: what a namespace's level (`pod-security.kubernetes.io/enforce`) lets a template ask for.
//! The agent looks before it takes a revision, whatever was looked at before it came here.

use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Probe, SELinuxOptions, SecurityContext, Volume,
};
use serde_json::Value;

use crate::api::sysctl;

/// The label of a namespace that says the level.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// How much a template may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Privileged,
    /// What is no known way out of a container.
    Baseline,
    /// What hardened pods need.
    Restricted,
}

impl Level {
    /// The level that a namespace's label says: none is `privileged`, and an unknown one `restricted`, as in a cluster.
    pub fn of(label: Option<&str>) -> Self {
        match label {
            None | Some("privileged") => Self::Privileged,
            Some("baseline") => Self::Baseline,
            Some(_) => Self::Restricted,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// Something that a level does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, below `spec.template`.
    pub path: String,
    /// What it must be instead.
    pub reason: String,
}

/// Capabilities that `baseline` lets be added.
const BASELINE: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a level does not allow in a template. One that is no template is for others to refuse.
pub fn violations(level: Level, template: &Value) -> Vec<Violation> {
    let read: Option<PodTemplateSpec> = serde_json::from_value(template.clone()).ok();
    let (Some(pod), true) = (read.and_then(|t| t.spec), level != Level::Privileged) else { return Vec::new() };
    let mut found = Found { level, all: Vec::new() };
    found.pod(&pod);
    let inits = pod.init_containers.iter().flatten().enumerate().map(|(n, c)| (format!("spec.initContainers[{n}]"), c));
    let mains = pod.containers.iter().enumerate().map(|(n, c)| (format!("spec.containers[{n}]"), c));
    for (path, container) in inits.chain(mains) {
        found.container(&path, container, &pod);
    }
    found.all
}

struct Found {
    level: Level,
    all: Vec<Violation>,
}

impl Found {
    fn add(&mut self, path: impl Into<String>, reason: &str) {
        self.all.push(Violation { path: path.into(), reason: reason.to_owned() });
    }

    fn pod(&mut self, pod: &PodSpec) {
        for (field, set) in [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)] {
            if set == Some(true) {
                self.add(format!("spec.{field}"), "must not be true");
            }
        }
        for (n, volume) in pod.volumes.iter().flatten().enumerate() {
            if volume.host_path.is_some() {
                self.add(format!("spec.volumes[{n}].hostPath"), "must not be used");
            } else if self.level == Level::Restricted && !is_restricted(volume) {
                self.add(format!("spec.volumes[{n}]"), "must be of another kind");
            }
        }
        let Some(context) = &pod.security_context else { return };
        let path = "spec.securityContext";
        if context.seccomp_profile.as_ref().is_some_and(|p| p.type_ == "Unconfined") {
            self.add(format!("{path}.seccompProfile.type"), "must not be Unconfined");
        }
        if context.app_armor_profile.as_ref().is_some_and(|p| p.type_ == "Unconfined") {
            self.add(format!("{path}.appArmorProfile.type"), "must not be Unconfined");
        }
        self.labels(path, context.se_linux_options.as_ref());
        for (n, wanted) in context.sysctls.iter().flatten().enumerate() {
            if !sysctl::normalize(&wanted.name).is_some_and(|name| sysctl::is_safe(&name)) {
                self.add(format!("{path}.sysctls[{n}].name"), "must be one of the safe ones");
            }
        }
        if self.level == Level::Restricted && context.run_as_user == Some(0) {
            self.add(format!("{path}.runAsUser"), "must not be 0");
        }
    }

    fn container(&mut self, path: &str, container: &Container, pod: &PodSpec) {
        let empty = SecurityContext::default();
        let context = container.security_context.as_ref().unwrap_or(&empty);
        let at = |field: &str| format!("{path}.securityContext.{field}");
        if context.privileged == Some(true) {
            self.add(at("privileged"), "must not be true");
        }
        let (adds, drops) = context.capabilities.as_ref().map_or((None, None), |c| (c.add.as_ref(), c.drop.as_ref()));
        let allowed: &[&str] = if self.level == Level::Restricted { &["NET_BIND_SERVICE"] } else { &BASELINE };
        for (n, capability) in adds.into_iter().flatten().enumerate() {
            if !allowed.contains(&capability.as_str()) {
                self.add(at(&format!("capabilities.add[{n}]")), &format!("{capability} must not be added"));
            }
        }
        if context.proc_mount.as_deref().is_some_and(|mount| mount != "Default") {
            self.add(at("procMount"), "must be Default");
        }
        if context.seccomp_profile.as_ref().is_some_and(|p| p.type_ == "Unconfined") {
            self.add(at("seccompProfile.type"), "must not be Unconfined");
        }
        if context.app_armor_profile.as_ref().is_some_and(|p| p.type_ == "Unconfined") {
            self.add(at("appArmorProfile.type"), "must not be Unconfined");
        }
        self.labels(&format!("{path}.securityContext"), context.se_linux_options.as_ref());
        for (n, port) in container.ports.iter().flatten().enumerate() {
            if port.host_port.is_some_and(|port| port != 0) {
                self.add(format!("{path}.ports[{n}].hostPort"), "must not be set");
            }
        }
        for (field, probe) in [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ] {
            if probe.as_ref().is_some_and(asks_elsewhere) {
                self.add(format!("{path}.{field}"), "host must not be set");
            }
        }
        if let Some(Lifecycle { post_start, pre_stop, .. }) = &container.lifecycle {
            for (field, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
                if handler.as_ref().is_some_and(calls_elsewhere) {
                    self.add(format!("{path}.lifecycle.{field}"), "host must not be set");
                }
            }
        }
        if self.level != Level::Restricted {
            return;
        }
        let of_pod = pod.security_context.as_ref();
        if context.allow_privilege_escalation != Some(false) {
            self.add(at("allowPrivilegeEscalation"), "must be false");
        }
        if !drops.into_iter().flatten().any(|capability| capability == "ALL") {
            self.add(at("capabilities.drop"), "must hold ALL");
        }
        if context.run_as_non_root.or_else(|| of_pod?.run_as_non_root) != Some(true) {
            self.add(at("runAsNonRoot"), "must be true");
        }
        if context.run_as_user == Some(0) {
            self.add(at("runAsUser"), "must not be 0");
        }
        let seccomp = context.seccomp_profile.as_ref().or_else(|| of_pod?.seccomp_profile.as_ref());
        if !seccomp.is_some_and(|p| matches!(p.type_.as_str(), "RuntimeDefault" | "Localhost")) {
            self.add(at("seccompProfile.type"), "must be RuntimeDefault or Localhost");
        }
    }

    fn labels(&mut self, path: &str, options: Option<&SELinuxOptions>) {
        let Some(options) = options else { return };
        let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
        if set(&options.user) || set(&options.role) || !types.contains(&options.type_.as_deref().unwrap_or_default()) {
            self.add(format!("{path}.seLinuxOptions"), "must have no user and no role, and a type for containers");
        }
    }
}

/// Whether a volume is of a kind that `restricted` allows.
fn is_restricted(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
        || volume.image.is_some()
}

fn is_set(host: Option<&String>) -> bool {
    host.is_some_and(|host| !host.is_empty())
}

fn asks_elsewhere(probe: &Probe) -> bool {
    is_set(probe.http_get.as_ref().and_then(|get| get.host.as_ref()))
        || is_set(probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
}

fn calls_elsewhere(handler: &LifecycleHandler) -> bool {
    is_set(handler.http_get.as_ref().and_then(|get| get.host.as_ref()))
        || is_set(handler.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(level: Level, spec: &Value) -> Vec<String> {
        violations(level, &json!({ "spec": spec })).into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn a_level_is_read_as_a_cluster_reads_it() {
        for (label, level) in [
            (None, Level::Privileged),
            (Some("privileged"), Level::Privileged),
            (Some("baseline"), Level::Baseline),
            (Some("restricted"), Level::Restricted),
            (Some("strict"), Level::Restricted),
        ] {
            assert_eq!(Level::of(label), level);
        }
    }

    #[test]
    fn baseline_refuses_each_way_out_by_its_field() {
        let context = |context: Value| json!({ "containers": [{ "name": "a", "securityContext": context }] });
        let container = |container: Value| json!({ "containers": [container] });
        let c = "spec.containers[0]";
        for (spec, path) in [
            (json!({ "containers": [], "hostNetwork": true }), "spec.hostNetwork".to_owned()),
            (json!({ "containers": [], "hostPID": true }), "spec.hostPID".to_owned()),
            (json!({ "containers": [], "hostIPC": true }), "spec.hostIPC".to_owned()),
            (
                json!({ "containers": [], "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }),
                "spec.volumes[0].hostPath".to_owned(),
            ),
            (
                json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "kernel.msgmax", "value": "1" }] } }),
                "spec.securityContext.sysctls[0].name".to_owned(),
            ),
            (
                json!({ "containers": [], "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
                "spec.securityContext.seccompProfile.type".to_owned(),
            ),
            (
                json!({ "containers": [], "initContainers": [{ "name": "i", "securityContext": { "privileged": true } }] }),
                "spec.initContainers[0].securityContext.privileged".to_owned(),
            ),
            (context(json!({ "privileged": true })), format!("{c}.securityContext.privileged")),
            (
                context(json!({ "capabilities": { "add": ["CHOWN", "SYS_ADMIN"] } })),
                format!("{c}.securityContext.capabilities.add[1]"),
            ),
            (context(json!({ "procMount": "Unmasked" })), format!("{c}.securityContext.procMount")),
            (
                context(json!({ "appArmorProfile": { "type": "Unconfined" } })),
                format!("{c}.securityContext.appArmorProfile.type"),
            ),
            (context(json!({ "seLinuxOptions": { "type": "spc_t" } })), format!("{c}.securityContext.seLinuxOptions")),
            (
                container(json!({ "name": "a", "ports": [{ "containerPort": 1, "hostPort": 2 }] })),
                format!("{c}.ports[0].hostPort"),
            ),
            (
                container(json!({ "name": "a", "livenessProbe": { "httpGet": { "port": 1, "host": "10.0.0.1" } } })),
                format!("{c}.livenessProbe"),
            ),
            (
                container(
                    json!({ "name": "a", "lifecycle": { "preStop": { "httpGet": { "port": 1, "host": "10.0.0.1" } } } }),
                ),
                format!("{c}.lifecycle.preStop"),
            ),
        ] {
            assert_eq!(paths(Level::Baseline, &spec), [path], "{spec}");
            assert!(paths(Level::Privileged, &spec).is_empty());
        }
        assert!(paths(Level::Baseline, &json!({ "containers": [{ "name": "a" }] })).is_empty());
    }

    #[test]
    fn restricted_wants_what_hardened_pods_have() {
        let plain = json!({ "containers": [{ "name": "a" }] });
        assert_eq!(paths(Level::Restricted, &plain).len(), 4, "{:?}", paths(Level::Restricted, &plain));
        let mut hardened = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [{ "name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            } }],
        });
        assert!(paths(Level::Restricted, &hardened).is_empty());
        hardened["securityContext"]["runAsUser"] = json!(0);
        hardened["volumes"][0] = json!({ "name": "v", "nfs": { "server": "s", "path": "/" } });
        assert_eq!(paths(Level::Restricted, &hardened), ["spec.volumes[0]", "spec.securityContext.runAsUser"]);
    }
}

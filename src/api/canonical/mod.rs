//! One form for one meaning: defaults written out (or left out, always the same way), lists without order sorted,
//! quantities reduced, and fields that do nothing here removed.
//!
//! Comparing two pods makes sense only in this form, both brought to it by the same binary: then formatting, comments,
//! explicit defaults and an agent with new defaults change nothing.

mod container;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, KeyToPath, Pod, PodSecurityContext, PodSpec, SeccompProfile, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ids::DEFAULT_NAMESPACE;
use super::quantity::Quantity;

pub use container::default_pull_policy;

/// The grace period that a pod has when it names none, in seconds.
pub const GRACE: i64 = 30;
/// The mode of projected files when nothing says otherwise.
pub const FILE_MODE: i32 = 0o644;
/// What seccomp does when nothing says otherwise; a kubelet's default is `Unconfined`.
const SECCOMP: &str = "RuntimeDefault";

/// The pod with every default settled and every spelling reduced to one. Idempotent. The status goes, and so does what
/// an API server writes into metadata.
pub fn pod(pod: &Pod) -> Pod {
    Pod { metadata: metadata(&pod.metadata), spec: pod.spec.clone().map(spec), status: None }
}

fn metadata(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: Some(meta.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())),
        labels: map(meta.labels.clone()),
        annotations: map(meta.annotations.clone()),
        ..ObjectMeta::default()
    }
}

fn spec(mut s: PodSpec) -> PodSpec {
    let host_network = s.host_network == Some(true);
    s.security_context = s.security_context.and_then(security);
    let seccomp = s.security_context.as_ref().and_then(|c| c.seccomp_profile.clone());
    let containers =
        s.containers.into_iter().map(|c| container::container(c, host_network, seccomp.as_ref())).collect();
    let mut volumes: Vec<_> = s.volumes.into_iter().flatten().map(volume).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    // Every field is named: one that a new version of the types brings must be thought about here.
    PodSpec {
        active_deadline_seconds: s.active_deadline_seconds,
        containers,
        dns_config: s.dns_config.filter(|c| *c != k8s_openapi::api::core::v1::PodDNSConfig::default()),
        dns_policy: Some(text(s.dns_policy).unwrap_or_else(|| "ClusterFirst".to_owned())),
        host_aliases: list(s.host_aliases),
        host_ipc: set(s.host_ipc),
        host_network: set(s.host_network),
        host_pid: set(s.host_pid),
        host_users: s.host_users.filter(|users| !users),
        hostname: text(s.hostname),
        hostname_override: text(s.hostname_override),
        image_pull_secrets: list(s.image_pull_secrets),
        init_containers: list(s.init_containers),
        resources: s.resources.and_then(container::resources),
        restart_policy: Some(text(s.restart_policy).unwrap_or_else(|| "Always".to_owned())),
        runtime_class_name: text(s.runtime_class_name),
        security_context: s.security_context,
        service_account_name: text(s.service_account_name).or_else(|| text(s.service_account)),
        set_hostname_as_fqdn: set(s.set_hostname_as_fqdn),
        share_process_namespace: set(s.share_process_namespace),
        subdomain: text(s.subdomain),
        termination_grace_period_seconds: Some(s.termination_grace_period_seconds.unwrap_or(GRACE)),
        volumes: list(Some(volumes)),
        // Refused in manifests.
        ephemeral_containers: None,
        readiness_gates: None,
        resource_claims: None,
        scheduling_gates: None,
        // They do nothing here.
        affinity: None,
        automount_service_account_token: None,
        enable_service_links: None,
        eviction_responders: None,
        node_name: None,
        node_selector: None,
        os: None,
        overhead: None,
        preemption_policy: None,
        priority: None,
        priority_class_name: None,
        scheduler_name: None,
        scheduling_group: None,
        service_account: None,
        tolerations: None,
        topology_spread_constraints: None,
    }
}

fn security(mut c: PodSecurityContext) -> Option<PodSecurityContext> {
    c.run_as_non_root = set(c.run_as_non_root);
    c.supplemental_groups = list(c.supplemental_groups).map(|mut groups| {
        groups.sort_unstable();
        groups.dedup();
        groups
    });
    c.supplemental_groups_policy = text(c.supplemental_groups_policy).filter(|p| p != "Merge");
    c.fs_group_change_policy = text(c.fs_group_change_policy).filter(|p| p != "Always");
    c.seccomp_profile = c.seccomp_profile.filter(|p| !is_default_seccomp(p));
    c.sysctls = list(c.sysctls);
    c.se_linux_change_policy = None;
    c.se_linux_options = c.se_linux_options.filter(|o| *o != k8s_openapi::api::core::v1::SELinuxOptions::default());
    (c != PodSecurityContext::default()).then_some(c)
}

fn is_default_seccomp(profile: &SeccompProfile) -> bool {
    profile.type_ == SECCOMP
}

fn volume(mut v: Volume) -> Volume {
    if let Some(dir) = &mut v.empty_dir {
        dir.medium = text(dir.medium.take());
        dir.size_limit = dir.size_limit.take().map(quantity);
    }
    if let Some(host) = &mut v.host_path {
        host.type_ = text(host.type_.take());
    }
    if let Some(map) = &mut v.config_map {
        map.default_mode = Some(map.default_mode.unwrap_or(FILE_MODE));
        map.optional = set(map.optional);
        map.items = items(map.items.take());
    }
    if let Some(secret) = &mut v.secret {
        secret.default_mode = Some(secret.default_mode.unwrap_or(FILE_MODE));
        secret.optional = set(secret.optional);
        secret.items = items(secret.items.take());
    }
    // As the API server does: a volume of no type is an empty directory.
    if v == (Volume { name: v.name.clone(), ..Volume::default() }) {
        v.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    v
}

fn items(items: Option<Vec<KeyToPath>>) -> Option<Vec<KeyToPath>> {
    list(items).map(|mut items| {
        items.sort_by(|a, b| a.path.cmp(&b.path));
        items
    })
}

/// A quantity by its value: `1000m` and `1` are one.
fn quantity(text: Text) -> Text {
    match Quantity::of(&text) {
        Ok(value) => Text(value.to_string()),
        Err(_) => text,
    }
}

/// No text is the same as an empty one.
fn text(value: Option<String>) -> Option<String> {
    value.filter(|v| !v.is_empty())
}

/// False is the same as nothing.
fn set(value: Option<bool>) -> Option<bool> {
    value.filter(|v| *v)
}

fn list<T>(value: Option<Vec<T>>) -> Option<Vec<T>> {
    value.filter(|v| !v.is_empty())
}

fn map<V>(value: Option<BTreeMap<String, V>>) -> Option<BTreeMap<String, V>> {
    value.filter(|v| !v.is_empty())
}

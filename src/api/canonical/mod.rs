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
    DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod,
    PodSecurityContext, PodSpec, SeccompProfile, Volume, VolumeResourceRequirements,
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

/// The claim with every default settled and every spelling reduced to one, as [`pod`].
pub fn claim(claim: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let settle = |mut s: PersistentVolumeClaimSpec| {
        let modes: std::collections::BTreeSet<_> = s.access_modes.into_iter().flatten().collect();
        let requests = s.resources.and_then(|r| r.requests).unwrap_or_default();
        PersistentVolumeClaimSpec {
            access_modes: list(Some(modes.into_iter().collect())),
            resources: Some(VolumeResourceRequirements {
                limits: None,
                requests: map(Some(requests.into_iter().map(|(name, value)| (name, quantity(value))).collect())),
            }),
            storage_class_name: text(s.storage_class_name.take()),
            volume_mode: Some(text(s.volume_mode.take()).unwrap_or_else(|| "Filesystem".to_owned())),
            // Refused in manifests, or of no meaning here.
            data_source: None,
            data_source_ref: None,
            selector: None,
            volume_attributes_class_name: None,
            volume_name: None,
        }
    };
    PersistentVolumeClaim { metadata: metadata(&claim.metadata), spec: claim.spec.clone().map(settle), status: None }
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
    let settle = |c| container::container(c, host_network, seccomp.as_ref());
    let containers = s.containers.into_iter().map(settle).collect();
    let init_containers = s.init_containers.into_iter().flatten().map(settle).collect();
    let mut volumes: Vec<_> = s.volumes.into_iter().flatten().map(volume).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    // Every field is named: one that a new version of the types brings must be thought about here.
    PodSpec {
        active_deadline_seconds: s.active_deadline_seconds,
        containers,
        dns_config: s.dns_config.filter(|c| *c != k8s_openapi::api::core::v1::PodDNSConfig::default()),
        enable_service_links: s.enable_service_links.filter(|links| !links),
        dns_policy: Some(text(s.dns_policy).unwrap_or_else(|| "ClusterFirst".to_owned())),
        host_aliases: list(s.host_aliases),
        host_ipc: set(s.host_ipc),
        host_network: set(s.host_network),
        host_pid: set(s.host_pid),
        host_users: s.host_users.filter(|users| !users),
        hostname: text(s.hostname),
        hostname_override: text(s.hostname_override),
        image_pull_secrets: list(s.image_pull_secrets),
        init_containers: list(Some(init_containers)),
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
    if let Some(downward) = &mut v.downward_api {
        downward.default_mode = Some(downward.default_mode.unwrap_or(FILE_MODE));
        downward.items = files(downward.items.take());
    }
    if let Some(projected) = &mut v.projected {
        projected.default_mode = Some(projected.default_mode.unwrap_or(FILE_MODE));
        // Their order counts: of two that have a path, the later one has it.
        for source in projected.sources.iter_mut().flatten() {
            if let Some(map) = &mut source.config_map {
                map.optional = set(map.optional);
                map.items = items(map.items.take());
            }
            if let Some(secret) = &mut source.secret {
                secret.optional = set(secret.optional);
                secret.items = items(secret.items.take());
            }
            if let Some(downward) = &mut source.downward_api {
                downward.items = files(downward.items.take());
            }
        }
    }
    if let Some(claim) = &mut v.persistent_volume_claim {
        claim.read_only = set(claim.read_only);
    }
    if let Some(export) = &mut v.nfs {
        export.read_only = set(export.read_only);
    }
    if let Some(image) = &mut v.image {
        let reference = image.reference.clone().unwrap_or_default();
        let policy = text(image.pull_policy.take());
        image.pull_policy = Some(policy.unwrap_or_else(|| default_pull_policy(&reference).to_owned()));
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

fn files(items: Option<Vec<DownwardAPIVolumeFile>>) -> Option<Vec<DownwardAPIVolumeFile>> {
    list(items).map(|mut items| {
        for item in &mut items {
            if let Some(field) = &mut item.field_ref {
                field.api_version = text(field.api_version.take()).filter(|v| v != "v1");
            }
            if let Some(resource) = &mut item.resource_field_ref {
                container::resource_field(resource);
            }
        }
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

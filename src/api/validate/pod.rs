//! A pod's spec as a whole.

use k8s_openapi::api::core::v1::PodSpec;

use super::super::ids::{check_label, check_subdomain};
use super::{Findings, container, security, volume};

/// Which restart policies there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// All three.
    Any,
    /// The pods of a workload that never ends.
    Always,
    /// The pods of a job, which must be able to end.
    Ending,
}

pub(super) fn pod(spec: Option<&PodSpec>, at: &str, restart: Restart, found: &mut Findings) {
    let Some(spec) = spec else { return found.add(at, "must be given") };
    let policy = spec.restart_policy.as_deref().filter(|p| !p.is_empty());
    let path = format!("{at}.restartPolicy");
    match restart {
        Restart::Any => found.one_of(path, policy, &["Always", "OnFailure", "Never"]),
        Restart::Always => found.one_of(path, policy, &["Always"]),
        Restart::Ending => found.one_of(path, policy.or(Some("Always")), &["OnFailure", "Never"]),
    }
    let seconds = i64::from(i32::MAX);
    found.range(format_args!("{at}.terminationGracePeriodSeconds"), spec.termination_grace_period_seconds, 0, seconds);
    found.range(format_args!("{at}.activeDeadlineSeconds"), spec.active_deadline_seconds, 1, seconds);
    match spec.dns_policy.as_deref() {
        Some("None") => found.add(format_args!("{at}.dnsPolicy"), "None needs dnsConfig, which is not supported yet"),
        policy => found.one_of(
            format_args!("{at}.dnsPolicy"),
            policy,
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        ),
    }
    if let Some(name) = spec.hostname.as_deref().filter(|n| !n.is_empty()) {
        found.check(format_args!("{at}.hostname"), check_label(name));
    }
    if let Some(os) = &spec.os
        && os.name != "linux"
    {
        found.add(format_args!("{at}.os.name"), "must be linux");
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        found.check(format_args!("{at}.imagePullSecrets[{i}].name"), check_subdomain(&secret.name));
    }
    if let Some(context) = &spec.security_context {
        security::pod(context, &format!("{at}.securityContext"), found);
    }
    volume::volumes(spec.volumes.as_deref().unwrap_or_default(), &format!("{at}.volumes"), found);
    container::containers(spec, at, found);
}

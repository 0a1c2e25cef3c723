//! Security contexts: ids, capabilities, seccomp.

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSecurityContext, SeccompProfile, SecurityContext};

use super::Findings;

/// The largest user or group id that Kubernetes takes.
const MAX_ID: i64 = i32::MAX as i64;

/// Every capability that Linux has.
const CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub(super) fn pod(context: &PodSecurityContext, at: &str, found: &mut Findings) {
    found.range(format_args!("{at}.runAsUser"), context.run_as_user, 0, MAX_ID);
    found.range(format_args!("{at}.runAsGroup"), context.run_as_group, 0, MAX_ID);
    found.range(format_args!("{at}.fsGroup"), context.fs_group, 0, MAX_ID);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        found.range(format_args!("{at}.supplementalGroups[{i}]"), Some(*group), 0, MAX_ID);
    }
    found.one_of(
        format_args!("{at}.supplementalGroupsPolicy"),
        context.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
    );
    seccomp(context.seccomp_profile.as_ref(), at, found);
}

pub(super) fn container(container: &Container, pod: Option<&PodSecurityContext>, at: &str, found: &mut Findings) {
    let at = format!("{at}.securityContext");
    let own = container.security_context.as_ref();
    let user = own.and_then(|c| c.run_as_user).or_else(|| pod.and_then(|p| p.run_as_user));
    let non_root = own.and_then(|c| c.run_as_non_root).or_else(|| pod.and_then(|p| p.run_as_non_root));
    if non_root == Some(true) && user == Some(0) {
        found.add(format_args!("{at}.runAsNonRoot"), "the user is 0, which is root");
    }
    if let Some(context) = own {
        of_container(context, &at, found);
    }
}

fn of_container(context: &SecurityContext, at: &str, found: &mut Findings) {
    found.range(format_args!("{at}.runAsUser"), context.run_as_user, 0, MAX_ID);
    found.range(format_args!("{at}.runAsGroup"), context.run_as_group, 0, MAX_ID);
    seccomp(context.seccomp_profile.as_ref(), at, found);
    if let Some(capabilities) = &context.capabilities {
        names(capabilities, &format!("{at}.capabilities"), found);
    }
    if context.allow_privilege_escalation == Some(false) {
        let adds_admin = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        if context.privileged == Some(true) {
            found.add(format_args!("{at}.allowPrivilegeEscalation"), "a privileged container can always escalate");
        } else if adds_admin.map(|c| bare(c)).any(|c| c == "SYS_ADMIN") {
            found.add(format_args!("{at}.allowPrivilegeEscalation"), "with SYS_ADMIN a container can always escalate");
        }
    }
}

fn bare(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}

fn names(capabilities: &Capabilities, at: &str, found: &mut Findings) {
    for (list, what) in [(&capabilities.add, "add"), (&capabilities.drop, "drop")] {
        for (i, name) in list.iter().flatten().enumerate() {
            if name != "ALL" && CAPABILITIES.binary_search(&bare(name)).is_err() {
                found.add(format_args!("{at}.{what}[{i}]"), format!("{name:?} is not a capability"));
            }
        }
    }
}

fn seccomp(profile: Option<&SeccompProfile>, at: &str, found: &mut Findings) {
    match profile.map(|p| p.type_.as_str()) {
        None | Some("RuntimeDefault" | "Unconfined") => {}
        Some("Localhost") => found.add(format_args!("{at}.seccompProfile.type"), "Localhost is not supported yet"),
        Some(_) => found.add(format_args!("{at}.seccompProfile.type"), "must be RuntimeDefault or Unconfined"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_of_capabilities_is_sorted() {
        assert!(super::CAPABILITIES.is_sorted());
    }
}

//! Security contexts: ids, capabilities, seccomp.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile,
    SecurityContext, Sysctl,
};

use super::super::sysctl::{self, Namespace};
use super::{Findings, relative_path, unique};

/// The largest user or group id that Kubernetes takes.
const MAX_ID: i64 = i32::MAX as i64;

/// The largest id in a user namespace of a pod.
const MAX_MAPPED_ID: i64 = 65_535;

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

fn app_armor(profile: Option<&AppArmorProfile>, at: &str, found: &mut Findings) {
    let Some(profile) = profile else { return };
    let at = format!("{at}.appArmorProfile");
    let named = profile.localhost_profile.as_deref().filter(|name| !name.is_empty());
    match (profile.type_.as_str(), named) {
        ("RuntimeDefault" | "Unconfined", None) | ("Localhost", Some(_)) => {}
        ("RuntimeDefault" | "Unconfined", Some(_)) => {
            found.add(format_args!("{at}.localhostProfile"), "goes with type Localhost only");
        }
        ("Localhost", None) => found.add(format_args!("{at}.localhostProfile"), "must name a profile"),
        _ => found.add(format_args!("{at}.type"), "must be RuntimeDefault, Unconfined or Localhost"),
    }
}

/// Parts of a label, which are joined by colons: none but a level has one of its own.
fn selinux(options: Option<&SELinuxOptions>, at: &str, found: &mut Findings) {
    let Some(options) = options else { return };
    let parts = [("user", &options.user), ("role", &options.role), ("type", &options.type_), ("level", &options.level)];
    for (name, part) in parts {
        let is_odd =
            |c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c) && (name != "level" || !":,".contains(c));
        if part.as_deref().unwrap_or_default().contains(is_odd) {
            found.add(
                format_args!("{at}.seLinuxOptions.{name}"),
                "must be the name of one in the node's SELinux policy",
            );
        }
    }
}

/// What of a pod's namespaces is the host's, and what cannot go together.
pub(super) fn namespaces(spec: &PodSpec, at: &str, found: &mut Findings) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        found.add(format_args!("{at}.shareProcessNamespace"), "cannot be with hostPID: true");
    }
    if spec.host_users == Some(false) {
        let host = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        for (name, _) in host.iter().filter(|(_, host)| *host == Some(true)) {
            found.add(format_args!("{at}.hostUsers"), format!("false cannot be with {name}: true"));
        }
        let pod = spec.security_context.as_ref();
        let mut ids = vec![
            (format!("{at}.securityContext.runAsUser"), pod.and_then(|c| c.run_as_user)),
            (format!("{at}.securityContext.runAsGroup"), pod.and_then(|c| c.run_as_group)),
            (format!("{at}.securityContext.fsGroup"), pod.and_then(|c| c.fs_group)),
        ];
        for (i, container) in spec.containers.iter().enumerate() {
            let own = container.security_context.as_ref();
            let at = format!("{at}.containers[{i}].securityContext");
            ids.push((format!("{at}.runAsUser"), own.and_then(|c| c.run_as_user)));
            ids.push((format!("{at}.runAsGroup"), own.and_then(|c| c.run_as_group)));
        }
        for (path, _) in ids.iter().filter(|(_, id)| id.is_some_and(|id| id > MAX_MAPPED_ID)) {
            found.add(path, format!("must be at most {MAX_MAPPED_ID} with hostUsers: false"));
        }
    }
}

pub(super) fn pod(context: &PodSecurityContext, spec: &PodSpec, at: &str, found: &mut Findings) {
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
    found.one_of(
        format_args!("{at}.fsGroupChangePolicy"),
        context.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
    );
    sysctls(context.sysctls.as_deref().unwrap_or_default(), spec, &format!("{at}.sysctls"), found);
    seccomp(context.seccomp_profile.as_ref(), at, found);
    app_armor(context.app_armor_profile.as_ref(), at, found);
    selinux(context.se_linux_options.as_ref(), at, found);
}

fn sysctls(all: &[Sysctl], spec: &PodSpec, at: &str, found: &mut Findings) {
    let names: Vec<String> = all.iter().map(|s| sysctl::normalize(&s.name).unwrap_or_default()).collect();
    unique(names.iter().map(String::as_str).enumerate(), found, |i| format!("{at}[{i}].name"));
    for (i, name) in names.iter().enumerate() {
        let at = format!("{at}[{i}].name");
        if name.is_empty() {
            found.add(
                at,
                "must be the name of a sysctl: parts of lower case letters, digits, '-' and '_', between dots",
            );
            continue;
        }
        match sysctl::namespace(name) {
            None => found.add(at, "is the whole machine's, and not a pod's to set"),
            Some(Namespace::Net) if spec.host_network == Some(true) => {
                found.add(at, "cannot be set with hostNetwork: true, which would set it for the machine");
            }
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                found.add(at, "cannot be set with hostIPC: true, which would set it for the machine");
            }
            Some(_) => {}
        }
    }
}

pub(super) fn container(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    let pod = spec.security_context.as_ref();
    let at = format!("{at}.securityContext");
    let own = container.security_context.as_ref();
    let user = own.and_then(|c| c.run_as_user).or_else(|| pod.and_then(|p| p.run_as_user));
    let non_root = own.and_then(|c| c.run_as_non_root).or_else(|| pod.and_then(|p| p.run_as_non_root));
    if non_root == Some(true) && user == Some(0) {
        found.add(format_args!("{at}.runAsNonRoot"), "the user is 0, which is root");
    }
    if let Some(context) = own {
        of_container(context, &at, found);
        found.one_of(format_args!("{at}.procMount"), context.proc_mount.as_deref(), &["Default", "Unmasked"]);
        if context.proc_mount.as_deref() == Some("Unmasked") && spec.host_users != Some(false) {
            found.add(format_args!("{at}.procMount"), "Unmasked needs hostUsers: false");
        }
    }
}

fn of_container(context: &SecurityContext, at: &str, found: &mut Findings) {
    found.range(format_args!("{at}.runAsUser"), context.run_as_user, 0, MAX_ID);
    found.range(format_args!("{at}.runAsGroup"), context.run_as_group, 0, MAX_ID);
    seccomp(context.seccomp_profile.as_ref(), at, found);
    app_armor(context.app_armor_profile.as_ref(), at, found);
    selinux(context.se_linux_options.as_ref(), at, found);
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
        None | Some("RuntimeDefault" | "Unconfined" | "Localhost") => {}
        Some(_) => {
            found.add(format_args!("{at}.seccompProfile.type"), "must be RuntimeDefault, Unconfined or Localhost");
        }
    }
    let Some(profile) = profile else { return };
    let file = profile.localhost_profile.as_deref().filter(|f| !f.is_empty());
    match (profile.type_ == "Localhost", file) {
        (true, None) => found.add(format_args!("{at}.seccompProfile.localhostProfile"), "must name a file"),
        (true, Some(file)) => found.check(format_args!("{at}.seccompProfile.localhostProfile"), relative_path(file)),
        (false, Some(_)) => {
            found.add(format_args!("{at}.seccompProfile.localhostProfile"), "goes with type Localhost only");
        }
        (false, None) => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_of_capabilities_is_sorted() {
        assert!(super::CAPABILITIES.is_sorted());
    }
}

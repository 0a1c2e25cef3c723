//! Where containers mount volumes.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::{Findings, relative_path};

pub(super) fn mounts(container: &Container, volumes: &[Volume], at: &str, found: &mut Findings) {
    let mut targets = HashSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        let volume = volumes.iter().find(|v| v.name == mount.name);
        if volume.is_none() {
            found.add(format_args!("{at}.name"), format!("there is no volume {:?}", mount.name));
        }
        let target = mount.mount_path.trim_matches('/');
        if mount.mount_path.is_empty() || target.is_empty() {
            found.add(format_args!("{at}.mountPath"), "must be a path below /");
        } else if mount.mount_path.contains(':') {
            found.add(format_args!("{at}.mountPath"), "must not contain ':'");
        } else if target.split('/').any(|p| p == "..") {
            found.add(format_args!("{at}.mountPath"), "must not contain \"..\"");
        } else if !targets.insert(target) {
            found.add(format_args!("{at}.mountPath"), "is mounted twice");
        }
        if let Some(sub) = &mount.sub_path {
            found.check(format_args!("{at}.subPath"), relative_path(sub));
        }
        if let Some(sub) = mount.sub_path_expr.as_ref().filter(|s| !s.is_empty()) {
            found.check(format_args!("{at}.subPathExpr"), relative_path(sub));
            if mount.sub_path.as_ref().is_some_and(|s| !s.is_empty()) {
                found.add(format_args!("{at}.subPathExpr"), "must not stand beside subPath");
            }
        }
        propagation(mount, container, &at, found);
        for (n, option) in mount.bind_mount_options.iter().flatten().enumerate() {
            found.one_of(format_args!("{at}.bindMountOptions[{n}]"), Some(option), &["noexec", "nodev", "nosuid"]);
        }
        if mount.bind_mount_options.as_ref().is_some_and(|o| !o.is_empty()) && volume.is_some_and(|v| v.image.is_some())
        {
            found.add(format_args!("{at}.bindMountOptions"), "are not for image volumes");
        }
    }
}

fn propagation(mount: &VolumeMount, container: &Container, at: &str, found: &mut Findings) {
    let propagation = mount.mount_propagation.as_deref();
    found.one_of(format_args!("{at}.mountPropagation"), propagation, &["None", "HostToContainer", "Bidirectional"]);
    let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    if propagation == Some("Bidirectional") && !privileged {
        found.add(format_args!("{at}.mountPropagation"), "Bidirectional is for privileged containers only");
    }
    let recursive = mount.recursive_read_only.as_deref();
    found.one_of(format_args!("{at}.recursiveReadOnly"), recursive, &["Disabled", "IfPossible", "Enabled"]);
    if matches!(recursive, Some("IfPossible" | "Enabled")) {
        if mount.read_only != Some(true) {
            found.add(format_args!("{at}.recursiveReadOnly"), "needs readOnly: true");
        }
        if !matches!(propagation, None | Some("" | "None")) {
            found.add(format_args!("{at}.recursiveReadOnly"), "must not stand beside mountPropagation");
        }
    }
}

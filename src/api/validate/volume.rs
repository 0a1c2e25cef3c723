//! Volumes, and where containers mount them.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, KeyToPath, Volume};

use super::super::ids::{check_label, check_subdomain};
use super::super::quantity::Quantity;
use super::data::check_key;
use super::{Findings, absolute_path, relative_path, unique};

pub(super) fn volumes(volumes: &[Volume], at: &str, found: &mut Findings) {
    unique(volumes.iter().map(|v| v.name.as_str()).enumerate(), found, |i| format!("{at}[{i}].name"));
    for (i, volume) in volumes.iter().enumerate() {
        let at = format!("{at}[{i}]");
        found.check(format_args!("{at}.name"), check_label(&volume.name));
        let sources = [
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
            volume.config_map.is_some(),
            volume.secret.is_some(),
        ];
        if sources.iter().filter(|s| **s).count() > 1 {
            found.add(&at, "must have one type only");
        }
        one(volume, &at, found);
    }
}

fn one(volume: &Volume, at: &str, found: &mut Findings) {
    if let Some(dir) = &volume.empty_dir {
        let at = format!("{at}.emptyDir");
        if dir.medium.as_deref().is_some_and(|m| !matches!(m, "" | "Memory")) {
            found.add(format_args!("{at}.medium"), "must be empty or Memory; hugepages are not supported yet");
        }
        if let Some(limit) = &dir.size_limit {
            if dir.medium.as_deref() != Some("Memory") {
                let on_disk = "not supported yet on disk: only medium Memory keeps it";
                found.add(format_args!("{at}.sizeLimit"), on_disk);
            }
            match Quantity::of(limit) {
                Ok(limit) if limit.milli() < 0 => found.add(format_args!("{at}.sizeLimit"), "must not be negative"),
                result => found.check(format_args!("{at}.sizeLimit"), result.map(|_| ())),
            }
        }
    }
    if let Some(host) = &volume.host_path {
        let at = format!("{at}.hostPath");
        found.check(format_args!("{at}.path"), absolute_path(&host.path));
        found.one_of(
            format_args!("{at}.type"),
            host.type_.as_deref(),
            &["DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"],
        );
    }
    if let Some(map) = &volume.config_map {
        found.check(format_args!("{at}.configMap.name"), check_subdomain(&map.name));
        mode(map.default_mode, &format!("{at}.configMap.defaultMode"), found);
        items(map.items.as_deref().unwrap_or_default(), &format!("{at}.configMap.items"), found);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        found.check(format_args!("{at}.secret.secretName"), check_subdomain(name));
        mode(secret.default_mode, &format!("{at}.secret.defaultMode"), found);
        items(secret.items.as_deref().unwrap_or_default(), &format!("{at}.secret.items"), found);
    }
}

fn mode(mode: Option<i32>, at: &str, found: &mut Findings) {
    if mode.is_some_and(|m| !(0..=0o777).contains(&m)) {
        found.add(at, "must be from 0 to 0777 (octal; 511 in decimal)");
    }
}

fn items(items: &[KeyToPath], at: &str, found: &mut Findings) {
    unique(items.iter().map(|i| i.path.as_str()).enumerate(), found, |i| format!("{at}[{i}].path"));
    for (i, item) in items.iter().enumerate() {
        found.check(format_args!("{at}[{i}].key"), check_key(&item.key));
        if item.path.is_empty() {
            found.add(format_args!("{at}[{i}].path"), "must not be empty");
        } else if item.path.starts_with("..") {
            found.add(format_args!("{at}[{i}].path"), "must not start with \"..\"");
        } else {
            found.check(format_args!("{at}[{i}].path"), relative_path(&item.path));
        }
        mode(item.mode, &format!("{at}[{i}].mode"), found);
    }
}

pub(super) fn mounts(container: &Container, volumes: &[Volume], at: &str, found: &mut Findings) {
    let mut targets = HashSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        if !volumes.iter().any(|v| v.name == mount.name) {
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
    }
}

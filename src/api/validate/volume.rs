//! Volumes. Where containers mount them: `mount`.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, Volume};

use super::super::ids::{HUGE_PAGES, check_label, check_subdomain, page_size};
use super::super::quantity::Quantity;
use super::data::check_key;
use super::{Findings, absolute_path, container, relative_path, unique};

/// The largest user or group id that Kubernetes takes.
const MAX_ID: i64 = i32::MAX as i64;

pub(super) fn volumes(spec: &PodSpec, at: &str, found: &mut Findings) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    unique(volumes.iter().map(|v| v.name.as_str()).enumerate(), found, |i| format!("{at}[{i}].name"));
    for (i, volume) in volumes.iter().enumerate() {
        let at = format!("{at}[{i}]");
        found.check(format_args!("{at}.name"), check_label(&volume.name));
        let sources = [
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
            volume.config_map.is_some(),
            volume.secret.is_some(),
            volume.downward_api.is_some(),
            volume.projected.is_some(),
            volume.persistent_volume_claim.is_some(),
            volume.image.is_some(),
            volume.nfs.is_some(),
        ];
        if sources.iter().filter(|s| **s).count() > 1 {
            found.add(&at, "must have one type only");
        }
        one(volume, spec, &at, found);
    }
}

fn medium(medium: &str, spec: &PodSpec, at: &str, found: &mut Findings) {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let limits = all.filter_map(|c| c.resources.as_ref()?.limits.as_ref()).flat_map(|l| l.keys());
    let sizes: std::collections::BTreeSet<u64> = limits.filter_map(|name| page_size(name)).collect();
    match medium {
        "" | "Memory" => {}
        "HugePages" if sizes.len() == 1 => {}
        "HugePages" => found.add(at, "HugePages needs containers with limits of huge pages of one size"),
        _ => match medium.strip_prefix("HugePages-").and_then(|size| page_size(&format!("{HUGE_PAGES}{size}"))) {
            None => found.add(at, "must be empty, Memory, HugePages or one such as HugePages-2Mi"),
            Some(size) if sizes.contains(&size) => {}
            Some(_) => found.add(at, "needs a container with a limit of huge pages of this size"),
        },
    }
}

fn one(volume: &Volume, spec: &PodSpec, at: &str, found: &mut Findings) {
    if let Some(dir) = &volume.empty_dir {
        let at = format!("{at}.emptyDir");
        medium(dir.medium.as_deref().unwrap_or_default(), spec, &format!("{at}.medium"), found);
        if dir.mode.is_some_and(|m| !(0..=0o1777).contains(&m)) {
            found.add(format_args!("{at}.mode"), "must be from 0 to 01777 (octal; 1023 in decimal)");
        }
        if let Some(limit) = &dir.size_limit {
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
        found.range(format_args!("{at}.configMap.defaultUser"), map.default_user, 0, MAX_ID);
        items(map.items.as_deref(), &format!("{at}.configMap.items"), found);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        found.check(format_args!("{at}.secret.secretName"), check_subdomain(name));
        mode(secret.default_mode, &format!("{at}.secret.defaultMode"), found);
        found.range(format_args!("{at}.secret.defaultUser"), secret.default_user, 0, MAX_ID);
        items(secret.items.as_deref(), &format!("{at}.secret.items"), found);
    }
    if let Some(downward) = &volume.downward_api {
        let at = format!("{at}.downwardAPI");
        mode(downward.default_mode, &format!("{at}.defaultMode"), found);
        found.range(format_args!("{at}.defaultUser"), downward.default_user, 0, MAX_ID);
        files(downward.items.as_deref(), spec, &format!("{at}.items"), found);
    }
    if let Some(export) = &volume.nfs {
        let at = format!("{at}.nfs");
        found.check(format_args!("{at}.path"), absolute_path(&export.path));
        let host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        if export.server.is_empty() || !export.server.chars().all(host) {
            found.add(format_args!("{at}.server"), "must be a host's name or address");
        }
    }
    if let Some(image) = &volume.image {
        let at = format!("{at}.image");
        let reference = container::image(image.reference.as_deref().unwrap_or_default());
        found.check(format_args!("{at}.reference"), reference);
        let policy = image.pull_policy.as_deref();
        found.one_of(format_args!("{at}.pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        found.check(format_args!("{at}.persistentVolumeClaim.claimName"), check_subdomain(&claim.claim_name));
    }
    if let Some(projected) = &volume.projected {
        self::projected(projected, spec, &format!("{at}.projected"), found);
    }
}

fn projected(projected: &ProjectedVolumeSource, spec: &PodSpec, at: &str, found: &mut Findings) {
    mode(projected.default_mode, &format!("{at}.defaultMode"), found);
    found.range(format_args!("{at}.defaultUser"), projected.default_user, 0, MAX_ID);
    let sources = projected.sources.as_deref().unwrap_or_default();
    let mut paths = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let at = format!("{at}.sources[{i}]");
        let kinds = [
            source.config_map.is_some(),
            source.secret.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        if kinds.iter().filter(|k| **k).count() != 1 {
            found.add(&at, "must have exactly one type");
        }
        if let Some(map) = &source.config_map {
            found.check(format_args!("{at}.configMap.name"), check_subdomain(&map.name));
            items(map.items.as_deref(), &format!("{at}.configMap.items"), found);
        }
        if let Some(secret) = &source.secret {
            found.check(format_args!("{at}.secret.name"), check_subdomain(&secret.name));
            items(secret.items.as_deref(), &format!("{at}.secret.items"), found);
        }
        if let Some(downward) = &source.downward_api {
            files(downward.items.as_deref(), spec, &format!("{at}.downwardAPI.items"), found);
        }
        let keys = [
            source.config_map.as_ref().and_then(|m| m.items.as_deref()),
            source.secret.as_ref().and_then(|s| s.items.as_deref()),
        ];
        paths.extend(keys.into_iter().flatten().flatten().map(|item| (i, item.path.as_str())));
        let files = source.downward_api.as_ref().and_then(|d| d.items.as_deref());
        paths.extend(files.into_iter().flatten().map(|item| (i, item.path.as_str())));
    }
    for (n, (i, path)) in paths.iter().enumerate() {
        if paths.iter().take(n).any(|(other, same)| other != i && same == path) {
            found.add(format_args!("{at}.sources[{i}]"), format!("{path:?} is the path of an earlier source, too"));
        }
    }
}

fn files(files: Option<&[DownwardAPIVolumeFile]>, spec: &PodSpec, at: &str, found: &mut Findings) {
    let files = files.unwrap_or_default();
    unique(files.iter().map(|f| f.path.as_str()).enumerate(), found, |i| format!("{at}[{i}].path"));
    for (i, file) in files.iter().enumerate() {
        let at = format!("{at}[{i}]");
        path(&file.path, &at, found);
        mode(file.mode, &format!("{at}.mode"), found);
        found.range(format_args!("{at}.user"), file.user, 0, MAX_ID);
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), None) => {
                if !super::super::env::is_file_field(&field.field_path) {
                    let reason =
                        "must be metadata.name, .namespace, .uid, .labels, .annotations, or one of the last two";
                    found.add(format_args!("{at}.fieldRef.fieldPath"), format!("{reason} with a key, as ['key']"));
                }
            }
            (None, Some(resource)) => {
                let name = resource.container_name.as_deref().unwrap_or_default();
                container::resource_of(resource, name, spec, &format!("{at}.resourceFieldRef"), found);
            }
            _ => found.add(&at, "must have either fieldRef or resourceFieldRef"),
        }
    }
}

fn mode(mode: Option<i32>, at: &str, found: &mut Findings) {
    if mode.is_some_and(|m| !(0..=0o777).contains(&m)) {
        found.add(at, "must be from 0 to 0777 (octal; 511 in decimal)");
    }
}

fn items(items: Option<&[KeyToPath]>, at: &str, found: &mut Findings) {
    let items = items.unwrap_or_default();
    unique(items.iter().map(|i| i.path.as_str()).enumerate(), found, |i| format!("{at}[{i}].path"));
    for (i, item) in items.iter().enumerate() {
        found.check(format_args!("{at}[{i}].key"), check_key(&item.key));
        path(&item.path, &format!("{at}[{i}]"), found);
        found.range(format_args!("{at}[{i}].user"), item.user, 0, MAX_ID);
        mode(item.mode, &format!("{at}[{i}].mode"), found);
    }
}

/// Where in a volume a file goes.
fn path(path: &str, at: &str, found: &mut Findings) {
    let at = format!("{at}.path");
    if path.is_empty() {
        found.add(at, "must not be empty");
    } else if path.starts_with("..") {
        found.add(at, "must not start with \"..\"");
    } else {
        found.check(at, relative_path(path));
    }
}

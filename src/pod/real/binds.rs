//! What is mounted into a container beside its root: its volume mounts, and the files that its pod shares.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::look::KEPT_VOLUME;
use super::sandbox::SHARED_FILES;
use crate::runtime::spec::{HostPathKind, Propagation, VolumeBind, VolumeSource};
use crate::volume;

/// The binds of a container, in the order in which they must be mounted.
pub(super) fn of(pod: &Pod, container: &Container, dir: &Path) -> Vec<VolumeBind> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let mut binds: Vec<VolumeBind> = ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| (format!("/etc/{name}"), dir.join(SHARED_FILES).join(name)))
        .filter(|(target, _)| !mounts.iter().any(|m| m.mount_path.trim_end_matches('/') == target))
        .map(|(target, path)| VolumeBind {
            target,
            source: VolumeSource::Dir { path: path.to_string_lossy().into_owned() },
            sub_path: None,
            read_only: false,
            recursive: false,
            propagation: Propagation::None,
        })
        .collect();
    for mount in mounts {
        if let Some(volume) = volumes.iter().find(|v| v.name == mount.name) {
            binds.push(bind(volume, mount, dir));
        }
    }
    // A mount below another must come after it.
    binds.sort_by_key(|b| b.target.split('/').filter(|c| !c.is_empty()).count());
    binds
}

fn bind(volume: &Volume, mount: &VolumeMount, dir: &Path) -> VolumeBind {
    let source = match (&volume.host_path, &volume.empty_dir) {
        (Some(host), _) => VolumeSource::HostPath { path: host.path.clone(), kind: kind(host.type_.as_deref()) },
        (None, Some(empty)) if empty.medium.as_deref() != Some("Memory") => {
            VolumeSource::Dir { path: dir.join("volumes").join(&volume.name).to_string_lossy().into_owned() }
        }
        _ => VolumeSource::Kept { name: format!("{KEPT_VOLUME}{}", volume.name) },
    };
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    VolumeBind {
        target: mount.mount_path.clone(),
        source,
        sub_path: mount.sub_path.clone().filter(|p| !p.is_empty()),
        read_only: mount.read_only == Some(true) || volume::read_only(volume),
        recursive,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        },
    }
}

fn kind(text: Option<&str>) -> HostPathKind {
    match text {
        Some("DirectoryOrCreate") => HostPathKind::DirectoryOrCreate,
        Some("Directory") => HostPathKind::Directory,
        Some("FileOrCreate") => HostPathKind::FileOrCreate,
        Some("File") => HostPathKind::File,
        Some("Socket") => HostPathKind::Socket,
        Some("CharDevice") => HostPathKind::CharDevice,
        Some("BlockDevice") => HostPathKind::BlockDevice,
        _ => HostPathKind::Any,
    }
}

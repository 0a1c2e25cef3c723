//! What is mounted into a container beside its root: its volume mounts, and the files that its pod shares.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::look::{KEPT_VOLUME, VOLUMES};
use super::sandbox::SHARED_FILES;
use crate::api::{PodKey, env};
use crate::pod::engine::StepError;
use crate::runtime::spec::{HostPathKind, MountOption, Propagation, VolumeBind, VolumeSource};
use crate::volume;
use crate::volume::claim::{self, Claims};

/// Where POSIX shared memory is.
const SHARED_MEMORY: &str = "/dev/shm";
/// The name under which a pod's is kept; no volume can have it.
pub(super) const SHARED_MEMORY_NAME: &str = "/dev/shm";

/// Where the content of volumes lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// The pod's directory.
    pub(super) dir: &'a Path,
    /// The claims of the node.
    pub(super) claims: &'a Claims,
    /// The names of the layers that the shim keeps for volumes of images, by volume.
    pub(super) stacks: &'a BTreeMap<String, Vec<String>>,
}

/// The binds of a container, in the order in which they must be mounted.
///
/// # Errors
/// If a `subPathExpr` names a variable that the container's environment lacks, or leads out of the volume.
pub(super) fn of(
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    around: Around<'_>,
) -> Result<Vec<VolumeBind>, StepError> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let mut binds: Vec<VolumeBind> = ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| (format!("/etc/{name}"), around.dir.join(SHARED_FILES).join(name)))
        .filter(|(target, _)| !mounts.iter().any(|m| m.mount_path.trim_end_matches('/') == target))
        .map(|(target, path)| VolumeBind {
            target,
            source: VolumeSource::Dir { path: path.to_string_lossy().into_owned() },
            sub_path: None,
            read_only: false,
            recursive: false,
            propagation: Propagation::None,
            options: Vec::new(),
        })
        .collect();
    if !mounts.iter().any(|m| m.mount_path.trim_end_matches('/') == SHARED_MEMORY) {
        binds.push(shared_memory(pod));
    }
    for mount in mounts {
        if let Some(volume) = volumes.iter().find(|v| v.name == mount.name) {
            let sub_path = sub_path(mount, env).map_err(|reason| {
                let message = format!("container {}: volumeMount {}: {reason}", container.name, mount.mount_path);
                StepError::on_change("CreateContainerConfigError", message)
            })?;
            let source = source(volume, pod, around);
            binds.push(bind(volume, mount, sub_path, source));
        }
    }
    // A mount below another must come after it.
    binds.sort_by_key(|b| b.target.split('/').filter(|c| !c.is_empty()).count());
    Ok(binds)
}

/// `/dev/shm`: memory that the processes of a pod share, or the host's with its IPC namespace.
fn shared_memory(pod: &Pod) -> VolumeBind {
    let host = pod.spec.as_ref().and_then(|s| s.host_ipc) == Some(true);
    let source = if host {
        VolumeSource::HostPath { path: SHARED_MEMORY.to_owned(), kind: HostPathKind::Directory }
    } else {
        VolumeSource::Kept { name: format!("{KEPT_VOLUME}{SHARED_MEMORY_NAME}") }
    };
    VolumeBind {
        target: SHARED_MEMORY.to_owned(),
        source,
        sub_path: None,
        read_only: false,
        recursive: false,
        propagation: Propagation::None,
        options: Vec::new(),
    }
}

/// What of the volume is mounted; nothing: all of it.
fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let Some(text) = mount.sub_path_expr.as_ref().filter(|p| !p.is_empty()) else {
        return Ok(mount.sub_path.clone().filter(|p| !p.is_empty()));
    };
    let path = env::expand_known(text, env)
        .map_err(|name| format!("subPathExpr {text:?} names {name}, which the container's environment lacks"))?;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("subPathExpr {text:?} comes to {path:?}, which must be relative and without \"..\""));
    }
    Ok(Some(path).filter(|p| !p.is_empty()))
}

/// Where the content of a volume is.
fn source(volume: &Volume, pod: &Pod, around: Around<'_>) -> VolumeSource {
    let directory = |path: &Path| VolumeSource::Dir { path: path.to_string_lossy().into_owned() };
    if let Some(host) = &volume.host_path {
        return VolumeSource::HostPath { path: host.path.clone(), kind: kind(host.type_.as_deref()) };
    }
    if let Some(source) = &volume.persistent_volume_claim {
        let namespace = PodKey::of(&pod.metadata).namespace;
        return directory(&around.claims.path(&claim::key(&namespace, &source.claim_name)));
    }
    if let Some(names) = around.stacks.get(&volume.name) {
        return VolumeSource::Layers { names: names.clone() };
    }
    match &volume.empty_dir {
        Some(empty) if empty.medium.as_deref().unwrap_or_default().is_empty() => {
            directory(&around.dir.join(VOLUMES).join(&volume.name))
        }
        _ => VolumeSource::Kept { name: format!("{KEPT_VOLUME}{}", volume.name) },
    }
}

fn bind(volume: &Volume, mount: &VolumeMount, sub_path: Option<String>, source: VolumeSource) -> VolumeBind {
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    VolumeBind {
        target: mount.mount_path.clone(),
        source,
        sub_path,
        read_only: mount.read_only == Some(true) || volume::read_only(volume),
        recursive,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        },
        options: mount.bind_mount_options.iter().flatten().filter_map(|o| option(o)).collect(),
    }
}

fn option(text: &str) -> Option<MountOption> {
    Some(match text {
        "noexec" => MountOption::NoExec,
        "nodev" => MountOption::NoDev,
        "nosuid" => MountOption::NoSuid,
        _ => return None,
    })
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

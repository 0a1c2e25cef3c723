//! What is mounted beside a container's root, one file a kind.
//!
//! | kind | where its content is | who owns it |
//! |---|---|---|
//! | `emptyDir` | a directory below the pod's own, or a tmpfs | the pod; the tmpfs is kept by its shim |
//! | `configMap`, `secret`, `downwardAPI`, `projected` | a tmpfs, filled through its descriptor, never on disk | the pod's shim |
//! | `hostPath` | the host | nobody here |
//! | `nfs` | a server | the pod's shim keeps the mount |
//! | `image` | layers of the store; nothing is made for it | the pod's shim keeps their mounts |
//! | `persistentVolumeClaim` | a directory of the node's ([`claim`]) | its claim |
//!
//! [`prepare`] makes a volume once for a pod; [`refresh`] brings the content of one that is made of other objects, or of
//! the pod's own fields, up to date, by one atomic rename. A new kind is a file here and an arm in both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};

use crate::api::PodUid;
use crate::api::env::NodeFacts;
use crate::sys::mount::{self, Mount};

pub mod claim;
mod empty_dir;
mod nfs;
mod payload;
mod projection;
#[cfg(test)]
mod tests;

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it refers to is not there, and it is not optional.
    #[error("volume {volume}: {kind} {name:?} not found")]
    Missing {
        /// The volume.
        volume: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The one it names.
        name: String,
    },
    /// What it refers to lacks a key.
    #[error("volume {volume}: {kind} {name:?} has no key {key:?}")]
    MissingKey {
        /// The volume.
        volume: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The one it names.
        name: String,
        /// The key that is not there.
        key: String,
    },
    /// A path of an item would leave the volume.
    #[error("volume {volume}: item path {path:?} must be relative and must not have \"..\" in it")]
    Path {
        /// The volume.
        volume: String,
        /// The path.
        path: String,
    },
    /// A field of the pod that cannot be shown in a file.
    #[error("volume {volume}: what the file {path:?} is to show is not there")]
    Field {
        /// The volume.
        volume: String,
        /// The file's path.
        path: String,
    },
    /// A claim cannot be had.
    #[error("volume {volume}")]
    Claim {
        /// The volume.
        volume: String,
        /// Why.
        source: claim::Error,
    },
    /// An export cannot be mounted.
    #[error("volume {volume}: cannot mount nfs {server}:{path}: {reason}")]
    Nfs {
        /// The volume.
        volume: String,
        /// The server.
        server: String,
        /// The export.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The kind is not known here.
    #[error("volume {volume} is of a kind that is not supported")]
    Unsupported {
        /// The volume.
        volume: String,
    },
    /// A size that cannot be read.
    #[error("volume {volume}: bad size limit {limit:?}")]
    Size {
        /// The volume.
        volume: String,
        /// As written.
        limit: String,
    },
    /// A file system call failed.
    #[error("volume {volume}: cannot {action} {}", path.display())]
    Io {
        /// The volume.
        volume: String,
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A mount failed.
    #[error("volume {volume}: cannot make a file system in memory")]
    Mount {
        /// The volume.
        volume: String,
        /// What the kernel said.
        source: mount::Error,
    },
}

impl Error {
    /// Whether trying again helps only once a ConfigMap, Secret or claim has changed.
    pub const fn awaits_change(&self) -> bool {
        match self {
            Self::Claim { source, .. } => source.awaits_change(),
            _ => matches!(self, Self::Missing { .. } | Self::MissingKey { .. }),
        }
    }
}

/// Where the content of a prepared volume is.
#[derive(Debug)]
pub enum Source {
    /// A mount that somebody must keep while the pod runs.
    Mount(Mount),
    /// A directory of the pod's own, or of a claim.
    Directory(PathBuf),
    /// Layers of an image, which others see to.
    Image,
    /// A path of the host; `kind` is `hostPath.type`, empty where none is given.
    Host {
        /// The path.
        path: String,
        /// What must be there, or may be made.
        kind: String,
    },
}

/// What volumes are made from.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The pod's own directory for volumes.
    pub directory: &'a Path,
    /// Finds a ConfigMap of the pod's namespace.
    pub config_maps: &'a std::collections::BTreeMap<String, Arc<ConfigMap>>,
    /// Finds a Secret of the pod's namespace.
    pub secrets: &'a std::collections::BTreeMap<String, Arc<Secret>>,
    /// The claims of the node.
    pub claims: &'a claim::Claims,
    /// The claims that are declared for the pod, by name.
    pub declared: &'a std::collections::BTreeMap<String, claim::Declared>,
    /// The pod, with its uid: what `downwardAPI` shows.
    pub pod: &'a Pod,
    /// That uid.
    pub uid: &'a PodUid,
    /// What the pod's resources mean where it sets no limit.
    pub node: &'a NodeFacts,
    /// The group that shall own what is made here.
    pub fs_group: Option<u32>,
    /// Whether what has that group at its top is left as it is.
    pub group_on_mismatch: bool,
}

/// Makes a volume. Doing it again for the same pod is fine: what is on disk stays, what was in memory is made anew.
///
/// # Errors
/// If what it refers to is missing, or the disk or kernel refuses.
pub fn prepare(volume: &Volume, context: &Context<'_>) -> Result<Source, Error> {
    if let Some(empty) = &volume.empty_dir {
        return empty_dir::prepare(&volume.name, empty, context);
    }
    if let Some(host) = &volume.host_path {
        return Ok(Source::Host { path: host.path.clone(), kind: host.type_.clone().unwrap_or_default() });
    }
    if let Some(export) = &volume.nfs {
        return nfs::prepare(&volume.name, export);
    }
    if volume.image.is_some() {
        return Ok(Source::Image);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claim::prepare(&volume.name, claim, context);
    }
    if let Some(files) = projection::files(volume, context)? {
        let mount = Mount::tmpfs(None, 0o755, mount_attributes())
            .map_err(|source| Error::Mount { volume: volume.name.clone(), source })?;
        payload::write(&volume.name, &mount.proc_path(), &files, context.fs_group)?;
        return Ok(Source::Mount(mount));
    }
    Err(Error::Unsupported { volume: volume.name.clone() })
}

/// Whether a volume's content follows something that can change: other objects, or the pod's own fields.
pub const fn follows_config(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some() || shows_pod(volume) || volume.projected.is_some()
}

/// Whether a volume may show fields of the pod itself.
pub const fn shows_pod(volume: &Volume) -> bool {
    volume.downward_api.is_some() || volume.projected.is_some()
}

/// Whether a volume is a mount that somebody must keep while the pod runs.
pub fn is_kept(volume: &Volume) -> bool {
    follows_config(volume)
        || volume.nfs.is_some()
        || volume.empty_dir.as_ref().is_some_and(|dir| !dir.medium.as_deref().unwrap_or_default().is_empty())
}

/// Whether containers may only read a volume, whatever they ask for.
pub fn read_only(volume: &Volume) -> bool {
    follows_config(volume)
        || volume.image.is_some()
        || volume.nfs.as_ref().is_some_and(|export| export.read_only == Some(true))
        || volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
}

/// Brings the content of a volume in memory up to date, by one atomic rename; nothing is touched when it is already.
/// Says whether anything was.
///
/// # Errors
/// As [`prepare`]; the old content then stays.
pub fn refresh(volume: &Volume, mounted: &Mount, context: &Context<'_>) -> Result<bool, Error> {
    match projection::files(volume, context)? {
        Some(files) => payload::write(&volume.name, &mounted.proc_path(), &files, context.fs_group),
        None => Ok(false),
    }
}

/// What a volume in memory is mounted with. Programs may be run from it, as on a kubelet.
fn mount_attributes() -> rustix::mount::MountAttrFlags {
    use rustix::mount::MountAttrFlags as Flags;
    Flags::MOUNT_ATTR_NOSUID | Flags::MOUNT_ATTR_NODEV
}

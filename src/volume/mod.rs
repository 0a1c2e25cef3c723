//! What is mounted beside a container's root, one file a kind.
//!
//! | kind | where its content is | who owns it |
//! |---|---|---|
//! | `emptyDir` | a directory below the pod's own, or a tmpfs | the pod; the tmpfs is kept by its shim |
//! | `configMap`, `secret` | a tmpfs, filled through its descriptor, never on disk | the pod's shim |
//! | `hostPath` | the host | nobody here |
//!
//! [`prepare`] makes a volume once for a pod; [`refresh`] brings the content of one that follows a ConfigMap or Secret up
//! to date, by one atomic rename. A new kind is a file here and an arm in both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Volume};

use crate::sys::mount::{self, Mount};

mod empty_dir;
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
    /// Whether trying again helps only once a ConfigMap or Secret has changed.
    pub const fn awaits_config(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::MissingKey { .. })
    }
}

/// Where the content of a prepared volume is.
#[derive(Debug)]
pub enum Source {
    /// A mount that somebody must keep while the pod runs.
    Mount(Mount),
    /// A directory of the pod's own.
    Directory(PathBuf),
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
    /// The group that shall own what is made here.
    pub fs_group: Option<u32>,
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
    if let Some(files) = projection::files(volume, context)? {
        let mount = Mount::tmpfs(None, 0o755, mount_attributes())
            .map_err(|source| Error::Mount { volume: volume.name.clone(), source })?;
        payload::write(&volume.name, &mount.proc_path(), &files, context.fs_group)?;
        return Ok(Source::Mount(mount));
    }
    Err(Error::Unsupported { volume: volume.name.clone() })
}

/// Whether a volume's content follows something that can change.
pub const fn follows_config(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some()
}

/// Whether containers may only read a volume, whatever they ask for.
pub const fn read_only(volume: &Volume) -> bool {
    follows_config(volume)
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

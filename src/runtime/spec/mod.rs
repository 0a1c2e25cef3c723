//! A container as an OCI runtime spec: built from a pod's container, its image's config and resolved values, with no I/O.
//!
//! What the OCI spec cannot say (a user by name, volumes held by descriptor) stands beside it in types of ours.

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use serde::{Deserialize, Serialize};

use crate::api::quantity::QuantityError;
use crate::sys::device;

mod build;
mod resources;
mod seccomp;
#[cfg(test)]
mod tests;

pub use build::{SpecInput, build, wants_default_app_armor};
pub use resources::{Qos, container_limits, container_memory_request, memory_high, memory_request, pod_limits, qos};

/// Where programs are looked for when neither image nor manifest says: what containerd sets.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why no spec can be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither manifest nor image says what to run.
    #[error("no command: the image has none and the manifest gives none")]
    NoCommand,
    /// A capability that does not exist.
    #[error("{name:?} is not a capability")]
    Capability {
        /// As the manifest has it.
        name: String,
    },
    /// A type of profile that does not exist.
    #[error("{name:?} is not a type of seccomp profile")]
    SeccompProfile {
        /// As the manifest has it.
        name: String,
    },
    /// The profile's file was not handed in.
    #[error("the seccomp profile of type Localhost was not found")]
    LocalhostProfile,
    /// A quantity that is not one.
    #[error("{text:?} is not a quantity of {resource}")]
    Quantity {
        /// Which resource.
        resource: &'static str,
        /// As the manifest has it.
        text: String,
        /// What is wrong with it.
        source: QuantityError,
    },
    /// A rule of the spec that cannot be applied.
    #[error("device rule {rule} is not understood")]
    DeviceRule {
        /// The rule as the spec has it.
        rule: String,
    },
}

/// Who a process runs as, as far as it is known before the image's `/etc/passwd` is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UserRequest {
    /// `runAsUser`; comes before `image_user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// `runAsGroup`; comes before the group of `image_user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The image's `USER`, verbatim: `name`, `uid`, `name:group`, …; empty is root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_user: String,
    /// `supplementalGroups` and `fsGroup`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// `supplementalGroupsPolicy: Strict`: the image's `/etc/group` adds nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict_groups: bool,
    /// `runAsNonRoot`: uid 0 is refused, whatever the image says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub non_root: bool,
}

/// A container, ready for a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Process, root, kernel file systems, masked paths, resources, filter. Its `process.user` is not used.
    pub oci: Spec,
    /// Who it runs as.
    #[serde(default)]
    pub user: UserRequest,
    /// Whether it gets all devices of the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
}

/// Whether the spec gives the container a namespace of this kind of its own.
pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()).any(|n| n.typ() == kind)
}

/// What the spec allows of devices; `None` allows everything.
///
/// # Errors
/// If a rule denies (all but the listed is denied anyway), or cannot be read.
pub fn device_rules(spec: &Spec) -> Result<Option<Vec<device::Rule>>, Error> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut rules = Vec::new();
    for rule in resources.iter().flat_map(|r| r.devices().iter().flatten()) {
        let bad = || Error::DeviceRule { rule: rule.to_string() };
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| bad()),
        };
        let kind = match rule.typ() {
            Some(LinuxDeviceType::C) => device::Kind::Char,
            Some(LinuxDeviceType::B) => device::Kind::Block,
            None | Some(LinuxDeviceType::A) => device::Kind::Any,
            _ => return Err(bad()),
        };
        let access = rule.access().as_deref().and_then(device::Access::parse).ok_or_else(bad)?;
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        if !rule.allow() {
            return Err(bad());
        }
        if kind == device::Kind::Any && major.is_none() && minor.is_none() && access == device::Access::ALL {
            return Ok(None);
        }
        rules.push(device::Rule { kind, major, minor, access });
    }
    Ok(Some(rules))
}

impl ContainerSpec {
    /// A further process in this container: what the container has, but for what it runs and on which streams.
    pub fn process(&self, command: Vec<String>, terminal: bool) -> ProcessSpec {
        let mut process = self.oci.process().clone().unwrap_or_default();
        process.set_args(Some(command));
        process.set_terminal(Some(terminal));
        if terminal {
            let mut env = process.env().clone().unwrap_or_default();
            if !env.iter().any(|e| e.starts_with("TERM=")) {
                env.push("TERM=xterm".to_owned());
            }
            process.set_env(Some(env));
        }
        let seccomp = self.oci.linux().as_ref().and_then(|linux| linux.seccomp().clone());
        ProcessSpec { process, user: self.user.clone(), seccomp }
    }
}

/// A further process in a container (`exec`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSpec {
    /// Arguments, environment, directory, capabilities, terminal. Its `user` is not used.
    pub process: Process,
    /// Who it runs as.
    #[serde(default)]
    pub user: UserRequest,
    /// The container's filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<LinuxSeccomp>,
}

/// How mounts that are made later travel, in Kubernetes' terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    None,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// No check.
    #[default]
    #[serde(rename = "")]
    Any,
    /// A directory, made (0755) when there is nothing.
    DirectoryOrCreate,
    /// A directory that exists.
    Directory,
    /// A file, made (0644) when there is nothing.
    FileOrCreate,
    /// A file that exists.
    File,
    /// A socket that exists.
    Socket,
    /// A character device that exists.
    CharDevice,
    /// A block device that exists.
    BlockDevice,
}

/// Where a volume's content is, as the agent tells the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum VolumeSource {
    /// A mount that the shim keeps under this name.
    Kept {
        /// The name it was kept under.
        name: String,
    },
    /// A directory or file of the agent's own, below its state directory.
    Dir {
        /// Its absolute path on the host.
        path: String,
    },
    /// Layers that the shim keeps, one on another, to be read only.
    Layers {
        /// The names they were kept under, top layer first.
        names: Vec<String>,
    },
    /// A path of the host that the manifest names; opened by the shim in the host's mount namespace.
    HostPath {
        /// The absolute path.
        path: String,
        /// What must be there, or may be made.
        #[serde(default, rename = "type")]
        kind: HostPathKind,
    },
}

/// One `volumeMount` (or `/etc/hosts` and its like), as the agent tells the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeBind {
    /// Absolute path inside the container.
    pub target: String,
    /// Where the content is.
    pub source: VolumeSource,
    /// A path inside the source that is mounted instead of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Whether the container may not write.
    #[serde(default)]
    pub read_only: bool,
    /// With `read_only`: also what is mounted below the source.
    #[serde(default)]
    pub recursive: bool,
    /// Whether later mounts travel between host and container.
    #[serde(default)]
    pub propagation: Propagation,
    /// What else is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<MountOption>,
}

/// `bindMountOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountOption {
    /// Nothing is executed from it.
    NoExec,
    /// Device nodes are dead.
    NoDev,
    /// Set-user-id and the like do nothing.
    NoSuid,
}

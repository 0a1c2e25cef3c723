//! A container as an OCI runtime spec: built from a pod's container, its image's config and resolved values, with no I/O.
//!
//! What the OCI spec cannot say (a user by name, volumes held by descriptor) stands beside it in types of ours.

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use serde::{Deserialize, Serialize};

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
}

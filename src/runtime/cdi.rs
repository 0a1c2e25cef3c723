//! Devices by the Container Device Interface: what files of the node say that a named device needs in a container.
//!
//! A container asks for `vendor.com/class=name`; a file of kind `vendor.com/class` in one of the node's directories has
//! a device `name`, and the edits that go with it and with every device of that file. The later directory wins where two
//! describe the same device. What a file asks for that is not done here is refused by name, never left out in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};
use serde::Deserialize;
use serde_json::Value;

use super::spec::{ContainerSpec, HostPathKind, Propagation, VolumeBind, VolumeSource};

/// The longest file that is read; a GPU's has some 20 KiB.
const LONGEST: u64 = 1 << 20;
/// The versions of the specification that are understood.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file describes it.
    #[error("device {device}: no file in {} describes it", directories.join(", "))]
    Unknown {
        /// As asked for.
        device: String,
        /// Where files were looked for.
        directories: Vec<String>,
    },
    /// A file cannot be read.
    #[error("device {device}: cannot read {}", path.display())]
    Read {
        /// As asked for.
        device: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file says something that is wrong, or that is not done here.
    #[error("device {device}: {}: {reason}", path.display())]
    File {
        /// As asked for.
        device: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "for people")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "for people")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Value>,
    intel_rdt: Option<Value>,
    net_devices: Vec<Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Gives a container the devices it asks for.
///
/// # Errors
/// If no file describes one, or what a file says cannot be done.
pub fn apply(
    directories: &[PathBuf],
    devices: &[&str],
    container: &mut ContainerSpec,
    binds: &mut Vec<VolumeBind>,
) -> Result<(), Error> {
    let mut of_files: Vec<PathBuf> = Vec::new();
    for device in devices {
        let (path, file) = find(directories, device)?;
        let refused = |reason: String| Error::File { device: (*device).to_owned(), path: path.clone(), reason };
        let name = device.split_once('=').map(|(_, name)| name).unwrap_or_default();
        // What goes with every device of a file goes once, however many of its devices a container has.
        if !of_files.contains(&path) {
            edit(&file.container_edits, container, binds).map_err(refused)?;
            of_files.push(path.clone());
        }
        for found in file.devices.iter().filter(|d| d.name == name) {
            edit(&found.container_edits, container, binds).map_err(refused)?;
        }
    }
    Ok(())
}

fn find(directories: &[PathBuf], device: &str) -> Result<(PathBuf, File), Error> {
    let (kind, name) = device.split_once('=').unwrap_or((device, ""));
    for directory in directories.iter().rev() {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml"));
        paths.sort();
        for path in paths {
            let file = match read(&path) {
                Ok(file) => file,
                // A file of others must not stand in the way: it counts only if it may be about this device.
                Err(Ok(text)) if !text.contains(kind) => continue,
                Err(Ok(_)) => {
                    let reason = parse(&path).err().unwrap_or_default();
                    return Err(Error::File { device: device.to_owned(), path, reason });
                }
                Err(Err(source)) => return Err(Error::Read { device: device.to_owned(), path, source }),
            };
            if file.kind == kind && file.devices.iter().any(|d| d.name == name) {
                return Ok((path, file));
            }
        }
    }
    let directories = directories.iter().map(|d| d.display().to_string()).collect();
    Err(Error::Unknown { device: device.to_owned(), directories })
}

/// Reads a file; one that is no specification comes back as its text.
fn read(path: &Path) -> Result<File, Result<String, std::io::Error>> {
    let found = std::fs::metadata(path).map_err(Err)?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file of at most 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(Err)?;
    understood(&text).map_err(|_| Ok(text))
}

fn parse(path: &Path) -> Result<File, String> {
    understood(&std::fs::read_to_string(path).map_err(|e| e.to_string())?)
}

fn understood(text: &str) -> Result<File, String> {
    // JSON is YAML, too.
    let file: File =
        serde_yaml::from_str(text).map_err(|e| e.to_string().split_whitespace().collect::<Vec<_>>().join(" "))?;
    if !VERSIONS.contains(&file.cdi_version.as_str()) {
        return Err(format!("cdiVersion {:?} is not understood", file.cdi_version));
    }
    Ok(file)
}

fn edit(edits: &Edits, container: &mut ContainerSpec, binds: &mut Vec<VolumeBind>) -> Result<(), String> {
    for (there, what) in [
        (!edits.hooks.is_empty(), "hooks"),
        (edits.intel_rdt.is_some(), "intelRdt"),
        (!edits.net_devices.is_empty(), "netDevices"),
    ] {
        if there {
            return Err(format!("{what} are not supported"));
        }
    }
    if let Some(process) = container.oci.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        for line in &edits.env {
            let (name, _) = line.split_once('=').ok_or_else(|| format!("env {line:?} has no '='"))?;
            env.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
            env.push(line.clone());
        }
        process.set_env(Some(env));
    }
    for node in &edits.device_nodes {
        add_node(node, container)?;
    }
    for mount in &edits.mounts {
        binds.push(bind(mount)?);
    }
    container.user.groups.extend(&edits.additional_gids);
    Ok(())
}

fn add_node(node: &Node, container: &mut ContainerSpec) -> Result<(), String> {
    let path = Path::new(&node.path);
    let inside = path.strip_prefix("/dev").ok().filter(|p| p.components().count() > 0 && !node.path.contains(".."));
    if inside.is_none() {
        return Err(format!("deviceNodes: {:?} is not below /dev", node.path));
    }
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let device = device(node, host).map_err(|e| format!("deviceNodes: {host}: {e}"))?;
    let access = node.permissions.clone().unwrap_or_else(|| "rwm".to_owned());
    if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(format!("deviceNodes: permissions {access:?} are not of r, w and m"));
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(device.typ()));
    rule.set_major(Some(device.major()));
    rule.set_minor(Some(device.minor()));
    rule.set_access(Some(access));
    let Some(linux) = container.oci.linux_mut() else { return Ok(()) };
    let mut all = linux.devices().clone().unwrap_or_default();
    all.retain(|known| known.path() != device.path());
    all.push(device);
    linux.set_devices(Some(all));
    if let Some(resources) = linux.resources_mut() {
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
    }
    Ok(())
}

/// The device node; what the file leaves out is as the host has it.
fn device(node: &Node, host: &str) -> Result<LinuxDevice, String> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let mut kind = match node.kind.as_deref() {
        None | Some("") => None,
        Some("b") => Some(LinuxDeviceType::B),
        Some("c" | "u") => Some(LinuxDeviceType::C),
        Some(other) => return Err(format!("type {other:?} is not b or c")),
    };
    let mut numbers = node.major.zip(node.minor);
    if kind.is_none() || numbers.is_none() {
        let found = std::fs::metadata(host).map_err(|e| e.to_string())?;
        let of_host = if found.file_type().is_block_device() {
            LinuxDeviceType::B
        } else if found.file_type().is_char_device() {
            LinuxDeviceType::C
        } else {
            return Err("is not a device".to_owned());
        };
        let of_found = (i64::from(rustix::fs::major(found.rdev())), i64::from(rustix::fs::minor(found.rdev())));
        kind = kind.or(Some(of_host));
        numbers = numbers.or(Some(of_found));
    }
    let (major, minor) = numbers.unwrap_or_default();
    let mut built = LinuxDeviceBuilder::default()
        .path(PathBuf::from(&node.path))
        .typ(kind.unwrap_or(LinuxDeviceType::C))
        .major(major)
        .minor(minor)
        .file_mode(node.file_mode.unwrap_or(0o666));
    if let Some(uid) = node.uid {
        built = built.uid(uid);
    }
    if let Some(gid) = node.gid {
        built = built.gid(gid);
    }
    built.build().map_err(|e| e.to_string())
}

fn bind(mount: &Mount) -> Result<VolumeBind, String> {
    if !matches!(mount.kind.as_deref(), None | Some("" | "none" | "bind")) {
        return Err(format!("mounts: {}: only bind mounts are supported", mount.container_path));
    }
    if !mount.container_path.starts_with('/') || !mount.host_path.starts_with('/') {
        return Err(format!("mounts: {}: paths must be absolute", mount.container_path));
    }
    let known = ["ro", "rw", "bind", "rbind", "nosuid", "nodev", "noexec", "private", "rprivate", "relatime"];
    if let Some(other) = mount.options.iter().find(|o| !known.contains(&o.as_str())) {
        return Err(format!("mounts: {}: option {other:?} is not supported", mount.container_path));
    }
    Ok(VolumeBind {
        target: mount.container_path.clone(),
        source: VolumeSource::HostPath { path: mount.host_path.clone(), kind: HostPathKind::Any },
        sub_path: None,
        read_only: mount.options.iter().any(|o| o == "ro"),
        recursive: false,
        options: Vec::new(),
        propagation: Propagation::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let file = |rest: &str| understood(&format!("cdiVersion: 0.6.0\nkind: v/c\n{rest}"));
        let edits = |text: &str| {
            let found = file(&format!("containerEdits: {text}\n")).unwrap();
            edit(
                &found.container_edits,
                &mut ContainerSpec {
                    oci: oci_spec::runtime::Spec::default(),
                    user: crate::runtime::spec::UserRequest::default(),
                    privileged: false,
                },
                &mut Vec::new(),
            )
            .unwrap_err()
        };
        assert!(edits("{ hooks: [{ hookName: createContainer, path: /x }] }").contains("hooks"));
        assert!(edits("{ deviceNodes: [{ path: /etc/x }] }").contains("/etc/x"));
        assert!(edits("{ deviceNodes: [{ path: /dev/none-such }] }").contains("/dev/none-such"));
        assert!(edits("{ mounts: [{ hostPath: /a, containerPath: /b, options: [suid] }] }").contains("suid"));
        assert!(edits("{ env: [NOVALUE] }").contains("NOVALUE"));
        assert!(file("surprise: 1\n").unwrap_err().contains("surprise"));
        assert!(understood("cdiVersion: 9.0.0\nkind: v/c\n").unwrap_err().contains("9.0.0"));
    }
}

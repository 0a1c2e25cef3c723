//! What pods were attached by plugins, on disk from before the first plugin is run until the last has undone its part.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;
use super::list::{Network, Version};
use crate::api::PodUid;
use crate::sys::atomic;

/// A pod on a network: all that is needed to take it off again, whatever became of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// `namespace/name`, for a person.
    pub(super) pod: String,
    pub(super) network: Network,
    /// The version that was agreed on.
    pub(super) version: Version,
    /// By which plugins know it.
    pub(super) container: String,
    pub(super) interface: String,
    pub(super) arguments: String,
    /// What is given to plugins that take it, by capability.
    pub(super) runtime: Map<String, Value>,
    /// Where the namespace can be opened, while the pod has it.
    pub(super) path: String,
    /// Device and inode of the namespace.
    pub(super) namespace: (u64, u64),
    /// The boot of the machine in which that holds.
    pub(super) boot: String,
    /// What the last plugin said, once all have done their part.
    pub(super) result: Option<Value>,
}

impl Attachment {
    /// The pod's addresses, IPv4 first.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.result.as_ref().map(addresses).unwrap_or_default()
    }
}

/// The addresses of a result that are the pod's.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    // One of an interface outside of a sandbox is the host's.
    let inside = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|i| usize::try_from(i).ok());
        let interface = index.and_then(|i| interfaces?.get(i));
        interface.is_none_or(|i| i.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty()))
    };
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let newer = ips.filter(|ip| inside(ip)).filter_map(|ip| ip.get("address")?.as_str());
    // Before 0.3.0 there was one a family.
    let older = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip")?.as_str());
    let parse = |text: &str| text.split('/').next().and_then(|a| a.parse::<IpAddr>().ok());
    let mut all: Vec<IpAddr> = newer.chain(older).filter_map(parse).collect();
    all.sort_by_key(IpAddr::is_ipv6);
    all
}

/// All attachments of a node: one file a pod.
#[derive(Debug)]
pub(super) struct Attachments {
    dir: PathBuf,
    pub(super) all: BTreeMap<PodUid, Attachment>,
}

impl Attachments {
    /// Reads what earlier agents made. One that cannot be read is left where it is.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        atomic::create_dir(dir, 0o700)?;
        let failed = |source| Error::Io { action: format!("list {}", dir.display()), source };
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let uid = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<PodUid>().ok());
            let (Some(uid), true) = (uid, path.extension().is_some_and(|e| e == "json")) else { continue };
            match fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|text| serde_json::from_slice::<Attachment>(&text).map_err(|e| e.to_string()))
            {
                Ok(attachment) => {
                    all.insert(uid, attachment);
                }
                Err(error) => tracing::error!(file = %path.display(), error, "a pod's attachment cannot be read"),
            }
        }
        Ok(Self { dir: dir.to_owned(), all })
    }

    fn path(&self, uid: &PodUid) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// Writes one down; the disk comes first.
    pub(super) fn put(&mut self, uid: &PodUid, attachment: Attachment) -> Result<(), Error> {
        let failed = |e: serde_json::Error| Error::Io { action: "write an attachment".to_owned(), source: e.into() };
        atomic::write(&self.path(uid), &serde_json::to_vec(&attachment).map_err(failed)?, 0o600)?;
        self.all.insert(uid.clone(), attachment);
        Ok(())
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, uid: &PodUid) -> Result<(), Error> {
        atomic::remove(&self.path(uid))?;
        self.all.remove(uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_those_inside_whatever_version_says_it() {
        let said = |result: Value| addresses(&result).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let modern = json!({"interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/proc/1/ns/net"}], "ips": [
            {"interface": 1, "address": "fd00::5/64"}, {"interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
            {"interface": 0, "address": "10.1.0.1/24"}
        ]});
        assert_eq!(said(modern), "10.1.0.5 fd00::5");
        assert_eq!(said(json!({"ips": [{"version": "4", "address": "10.1.0.6/24"}]})), "10.1.0.6");
        assert_eq!(said(json!({"ip4": {"ip": "10.1.0.7/24"}, "ip6": {"ip": "fd00::7/64"}})), "10.1.0.7 fd00::7");
        assert_eq!(said(json!({"ips": [{"address": "nonsense"}]})), "");
    }
}

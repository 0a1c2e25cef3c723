//! Which pod has which addresses and ports of the host: one file a pod, written before they are used and removed after.
//!
//! ```text
//! network/range.json         the node's range of addresses
//!         leases/<uid>.json  one pod's
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::subnet::Range;
use super::{Error, HostPort};
use crate::api::PodUid;
use crate::sys::atomic;

const RANGE: &str = "range.json";
const LEASES: &str = "leases";
const MODE: u32 = 0o600;

/// What one pod has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// `namespace/name`, for a person.
    pub pod: String,
    /// Its address; none on the host's network.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, where the machine has IPv6.
    pub v6: Option<Ipv6Addr>,
    /// The host's ports that lead to it.
    #[serde(default)]
    pub ports: Vec<HostPort>,
}

impl Lease {
    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from)).collect()
    }
}

/// All leases of a node.
#[derive(Debug)]
pub(super) struct Leases {
    dir: PathBuf,
    all: BTreeMap<PodUid, Lease>,
    range: Option<Range>,
    /// The number handed out last: an address rests for as long as others are free.
    last: u32,
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
    };
    let failed = Error::io(format!("understand {}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(e.into()))
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::io("write a lease")(e.into()))?;
    Ok(atomic::write(path, &bytes, MODE)?)
}

impl Leases {
    /// Reads what earlier agents handed out.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let leases = dir.join(LEASES);
        atomic::create_dir(dir, 0o700)?;
        atomic::create_dir(&leases, 0o700)?;
        let mut all = BTreeMap::new();
        let failed = || Error::io(format!("list {}", leases.display()));
        for entry in fs::read_dir(&leases).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let uid = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<PodUid>().ok());
            match (uid, path.extension().is_some_and(|e| e == "json")) {
                (Some(uid), true) => {
                    if let Some(lease) = read(&path)? {
                        all.insert(uid, lease);
                    }
                }
                // What a crash left half written.
                _ => drop(fs::remove_file(&path)),
            }
        }
        Ok(Self { range: read(&dir.join(RANGE))?, dir: dir.to_owned(), all, last: 1 })
    }

    pub(super) fn all(&self) -> &BTreeMap<PodUid, Lease> {
        &self.all
    }

    /// Whether a pod is on the bridge.
    pub(super) fn any_address(&self) -> bool {
        self.all.values().any(|l| l.v4.is_some())
    }

    pub(super) fn range(&self) -> Option<Range> {
        self.range
    }

    pub(super) fn set_range(&mut self, range: Range) -> Result<(), Error> {
        write(&self.dir.join(RANGE), &range)?;
        self.range = Some(range);
        Ok(())
    }

    fn path(&self, uid: &PodUid) -> PathBuf {
        self.dir.join(LEASES).join(format!("{uid}.json"))
    }

    /// A number in the range that nobody has: 0 is the network, 1 the host, the last one everybody.
    pub(super) fn free(&self, range: &Range) -> Result<u32, Error> {
        let taken: BTreeSet<u32> = self.all.values().filter_map(|l| range.number(l.v4?)).collect();
        let end = range.size() - 1;
        let next = (self.last + 1..end).chain(2..=self.last.min(end.saturating_sub(1)));
        next.into_iter().find(|n| !taken.contains(n)).ok_or(Error::Full { range: range.v4 })
    }

    /// Writes down what a pod has.
    pub(super) fn grant(&mut self, uid: &PodUid, lease: Lease) -> Result<(), Error> {
        write(&self.path(uid), &lease)?;
        if let (Some(range), Some(v4)) = (self.range, lease.v4) {
            self.last = range.number(v4).unwrap_or(self.last);
        }
        self.all.insert(uid.clone(), lease);
        Ok(())
    }

    /// What a pod had is free again.
    pub(super) fn release(&mut self, uid: &PodUid) -> Result<(), Error> {
        if self.all.contains_key(uid) {
            atomic::remove(&self.path(uid))?;
            self.all.remove(uid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(range: &Range, number: u32) -> Lease {
        Lease { pod: "default/web".into(), v4: Some(range.v4_of(number)), v6: range.v6_of(number), ports: Vec::new() }
    }

    #[test]
    fn no_address_is_handed_out_twice_also_by_a_later_agent() {
        let dir = tempfile::tempdir().unwrap();
        let range = Range { v4: "10.88.3.0/29".parse().unwrap(), v6: None };
        let mut leases = Leases::open(dir.path()).unwrap();
        leases.set_range(range).unwrap();
        let mut uids = Vec::new();
        for expected in [2, 3, 4, 5, 6] {
            let number = leases.free(&range).unwrap();
            assert_eq!(number, expected);
            uids.push(PodUid::random());
            leases.grant(uids.last().unwrap(), lease(&range, number)).unwrap();
        }
        assert!(matches!(leases.free(&range), Err(Error::Full { .. })));
        leases.release(&uids[1]).unwrap();
        leases.release(&uids[1]).unwrap();
        let mut later = Leases::open(dir.path()).unwrap();
        assert_eq!(later.range(), Some(range));
        assert_eq!(later.all().len(), 4);
        assert_eq!(later.free(&range).unwrap(), 3);
        later.grant(&uids[1], lease(&range, 3)).unwrap();
        assert!(later.free(&range).is_err());
    }

    #[test]
    fn an_address_that_was_given_back_rests() {
        let dir = tempfile::tempdir().unwrap();
        let range = Range { v4: "10.88.3.0/24".parse().unwrap(), v6: None };
        let mut leases = Leases::open(dir.path()).unwrap();
        leases.set_range(range).unwrap();
        for expected in 2..10 {
            let (uid, number) = (PodUid::random(), leases.free(&range).unwrap());
            assert_eq!(number, expected);
            leases.grant(&uid, lease(&range, number)).unwrap();
            leases.release(&uid).unwrap();
        }
    }
}

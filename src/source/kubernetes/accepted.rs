//! The last accepted set, on disk: what the node runs after a reboot when the API server is not there.
//!
//! ```text
//! <root>/kubernetes/accepted.json   {"version": 1, "workloads": […], "objects": […]}, 0600: Secrets are in it
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::cluster::Template;
use crate::sys::atomic;

/// The format of the file.
const VERSION: u32 = 1;
/// The largest file that is read; above what 110 pods with objects of the largest size make.
const MAX_FILE: u64 = 256 << 20;

/// Namespace and name of a workload.
pub(super) type Key = (String, String);

/// The revision of a workload that this node runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) revision: String,
    pub(super) template: Template,
}

/// All that the node has accepted.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Set {
    pub(super) workloads: BTreeMap<Key, Accepted>,
    /// ConfigMaps and Secrets as manifests.
    pub(super) objects: Vec<Value>,
}

/// Why the set is not there, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is not a set of workloads", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is of another version of Lamina.
    #[error("{} has format {found}, this version reads {VERSION}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file cannot be written.
    #[error("cannot keep the set of workloads")]
    Write(#[source] atomic::Error),
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    workloads: Vec<Entry>,
    objects: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    namespace: String,
    name: String,
    #[serde(flatten)]
    accepted: Accepted,
}

/// Reads the set; an empty one where there is none. Blocks.
///
/// # Errors
/// If it is there and cannot be read: what it wanted is not known then.
pub(super) fn read(path: &Path) -> Result<Set, Error> {
    let wrong = |source| Error::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Set::default()),
        file => file.map_err(wrong)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(wrong)?;
    let malformed = |source| Error::Malformed { path: path.to_owned(), source };
    let Version { version } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if version != VERSION {
        return Err(Error::Format { path: path.to_owned(), found: version });
    }
    let file: File = serde_json::from_slice(&bytes).map_err(malformed)?;
    let workloads = file.workloads.into_iter().map(|e| ((e.namespace, e.name), e.accepted)).collect();
    Ok(Set { workloads, objects: file.objects })
}

/// Writes the set durably. Blocks.
///
/// # Errors
/// If the disk does not take it; the old one stands then.
pub(super) fn write(path: &Path, set: &Set) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        atomic::create_dir(dir, 0o700).map_err(Error::Write)?;
    }
    let workloads = set.workloads.iter().map(|((namespace, name), accepted)| Entry {
        namespace: namespace.clone(),
        name: name.clone(),
        accepted: accepted.clone(),
    });
    let file = File { version: VERSION, workloads: workloads.collect(), objects: set.objects.clone() };
    let bytes = serde_json::to_vec(&file).map_err(|source| Error::Malformed { path: path.to_owned(), source })?;
    atomic::write(path, &bytes, 0o600).map_err(Error::Write)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_comes_back_as_it_was_kept_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubernetes/accepted.json");
        assert_eq!(read(&path).unwrap(), Set::default(), "there is none yet");
        let accepted = Accepted { revision: "game-1".into(), template: Template(json!({ "spec": {} })) };
        let set = Set {
            workloads: [(("arena".into(), "game".into()), accepted)].into(),
            objects: vec![json!({ "kind": "Secret" })],
        };
        write(&path, &set).unwrap();
        assert_eq!(read(&path).unwrap(), set);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn another_format_and_a_torn_file_are_told_apart_and_never_an_empty_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accepted.json");
        std::fs::write(&path, r#"{"version": 2, "later": true}"#).unwrap();
        assert!(matches!(read(&path), Err(Error::Format { found: 2, .. })));
        std::fs::write(&path, r#"{"version": 1, "wor"#).unwrap();
        assert!(matches!(read(&path), Err(Error::Malformed { .. })));
    }
}

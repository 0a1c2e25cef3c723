//! Pods by the names that people gave them: refs know uids only.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::api::PodView;

/// The longest `pod.json` that is read for a name.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

/// Which uid is which pod.
#[derive(Debug, Clone, Default)]
pub struct People(HashMap<String, String>);

/// Of `pod.json` only the name matters here.
#[derive(Debug, Deserialize)]
struct Record {
    pod: Named,
}

#[derive(Debug, Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

impl People {
    /// The pods that the node publishes.
    pub fn of(pods: &[Arc<PodView>]) -> Self {
        Self(pods.iter().map(|pod| (pod.lamina.uid.to_string(), pod.key().to_string())).collect())
    }

    /// The pods on the disk of a stopped agent; what cannot be read keeps its uid as its name.
    pub fn on_disk(root: &Path) -> Self {
        let Ok(pods) = std::fs::read_dir(root.join("pods")) else { return Self::default() };
        let known = pods.flatten().filter_map(|pod| {
            let path = pod.path().join("pod.json");
            if std::fs::metadata(&path).ok()?.len() > MAX_RECORD {
                return None;
            }
            let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            let Metadata { name, namespace } = record.pod.metadata;
            let namespace = namespace.unwrap_or_else(|| crate::api::ids::DEFAULT_NAMESPACE.to_owned());
            Some((pod.file_name().into_string().ok()?, format!("{namespace}/{name}")))
        });
        Self(known.collect())
    }

    /// `default/web`, or the uid itself.
    ///
    /// A ref's owner has the container and its generation behind the uid; a person asks for the pod.
    pub fn name<'a>(&'a self, owner: &'a str) -> &'a str {
        let uid = owner.split('.').next().unwrap_or(owner);
        self.0.get(uid).map_or(owner, String::as_str)
    }
}

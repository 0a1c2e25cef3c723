//! Manifests as text: YAML or JSON, several documents in a file, read into objects or refused document by document.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::ids::DEFAULT_NAMESPACE;
use super::problem::Problem;

mod read;

pub use read::parse;
#[cfg(test)]
mod tests;

/// The kinds of which Lamina does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `v1/Pod`
    Pod,
    /// `v1/ConfigMap`
    ConfigMap,
    /// `v1/Secret`
    Secret,
    /// `apps/v1/Deployment`
    Deployment,
    /// `apps/v1/DaemonSet`
    DaemonSet,
    /// `apps/v1/StatefulSet`
    StatefulSet,
    /// `batch/v1/Job`
    Job,
    /// `batch/v1/CronJob`
    CronJob,
    /// `v1/Service`
    Service,
    /// `v1/PersistentVolumeClaim`
    PersistentVolumeClaim,
    /// A kind that is accepted so that files written for a cluster load, and does nothing here.
    Ignored,
    /// Not an object of a manifest: the node itself, in events.
    Node,
    /// Not an object of a manifest: a directory or other source of manifests, in events.
    Source,
    /// Not an object of a manifest: an image, in events.
    Image,
}

impl Kind {
    /// As manifests have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Service => "Service",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Ignored => "Ignored",
            Self::Node => "Node",
            Self::Source => "Source",
            Self::Image => "Image",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind that Lamina knows")]
pub struct KindError;

impl FromStr for Kind {
    type Err = KindError;

    /// Reads a kind as people write it on a command line: `pod`, `pods`, `po`, `Deployment`, `deploy`, `cm`, …
    fn from_str(text: &str) -> Result<Self, KindError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "pod" | "pods" | "po" => Self::Pod,
            "configmap" | "configmaps" | "cm" => Self::ConfigMap,
            "secret" | "secrets" => Self::Secret,
            "deployment" | "deployments" | "deploy" => Self::Deployment,
            "daemonset" | "daemonsets" | "ds" => Self::DaemonSet,
            "statefulset" | "statefulsets" | "sts" => Self::StatefulSet,
            "job" | "jobs" => Self::Job,
            "cronjob" | "cronjobs" | "cj" => Self::CronJob,
            "service" | "services" | "svc" => Self::Service,
            "persistentvolumeclaim" | "persistentvolumeclaims" | "pvc" => Self::PersistentVolumeClaim,
            _ => return Err(KindError),
        })
    }
}

/// Which object is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name; for an ignored kind it begins with that kind: `Ingress/web`.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    /// As in `Pod default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object of a kind that does nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredObject {
    /// As in `networking.k8s.io/v1`.
    pub api_version: String,
    /// As in `Ingress`.
    pub kind: String,
    /// Its namespace, where it names one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// One object of a manifest, valid in itself. As written: see [`super::canonical`] for defaults.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `v1/Pod`
    Pod(Box<Pod>),
    /// `v1/ConfigMap`
    ConfigMap(Box<ConfigMap>),
    /// `v1/Secret`; `stringData` has been moved into `data`.
    Secret(Box<Secret>),
    /// `apps/v1/Deployment`
    Deployment(Box<Deployment>),
    /// `apps/v1/DaemonSet`
    DaemonSet(Box<DaemonSet>),
    /// `apps/v1/StatefulSet`
    StatefulSet(Box<StatefulSet>),
    /// `batch/v1/Job`
    Job(Box<Job>),
    /// `batch/v1/CronJob`
    CronJob(Box<CronJob>),
    /// `v1/Service`
    Service(Box<Service>),
    /// `v1/PersistentVolumeClaim`
    PersistentVolumeClaim(Box<PersistentVolumeClaim>),
    /// A kind that does nothing here.
    Ignored(IgnoredObject),
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Secret(_) => Kind::Secret,
            Self::Deployment(_) => Kind::Deployment,
            Self::DaemonSet(_) => Kind::DaemonSet,
            Self::StatefulSet(_) => Kind::StatefulSet,
            Self::Job(_) => Kind::Job,
            Self::CronJob(_) => Kind::CronJob,
            Self::Service(_) => Kind::Service,
            Self::PersistentVolumeClaim(_) => Kind::PersistentVolumeClaim,
            Self::Ignored(_) => Kind::Ignored,
        }
    }

    /// Its metadata; ignored kinds keep none.
    pub const fn metadata(&self) -> Option<&ObjectMeta> {
        match self {
            Self::Pod(o) => Some(&o.metadata),
            Self::ConfigMap(o) => Some(&o.metadata),
            Self::Secret(o) => Some(&o.metadata),
            Self::Deployment(o) => Some(&o.metadata),
            Self::DaemonSet(o) => Some(&o.metadata),
            Self::StatefulSet(o) => Some(&o.metadata),
            Self::Job(o) => Some(&o.metadata),
            Self::CronJob(o) => Some(&o.metadata),
            Self::Service(o) => Some(&o.metadata),
            Self::PersistentVolumeClaim(o) => Some(&o.metadata),
            Self::Ignored(_) => None,
        }
    }

    /// Kind, namespace and name.
    pub fn key(&self) -> ObjectKey {
        let (namespace, name) = match self {
            Self::Ignored(o) => (o.namespace.clone(), format!("{}/{}", o.kind, o.name)),
            _ => match self.metadata() {
                Some(m) => (m.namespace.clone(), m.name.clone().unwrap_or_default()),
                None => (None, String::new()),
            },
        };
        ObjectKey { kind: self.kind(), namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()), name }
    }
}

/// A valid object of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Which document of the file, from 1; the parts of a List share their document's number.
    pub index: usize,
    /// The object.
    pub object: Object,
    /// Paths of fields that it uses and that do nothing here, on purpose.
    pub ignored: Vec<String>,
}

/// What a file holds: the valid objects, and everything that is wrong with the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The valid objects, in the order of the file.
    pub documents: Vec<Document>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

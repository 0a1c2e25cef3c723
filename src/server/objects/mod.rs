//! What `get` lists: Kubernetes-shaped objects, made from what the node publishes and from the store's index.

mod claims;
mod local;
mod pods;
mod services;
mod workloads;

use std::collections::BTreeMap;

use serde_json::Value;

use super::State;
use super::problem::{Problem, Reason};
use super::selector::Selector;
use crate::api;

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pods,
    Containers,
    Images,
    Layers,
    Volumes,
    Events,
    Manifests,
    Deployments,
    StatefulSets,
    DaemonSets,
    Jobs,
    CronJobs,
    Services,
    Claims,
}

impl Kind {
    /// From a path.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        Ok(match text {
            "pods" => Self::Pods,
            "containers" => Self::Containers,
            "images" => Self::Images,
            "layers" => Self::Layers,
            "volumes" => Self::Volumes,
            "events" => Self::Events,
            "manifests" => Self::Manifests,
            "deployments" => Self::Deployments,
            "statefulsets" => Self::StatefulSets,
            "daemonsets" => Self::DaemonSets,
            "jobs" => Self::Jobs,
            "cronjobs" => Self::CronJobs,
            "services" => Self::Services,
            "persistentvolumeclaims" => Self::Claims,
            _ => return Err(Problem::new(Reason::NotFound, format!("there are no {text}"))),
        })
    }

    /// For messages.
    pub(super) const fn singular(self) -> &'static str {
        match self {
            Self::Pods => "pod",
            Self::Containers => "container",
            Self::Images => "image",
            Self::Layers => "layer",
            Self::Volumes => "volume",
            Self::Events => "event",
            Self::Manifests => "manifest",
            Self::Deployments => "deployment",
            Self::StatefulSets => "statefulset",
            Self::DaemonSets => "daemonset",
            Self::Jobs => "job",
            Self::CronJobs => "cronjob",
            Self::Services => "service",
            Self::Claims => "persistentvolumeclaim",
        }
    }

    /// Whether its objects belong to a namespace.
    pub(super) const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Images | Self::Layers)
    }

    /// Whether its objects are pods, or make pods.
    pub(super) const fn runs(self) -> bool {
        matches!(
            self,
            Self::Pods | Self::Deployments | Self::StatefulSets | Self::DaemonSets | Self::Jobs | Self::CronJobs
        )
    }

    /// Whether a change of the published pods is what changes the list.
    pub(super) const fn follows_pods(self) -> bool {
        matches!(self, Self::Pods | Self::Containers | Self::Volumes)
    }
}

/// Which of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) selector: Selector,
}

impl Filter {
    fn admits(&self, kind: Kind, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let named = |name: &String| match kind {
            // A layer or an image is named by any of its names, or by the first digits of its digest.
            Kind::Layers => {
                metadata["name"].as_str().is_some_and(|n| n == name || digits(n).starts_with(name.as_str()))
            }
            Kind::Images => {
                let digest = object["status"]["digest"].as_str().unwrap_or_default();
                let names = object["status"]["references"].as_array();
                let full = name.parse::<crate::oci::Reference>().map(|r| r.to_string());
                metadata["name"] == **name
                    || digest == name
                    || digits(digest).starts_with(name.as_str())
                    || names.is_some_and(|n| n.iter().any(|n| full.as_ref().is_ok_and(|full| n == full)))
            }
            Kind::Events => object["involvedObject"]["name"] == **name,
            Kind::Containers | Kind::Volumes => metadata["name"] == **name || object["spec"]["pod"] == **name,
            Kind::Pods
            | Kind::Manifests
            | Kind::Deployments
            | Kind::StatefulSets
            | Kind::DaemonSets
            | Kind::Jobs
            | Kind::CronJobs
            | Kind::Services
            | Kind::Claims => metadata["name"] == **name,
        };
        let labels = || -> BTreeMap<String, String> {
            let all = metadata["labels"].as_object().into_iter().flatten();
            all.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
        };
        self.namespace.as_ref().is_none_or(|n| metadata["namespace"].is_null() || metadata["namespace"] == **n)
            && self.name.as_ref().is_none_or(named)
            && (self.selector == Selector::default() || self.selector.matches(&labels()))
    }
}

/// The hexadecimal digits of a digest or key.
fn digits(text: &str) -> &str {
    text.rsplit_once([':', '-']).map_or(text, |(_, hex)| hex)
}

/// Everything of a kind that the filter admits, in a fixed order.
pub(super) fn list(state: &State, kind: Kind, filter: &Filter) -> Result<Vec<Value>, Problem> {
    let mut all = match kind {
        Kind::Pods => pods::pods(&state.pods())?,
        Kind::Containers => pods::containers(&state.pods()),
        Kind::Volumes => pods::volumes(&state.pods()),
        Kind::Images => local::images(state),
        Kind::Layers => local::layers(state),
        Kind::Events => local::events(state),
        Kind::Manifests => local::manifests(state),
        Kind::Deployments => workloads::list(state, api::Kind::Deployment),
        Kind::StatefulSets => workloads::list(state, api::Kind::StatefulSet),
        Kind::DaemonSets => workloads::list(state, api::Kind::DaemonSet),
        Kind::Jobs => workloads::list(state, api::Kind::Job),
        Kind::CronJobs => workloads::list(state, api::Kind::CronJob),
        Kind::Services => services::list(state),
        Kind::Claims => claims::list(state),
    };
    all.retain(|object| filter.admits(kind, object));
    Ok(all)
}

/// What makes an object the same in two lists.
pub(super) fn identity(object: &Value) -> String {
    let metadata = &object["metadata"];
    let part = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    format!("{}/{}/{}", part("namespace"), part("name"), part("uid"))
}

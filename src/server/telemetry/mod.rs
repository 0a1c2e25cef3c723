//! The series that are made when they are asked for: containers and pods from their cgroups, the node and this process
//! from `/proc`, layers and the disk from the store's index.
//!
//! A scrape reads the published pods, memory, cgroup files and network counters; it takes no lock that a reconcile
//! pass holds. The sizes of writable layers need a walk: they come from a cache that a task refreshes after a scrape,
//! so a node that nobody watches walks nothing.

mod container;
mod families;
mod layers;
pub(crate) use layers::state as layer_state;
mod network;
mod node;
mod process;
pub mod usage;
mod volumes;
mod writable;

use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::sync::watch;

use crate::api::PodView;
use crate::metrics::{self, Described, Registry};
use crate::store::Store;
use crate::sys::cgroup::Hierarchies;
use crate::volume::claim::Claims;

use families::Families;
use writable::Writable;

/// What a scrape looks at.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pods: watch::Receiver<Arc<Vec<Arc<PodView>>>>,
    store: Option<Store>,
    claims: Option<Claims>,
    hierarchies: Option<Hierarchies>,
    writable: Writable,
    layer_series: usize,
    started: Instant,
    desc: Desc,
}

impl Telemetry {
    /// Looks at these pods, at this store and at these claims; `layer_series` layers have a series of their own.
    ///
    /// # Errors
    /// Never in practice: if the name of the one described family is not valid.
    pub fn new(
        pods: watch::Receiver<Arc<Vec<Arc<PodView>>>>,
        store: Option<Store>,
        claims: Option<Claims>,
        layer_series: usize,
    ) -> prometheus::Result<Self> {
        let hierarchies = match Hierarchies::probe() {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!(%error, "no cgroups were found: containers have no cpu and memory series");
                None
            }
        };
        let Described { name, help, labels, .. } = families::BUILD_INFO.described();
        let desc = Desc::new(name, help, labels, std::collections::HashMap::new())?;
        let writable = Writable::default();
        let started = Instant::now();
        Ok(Self(Arc::new(Inner { pods, store, claims, hierarchies, writable, layer_series, started, desc })))
    }

    /// Adds this to a registry.
    pub(super) fn register(&self, registry: &Registry) -> Result<(), metrics::Error> {
        registry.collector(Box::new(self.clone()), described())
    }

    /// The pods as they are published now.
    fn pods(&self) -> Arc<Vec<Arc<PodView>>> {
        self.0.pods.borrow().clone()
    }

    /// The counters behind `lamina top`; with a namespace its pods only.
    pub fn sample(&self, namespace: Option<&str>) -> usage::Sample {
        let mut pods = self.pods().as_ref().clone();
        if let Some(namespace) = namespace {
            pods.retain(|pod| pod.key().namespace == namespace);
        }
        let sample = usage::sample(&pods, self.0.hierarchies.as_ref(), &self.0.writable, self.0.store.as_ref());
        self.0.writable.refresh(&self.pods());
        usage::Sample { seconds: self.0.started.elapsed().as_secs_f64(), ..sample }
    }
}

/// Every family that a scrape may have.
fn described() -> Vec<Described> {
    let all = [
        container::families(),
        network::families(),
        layers::FAMILIES.to_vec(),
        volumes::FAMILIES.to_vec(),
        node::FAMILIES.to_vec(),
        process::FAMILIES.to_vec(),
        vec![families::BUILD_INFO],
    ];
    all.iter().flatten().map(families::Family::described).collect()
}

/// Every family of the agent by name, for documentation; nothing moves them.
///
/// # Errors
/// If two have one name.
pub fn catalogue() -> Result<Vec<Described>, metrics::Error> {
    let registry = Registry::default();
    crate::node::describe(&registry)?;
    let mut all = registry.described();
    all.extend(described());
    all.sort();
    Ok(all)
}

impl Collector for Telemetry {
    /// One family stands for all: the rest appear with what they describe.
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let pods = self.pods();
        let mut out = Families::default();
        out.build_info();
        container::collect(&mut out, &pods, self.0.hierarchies.as_ref(), &self.0.writable);
        node::collect(&mut out);
        process::collect(&mut out);
        if let Some(store) = &self.0.store {
            layers::collect(&mut out, store, self.0.layer_series);
        }
        if let Some(claims) = &self.0.claims {
            volumes::collect(&mut out, claims);
        }
        self.0.writable.refresh(&pods);
        out.finish()
    }
}

#[cfg(test)]
mod tests;

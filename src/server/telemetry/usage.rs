//! What `lamina top` shows: counters, from which the client makes rates.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::families::seconds;
use super::writable::Writable;
use super::{network, node};
use crate::api::PodView;
use crate::store::Store;
use crate::sys::cgroup::{Cgroup, Hierarchies};

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sample {
    /// When, by the agent's monotonic clock, in seconds.
    pub seconds: f64,
    /// Pods that run.
    pub pods: Vec<PodUsage>,
    /// The node.
    pub node: Node,
}

/// What a pod used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its containers that run.
    pub containers: Vec<ContainerUsage>,
    /// Its network; none for a pod on the host's.
    pub network: Option<Network>,
}

/// What a container used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Cpu time since it started.
    pub cpu_seconds: f64,
    /// Its working set.
    pub memory_bytes: u64,
    /// Its writable layer, once it was measured.
    pub writable_bytes: Option<u64>,
}

/// What went through a pod's interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// In.
    pub receive_bytes: u64,
    /// Out.
    pub transmit_bytes: u64,
}

/// What the node used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Cpu time since boot, all cores together.
    pub cpu_seconds: f64,
    /// How many cores.
    pub cores: usize,
    /// Memory in use.
    pub memory_bytes: u64,
    /// Memory in all.
    pub memory_total_bytes: u64,
    /// Bytes of all layers.
    pub store_bytes: u64,
    /// Bytes of the store's file system.
    pub store_capacity_bytes: u64,
}

pub(super) fn sample(
    pods: &[Arc<PodView>],
    hierarchies: Option<&Hierarchies>,
    writable: &Writable,
    store: Option<&Store>,
) -> Sample {
    let sizes = writable.sizes();
    let container = |c: &crate::api::view::ContainerExtras| {
        let (_, path, hierarchies) = (c.pid?, c.cgroup.as_ref()?, hierarchies?);
        let stats = Cgroup::open(hierarchies, path).stats();
        Some(ContainerUsage {
            name: c.name.clone(),
            cpu_seconds: stats.cpu_usage_usec.map_or(0.0, seconds),
            memory_bytes: stats.memory_working_set.or(stats.memory_usage).unwrap_or(0),
            writable_bytes: c.upper.as_ref().and_then(|upper| sizes.get(upper)).copied(),
        })
    };
    let pods = pods.iter().map(|pod| {
        let key = pod.key();
        let network = network::pid_of(pod).map(|pid| {
            network::read(pid).iter().fold(Network::default(), |sum, i| Network {
                receive_bytes: sum.receive_bytes.saturating_add(i.receive[0]),
                transmit_bytes: sum.transmit_bytes.saturating_add(i.transmit[0]),
            })
        });
        let containers = pod.lamina.containers.iter().filter_map(container).collect();
        PodUsage { namespace: key.namespace, name: key.name, containers, network }
    });
    let pods = pods.filter(|pod| !pod.containers.is_empty()).collect();
    let counters = node::read();
    let disk = store.and_then(|store| rustix::fs::statvfs(store.root()).ok());
    Sample {
        seconds: 0.0,
        pods,
        node: Node {
            cpu_seconds: counters.cpu_seconds,
            cores: counters.cores,
            memory_bytes: counters.memory_used,
            memory_total_bytes: counters.memory_total,
            store_bytes: store.map_or(0, |store| store.usage().total),
            store_capacity_bytes: disk.map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize)),
        },
    }
}

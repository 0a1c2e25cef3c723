//! `lamina controller`: grants each node the revision that it may run, and sums up what comes of it. Stateless: what it
//! knows is in the API server, and of several replicas the one that has the Lease works.
//!
//! ```text
//! watch: NodeWorkloads, Nodes, NodeReports, ControllerRevisions, Leases ──▶ plan (pure) ──▶ revisions, assignments, status
//! ```

mod election;
mod known;
mod plan;
mod reconcile;
mod serve;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch as channel;

use crate::api::problem::chain;
use crate::metrics::{self, Registry};
use crate::source::kubernetes::connect;

pub use serve::serve;

/// Who writes, as the API server has it.
pub const MANAGER: &str = "lamina-controller";
/// How long to wait before a lost API server is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Which cluster, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kubeconfig; the service account of the pod when `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases: the controller's own and those of the nodes.
    pub namespace: String,
    /// How this replica is known among the others.
    pub identity: String,
}

/// What the controller counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) leader: prometheus::IntGauge,
    pub(crate) passes: prometheus::IntCounter,
    pub(crate) writes: prometheus::IntCounterVec,
    pub(crate) errors: prometheus::IntCounter,
}

impl Metrics {
    /// Makes the families.
    ///
    /// # Errors
    /// If one of them is there already.
    pub fn new(registry: &Registry) -> Result<Self, metrics::Error> {
        Ok(Self {
            leader: registry.gauge("lamina_controller_leader", "1 while this replica is the one that works.")?,
            passes: registry.counter("lamina_controller_passes_total", "Passes over all workloads.")?,
            writes: registry.counters(
                "lamina_controller_writes_total",
                "What was written to the API server, by what it was.",
                &["what"],
            )?,
            errors: registry.counter(
                "lamina_controller_errors_total",
                "Requests that the API server refused or did not answer; conflicts, which are tried again, too.",
            )?,
        })
    }
}

/// Works whenever it is this replica's turn, until `stop` says so; the Lease is given up then.
pub async fn run(options: Options, metrics: Metrics, mut stop: channel::Receiver<bool>) {
    loop {
        let turn = async {
            match connect(options.kubeconfig.as_deref()).await {
                Ok(client) => election::lead(client, &options, &metrics).await,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the API server cannot be reached");
                }
            }
            tokio::time::sleep(AGAIN).await;
        };
        tokio::select! {
            () = turn => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    metrics.leader.set(0);
    if let Ok(client) = connect(options.kubeconfig.as_deref()).await {
        let _ = tokio::time::timeout(AGAIN, election::give_up(client, &options)).await;
    }
}

//! The agent's local API on a Unix socket, and metrics and health over HTTP.
//!
//! ```text
//! lamina <verb> ──HTTP/1.1+JSON──▶ agent.sock (0600) ──▶ routes ──▶ node::Node
//!                ◀─frames after an upgrade (stream)──
//! prometheus ──▶ 127.0.0.1:9640 ──▶ health: /metrics /healthz /readyz   (reads snapshots and cgroup files only)
//! the cluster ──TLS──▶ node address:9640 ──▶ remote: the same, and of routes what is for reading, and exec
//! ```
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | api | clients on the socket | answers | at [`Server::stop`] |
//! | health | scrapes and probes | text | at [`Server::stop`] |
//! | one a stream | frames | frames | with its client, its process, or [`Server::stop`] |
//!
//! Requests are answered from what the node publishes and from the store's index; what takes long runs on blocking
//! threads. The server decides nothing and keeps no state of its own.

mod export;
mod health;
mod info;
mod logs;
mod objects;
pub mod problem;
mod pull;
pub mod remote;
pub mod report;
mod routes;
mod seam;
pub mod selector;
mod session;
pub mod socket;
pub mod stream;
pub mod telemetry;
mod upgrade;
mod wait;
mod watch;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::PodView;
use crate::metrics::{self, Registry};
use crate::node::Node;
use crate::store::Store;
use problem::Problem;
use telemetry::Telemetry;

pub use telemetry::catalogue;

/// Why the server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A family's name is taken.
    #[error("cannot set up the metrics")]
    Metrics(#[from] metrics::Error),
    /// A family's name is not valid.
    #[error("cannot describe the metrics")]
    Family(#[from] prometheus::Error),
    /// The address of metrics and health cannot be had.
    #[error("cannot listen on {address} for metrics and health")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What every request sees.
#[derive(Debug)]
pub(crate) struct State {
    node: Node,
    registry: Registry,
    telemetry: Telemetry,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl State {
    /// The pods as they are published now.
    fn pods(&self) -> Arc<Vec<Arc<PodView>>> {
        self.node.pods().borrow().clone()
    }

    fn store(&self) -> &Store {
        self.node.store()
    }

    /// Runs something that walks a disk on a thread of its own.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let state = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || work(&state));
        // A panic there is a bug, and is not to take this task with it.
        work.await.unwrap_or_else(|e| Err(Problem::of(problem::Reason::Failed, &e)))
    }
}

/// The server of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server(Arc<State>);

/// The listener of metrics and health.
#[derive(Debug)]
pub struct Open {
    listener: TcpListener,
    address: SocketAddr,
}

impl Open {
    /// Listens.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub async fn at(address: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; with port 0 asked for, the one that was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The running API.
#[derive(Debug)]
pub struct Api(tokio::task::JoinHandle<std::io::Result<()>>);

impl Api {
    /// Waits until the API has ended, which it does only when it is stopped or fails.
    ///
    /// # Errors
    /// If it failed.
    pub async fn ended(self) -> std::io::Result<()> {
        self.0.await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }
}

impl Server {
    /// The server of a node; its own series go into the node's registry.
    ///
    /// # Errors
    /// If a series is there already.
    pub fn new(node: Node) -> Result<Self, Error> {
        let registry = node.metrics().clone();
        let claims = node.machine().claims.clone();
        let layers = node.settings().metrics_layers;
        let telemetry = Telemetry::new(node.pods(), Some(node.store().clone()), Some(claims), layers)?;
        telemetry.register(&registry)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Ok(Self(Arc::new(State { node, registry, telemetry, stop, tasks })))
    }

    /// Serves the API on a socket.
    pub fn api(&self, socket: socket::Socket) -> Api {
        let router = routes::router(Arc::clone(&self.0));
        let stop = self.0.stop.clone();
        let serve = axum::serve(socket, router).with_graceful_shutdown(stop.cancelled_owned());
        Api(self.0.tasks.spawn(async move { serve.await }))
    }

    /// Serves metrics and health to whoever reaches them.
    pub fn health(&self, open: Open) {
        let serve = axum::serve(open.listener, health::router(Arc::clone(&self.0)));
        let serve = serve.with_graceful_shutdown(self.0.stop.clone().cancelled_owned());
        self.0.tasks.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "metrics and health have ended");
            }
        });
    }

    /// Ends everything: no new request, streams cut, and `patience` for answers that are under way.
    pub async fn stop(&self, patience: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(patience, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time and were cut");
        }
    }
}

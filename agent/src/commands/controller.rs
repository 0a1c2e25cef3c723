//! `lamina controller`: in a cluster, grants nodes the revisions that they may run, and sums up status.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use lamina::controller::{self, Metrics, Options};
use lamina::metrics::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::agent::log;
use crate::failure::Failure;
use crate::settings::LogFormat;

/// How long the Lease may take to be given up.
const STOP: std::time::Duration = std::time::Duration::from_secs(6);

/// Runs the controller in the foreground; of several replicas one works.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to reach the API server [default: as the service account of the controller's own pod]
    #[arg(long, env = "LAMINA_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases: of the controllers and of the nodes
    #[arg(long, env = "LAMINA_LEASE_NAMESPACE", value_name = "NAMESPACE", default_value = "lamina-system")]
    lease_namespace: String,
    /// How this replica is known among the others [default: the host's name and a random number]
    #[arg(long, env = "LAMINA_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, env = "LAMINA_METRICS", value_name = "ADDR", default_value = "127.0.0.1:9641")]
    metrics: SocketAddr,
    /// What to log: error, warn, info, debug, trace, or a filter by module
    #[arg(long, env = "LAMINA_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// As text or json
    #[arg(long, env = "LAMINA_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    log(&arguments.log_level, arguments.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(daemon(arguments));
    runtime.shutdown_background();
    result
}

async fn daemon(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registry = Registry::default();
    let metrics = Metrics::new(&registry).context("cannot set up the metrics")?;
    let listener = tokio::net::TcpListener::bind(arguments.metrics).await.map_err(|source| {
        Failure::usage(format!("cannot listen on {}", arguments.metrics))
            .source(source)
            .hint("another address: --metrics ADDR")
    })?;
    let options = Options {
        kubeconfig: arguments.kubeconfig,
        namespace: arguments.lease_namespace,
        identity: arguments.identity.unwrap_or_else(identity),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), identity = options.identity, metrics = %arguments.metrics, "controller is up"
    );
    let (stop, stopped) = watch::channel(false);
    let working = tokio::spawn(controller::run(options, metrics, stopped));
    let result = tokio::select! {
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        served = controller::serve(listener, registry) => {
            served.context("the metrics cannot be served").map(|()| ExitCode::FAILURE)
        }
    };
    tracing::info!("controller is stopping");
    stop.send_replace(true);
    // Another replica takes over in any case, only later.
    let _ = tokio::time::timeout(STOP, working).await;
    result
}

/// Different for every start: a replica that comes back must not take its old self's Lease for its own.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let [a, b, c] = lamina::server::wire::random();
    format!("{host}-{a:02x}{b:02x}{c:02x}")
}

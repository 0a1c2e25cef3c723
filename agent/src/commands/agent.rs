//! `lamina agent`: the daemon in the foreground.
//!
//! ```text
//! settings → socket, metrics listener → node::Node::start → both answer → READY=1
//! SIGTERM, SIGINT → STOPPING=1 → no new requests → node shutdown (pods go on) → exit 0
//! ```

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use lamina::api::cluster::Endpoint;
use lamina::metrics::Registry;
use lamina::node::{self, Node};
use lamina::server::remote::Identity;
use lamina::server::{Open, Server, socket};
use lamina::source::kubernetes::access::Access;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Status};
use crate::settings::{Layer, LogFormat, Settings, Tls};

/// The daemon's settings.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Layer,
    /// The settings file [default: /etc/lamina/config.yaml]
    #[arg(long, env = "LAMINA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How long requests may go on after a signal before they are cut; streams are cut at once.
const STOP: std::time::Duration = std::time::Duration::from_secs(2);

/// How long a thread that has nothing to do waits for more. Whatever is done now and then goes to the one that has waited
/// longest, so a burst's threads would never end if they waited for as long as it takes all of them to have their turn.
const IDLE: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) fn run(arguments: Arguments, run: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let file = Layer::file(arguments.config.as_deref())?;
    let settings = Settings::join(arguments.settings.with_run(run), file)?;
    log(&settings.log_level, settings.log_format)?;
    // Whatever the agent was started with; what is private is made with a mode that says so.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A few workers: the agent decides and waits; what computes runs on threads of its own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_keep_alive(IDLE).enable_all().build()?;
    let result = runtime.block_on(daemon(settings));
    runtime.shutdown_timeout(STOP);
    result
}

/// Begins to log to standard error.
pub(crate) fn log(level: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level)
        .map_err(|e| Failure::usage(format!("the log level {level:?} cannot be understood")).source(e))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines
            .with_ansi(std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
    }
    Ok(())
}

async fn daemon(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Registry::default();
    // The socket first: a second agent on the same run directory ends here, before it touches anything.
    let socket = socket::Socket::bind(&settings.node.run).await.map_err(taken)?;
    let open = Open::at(settings.metrics).await?;
    let address = open.address();
    let identity = identity(&settings)?;
    let mut node = settings.node.clone();
    if let (Some(cluster), Some(identity)) = (&mut node.kubernetes, &identity) {
        if address.ip().is_unspecified() {
            tracing::warn!(%address, "the cluster is not told where this agent answers: --metrics names no address of the node");
        } else {
            cluster.endpoint =
                Some(Endpoint { address: address.to_string(), certificate: identity.digest().to_owned() });
        }
    }
    let access = node.kubernetes.as_ref().map(|cluster| Access::new(cluster.kubeconfig.clone()));
    let node = Node::start(node, metrics.clone()).await.map_err(started)?;
    let server = Server::new(node.clone()).context("cannot set up the metrics")?;
    match &identity {
        Some(identity) => server.secure(open, identity, access),
        None => server.health(open),
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), socket = %socket.path().display(), metrics = %address, "agent is up"
    );
    let api = server.api(socket);
    notify("READY=1");
    let result = tokio::select! {
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        result = api.ended() => result.context("the server ended").map(|()| ExitCode::FAILURE),
    };
    notify("STOPPING=1");
    tracing::info!("agent is stopping; pods go on");
    server.stop(STOP).await;
    node.shutdown().await;
    result
}

/// What the agent proves itself by on the node's address, if it does.
fn identity(settings: &Settings) -> anyhow::Result<Option<Identity>> {
    match &settings.tls {
        Tls::None => Ok(None),
        Tls::Files(certificate, key) => Ok(Some(Identity::read(certificate, key)?)),
        Tls::Fresh => {
            let name = settings.node.node_name.as_deref().unwrap_or("lamina");
            Ok(Some(Identity::fresh(name, settings.metrics.ip())?))
        }
    }
}

fn taken(error: socket::Error) -> anyhow::Error {
    match &error {
        socket::Error::Taken { .. } => Failure::new(Status::Agent, error.to_string())
            .hint("one agent a run directory: stop that one, or give this one --run and --root of its own")
            .into(),
        _ => error.into(),
    }
}

fn started(error: node::Error) -> anyhow::Error {
    match &error {
        node::Error::Locked { .. } => Failure::new(Status::Agent, error.to_string())
            .hint("one agent a store: stop that one, or give this one a --root of its own")
            .into(),
        _ => anyhow::Error::from(error).context("the node cannot start"),
    }
}

/// Tells systemd (`Type=notify`), where it started us. Nothing depends on it being heard.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

//! How the API server is reached: the credentials of the pod that the agent runs in, or a kubeconfig.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderValue, Response, StatusCode};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Notify;
use tower::util::MapResponseLayer;

/// Longer than the API server lets a watch live (290 s is asked for), so that a connection of which only one end is left
/// is noticed.
const SILENCE: Duration = Duration::from_mins(5);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// This is no pod of a cluster.
    #[error("there are no credentials of a cluster's pod here; name a kubeconfig")]
    InCluster(#[source] kube::config::InClusterError),
    /// The credentials cannot be used.
    #[error("cannot use the cluster's credentials")]
    Client(#[source] kube::Error),
}

/// Tells that the API server did not take the credentials: 401, whatever was asked.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Notify>);

impl Refusals {
    /// Waits for the next refusal; one that came since the last wait counts.
    pub async fn next(&self) {
        self.0.notified().await;
    }

    fn note<B>(&self, answer: Response<B>) -> Response<B> {
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.0.notify_one();
        }
        answer
    }
}

/// A client for the API server, as whoever the kubeconfig or the pod's service account is. Tokens in files are read anew
/// by the client itself, once a minute; certificates are read here. So whoever is refused, or fails for long, asks for
/// another client.
///
/// # Errors
/// If there are no credentials, or they cannot be used. Nothing is sent.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    connect_telling(kubeconfig, &Refusals::default()).await
}

/// The same, with word of refusals.
///
/// # Errors
/// As [`connect`].
pub async fn connect_telling(kubeconfig: Option<&Path>, refusals: &Refusals) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |source| Error::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
        None => Config::incluster().map_err(Error::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(CONNECT);
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("lamina/", env!("CARGO_PKG_VERSION")))));
    let refusals = refusals.clone();
    let noting = MapResponseLayer::new(move |answer: Response<_>| refusals.note(answer));
    Ok(ClientBuilder::try_from(config).map_err(Error::Client)?.with_layer(&noting).build())
}

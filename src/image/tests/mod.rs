//! Pulls against a registry in this process, which can be told to misbehave: the client's rules, one file a subject.

mod access;
mod auth;
mod faults;
mod fixtures;
mod limits;
mod local;
mod mirrors;
mod redirects;
mod registry;
mod sharing;
mod tls;

use std::path::Path;
use std::time::Duration;

use super::client::Timing;
use super::{DockerConfigSecret, Error, ImageName, Images, PullPolicy, PullRequest, Pulled, RegistryConfig};
use crate::api::problem::chain;
use crate::metrics;
use crate::store::{Options, RefKind, Store, TagOrigin};

pub(super) use fixtures::Made;
pub(super) use registry::{Reply, TestRegistry};

/// Waits short enough for tests; those that nothing is to hit are long, for the machine may be busy.
fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(10),
        answer: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        slow_window: Duration::from_mins(1),
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(10),
        patience: Duration::from_millis(1500),
        ..Timing::default()
    }
}

/// A store of its own and what pulls into it.
struct Node {
    _dir: tempfile::TempDir,
    images: Images,
    metrics: metrics::Registry,
}

impl Node {
    fn new() -> Self {
        Self::with("", timing())
    }

    /// With the text of a `registries.yaml`.
    fn configured(text: &str) -> Self {
        Self::with(text, timing())
    }

    fn with(text: &str, timing: Timing) -> Self {
        let config = RegistryConfig::parse(text, Path::new("registries.yaml")).unwrap().with_docker_config(None);
        Self::of(config, timing, 4)
    }

    fn of(config: RegistryConfig, timing: Timing, parallel: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::new(dir.path().join("store"))).unwrap();
        let metrics = metrics::Registry::default();
        let images = Images::with_timing(store, config, &metrics, parallel, timing).unwrap();
        Self { _dir: dir, images, metrics }
    }

    fn store(&self) -> &Store {
        self.images.store()
    }

    /// Pulls for a pod, with its secrets.
    async fn pod(&self, name: &str, policy: PullPolicy, secrets: Vec<DockerConfigSecret>) -> Result<Pulled, Error> {
        let mut request = request(name, policy);
        request.secrets = secrets;
        self.images.pull(request).await
    }

    /// Pulls for a pod, always asking.
    async fn pull(&self, name: &str) -> Result<Pulled, Error> {
        self.pod(name, PullPolicy::Always, Vec::new()).await
    }

    /// How many pull refs and half-made layers there are.
    fn leftovers(&self) -> (usize, usize) {
        let refs = self.store().refs().iter().filter(|r| r.kind == RefKind::Pull).count();
        let staging = std::fs::read_dir(self.store().root().join("staging")).unwrap().count();
        (refs, staging)
    }

    /// Waits until no half-made layer is left: threads remove what they wrote by themselves.
    async fn settled(&self) {
        for _ in 0..2000 {
            if self.leftovers().1 == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("staging is not empty: {:?}", self.leftovers());
    }

    /// One line of the metrics.
    fn metric(&self, line: &str) -> Option<f64> {
        let text = String::from_utf8(self.metrics.encode().unwrap()).unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }
}

fn request(name: &str, policy: PullPolicy) -> PullRequest {
    let image: ImageName = name.parse().unwrap();
    PullRequest { policy, ..PullRequest::new(image, (RefKind::Pod, "uid-1".to_owned()), TagOrigin::Resolved) }
}

/// An image pull secret for one host.
fn secret(host: &str, user: &str, password: &str) -> DockerConfigSecret {
    let json = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
    DockerConfigSecret::from_config_json("default/regcred", json.as_bytes()).unwrap()
}

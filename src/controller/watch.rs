//! The watches of the controller, a task each; all that they hear goes to one channel.

use std::fmt::Debug;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::api::cluster::{self, NodeReport, WORKLOAD};
use crate::api::problem::chain;

/// For how many seconds the API server keeps a watch open.
const WATCH: u32 = 290;

/// What the watches hear.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "each is moved twice, and a box would be an allocation for each Node")]
pub(super) enum Told {
    Workload(Event<DynamicObject>),
    Node(Event<Node>),
    Report(Event<NodeReport>),
    Revision(Event<ControllerRevision>),
    Lease(Event<Lease>),
    /// A watch broke; it is begun anew.
    Lost,
}

/// Starts all of them; they end when the result is dropped.
pub(super) fn start(client: &Client, namespace: &str, tell: &mpsc::Sender<Told>) -> Vec<AbortOnDropHandle<()>> {
    let config = || watcher::Config::default().timeout(WATCH);
    vec![
        spawn(follow(Api::all_with(client.clone(), &cluster::workloads()), config(), tell.clone(), Told::Workload)),
        spawn(follow(Api::all(client.clone()), config(), tell.clone(), Told::Node)),
        spawn(follow(Api::all(client.clone()), config(), tell.clone(), Told::Report)),
        spawn(follow(Api::all(client.clone()), config().labels(WORKLOAD), tell.clone(), Told::Revision)),
        spawn(follow(Api::namespaced(client.clone(), namespace), config(), tell.clone(), Told::Lease)),
    ]
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn follow<K>(api: Api<K>, config: watcher::Config, tell: mpsc::Sender<Told>, told: fn(Event<K>) -> Told)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = api.resource_url().rsplit('/').next().unwrap_or_default().to_owned();
    let mut events = Box::pin(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let next = match event {
            Ok(event) => told(event),
            Err(error) => {
                tracing::warn!(kind, error = chain(&error), "a watch broke; nothing is taken for gone");
                Told::Lost
            }
        };
        if tell.send(next).await.is_err() {
            return;
        }
    }
}

//! The watches, a task each, and reads of single objects. All that they hear goes to one channel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DynamicObject, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::accepted::Key;
use super::known::{Found, Lacking, Workload};
use super::references::Reference;
use super::report::SILENT;
use super::tokens;
use crate::api::cluster::security::{ENFORCE, Level};
use crate::api::cluster::token::Token;
use crate::api::cluster::{self, NodeReport, Template, condition};
use crate::api::problem::chain;

/// For how many seconds the API server keeps a watch open.
const WATCH: u32 = 290;
/// The kinds without which nothing is known of the node's workloads.
pub(super) const KINDS: [&str; 2] = ["nodereports", "nodeworkloads"];
/// How soon a revision or a namespace is read again when it could not be.
const AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked at whether a namespace allows by now what it did not.
const LOOK: Duration = Duration::from_secs(30);
/// How often a lost API server is asked whether it is back.
const ASK: Duration = Duration::from_secs(5);

/// What the watches hear.
#[derive(Debug)]
pub(super) enum Told {
    Workload(Event<DynamicObject>),
    Report(Event<NodeReport>),
    Object {
        reference: Reference,
        found: Found,
    },
    Revision {
        workload: Key,
        revision: String,
        template: Template,
    },
    Token {
        token: Token,
        found: Found,
    },
    Level {
        workload: Key,
        revision: String,
        level: Level,
    },
    /// The API server answers when asked for a kind, by its plural name.
    Heard(String),
    /// It does not, or not as it should.
    Lost {
        kind: String,
        reason: String,
    },
}

/// A workload of an event.
pub(super) fn workload(object: DynamicObject) -> (Key, Workload) {
    let key = (object.metadata.namespace.unwrap_or_default(), object.metadata.name.unwrap_or_default());
    (key, Workload::read(object.metadata.uid, &object.data))
}

/// The assignments of an event.
pub(super) fn assignments(report: NodeReport) -> ((), BTreeMap<Key, String>) {
    let all = report.spec.assignments.into_iter();
    ((), all.map(|a| ((a.namespace, a.name), a.revision)).collect())
}

/// Whether the controller has written that the agent is silent.
pub(super) fn is_silent(report: &NodeReport) -> bool {
    let conditions = report.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == condition::READY && c.reason == SILENT)
}

/// Running watches; they end when this is dropped.
pub(super) struct Watches {
    client: Client,
    node: String,
    tell: mpsc::Sender<Told>,
    tokens: BTreeMap<Token, AbortOnDropHandle<()>>,
    objects: BTreeMap<Reference, AbortOnDropHandle<()>>,
    reading: BTreeMap<Lacking, AbortOnDropHandle<()>>,
    _kinds: [AbortOnDropHandle<()>; 2],
}

impl Watches {
    pub(super) fn new(client: Client, node: String, tell: mpsc::Sender<Told>) -> Self {
        let config = || watcher::Config::default().timeout(WATCH);
        let kinds = [
            spawn(follow(Api::all_with(client.clone(), &cluster::workloads()), config(), tell.clone(), Told::Workload)),
            spawn(follow(
                Api::<NodeReport>::all(client.clone()),
                config().fields(&format!("metadata.name={node}")),
                tell.clone(),
                Told::Report,
            )),
        ];
        let (tokens, objects, reading) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { client, node, tell, tokens, objects, reading, _kinds: kinds }
    }

    /// Watches these ConfigMaps and Secrets, and no others.
    pub(super) fn follow(&mut self, named: BTreeSet<Reference>) {
        self.objects.retain(|reference, _| named.contains(reference));
        for reference in named {
            let (client, tell) = (self.client.clone(), self.tell.clone());
            self.objects.entry(reference.clone()).or_insert_with(|| {
                let namespace = reference.namespace.clone();
                if reference.secret {
                    spawn(object(Api::<Secret>::namespaced(client, &namespace), reference, tell))
                } else {
                    spawn(object(Api::<ConfigMap>::namespaced(client, &namespace), reference, tell))
                }
            });
        }
    }

    /// Keeps these tokens fresh, and no others.
    pub(super) fn keep(&mut self, wanted: BTreeSet<Token>) {
        self.tokens.retain(|token, _| wanted.contains(token));
        for token in wanted {
            let (client, node, tell) = (self.client.clone(), self.node.clone(), self.tell.clone());
            self.tokens.entry(token.clone()).or_insert_with(|| spawn(tokens::keep(client, node, token, tell)));
        }
    }

    /// Reads what is lacking, unless that is under way, and nothing else any more.
    pub(super) fn read(&mut self, lacking: BTreeSet<Lacking>) {
        self.reading.retain(|what, task| lacking.contains(what) && !task.is_finished());
        for what in lacking {
            let (client, tell) = (self.client.clone(), self.tell.clone());
            self.reading.entry(what.clone()).or_insert_with(|| match what {
                Lacking::Template(workload, revision) => spawn(read_revision(client, workload, revision, tell)),
                Lacking::Level(workload, revision) => spawn(read_level(client, workload, revision, tell)),
            });
        }
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Follows one kind for good.
async fn follow<K>(api: Api<K>, config: watcher::Config, tell: mpsc::Sender<Told>, told: fn(Event<K>) -> Told)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = api.resource_url().rsplit('/').next().unwrap_or_default().to_owned();
    let least = ListParams { field_selector: config.field_selector.clone(), ..ListParams::default() };
    let least = least.limit(1).match_any();
    let mut events = Box::pin(watcher(api.clone(), config).default_backoff());
    let mut asking = None;
    while let Some(event) = events.next().await {
        let sent = match event {
            Ok(event) => {
                asking = None;
                match tell.send(told(event)).await {
                    Ok(()) => tell.send(Told::Heard(kind.clone())).await,
                    gone => gone,
                }
            }
            Err(error) => {
                // A watch that goes on says nothing of it, so whether it could is asked for.
                asking.get_or_insert_with(|| spawn(until_back(api.clone(), least.clone(), kind.clone(), tell.clone())));
                tell.send(Told::Lost { kind: kind.clone(), reason: format!("{kind}: {}", chain(&error)) }).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Tells when the list of a kind can be read again.
async fn until_back<K>(api: Api<K>, least: ListParams, kind: String, tell: mpsc::Sender<Told>)
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    loop {
        tokio::time::sleep(ASK).await;
        if api.list_metadata(&least).await.is_ok() {
            // Nobody listens once the credentials are read anew.
            let _ = tell.send(Told::Heard(kind)).await;
            return;
        }
    }
}

/// Follows one ConfigMap or Secret. One that cannot change is read once, as a kubelet does: that it is deleted, and made
/// anew with other data, is seen by the next agent.
async fn object<K>(api: Api<K>, reference: Reference, tell: mpsc::Sender<Told>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize + Send + Sync + 'static,
{
    let config = watcher::Config::default().timeout(WATCH).fields(&format!("metadata.name={}", reference.name));
    let mut events = Box::pin(watcher(api, config).default_backoff());
    let mut seen = false;
    while let Some(event) = events.next().await {
        let found = match event {
            Ok(Event::Init) => {
                seen = false;
                continue;
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                seen = true;
                Found::There(manifest::<K>(&object))
            }
            Ok(Event::InitDone) if seen => continue,
            Ok(Event::InitDone | Event::Delete(_)) => Found::Absent,
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(object = reference.shown(), why, "cannot be followed; what was read of it stands");
                Found::Unreadable(why)
            }
        };
        let fixed = matches!(&found, Found::There(object) if object.get("immutable") == Some(&Value::Bool(true)));
        if tell.send(Told::Object { reference: reference.clone(), found }).await.is_err() {
            return;
        }
        if fixed {
            return std::future::pending().await;
        }
    }
}

/// An object as it would be in a manifest: what the API server adds is left out, so that only what matters is a change.
fn manifest<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    let metadata = serde_json::json!({ "namespace": object.meta().namespace, "name": object.meta().name });
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), K::api_version(&()).into());
        map.insert("kind".to_owned(), K::kind(&()).into());
        map.insert("metadata".to_owned(), metadata);
    }
    value
}

/// Reads a revision; when it is not there, or cannot be read, whoever asks again tries again.
async fn read_revision(client: Client, workload: Key, revision: String, tell: mpsc::Sender<Told>) {
    let api = Api::<ControllerRevision>::namespaced(client, &workload.0);
    loop {
        match api.get_opt(&revision).await {
            Ok(found) => {
                let template = found.and_then(|r| r.data.0.pointer("/spec/template").cloned());
                if let Some(template) = template {
                    let told = Told::Revision { workload, revision, template: Template(template) };
                    // Nobody listens once the credentials are read anew.
                    let _ = tell.send(told).await;
                    return;
                }
                tracing::warn!(
                    revision,
                    namespace = workload.0,
                    "there is no such ControllerRevision; what runs goes on"
                );
            }
            Err(error) => {
                tracing::warn!(
                    revision,
                    namespace = workload.0,
                    error = chain(&error),
                    "cannot read a ControllerRevision"
                );
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads what a namespace allows, and again while that is not enough.
async fn read_level(client: Client, workload: Key, revision: String, tell: mpsc::Sender<Told>) {
    let api = Api::<Namespace>::all(client);
    loop {
        let wait = match api.get_metadata(&workload.0).await {
            Ok(namespace) => {
                let level = Level::of(namespace.labels().get(ENFORCE).map(String::as_str));
                let told = Told::Level { workload: workload.clone(), revision: revision.clone(), level };
                if tell.send(told).await.is_err() {
                    return;
                }
                LOOK
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(revision, namespace = workload.0, error, "cannot tell what the namespace allows");
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

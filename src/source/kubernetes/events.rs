//! What happens to pods of workloads, as `events.k8s.io/v1` regarding the NodeWorkload. One that repeats is one object
//! whose `series` counts. No more are written than a bucket of 25 lets through, filled by one each 10 s, one bucket for
//! news and one for worries; what is over that, or happens while the API server is away, stays on the node
//! (`lamina get events`).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event as KubeEvent;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::accepted::Key;
use super::report::MANAGER;
use crate::api::cluster::{GROUP, VERSION};
use crate::api::problem::chain;
use crate::api::{Event, EventType, Kind};

/// Who reports, as events have it.
pub const CONTROLLER: &str = "lamina.dev/agent";
/// How many events may come at once.
const BURST: f64 = 25.0;
/// How soon there is room for another.
const REFILL: Duration = Duration::from_secs(10);
/// How long a write may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest note that the API server takes, in bytes.
const NOTE: usize = 1024;

/// The workloads that the node runs, with the uids of their objects.
pub(super) type Workloads = BTreeMap<Key, String>;

/// Writes events for good.
pub(super) async fn write(
    client: Client,
    node: String,
    mut events: broadcast::Receiver<Event>,
    workloads: watch::Receiver<Workloads>,
) {
    // A pod's last events come when its workload is not the node's any more.
    let mut known = Workloads::new();
    let mut buckets = [Bucket::new(), Bucket::new()];
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        known.extend(workloads.borrow().iter().map(|(key, uid)| (key.clone(), uid.clone())));
        let Some((namespace, document)) = document(&event, &node, &known) else { continue };
        let [news, worries] = &mut buckets;
        let bucket = if event.kind == EventType::Warning { worries } else { news };
        if !bucket.take(Instant::now()) {
            continue;
        }
        let api = Api::<KubeEvent>::namespaced(client.clone(), &namespace);
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let params = PatchParams::apply(MANAGER).force();
        let said = tokio::time::timeout(ANSWER, api.patch(&name, &params, &Patch::Apply(&document))).await;
        if let Ok(Err(error)) = said {
            tracing::debug!(name, error = chain(&error), "an event stays on the node");
        }
    }
}

/// The event as the API server keeps it, and its namespace; nothing if it is not about a pod of a workload.
fn document(event: &Event, node: &str, workloads: &Workloads) -> Option<(String, Value)> {
    if event.object.kind != Kind::Pod {
        return None;
    }
    let key = (event.object.namespace.clone(), event.object.name.clone());
    let uid = workloads.get(&key)?;
    let note = match &event.container {
        Some(container) => format!("{node}: container {container}: {}", event.message),
        None => format!("{node}: {}", event.message),
    };
    let (namespace, name) = key;
    let micro = |time: jiff::Timestamp| format!("{time:.6}");
    // What is the same but for its count is the same object.
    let mut hash = Sha256::new();
    for part in [node, event.reason.as_str(), &note, &micro(event.first_timestamp)] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hash.finalize();
    let digest = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
    let mut document = json!({
        "apiVersion": KubeEvent::api_version(&()),
        "kind": KubeEvent::kind(&()),
        "metadata": { "name": format!("{name}.{digest:016x}"), "namespace": namespace },
        "eventTime": micro(event.first_timestamp),
        "reportingController": CONTROLLER,
        "reportingInstance": node,
        "action": event.reason.as_str(),
        "reason": event.reason.as_str(),
        "type": if event.kind == EventType::Warning { "Warning" } else { "Normal" },
        "note": cut(&note),
        "regarding": {
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "NodeWorkload",
            "namespace": namespace, "name": name, "uid": uid,
        },
    });
    if event.count > 1 {
        document["series"] = json!({ "count": event.count, "lastObservedTime": micro(event.last_timestamp) });
    }
    Some((namespace, document))
}

/// As much of a text as the API server takes.
fn cut(text: &str) -> &str {
    let end = (0..=NOTE.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Room for so many, which comes back with time.
struct Bucket {
    left: f64,
    since: Instant,
}

impl Bucket {
    fn new() -> Self {
        Self { left: BURST, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.since).div_duration_f64(REFILL)).min(BURST);
        self.since = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ObjectKey, Reason};

    fn event(kind: Kind, name: &str, message: &str) -> Event {
        let object = ObjectKey { kind, namespace: "arena".into(), name: name.into() };
        Event::new(object, Reason::BackOff, message, "2026-01-31T12:00:00.5Z".parse().unwrap())
    }

    #[test]
    fn only_pods_of_workloads_are_told_of_and_a_repeated_event_is_one_object() {
        let workloads: Workloads = [(("arena".into(), "game".into()), "uid-1".into())].into();
        assert!(document(&event(Kind::Pod, "web", "x"), "n1", &workloads).is_none());
        assert!(document(&event(Kind::Node, "game", "x"), "n1", &workloads).is_none());
        let mut first = event(Kind::Pod, "game", "waits 10 s");
        first.container = Some("app".into());
        let (namespace, told) = document(&first, "n1", &workloads).unwrap();
        assert_eq!(namespace, "arena");
        assert_eq!(told["note"], "n1: container app: waits 10 s");
        assert_eq!(told["eventTime"], "2026-01-31T12:00:00.500000Z");
        assert_eq!((told["type"].as_str(), told["regarding"]["uid"].as_str()), (Some("Warning"), Some("uid-1")));
        assert!(told["series"].is_null());
        first.count = 3;
        let (_, again) = document(&first, "n1", &workloads).unwrap();
        assert_eq!(again["metadata"]["name"], told["metadata"]["name"]);
        assert_eq!(again["series"]["count"], 3);
        let (_, elsewhere) = document(&first, "n2", &workloads).unwrap();
        assert_ne!(elsewhere["metadata"]["name"], told["metadata"]["name"]);
        let long = event(Kind::Pod, "game", &"ä".repeat(2000));
        assert!(document(&long, "n1", &workloads).unwrap().1["note"].as_str().unwrap().len() <= NOTE);
    }

    #[test]
    fn a_burst_goes_through_and_then_one_each_ten_seconds() {
        let mut bucket = Bucket::new();
        let now = bucket.since;
        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 25);
        assert_eq!((0..100).filter(|_| bucket.take(now + Duration::from_secs(21))).count(), 2);
    }
}

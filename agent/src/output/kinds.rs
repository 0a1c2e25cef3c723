//! What can be listed, and the columns of each: cells are read out of the objects that the agent gives.

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use super::{size, workloads};

/// What `get` and `describe` know. The names that kubectl users type work, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// What runs
    #[value(alias = "pod", alias = "po")]
    Pods,
    /// Each container of each pod
    #[value(alias = "container")]
    Containers,
    /// What is in the store, by name
    #[value(alias = "image")]
    Images,
    /// The layers in the store, and how many share each
    #[value(alias = "layer")]
    Layers,
    /// What is mounted into pods
    #[value(alias = "volume")]
    Volumes,
    /// What happened
    #[value(alias = "event", alias = "ev")]
    Events,
    /// The desired objects: where each comes from, and what is wrong with it
    #[value(alias = "manifest")]
    Manifests,
    /// So many pods of a template
    #[value(alias = "deployment", alias = "deploy")]
    Deployments,
    /// Pods with names and claims of their own
    #[value(name = "statefulsets", alias = "statefulset", alias = "sts")]
    StatefulSets,
    /// One pod of a template
    #[value(name = "daemonsets", alias = "daemonset", alias = "ds")]
    DaemonSets,
    /// Pods that run to completion
    #[value(alias = "job")]
    Jobs,
    /// Jobs by a schedule
    #[value(name = "cronjobs", alias = "cronjob", alias = "cj")]
    CronJobs,
    /// One address for the ready pods with some labels
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Volumes that outlast pods
    #[value(name = "persistentvolumeclaims", alias = "persistentvolumeclaim", alias = "pvc")]
    Claims,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Its title.
    pub(crate) title: &'static str,
    /// Only with `-o wide`.
    pub(crate) wide: bool,
    /// What it shows of an object.
    pub(crate) cell: fn(&Value, Timestamp) -> String,
}

pub(super) const fn column(title: &'static str, cell: fn(&Value, Timestamp) -> String) -> Column {
    Column { title, wide: false, cell }
}

pub(super) const fn wide(title: &'static str, cell: fn(&Value, Timestamp) -> String) -> Column {
    Column { title, wide: true, cell }
}

impl Kind {
    /// The name in the API's paths.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Containers => "containers",
            Self::Images => "images",
            Self::Layers => "layers",
            Self::Volumes => "volumes",
            Self::Events => "events",
            Self::Manifests => "manifests",
            Self::Deployments => "deployments",
            Self::StatefulSets => "statefulsets",
            Self::DaemonSets => "daemonsets",
            Self::Jobs => "jobs",
            Self::CronJobs => "cronjobs",
            Self::Services => "services",
            Self::Claims => "persistentvolumeclaims",
        }
    }

    /// The name in `-o name`.
    pub(crate) fn singular(self) -> &'static str {
        self.plural().trim_end_matches('s')
    }

    /// Whether its objects belong to a namespace.
    pub(crate) const fn namespaced(self) -> bool {
        !matches!(self, Self::Images | Self::Layers)
    }

    /// The columns of its table.
    pub(crate) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Pods => PODS,
            Self::Containers => CONTAINERS,
            Self::Images => IMAGES,
            Self::Layers => LAYERS,
            Self::Volumes => VOLUMES,
            Self::Events => EVENTS,
            Self::Manifests => MANIFESTS,
            Self::Deployments => workloads::DEPLOYMENTS,
            Self::StatefulSets => workloads::STATEFUL_SETS,
            Self::DaemonSets => workloads::DAEMON_SETS,
            Self::Jobs => workloads::JOBS,
            Self::CronJobs => workloads::CRON_JOBS,
            Self::Services => workloads::SERVICES,
            Self::Claims => CLAIMS,
        }
    }
}

const NAMESPACE: Column = column("NAMESPACE", |o, _| text(o, "/metadata/namespace"));

/// Which node an object is on, in a list of several nodes.
pub(crate) const NODE: Column = column("NODE", |o, _| text(o, "/lamina/node"));

/// The columns of a table as it was asked for.
pub(crate) fn columns(kind: Kind, with_namespace: bool, is_wide: bool) -> Vec<Column> {
    let namespace = (with_namespace && kind.namespaced()).then_some(NAMESPACE);
    namespace.into_iter().chain(kind.columns().iter().copied().filter(|c| is_wide || !c.wide)).collect()
}

/// The string at a JSON pointer, or nothing.
pub(crate) fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

pub(crate) fn number(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn joined(object: &Value, pointer: &str) -> String {
    list(object, pointer).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn bytes(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_u64).map(size::bytes).unwrap_or_default()
}

pub(super) fn age(object: &Value, pointer: &str, now: Timestamp) -> String {
    object.pointer(pointer).and_then(Value::as_str).map(|time| size::age(time, now)).unwrap_or_default()
}

/// A digest or layer key short enough for a column, long enough to be told apart and given back to a command.
pub(crate) fn short(key: &str) -> String {
    match key.rsplit_once([':', '-']) {
        Some((_, hex)) if hex.len() > 12 => hex.chars().take(12).collect(),
        _ => key.to_owned(),
    }
}

const PODS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("READY", |o, _| {
        let stays = |name: &Value| {
            list(o, "/spec/initContainers").iter().any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
        };
        let sidecars = list(o, "/status/initContainerStatuses").iter().filter(|c| stays(&c["name"]));
        let ready = list(o, "/status/containerStatuses").iter().chain(sidecars).filter(|c| c["ready"] == true).count();
        let sidecars = list(o, "/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
        format!("{ready}/{}", list(o, "/spec/containers").len() + sidecars)
    }),
    column("STATUS", |o, _| pod_status(o)),
    column("RESTARTS", |o, _| {
        list(o, "/status/containerStatuses").iter().map(|c| number(c, "/restartCount")).sum::<u64>().to_string()
    }),
    column("AGE", |o, now| age(o, "/metadata/creationTimestamp", now)),
    wide("IP", |o, _| text(o, "/status/podIP")),
    wide("SOURCE", |o, _| text(o, "/lamina/source")),
    wide("IMAGES", |o, _| list(o, "/spec/containers").iter().map(|c| text(c, "/image")).collect::<Vec<_>>().join(",")),
];

const CONTAINERS: &[Column] = &[
    column("POD", |o, _| text(o, "/spec/pod")),
    column("CONTAINER", |o, _| text(o, "/spec/container")),
    column("STATE", |o, _| container_state(&o["status"])),
    column("READY", |o, _| if o["status"]["ready"] == true { "yes" } else { "no" }.to_owned()),
    column("RESTARTS", |o, _| number(o, "/status/restartCount").to_string()),
    column("PID", |o, _| text(o, "/status/pid")),
    column("IMAGE", |o, _| text(o, "/spec/image")),
    column("AGE", |o, now| age(o, "/status/state/running/startedAt", now)),
    wide("LAYERS", |o, _| list(o, "/status/layers").len().to_string()),
    wide("ATTEMPT", |o, _| text(o, "/status/attempt")),
];

const IMAGES: &[Column] = &[
    column("IMAGE", |o, _| match list(o, "/status/references") {
        [] => "<none>".to_owned(),
        _ => joined(o, "/status/references"),
    }),
    column("DIGEST", |o, _| short(&text(o, "/status/digest"))),
    column("LAYERS", |o, _| list(o, "/status/layers").len().to_string()),
    column("SIZE", |o, _| bytes(o, "/status/sizeBytes")),
    column("UNIQUE", |o, _| bytes(o, "/status/uniqueBytes")),
    column("CONTAINERS", |o, _| number(o, "/status/containers").to_string()),
    column("HELD BY", |o, _| joined(o, "/status/heldBy")),
    wide("MANIFEST", |o, _| text(o, "/status/manifest")),
];

const LAYERS: &[Column] = &[
    column("LAYER", |o, _| short(&text(o, "/metadata/name"))),
    column("SIZE", |o, _| bytes(o, "/status/sizeBytes")),
    column("STATE", |o, _| text(o, "/status/state")),
    column("IMAGES", |o, _| number(o, "/status/images").to_string()),
    column("CONTAINERS", |o, _| number(o, "/status/containers").to_string()),
    column("SHARED BY", |o, _| joined(o, "/status/imageNames")),
    wide("CONTENT", |o, _| bytes(o, "/status/contentBytes")),
    wide("KEY", |o, _| text(o, "/metadata/name")),
];

const VOLUMES: &[Column] = &[
    column("POD", |o, _| text(o, "/spec/pod")),
    column("VOLUME", |o, _| text(o, "/spec/volume")),
    column("TYPE", |o, _| text(o, "/spec/type")),
    column("FROM", |o, _| text(o, "/spec/from")),
    column("MOUNTED IN", |o, _| joined(o, "/status/mounts")),
];

const CLAIMS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("STATUS", |o, _| text(o, "/status/phase")),
    column("CAPACITY", |o, _| bytes(o, "/lamina/capacityBytes")),
    column("USED", |o, _| bytes(o, "/lamina/usedBytes")),
    column("ACCESS MODES", |o, _| {
        let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            _ => "?",
        };
        list(o, "/status/accessModes").iter().map(short).collect::<Vec<_>>().join(",")
    }),
    column("RECLAIM", |o, _| text(o, "/lamina/reclaimPolicy")),
    column("USED BY", |o, _| joined(o, "/lamina/pods")),
    column("AGE", |o, now| age(o, "/metadata/creationTimestamp", now)),
    wide("PATH", |o, _| text(o, "/lamina/path")),
];

const EVENTS: &[Column] = &[
    column("LAST SEEN", |o, now| age(o, "/lastTimestamp", now)),
    column("TYPE", |o, _| text(o, "/type")),
    column("REASON", |o, _| text(o, "/reason")),
    column("OBJECT", |o, _| {
        let kind = text(o, "/involvedObject/kind").to_lowercase();
        format!("{kind}/{}", text(o, "/involvedObject/name"))
    }),
    column("COUNT", |o, _| number(o, "/count").to_string()),
    column("MESSAGE", |o, _| text(o, "/message")),
    wide("FIRST SEEN", |o, now| age(o, "/firstTimestamp", now)),
];

const MANIFESTS: &[Column] = &[
    column("KIND", |o, _| text(o, "/spec/kind")),
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("SOURCE", |o, _| text(o, "/spec/source")),
    column("FILE", |o, _| text(o, "/spec/file")),
    column("STATUS", |o, _| text(o, "/status/phase")),
    column("MESSAGE", |o, _| text(o, "/status/message")),
];

/// The word that says how a pod is, as kubectl chooses it.
pub(crate) fn pod_status(pod: &Value) -> String {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".to_owned();
    }
    let phase = text(pod, "/status/phase");
    let said = text(pod, "/status/reason");
    if said == "Evicted" {
        // How its containers ended says less.
        return said;
    }
    let mut word = if said.is_empty() { phase } else { said };
    if let Some(word) = initializing(pod) {
        return word;
    }
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            word = waiting;
        } else if let Some(terminated) = status.pointer("/state/terminated") {
            word = terminated_word(terminated);
        } else if status["ready"] == true {
            running = true;
        }
    }
    if word == "Completed" && running { "Running".to_owned() } else { word }
}

/// How far a pod's init containers are, while they are not done.
fn initializing(pod: &Value) -> Option<String> {
    let inits = list(pod, "/spec/initContainers");
    for (i, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = inits.iter().any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always");
        if let Some(terminated) = status.pointer("/state/terminated") {
            if terminated["exitCode"] == 0 || sidecar {
                continue;
            }
            return Some(format!("Init:{}", terminated_word(terminated)));
        }
        if sidecar && status["started"] == true {
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        return Some(match waiting.as_str() {
            "" | "PodInitializing" => format!("Init:{i}/{}", inits.len()),
            word => format!("Init:{word}"),
        });
    }
    None
}

fn terminated_word(terminated: &Value) -> String {
    let reason = text(terminated, "/reason");
    match (reason.is_empty(), number(terminated, "/signal")) {
        (false, _) => reason,
        (true, 0) => format!("ExitCode:{}", text(terminated, "/exitCode")),
        (true, signal) => format!("Signal:{signal}"),
    }
}

fn container_state(status: &Value) -> String {
    let state = &status["state"];
    if !state["running"].is_null() {
        "Running".to_owned()
    } else if let Some(terminated) = state.get("terminated").filter(|t| !t.is_null()) {
        format!("{} ({})", terminated_word(terminated), number(terminated, "/exitCode"))
    } else {
        match text(state, "/waiting/reason") {
            reason if reason.is_empty() => "Waiting".to_owned(),
            reason => reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(states: &[Value]) -> Value {
        let statuses: Vec<Value> =
            states.iter().map(|s| json!({"state": s, "ready": !s["running"].is_null()})).collect();
        json!({"status": {"phase": "Running", "containerStatuses": statuses}})
    }

    #[test]
    fn the_status_of_a_pod_is_the_word_that_kubectl_shows() {
        for (states, word) in [
            (vec![], "Running"),
            (vec![json!({"running": {}})], "Running"),
            (vec![json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"running": {}})], "CrashLoopBackOff"),
            (vec![json!({"terminated": {"reason": "Completed"}}), json!({"running": {}})], "Running"),
            (vec![json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}})], "OOMKilled"),
            (vec![json!({"terminated": {"exitCode": 3}})], "ExitCode:3"),
            (vec![json!({"terminated": {"exitCode": 143, "signal": 15}})], "Signal:15"),
        ] {
            assert_eq!(pod_status(&pod(&states)), word);
        }
        assert_eq!(pod_status(&json!({"metadata": {"deletionTimestamp": "x"}})), "Terminating");
    }

    #[test]
    fn the_address_of_a_pod_is_among_its_wide_columns() {
        let pod = json!({"status": {"podIP": "192.0.2.7"}});
        let row = |is_wide| -> Vec<String> {
            columns(Kind::Pods, false, is_wide).iter().map(|c| (c.cell)(&pod, Timestamp::UNIX_EPOCH)).collect()
        };
        assert!(row(true).contains(&"192.0.2.7".to_owned()) && !row(false).contains(&"192.0.2.7".to_owned()));
    }

    #[test]
    fn a_key_is_cut_to_twelve_digits() {
        assert_eq!(short(&format!("chain-sha256-{}", "0123456789abcdef".repeat(4))), "0123456789ab");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("web"), "web");
    }

    #[test]
    fn every_kind_has_a_first_column_and_titles_of_its_own() {
        for kind in Kind::value_variants() {
            let mut titles: Vec<_> = columns(*kind, true, true).iter().map(|c| c.title).collect();
            assert_eq!(titles.contains(&"NAMESPACE"), kind.namespaced());
            titles.sort_unstable();
            let n = titles.len();
            titles.dedup();
            assert_eq!(titles.len(), n);
        }
    }
}

//! `lamina describe`: one object for a person: what it is, its conditions, what it holds, its events.

mod fields;

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Context;
use crate::client::Route;
use crate::output::kinds::{Kind, pod_status, text};
use crate::output::table::{Table, clean};
use crate::output::{self, size};

/// Shows one object.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `KIND/NAME`; a name alone is a pod
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Arguments {
    /// Namespace and name of the pod, if one is meant.
    pub(crate) fn pod(&self) -> Option<(&str, &str)> {
        let (kind, name) = super::object_name(&self.object);
        matches!(super::kind(kind), Ok(Kind::Pods)).then_some((self.namespace.as_str(), name))
    }
}

#[derive(Debug, Deserialize)]
struct Described {
    object: Value,
    #[serde(default)]
    events: Vec<Value>,
    /// What keeps it: for layers and images.
    #[serde(default)]
    why: Vec<Vec<String>>,
    /// Since when the node is drained, if it is and that matters here.
    drained: Option<String>,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let (kind, name) = super::object_name(&a.object);
    let kind = super::kind(kind)?;
    let route = Route::new("/v1/describe").segment(kind.plural()).with("namespace", &a.namespace).with("name", name);
    let described: Described = context.agent.get(&route).await?;
    let mut page = Page::default();
    if let Some(since) = &described.drained {
        page.field(0, "Node", &format!("drained since {since}: nothing starts until `lamina drain --undo`"));
    }
    if kind == Kind::Pods {
        pod(&mut page, &described.object);
    } else {
        page.tree(&described.object, 0);
    }
    if !described.why.is_empty() {
        page.line(0, "Kept by:");
        for chain in &described.why {
            page.line(1, &chain.join(" ← "));
        }
    }
    events(&mut page, &described.events, Timestamp::now());
    output::raw(page.0.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Text that grows by lines; nothing that comes from a manifest or an image can move the cursor.
#[derive(Default)]
struct Page(String);

/// The column where values begin.
const VALUES: usize = 20;

impl Page {
    fn line(&mut self, depth: usize, text: &str) {
        self.0.extend(std::iter::repeat_n(' ', depth * 2));
        self.0.push_str(&clean(text));
        self.0.push('\n');
    }

    fn field(&mut self, depth: usize, name: &str, value: &str) {
        if !value.is_empty() {
            let width = VALUES.saturating_sub(depth * 2);
            self.line(depth, &format!("{:<width$} {value}", format!("{name}:")));
        }
    }

    /// Any value, one line a leaf.
    fn tree(&mut self, value: &Value, depth: usize) {
        let Value::Object(map) = value else { return };
        for (key, value) in map {
            match value {
                Value::Null => {}
                Value::Object(inside) if inside.is_empty() => {}
                Value::Object(_) => {
                    self.line(depth, &format!("{key}:"));
                    self.tree(value, depth + 1);
                }
                Value::Array(items) if items.is_empty() => {}
                Value::Array(items) => {
                    self.line(depth, &format!("{key}:"));
                    for item in items {
                        match item {
                            Value::Object(_) => {
                                self.tree(item, depth + 1);
                            }
                            leaf => self.line(depth + 1, &scalar(leaf)),
                        }
                    }
                }
                leaf if key.ends_with("Bytes") => {
                    self.field(depth, key, &leaf.as_u64().map(size::bytes).unwrap_or_default());
                }
                leaf => self.field(depth, key, &scalar(leaf)),
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn pairs(value: &Value) -> String {
    let Value::Object(map) = value else { return String::new() };
    map.iter().map(|(k, v)| format!("{k}={}", scalar(v))).collect::<Vec<_>>().join(", ")
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn pod(page: &mut Page, pod: &Value) {
    for (name, pointer) in [
        ("Name", "/metadata/name"),
        ("Namespace", "/metadata/namespace"),
        ("UID", "/metadata/uid"),
        ("Created", "/metadata/creationTimestamp"),
        ("Priority class", "/spec/priorityClassName"),
        ("Restart policy", "/spec/restartPolicy"),
    ] {
        page.field(0, name, &text(pod, pointer));
    }
    page.field(0, "Labels", &pairs(&pod["metadata"]["labels"]));
    page.field(0, "Annotations", &pairs(&pod["metadata"]["annotations"]));
    page.field(0, "Status", &pod_status(pod));
    for (name, pointer) in [
        ("Message", "/status/message"),
        ("IP", "/status/podIP"),
        ("QoS class", "/status/qosClass"),
        ("Source", "/lamina/source"),
        ("File", "/lamina/file"),
        ("Shim", "/lamina/shim"),
    ] {
        page.field(0, name, &text(pod, pointer));
    }
    let owner = &pod["lamina"]["owner"];
    if !owner.is_null() {
        page.field(0, "Owner", &format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    }
    for (title, all, statuses) in [
        ("Init containers:", "/spec/initContainers", "/status/initContainerStatuses"),
        ("Containers:", "/spec/containers", "/status/containerStatuses"),
    ] {
        if items(pod, all).next().is_some() {
            page.line(0, title);
            containers(page, pod, (all, statuses));
        }
    }
    if items(pod, "/spec/volumes").next().is_some() {
        page.line(0, "Volumes:");
        for volume in items(pod, "/spec/volumes") {
            page.field(1, &text(volume, "/name"), &fields::volume(volume));
        }
    }
    let mut conditions = Table::new(["TYPE", "STATUS", "REASON", "MESSAGE"]);
    for c in items(pod, "/status/conditions") {
        conditions.row(vec![text(c, "/type"), text(c, "/status"), text(c, "/reason"), text(c, "/message")]);
    }
    page.line(0, "Conditions:");
    for line in conditions.take().lines() {
        page.line(1, line);
    }
    let ignored: Vec<String> = items(pod, "/lamina/ignored").map(scalar).collect();
    if !ignored.is_empty() {
        page.line(0, "Ignored:");
        for field in ignored {
            page.line(1, &field);
        }
    }
}

/// Each container of one of a pod's lists.
fn containers(page: &mut Page, pod: &Value, (all, statuses): (&str, &str)) {
    for container in items(pod, all) {
        let name = text(container, "/name");
        let status = items(pod, statuses).find(|s| s["name"] == container["name"]);
        let extras = items(pod, "/lamina/containers").find(|s| s["name"] == container["name"]);
        page.line(1, &format!("{name}:"));
        page.field(2, "Image", &text(container, "/image"));
        for (title, part, pointer) in [
            ("Image ID", status, "/imageID"),
            ("Container ID", status, "/containerID"),
            ("Ready", status, "/ready"),
            ("Restarts", status, "/restartCount"),
            ("PID", extras, "/pid"),
            ("Attempt", extras, "/attempt"),
            ("Next start", extras, "/nextStart"),
        ] {
            page.field(2, title, &part.map(|p| text(p, pointer)).unwrap_or_default());
        }
        for (title, pointer) in [("State", "/state"), ("Last state", "/lastState")] {
            let state = status.and_then(|s| s.pointer(pointer)).and_then(Value::as_object);
            for (name, detail) in state.into_iter().flatten().filter(|(_, detail)| !detail.is_null()) {
                page.field(2, title, format!("{name} {}", pairs(detail)).trim_end());
            }
        }
        for (title, pointer) in [("Command", "/command"), ("Args", "/args")] {
            let words: Vec<String> = items(container, pointer).map(scalar).collect();
            page.field(2, title, &words.join(" "));
        }
        page.field(2, "Ports", &fields::ports(container));
        page.field(2, "Limits", &pairs(&container["resources"]["limits"]));
        page.field(2, "Requests", &pairs(&container["resources"]["requests"]));
        for (title, key) in
            [("Startup", "startupProbe"), ("Liveness", "livenessProbe"), ("Readiness", "readinessProbe")]
        {
            page.field(2, title, &fields::probe(&container[key]));
        }
        for variable in fields::environment(container) {
            page.field(2, "Environment", &variable);
        }
        for mount in items(container, "/volumeMounts") {
            let mode = if mount["readOnly"] == true { " (ro)" } else { "" };
            page.field(2, "Mount", &format!("{} from {}{mode}", text(mount, "/mountPath"), text(mount, "/name")));
        }
        let layers: Vec<String> = extras
            .into_iter()
            .flat_map(|e| items(e, "/layers"))
            .map(|l| crate::output::kinds::short(&scalar(l)))
            .collect();
        page.field(2, "Layers", &layers.join(" "));
    }
}

fn events(page: &mut Page, events: &[Value], now: Timestamp) {
    if events.is_empty() {
        page.field(0, "Events", "none");
        return;
    }
    page.line(0, "Events:");
    let mut table = Table::new(["AGE", "TYPE", "REASON", "COUNT", "MESSAGE"]);
    for event in events {
        table.row(vec![
            size::age(&text(event, "/lastTimestamp"), now),
            text(event, "/type"),
            text(event, "/reason"),
            text(event, "/count"),
            text(event, "/message"),
        ]);
    }
    for line in table.take().lines() {
        page.line(1, line);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_described_with_its_containers_conditions_and_what_is_ignored() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "web:1", "args": ["-x", "1"]}]},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": 2,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
            "lamina": {"ignored": ["spec.affinity"], "containers": [{"name": "app", "pid": 7, "attempt": 2}]},
        });
        let mut page = Page::default();
        pod(&mut page, &object);
        events(&mut page, &[], Timestamp::now());
        assert_eq!(
            page.0,
            "Name:                web\n\
             Namespace:           default\n\
             Labels:              app=web\n\
             Status:              Running\n\
             Containers:\n\
             \x20 app:\n\
             \x20   Image:           web:1\n\
             \x20   Ready:           true\n\
             \x20   Restarts:        2\n\
             \x20   PID:             7\n\
             \x20   Attempt:         2\n\
             \x20   State:           running startedAt=2026-01-01T00:00:00Z\n\
             \x20   Args:            -x 1\n\
             Conditions:\n\
             \x20 TYPE    STATUS   REASON   MESSAGE\n\
             \x20 Ready   True     -        -\n\
             Ignored:\n\
             \x20 spec.affinity\n\
             Events:              none\n"
        );
    }
}

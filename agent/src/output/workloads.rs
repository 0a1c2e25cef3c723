//! The columns of workloads, as kubectl has them.

use super::kinds::{Column, age, column, list, number, text, wide};

/// `x/y`.
fn of(part: u64, whole: u64) -> String {
    format!("{part}/{whole}")
}

const REVISION: Column = wide("REVISION", |o, _| text(o, "/lamina/revision"));
const SOURCE: Column = wide("SOURCE", |o, _| text(o, "/lamina/source"));
const AGE: Column = column("AGE", |o, now| age(o, "/metadata/creationTimestamp", now));

fn replicas(o: &serde_json::Value) -> u64 {
    o.pointer("/spec/replicas").and_then(serde_json::Value::as_u64).unwrap_or(1)
}

pub(super) const DEPLOYMENTS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("READY", |o, _| of(number(o, "/status/readyReplicas"), replicas(o))),
    column("UP-TO-DATE", |o, _| number(o, "/status/updatedReplicas").to_string()),
    column("AVAILABLE", |o, _| number(o, "/status/availableReplicas").to_string()),
    AGE,
    REVISION,
    SOURCE,
];

pub(super) const STATEFUL_SETS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("READY", |o, _| of(number(o, "/status/readyReplicas"), replicas(o))),
    column("UP-TO-DATE", |o, _| number(o, "/status/updatedReplicas").to_string()),
    AGE,
    REVISION,
    SOURCE,
];

pub(super) const DAEMON_SETS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("READY", |o, _| of(number(o, "/status/numberReady"), number(o, "/status/desiredNumberScheduled"))),
    column("UP-TO-DATE", |o, _| number(o, "/status/updatedNumberScheduled").to_string()),
    AGE,
    REVISION,
    SOURCE,
];

pub(super) const JOBS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("STATUS", |o, _| {
        let held = list(o, "/status/conditions").iter().find(|c| c["status"] == "True");
        held.map_or_else(|| "Running".to_owned(), |c| text(c, "/type"))
    }),
    column("COMPLETIONS", |o, _| {
        let whole = o.pointer("/spec/completions").and_then(serde_json::Value::as_u64).unwrap_or(1);
        of(number(o, "/status/succeeded"), whole)
    }),
    column("FAILED", |o, _| number(o, "/status/failed").to_string()),
    AGE,
    SOURCE,
];

pub(super) const CRON_JOBS: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("SCHEDULE", |o, _| text(o, "/spec/schedule")),
    column("ZONE", |o, _| text(o, "/spec/timeZone")),
    column("SUSPEND", |o, _| if o["spec"]["suspend"] == true { "yes" } else { "no" }.to_owned()),
    column("ACTIVE", |o, _| list(o, "/status/active").len().to_string()),
    column("LAST SCHEDULE", |o, now| age(o, "/status/lastScheduleTime", now)),
    AGE,
    SOURCE,
];

pub(super) const SERVICES: &[Column] = &[
    column("NAME", |o, _| text(o, "/metadata/name")),
    column("TYPE", |o, _| or(text(o, "/spec/type"), "ClusterIP")),
    column("CLUSTER-IP", |o, _| text(o, "/spec/clusterIP")),
    column("EXTERNAL-IP", |o, _| text(o, "/spec/externalName")),
    column("PORT(S)", |o, _| list(o, "/spec/ports").iter().map(service_port).collect::<Vec<_>>().join(",")),
    column("ENDPOINTS", |o, _| strings(o, "/lamina/endpoints")),
    wide("SELECTOR", |o, _| selector(o)),
    SOURCE,
];

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

/// As in `80:30080/TCP`.
fn service_port(port: &serde_json::Value) -> String {
    let outside = Some(text(port, "/nodePort")).filter(|p| !p.is_empty()).map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}{outside}/{}", text(port, "/port"), or(text(port, "/protocol"), "TCP"))
}

fn strings(o: &serde_json::Value, pointer: &str) -> String {
    list(o, pointer).iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(",")
}

fn selector(o: &serde_json::Value) -> String {
    let all = o.pointer("/spec/selector").and_then(serde_json::Value::as_object).into_iter().flatten();
    all.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

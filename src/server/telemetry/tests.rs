//! What a scrape gives: names, types, help, and a bounded number of series.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::metrics::Registry;

fn pod(cgroup: &str) -> Arc<PodView> {
    let view = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "app", "image": "web:1"}]},
        "status": {"containerStatuses": [{"name": "app", "image": "web:1", "imageID": "", "ready": true,
            "restartCount": 3, "lastState": {"terminated": {"exitCode": 1, "reason": "made up by a user"}}}]},
        "lamina": {"uid": "00000000-0000-4000-8000-000000000000", "source": "desired",
            "containers": [{"name": "app", "attempt": 3, "pid": 1, "cgroup": cgroup, "upper": "/nonexistent"}]},
    });
    Arc::new(serde_json::from_value(view).unwrap())
}

fn scrape(pods: Vec<Arc<PodView>>) -> String {
    let registry = Registry::default();
    let (_sender, receiver) = watch::channel(Arc::new(pods));
    registry.collector(Box::new(Telemetry::new(receiver, None, 200).unwrap())).unwrap();
    String::from_utf8(registry.encode().unwrap()).unwrap()
}

#[test]
fn the_names_that_dashboards_know_are_there_with_their_labels() {
    let text = scrape(vec![pod("/")]);
    for series in [
        "container_memory_usage_bytes{container=\"app\",pod=\"web\",namespace=\"default\",image=\"web:1\"}",
        "container_start_time_seconds",
        "lamina_container_restarts_total{container=\"app\",pod=\"web\",namespace=\"default\"} 3",
        "node_cpu_usage_seconds_total ",
        "node_memory_working_set_bytes ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "lamina_build_info{version=",
    ]
    .iter()
    .filter(|series| !series.starts_with("container_start"))
    {
        assert!(text.contains(series), "{series} is not in\n{text}");
    }
}

#[test]
fn a_reason_that_is_not_ours_is_an_error_and_no_label() {
    let text = scrape(vec![pod("/")]);
    assert!(text.contains("reason=\"Error\"} 1"), "{text}");
    assert!(!text.contains("made up"));
}

#[test]
fn every_family_has_help_and_counters_end_in_total() {
    for line in scrape(vec![pod("/")]).lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| help.ends_with('.')), "{line}");
        }
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            assert!(name.ends_with("_total"), "{line}");
        }
    }
}

#[test]
fn a_container_whose_cgroup_is_gone_does_not_fail_the_scrape() {
    let text = scrape(vec![pod("/lamina-none/gone")]);
    assert!(text.contains("lamina_container_restarts_total"));
}

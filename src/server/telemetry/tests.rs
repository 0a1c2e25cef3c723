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
    Telemetry::new(receiver, None, None, 200).unwrap().register(&registry).unwrap();
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
            // A name that cAdvisor has so.
            assert!(name.ends_with("_total") || name == "container_memory_failcnt", "{line}");
        }
    }
}

/// The names that dashboards, alerts and the documents count on.
const PROMISED: &str = "container_cpu_usage_seconds_total container_cpu_user_seconds_total
    container_cpu_system_seconds_total container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total
    container_cpu_cfs_throttled_seconds_total container_memory_working_set_bytes container_memory_usage_bytes
    container_memory_rss container_memory_cache container_memory_swap container_memory_failcnt
    container_memory_failures_total container_oom_events_total container_fs_usage_bytes
    container_fs_reads_bytes_total container_fs_writes_bytes_total container_network_receive_bytes_total
    container_network_receive_packets_total container_network_receive_errors_total
    container_network_receive_packets_dropped_total container_network_transmit_bytes_total
    container_network_transmit_packets_total container_network_transmit_errors_total
    container_network_transmit_packets_dropped_total container_processes container_threads
    container_file_descriptors container_spec_cpu_quota container_spec_cpu_period container_spec_cpu_shares
    container_spec_memory_limit_bytes container_start_time_seconds container_last_seen
    container_pressure_cpu_waiting_seconds_total container_pressure_cpu_stalled_seconds_total
    container_pressure_memory_waiting_seconds_total container_pressure_memory_stalled_seconds_total
    container_pressure_io_waiting_seconds_total container_pressure_io_stalled_seconds_total
    pod_cpu_usage_seconds_total pod_memory_working_set_bytes node_cpu_usage_seconds_total
    node_memory_working_set_bytes lamina_container_restarts_total lamina_container_last_terminated lamina_build_info
    lamina_pods lamina_reconcile_duration_seconds lamina_reconcile_total lamina_reconcile_pending_seconds
    lamina_pod_start_duration_seconds lamina_probe_total lamina_image_pulls_total lamina_image_pull_duration_seconds
    lamina_image_pull_bytes_total lamina_registry_requests_total lamina_layers lamina_layer_bytes
    lamina_layer_references lamina_layer_size_bytes lamina_layer_shared_bytes_saved lamina_writable_layer_bytes
    lamina_gc_total lamina_gc_duration_seconds lamina_gc_freed_bytes_total lamina_gc_freed_layers_total
    lamina_gc_release_to_freed_seconds lamina_store_bytes lamina_store_capacity_bytes lamina_store_inodes_free
    lamina_store_damaged_layers lamina_store_repairs_total lamina_source_objects lamina_source_errors_total
    lamina_source_disconnected_seconds lamina_shims lamina_volume_bytes process_cpu_seconds_total process_resident_memory_bytes
    process_open_fds process_max_fds process_start_time_seconds process_threads";

#[test]
fn every_promised_family_is_there_once_and_no_other_bears_our_name() {
    let all = catalogue().unwrap();
    let names: Vec<&str> = all.iter().map(|family| family.name.as_str()).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "a name is there twice: {names:?}");
    for name in PROMISED.split_whitespace() {
        assert!(names.contains(&name), "{name} is missing");
    }
    let more = |name: &&&str| name.starts_with("lamina_") && !PROMISED.split_whitespace().any(|p| p == **name);
    assert_eq!(names.iter().filter(more).collect::<Vec<_>>(), [&"lamina_store_available_bytes"]);
}

#[test]
fn a_scrape_has_nothing_that_is_not_described() {
    let all = catalogue().unwrap();
    for line in scrape(vec![pod("/")]).lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(all.iter().any(|family| family.name == name && family.kind.as_str() == kind), "{line}");
    }
}

#[test]
fn a_container_whose_cgroup_is_gone_does_not_fail_the_scrape() {
    let text = scrape(vec![pod("/lamina-none/gone")]);
    assert!(text.contains("lamina_container_restarts_total"));
}

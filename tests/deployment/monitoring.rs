//! Alerts fire when they should and only then, and nothing asks for a metric that the product does not have.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::chart::MONITORED;
use crate::render::{objects, template, tree};

/// What names a metric in an expression, or a part of a histogram.
fn metrics(expression: &str, found: &mut BTreeSet<String>) {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    for name in expression.split(word) {
        if ["lamina_", "container_", "pod_", "node_", "process_"].iter().any(|p| name.starts_with(p)) {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            found.insert(name.to_owned());
        }
    }
}

fn strings(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => strings(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let rendered = objects(&template(&MONITORED).unwrap());
    let dashboard = rendered["ConfigMap/lamina-dashboard"]["data"]["lamina.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let (mut expressions, mut names) = (Vec::new(), BTreeSet::new());
    strings(&dashboard, "expr", &mut expressions);
    strings(&dashboard, "query", &mut expressions);
    assert!(expressions.len() > 20);
    strings(&rendered["PrometheusRule/lamina"], "expr", &mut expressions);
    expressions.iter().for_each(|e| metrics(e, &mut names));
    assert!(names.contains("lamina_pods") && names.contains("lamina_store_damaged_layers"));
    // The README's table is made from the code; the names that dashboards know are told by the telemetry's own code.
    let readme = fs::read_to_string(tree("README.md")).unwrap();
    let telemetry: String = walk("src").into_iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for name in names {
        let known = readme.contains(&format!("| `{name}` |")) || telemetry.contains(&format!("\"{name}\""));
        assert!(known, "{name} is asked for, but not exported");
    }
}

/// All files of the code that makes metrics.
fn walk(dir: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![tree(dir)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn alerts_fire_when_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let rendered = objects(&template(&MONITORED).unwrap());
    let rules = dir.path().join("alerts.yaml");
    fs::write(&rules, rendered["PrometheusRule/lamina"]["spec"].to_string()).unwrap();
    let test = dir.path().join("test.yaml");
    fs::copy(tree("tests/deployment/alerts.yaml"), &test).unwrap();
    for (args, file) in [(["check", "rules"], &rules), (["test", "rules"], &test)] {
        let out = Command::new("promtool").args(args).arg(file).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "promtool {args:?}: {said}");
    }
    // One that no test knows would never be missed.
    let tests = fs::read_to_string(&test).unwrap();
    let mut alerts = Vec::new();
    strings(&rendered["PrometheusRule/lamina"], "alert", &mut alerts);
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test lets {alert} fire");
    }
}

//! The chart: every value changes exactly what it should, a wrong one is refused, and without any the chart gives what
//! lies under `manifests/`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::render::{helm, leaves, objects, template, tree};

/// What the chart's files come to under `manifests/`, and by which values.
const FILES: [(&str, &str, &[&str]); 5] = [
    ("accounts.yaml", "base/accounts.yaml", &[]),
    ("policies.yaml", "base/policies.yaml", &[]),
    ("daemonset.yaml", "base/daemonset.yaml", &[]),
    ("controller.yaml", "base/controller.yaml", &[]),
    ("monitoring.yaml", "monitoring/monitoring.yaml", &MONITORED),
];

/// All that is for Prometheus and Grafana.
pub(crate) const MONITORED: [&str; 4] = [
    "monitoring.podMonitor.enabled=true",
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.dashboard.enabled=true",
];

fn updating() -> bool {
    std::env::var_os("LAMINA_UPDATE").is_some()
}

/// The documents that came of one file of the chart.
fn part(rendered: &str, file: &str) -> String {
    let source = format!("# Source: lamina/templates/{file}\n");
    let mut text = String::new();
    for document in rendered.split("---\n").filter_map(|d| d.strip_prefix(&source)) {
        let document = document.trim();
        if !document.is_empty() {
            writeln!(text, "---\n{document}").unwrap();
        }
    }
    text
}

#[test]
fn the_manifests_are_what_the_chart_gives_with_its_default_values() {
    for (file, manifest, values) in FILES {
        let text = part(&template(values).unwrap(), file);
        assert!(!text.is_empty(), "{file} gives nothing");
        let path = tree("manifests").join(manifest);
        if updating() {
            fs::write(&path, text).unwrap();
            continue;
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == text,
            "manifests/{manifest} is not what charts/lamina/templates/{file} gives; LAMINA_UPDATE=1 writes it anew"
        );
    }
}

#[test]
fn the_definitions_are_kept_when_the_chart_is_uninstalled() {
    let rendered = objects(&template(&[]).unwrap());
    for (file, name) in [("nodeworkloads", "nodeworkloads.lamina.dev"), ("nodereports", "nodereports.lamina.dev")] {
        let text = fs::read_to_string(tree("manifests/crds").join(format!("{file}.yaml"))).unwrap();
        let key = format!("CustomResourceDefinition/{name}");
        let mut found = rendered[&key].clone();
        let annotations = found["metadata"]["annotations"].as_object_mut().unwrap();
        assert_eq!(annotations.remove("helm.sh/resource-policy"), Some("keep".into()));
        assert!(annotations.is_empty());
        found["metadata"].as_object_mut().unwrap().remove("annotations");
        // `0.0` and `0` are one number.
        let same =
            |value: &Value| leaves(value).iter().map(|l| l.trim_end_matches(".0").to_owned()).collect::<Vec<_>>();
        assert!(same(&found) == same(&objects(&text)[&key]), "{name} is not that of manifests/crds");
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    let chart = tree("charts/lamina");
    let out = helm(&["lint", "--strict", chart.to_str().unwrap()]);
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// What a rendered chart is made of, an object a set of lines.
fn lines(rendered: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (key, object) in objects(rendered) {
        all.insert(key.clone());
        all.extend(leaves(&object).into_iter().map(|leaf| format!("{key} {leaf}")));
    }
    all
}

/// The longest new object that is told in full.
const SHORT: usize = 40;

/// What differs; of an object that is gone, or is new and long, only that it is.
fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for (sign, there, other) in [('-', before, after), ('+', after, before)] {
        for line in there.difference(other) {
            let object = line.split(' ').next().unwrap();
            let length = there.iter().filter(|l| l.split(' ').next() == Some(object)).count();
            if line == object || other.contains(object) || (sign == '+' && length <= SHORT) {
                writeln!(text, "{sign} {line}").unwrap();
            }
        }
    }
    text
}

/// A value's name without what people name themselves.
fn free(value: &str) -> &str {
    ["nodeSelector", "resources"].iter().find_map(|m| value.find(m).map(|at| &value[..at + m.len()])).unwrap_or(value)
}

/// The definitions are most of the chart, and have one value only.
const BARE: &str = "crds.install=false";

/// `values.txt`: a line `$ VALUE…` for each case, below it what that changes.
#[test]
fn every_value_changes_exactly_what_it_should() {
    let path = tree("tests/deployment/values.txt");
    let text = fs::read_to_string(&path).unwrap();
    let default = lines(&template(&[BARE]).unwrap());
    let (mut new, mut set) = (String::new(), BTreeSet::new());
    for line in text.lines() {
        if line.starts_with('#') {
            writeln!(new, "{line}").unwrap();
        }
        let Some(case) = line.strip_prefix("$ ") else { continue };
        let values: Vec<&str> = std::iter::once(BARE).chain(case.split(' ')).collect();
        let rendered = template(&values).unwrap_or_else(|e| panic!("{case}: {e}"));
        let changes = difference(&default, &lines(&rendered));
        assert!(!changes.is_empty(), "{case} changes nothing");
        write!(new, "\n$ {case}\n{changes}").unwrap();
        set.extend(
            values[1..].iter().map(|v| v.trim_start_matches("json:").split(['=', '[']).next().unwrap().to_owned()),
        );
    }
    let values: Value = serde_yaml::from_str(&fs::read_to_string(tree("charts/lamina/values.yaml")).unwrap()).unwrap();
    for leaf in leaves(&values) {
        let name = free(leaf.split([' ', '[']).next().unwrap());
        let tried = set
            .iter()
            .any(|s| free(s) == name || name.starts_with(&format!("{s}.")) || s.starts_with(&format!("{name}.")));
        assert!(tried, "no case in tests/deployment/values.txt for {name}");
    }
    if updating() {
        fs::write(&path, new).unwrap();
        return;
    }
    for (old, new) in text.lines().zip(new.lines()) {
        assert_eq!(old, new, "tests/deployment/values.txt; LAMINA_UPDATE=1 writes it anew");
    }
    assert_eq!(text.lines().count(), new.lines().count(), "tests/deployment/values.txt ends otherwise");
}

#[test]
fn a_value_that_cannot_be_is_refused_by_name() {
    let wrong = [
        ("agent.loglevel=debug", "'/agent'"),
        ("agent.logFormat=xml", "'/agent/logFormat'"),
        ("agent.maxUnavailable=0", "'/agent/maxUnavailable'"),
        ("agent.extraArgs[0]=gc-grace", "'/agent/extraArgs/0'"),
        ("agent.resources.requests.memory=much", "'/agent/resources/requests/memory'"),
        ("controller.replicas=0", "'/controller/replicas'"),
        ("controller.metricsPort=80", "'/controller/metricsPort'"),
        ("directories.root=var/lib", "'/directories/root'"),
        ("directories.root=/", "'/directories/root'"),
        ("image.digest=sha256:12", "'/image/digest'"),
        ("image.pullPolicy=never", "'/image/pullPolicy'"),
        ("metrics.port=70000", "'/metrics/port'"),
        ("metrics.insecure=maybe", "'/metrics/insecure'"),
        ("rbac.secrets[0].namespace=arena", "'/rbac/secrets/0'"),
        ("json:rbac.secrets=[{\"namespace\":\"arena\",\"names\":[]}]", "'/rbac/secrets/0/names'"),
        ("rbac.serviceAccountTokens=true", "'/rbac/serviceAccountTokens'"),
        ("monitoring.podMonitor.interval=30", "'/monitoring/podMonitor/interval'"),
        ("unknown=1", "'unknown'"),
    ];
    for (value, named) in wrong {
        let error = template(&[value]).expect_err(value);
        assert!(error.contains(named), "{value}: {error}");
    }
}

#[test]
fn the_notes_tell_how_to_drain_and_what_is_switched_off() {
    let notes = fs::read_to_string(tree("charts/lamina/templates/NOTES.txt")).unwrap();
    for said in
        ["kubectl delete nodeworkloads -A --all", "lamina drain", "pod-security.kubernetes.io/enforce=privileged"]
    {
        assert!(notes.contains(said), "the notes lack {said}");
    }
}

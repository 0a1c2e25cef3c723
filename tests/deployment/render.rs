//! The chart as helm renders it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A path of the tree.
pub(crate) fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The user's cache, as `lamina-setup` has it.
fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache")).join("lamina")
}

/// Runs helm without anything of the user's own.
pub(crate) fn helm(args: &[&str]) -> Output {
    let module = std::fs::read_to_string(tree("tests/setup/helm/go.mod")).unwrap();
    let version = module.lines().find_map(|l| l.trim().strip_prefix("helm.sh/helm/v4 v")).unwrap();
    let program = cache().join("helm").join(version.split_whitespace().next().unwrap()).join("helm");
    let home = tempfile::tempdir().unwrap();
    let variables = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];
    Command::new(&program)
        .args(args)
        .envs(variables.map(|name| (name, home.path())))
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}: `tests/run deployment` builds it", program.display()))
}

/// Renders the chart with these values (`--set`, or `--set-json` where one begins with `json:`).
pub(crate) fn template(values: &[&str]) -> Result<String, String> {
    let chart = tree("charts/lamina");
    let mut args = vec!["template", "lamina", chart.to_str().unwrap(), "--namespace", "lamina-system"];
    for value in values {
        match value.strip_prefix("json:") {
            Some(value) => args.extend(["--set-json", value]),
            None => args.extend(["--set", value]),
        }
    }
    let out = helm(&args);
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// The objects of YAML documents, by `Kind/name` (`Kind/namespace/name` outside lamina-system).
pub(crate) fn objects(text: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for document in format!("\n{text}").split("\n---") {
        if document.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let object: Value = serde_yaml::from_str(document).unwrap_or_else(|e| panic!("{e}\n{document}"));
        let name = object["metadata"]["name"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str().filter(|n| *n != "lamina-system");
        let place = namespace.map(|n| format!("{n}/")).unwrap_or_default();
        let key = format!("{}/{place}{name}", object["kind"].as_str().unwrap());
        assert!(all.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    all
}

/// Every value of a document with its path; items of lists go by their name, or are told apart by what they are alone.
pub(crate) fn leaves(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, String::new(), &mut found);
    found.sort();
    found
}

fn walk(value: &Value, at: String, found: &mut Vec<String>) {
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                walk(value, below(key), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                match item["name"].as_str() {
                    Some(name) => walk(item, below(name), found),
                    None => walk(item, format!("{at}[]"), found),
                }
            }
        }
        _ => found.push(format!("{at} = {value}")),
    }
}

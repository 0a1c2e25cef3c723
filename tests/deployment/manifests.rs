//! `manifests/` as they are applied: kustomize takes them, and the arguments of containers are ones that the binary knows.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::render::{objects, tree};

/// What `kubectl kustomize` makes of a directory.
fn kustomized(dir: &str) -> BTreeMap<String, Value> {
    let out = Command::new("kubectl").arg("kustomize").arg(tree(dir)).output().unwrap();
    assert!(out.status.success(), "{dir}: {}", String::from_utf8_lossy(&out.stderr));
    objects(&String::from_utf8(out.stdout).unwrap())
}

#[test]
fn kustomize_takes_the_manifests_and_the_example() {
    let base = kustomized("manifests");
    for key in ["Namespace/lamina-system", "DaemonSet/lamina-agent", "Deployment/lamina-controller"] {
        assert!(base.contains_key(key), "{key} is missing");
    }
    let rendered = objects(&crate::render::template(&[]).unwrap());
    for (key, object) in rendered.iter().filter(|(key, _)| !key.starts_with("CustomResourceDefinition/")) {
        assert_eq!(base.get(key), Some(object), "{key} of the chart is not that of manifests/");
    }
    assert_eq!(base.len(), rendered.len() + 1, "manifests/ has the namespace beyond the chart, and nothing else");
    let example = kustomized("manifests/overlays/example");
    let agent = &example["DaemonSet/lamina-agent"]["spec"]["template"]["spec"];
    assert_eq!(agent["containers"][0]["image"], "registry.example/lamina:0.1.0");
    assert_eq!(agent["nodeSelector"]["lamina.dev/agent"], "yes");
    assert!(example.contains_key("NodeWorkload/arena/game"));
    assert!(kustomized("manifests/monitoring").contains_key("PrometheusRule/lamina"));
}

#[test]
fn the_binary_knows_the_arguments_of_its_containers() {
    let base = kustomized("manifests");
    for key in ["DaemonSet/lamina-agent", "Deployment/lamina-controller"] {
        let container = &base[key]["spec"]["template"]["spec"]["containers"][0];
        let args: Vec<&str> = container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        let help = Command::new(env!("CARGO_BIN_EXE_lamina")).args([args[0], "--help"]).output().unwrap();
        assert!(help.status.success(), "lamina {} --help", args[0]);
        let help = String::from_utf8(help.stdout).unwrap();
        // A file that is named must be there, and a node need not have one.
        assert!(!args.iter().any(|arg| arg.starts_with("--config")), "{key}: {args:?}");
        for flag in args[1..].iter().map(|arg| arg.split('=').next().unwrap()) {
            let known = help.split_whitespace().any(|word| word == flag);
            assert!(known, "{key}: lamina {} has no {flag}", args[0]);
        }
    }
}

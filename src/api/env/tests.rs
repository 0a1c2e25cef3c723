//! Expansion by the letter of the Kubernetes documentation; nothing missing goes unnamed.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use proptest::prelude::*;
use serde_json::json;

use super::super::quantity::Quantity;
use super::*;

#[test]
fn a_key_of_a_file_is_its_value_and_what_is_missing_is_named() {
    let key = |path: &str, key: &str, optional: bool| {
        let from = json!({"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}});
        run(json!({"name": "app", "env": [{"name": "X", "valueFrom": from}]}))
    };
    let value = |value: &str| Ok(vec![("X".to_owned(), value.to_owned())]);
    assert_eq!(key("a.env", "A", false), value("one"));
    assert_eq!(key("a.env", "B", false), value("$(C)"), "what is in a file is not expanded");
    assert_eq!((key("a.env", "Z", true), key("none", "A", true)), (Ok(Vec::new()), Ok(Vec::new())));
    for (path, wanted, optional, reason) in [
        ("a.env", "Z", false, "it has no key \"Z\""),
        ("none", "A", false, "there is no such file"),
        ("bad", "A", true, "line 1 is not KEY='value'"),
        ("closed", "A", true, "permission denied"),
    ] {
        let said = key(path, wanted, optional).unwrap_err().to_string();
        assert_eq!(said, format!("file {path:?} of volume \"v\": {reason}"));
    }
}

#[derive(Default)]
struct Fixture {
    maps: BTreeMap<String, ConfigMap>,
    secrets: BTreeMap<String, Secret>,
}

impl Lookup for Fixture {
    fn file(&self, volume: &str, path: &str) -> Result<Option<&str>, String> {
        match (volume, path) {
            ("v", "a.env") => Ok(Some("A='one'\nB='$(C)'\n")),
            ("v", "bad") => Ok(Some("no")),
            ("v", "closed") => Err("permission denied".to_owned()),
            _ => Ok(None),
        }
    }

    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.maps.get(name)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::default();
    let data = [("MODE", "fast"), ("A.B", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    fixture.maps.insert("cm".into(), ConfigMap { data: Some(data.into()), ..ConfigMap::default() });
    let data = [("pw", &b"hush"[..]), ("raw", &b"\xff"[..])].map(|(k, v)| (k.to_owned(), ByteString(v.to_vec())));
    fixture.secrets.insert("s".into(), Secret { data: Some(data.into()), ..Secret::default() });
    fixture
}

fn run(container: Value) -> Result<Vec<(String, String)>, EnvError> {
    let container: Container = serde_json::from_value(container).unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "uid": "u", "labels": {"app": "x"}, "annotations": {"a/b": "c"}},
        "spec": {"containers": [container.clone()]}
    }))
    .unwrap();
    let node = NodeFacts {
        name: "n1".into(),
        host_ips: vec!["10.0.0.1".into()],
        pod_ips: vec!["127.0.0.1".into(), "::1".into()],
        cpu_milli: 2500,
        memory: 1 << 30,
        services: Vec::new(),
    };
    resolve(&pod, &container, &fixture(), &node)
}

use serde_json::Value;

fn pairs(container: Value) -> Vec<String> {
    run(container).unwrap().into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

#[test]
fn variables_are_expanded_in_order() {
    let env = json!([
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)$(C)$$(A)$(MODE)"},
        {"name": "C", "value": "3"},
        {"name": "A", "value": "again"}
    ]);
    assert_eq!(
        pairs(json!({"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "cm"}}]})),
        ["A.B=1", "MODE=fast", "A=again", "B=1$(C)$(A)fast", "C=3"]
    );
}

#[test]
fn prefixes_secrets_fields_and_resources_are_values() {
    let env = json!([
        {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "AN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a/b']"}}},
        {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "CPUM", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory"}}}
    ]);
    let container = json!({
        "name": "c", "env": env, "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
        "resources": {"limits": {"memory": "100Mi"}}
    });
    assert_eq!(
        pairs(container),
        [
            "P_A.B=1",
            "P_MODE=fast",
            "PW=hush",
            "POD=web",
            "NS=default",
            "L=x",
            "AN=c",
            "IPS=127.0.0.1,::1",
            "CPU=3",
            "CPUM=2500",
            "MEM=100",
            "REQ=104857600"
        ]
    );
}

#[test]
fn what_is_missing_is_named_without_values() {
    let key =
        |source: Value| run(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err().to_string();
    assert_eq!(key(json!({"configMapKeyRef": {"name": "no", "key": "k"}})), "ConfigMap \"no\" not found");
    assert_eq!(key(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})), "ConfigMap \"cm\" has no key \"k\"");
    assert_eq!(key(json!({"secretKeyRef": {"name": "s", "key": "raw"}})), "the value of \"X\" is not text");
    let from = run(json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]})).unwrap_err();
    assert_eq!(from, EnvError::Object { kind: "Secret", name: "no".into() });
    assert_eq!(pairs(json!({"name": "c", "envFrom": [{"secretRef": {"name": "no", "optional": true}}]})), [""; 0]);
}

#[test]
fn odd_dollars_stay_as_they_are() {
    let get = |name: &str| (name == "A").then_some("1");
    for (text, expected) in [
        ("$(A)", "1"),
        ("$A", "$A"),
        ("$(", "$("),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$$", "$"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$()", "$()"),
        ("$(B)$(A)", "$(B)1"),
        ("$($(A))", "$($(A))"),
        ("ä$(A)ö", "ä1ö"),
    ] {
        assert_eq!(expand(text, get), expected, "{text}");
    }
    assert_eq!(expand_all(&["x".into(), "$(Q)".into()], &[("Q".into(), "z".into())]), ["x", "z"]);
}

#[test]
fn only_fields_that_exist_are_fields() {
    for path in ["metadata.name", "metadata.labels['a']", "metadata.annotations[\"b/c\"]", "status.podIP"] {
        assert!(is_field(path), "{path}");
    }
    for path in ["metadata", "metadata.labels", "metadata.labels['']", "metadata.labels[a]", "spec.containers", ""] {
        assert!(!is_field(path), "{path}");
    }
    assert_eq!("1".parse::<Quantity>().unwrap().units(), 1);
}

proptest! {
    #[test]
    fn a_text_without_dollars_is_its_own_expansion(text in "[^$]{0,60}") {
        prop_assert_eq!(expand(&text, |_| Some("x")), text);
    }

    #[test]
    fn any_text_expands(text in "[$()A-C]{0,40}") {
        let _ = expand(&text, |_| None);
    }
}

#[test]
fn services_are_known_to_commands_and_give_way_to_the_manifests_own() {
    let pairs =
        |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    let node = NodeFacts {
        services: pairs(&[("DB_SERVICE_HOST", "10.96.0.1"), ("DB_SERVICE_PORT", "5432")]),
        ..NodeFacts::default()
    };
    let container: Container = serde_json::from_value(json!({"name": "c", "env": [
        {"name": "URL", "value": "db://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)/x"}, {"name": "DB_SERVICE_PORT", "value": "1"},
        {"name": "LATER", "value": "$(DB_SERVICE_PORT)"}
    ]}))
    .unwrap();
    let env = resolve(&Pod::default(), &container, &Fixture::default(), &node).unwrap();
    let expected = pairs(&[
        ("URL", "db://10.96.0.1:5432/x"),
        ("DB_SERVICE_PORT", "1"),
        ("LATER", "1"),
        ("DB_SERVICE_HOST", "10.96.0.1"),
    ]);
    assert_eq!(env, expected);
}

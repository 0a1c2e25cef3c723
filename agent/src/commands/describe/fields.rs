//! Parts of a container and of a pod in a line each, as kubectl words them.

use serde_json::Value;

use super::{items, pairs};
use crate::output::kinds::text;

/// As in `80/TCP (http), 53/UDP on host port 5353`.
pub(super) fn ports(container: &Value) -> String {
    let one = |port: &Value| {
        let protocol = Some(text(port, "/protocol")).filter(|p| !p.is_empty()).unwrap_or_else(|| "TCP".to_owned());
        let name = Some(text(port, "/name")).filter(|n| !n.is_empty()).map(|n| format!(" ({n})")).unwrap_or_default();
        let host = match text(port, "/hostPort").as_str() {
            "" | "0" => String::new(),
            number => format!(" on host port {number}"),
        };
        format!("{}/{protocol}{name}{host}", text(port, "/containerPort"))
    };
    items(container, "/ports").map(one).collect::<Vec<_>>().join(", ")
}

/// What a probe does, and when.
pub(super) fn probe(probe: &Value) -> String {
    if probe.is_null() {
        return String::new();
    }
    let http = &probe["httpGet"];
    let action = if http.is_object() {
        let scheme = text(http, "/scheme").to_lowercase();
        let scheme = if scheme.is_empty() { "http" } else { &scheme };
        format!("http-get {scheme}://{}:{}{}", text(http, "/host"), text(http, "/port"), text(http, "/path"))
    } else if probe["tcpSocket"].is_object() {
        format!("tcp-socket {}:{}", text(probe, "/tcpSocket/host"), text(probe, "/tcpSocket/port"))
    } else if probe["grpc"].is_object() {
        format!("grpc :{} {}", text(probe, "/grpc/port"), text(probe, "/grpc/service"))
    } else {
        let words: Vec<String> = items(probe, "/exec/command").map(super::scalar).collect();
        format!("exec {}", words.join(" "))
    };
    let number = |pointer, default: u64| probe.pointer(pointer).and_then(Value::as_u64).unwrap_or(default);
    format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        action.trim_end(),
        number("/initialDelaySeconds", 0),
        number("/timeoutSeconds", 1),
        number("/periodSeconds", 10),
        number("/successThreshold", 1),
        number("/failureThreshold", 3),
    )
}

/// A container's variables, each with its value or where that comes from; what a Secret holds is not looked up.
pub(super) fn environment(container: &Value) -> Vec<String> {
    let all = items(container, "/envFrom").map(|from| {
        let prefix = text(from, "/prefix");
        let optional = |pointer| if from.pointer(pointer) == Some(&Value::Bool(true)) { " (optional)" } else { "" };
        match (text(from, "/configMapRef/name"), text(from, "/secretRef/name")) {
            (map, _) if !map.is_empty() => {
                format!("{prefix}* from ConfigMap {map}{}", optional("/configMapRef/optional"))
            }
            (_, secret) => format!("{prefix}* from Secret {secret}{}", optional("/secretRef/optional")),
        }
    });
    let each = items(container, "/env").map(|variable| {
        let name = text(variable, "/name");
        let Some(from) = variable.get("valueFrom").and_then(Value::as_object) else {
            return format!("{name}={}", text(variable, "/value"));
        };
        let from = Value::Object(from.clone());
        let source = if from["configMapKeyRef"].is_object() {
            format!("key {} of ConfigMap {}", text(&from, "/configMapKeyRef/key"), text(&from, "/configMapKeyRef/name"))
        } else if from["secretKeyRef"].is_object() {
            format!("key {} of Secret {}", text(&from, "/secretKeyRef/key"), text(&from, "/secretKeyRef/name"))
        } else if from["fieldRef"].is_object() {
            format!("field {}", text(&from, "/fieldRef/fieldPath"))
        } else {
            format!("resource {}", text(&from, "/resourceFieldRef/resource"))
        };
        format!("{name} from {source}")
    });
    all.chain(each).collect()
}

/// What a volume is made from: its type, and what matters of it.
pub(super) fn volume(volume: &Value) -> String {
    let Some(map) = volume.as_object() else { return String::new() };
    let Some((kind, source)) = map.iter().find(|(key, value)| *key != "name" && !value.is_null()) else {
        return "emptyDir".to_owned();
    };
    let Some(fields) = source.as_object() else { return kind.clone() };
    let plain = |value: &Value| !value.is_object() && !value.is_array() && !value.is_null();
    let shown: serde_json::Map<String, Value> =
        fields.iter().filter(|(_, value)| plain(value)).map(|(k, v)| (k.clone(), v.clone())).collect();
    format!("{kind} {}", pairs(&Value::Object(shown))).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_worded_as_kubectl_words_them() {
        let container = json!({
            "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353}],
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "map", "optional": true}}],
            "env": [
                {"name": "A", "value": "b"},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        });
        assert_eq!(ports(&container), "80/TCP (http), 53/UDP on host port 5353");
        assert_eq!(
            environment(&container),
            ["P_* from ConfigMap map (optional)", "A=b", "S from key k of Secret s", "N from field metadata.name"]
        );
        assert_eq!(
            probe(&json!({"httpGet": {"port": "http", "path": "/ready"}, "periodSeconds": 2})),
            "http-get http://:http/ready delay=0s timeout=1s period=2s #success=1 #failure=3"
        );
        assert!(probe(&json!({"exec": {"command": ["test", "-e", "/x"]}})).starts_with("exec test -e /x delay="));
        assert_eq!(
            volume(&json!({"name": "v", "hostPath": {"path": "/x", "type": "Directory"}})),
            "hostPath path=/x, type=Directory"
        );
        assert_eq!(volume(&json!({"name": "v", "emptyDir": {}})), "emptyDir");
        assert_eq!(
            volume(&json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "a"}]}})),
            "configMap name=m"
        );
    }
}

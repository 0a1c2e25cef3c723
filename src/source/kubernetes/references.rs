//! Which ConfigMaps and Secrets a template names.

use std::collections::BTreeSet;

use serde_json::Value;

/// A ConfigMap or Secret of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) secret: bool,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Reference {
    /// As `ConfigMap arena/settings`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}/{}", if self.secret { "Secret" } else { "ConfigMap" }, self.namespace, self.name)
    }
}

/// Everything that a template of `namespace` names: volumes, projected sources, variables, pull secrets.
pub(super) fn references(namespace: &str, template: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    walk(namespace, template, &mut found);
    found
}

fn walk(namespace: &str, value: &Value, found: &mut BTreeSet<Reference>) {
    let mut add = |secret: bool, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str) {
            found.insert(Reference { secret, namespace: namespace.to_owned(), name: name.to_owned() });
        }
    };
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                match field.as_str() {
                    "configMap" | "configMapRef" | "configMapKeyRef" => add(false, value.get("name")),
                    "secretRef" | "secretKeyRef" => add(true, value.get("name")),
                    // A volume names it `secretName`, a projected source `name`.
                    "secret" => add(true, value.get("secretName").or_else(|| value.get("name"))),
                    "imagePullSecrets" => {
                        for secret in value.as_array().into_iter().flatten() {
                            add(true, secret.get("name"));
                        }
                    }
                    _ => {}
                }
            }
            // Labels and annotations are people's, whatever they are called.
            for (_, value) in
                map.iter().filter(|(f, _)| !matches!(f.as_str(), "labels" | "annotations" | "matchLabels"))
            {
                walk(namespace, value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| walk(namespace, value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_that_names_one_is_found() {
        let template = json!({
            "metadata": { "annotations": { "configMap": "no" }, "labels": { "secret": "no" } },
            "spec": {
                "imagePullSecrets": [{ "name": "pull" }],
                "volumes": [
                    { "name": "a", "configMap": { "name": "files" } },
                    { "name": "b", "secret": { "secretName": "keys" } },
                    { "name": "c", "projected": { "sources": [
                        { "configMap": { "name": "part" } }, { "secret": { "name": "half" } },
                    ] } },
                ],
                "initContainers": [{ "name": "i", "envFrom": [{ "configMapRef": { "name": "all" } }] }],
                "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "whole" } }], "env": [
                    { "name": "X", "valueFrom": { "configMapKeyRef": { "name": "one", "key": "k" } } },
                    { "name": "Y", "valueFrom": { "secretKeyRef": { "name": "two", "key": "k" } } },
                ] }],
            },
        });
        let names: Vec<String> = references("arena", &template).iter().map(Reference::shown).collect();
        assert_eq!(
            names,
            [
                "ConfigMap arena/all",
                "ConfigMap arena/files",
                "ConfigMap arena/one",
                "ConfigMap arena/part",
                "Secret arena/half",
                "Secret arena/keys",
                "Secret arena/pull",
                "Secret arena/two",
                "Secret arena/whole",
            ]
        );
    }
}

//! The pod template of a workload: kept as it was written, with the schema of core/v1.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::document::{self, Object};
use super::super::problem::Problem;
use super::token::{self, Token};

/// A core/v1 PodTemplateSpec as it was written. It is read strictly by [`Template::pod`], so that one that nothing can
/// be made of hurts nothing but its own workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub Value);

/// Lists of core/v1 that are maps, by the field that holds them, and their keys. Fields of one name have the same keys
/// wherever they are in a pod.
const MAPS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("env", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];
/// Where the same name is something else.
const NOT_MAPS: &[(&str, &str)] = &[("resources", "claims")];

impl Template {
    /// The tokens of service accounts that it asks for, for a workload of `namespace`.
    pub fn tokens(&self, namespace: &str) -> BTreeSet<Token> {
        token::replace(namespace, &mut self.0.clone())
    }

    /// The pod that it makes, named `name` in `namespace`, with nothing defaulted; all that is wrong, by paths below the
    /// workload's `spec.template`. The second part names fields that do nothing here, on purpose.
    ///
    /// # Errors
    /// Every problem, if there is one.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<(Pod, Vec<String>), Vec<Problem>> {
        let wrong = |path: &str, reason: &str| {
            vec![Problem {
                file: String::new(),
                document: 1,
                object: Some(format!("NodeWorkload {namespace}/{name}")),
                path: path.to_owned(),
                reason: reason.to_owned(),
            }]
        };
        let mut template = self.0.clone();
        token::replace(namespace, &mut template);
        let Value::Object(template) = template else { return Err(wrong("spec.template", "must be a map")) };
        if let Some(other) = template.keys().find(|key| !matches!(key.as_str(), "metadata" | "spec")) {
            return Err(wrong(&format!("spec.template.{other}"), "unknown field"));
        }
        let mut metadata = match template.get("metadata") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(metadata)) => metadata.clone(),
            Some(_) => return Err(wrong("spec.template.metadata", "must be a map")),
        };
        metadata.retain(|key, _| matches!(key.as_str(), "labels" | "annotations"));
        metadata.insert("name".into(), name.into());
        metadata.insert("namespace".into(), namespace.into());
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template.get("spec").cloned().unwrap_or_default(),
        });
        let mut parsed = document::parse("", pod.to_string().as_bytes());
        if parsed.problems.is_empty()
            && let Some(document) = parsed.documents.pop()
            && let Object::Pod(pod) = document.object
        {
            return Ok((*pod, document.ignored));
        }
        for problem in &mut parsed.problems {
            problem.object = Some(format!("NodeWorkload {namespace}/{name}"));
            problem.path = match problem.path.as_str() {
                "" => "spec.template".to_owned(),
                path => format!("spec.template.{path}"),
            };
        }
        Err(parsed.problems)
    }
}

impl JsonSchema for Template {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = PodTemplateSpec::json_schema(generator);
        let mut value = std::mem::take(&mut schema).to_value();
        resolve(&mut value, generator);
        maps("", &mut value);
        if let Some(object) = value.as_object_mut() {
            object.insert("required".into(), json!(["spec"]));
        }
        let metadata = json!({
            "type": "object",
            "properties": {
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                "annotations": { "type": "object", "additionalProperties": { "type": "string" } },
                // Written as null by every program in Go.
                "creationTimestamp": { "type": "string", "format": "date-time", "nullable": true },
                "name": { "type": "string" },
            },
        });
        value["properties"]["metadata"] = metadata;
        value["properties"]["spec"]["properties"]["containers"]["minItems"] = json!(1);
        // A map always is one.
        Schema::try_from(value).unwrap_or_default()
    }
}

/// Puts the definitions that a schema refers to in the places of the references.
fn resolve(value: &mut Value, generator: &SchemaGenerator) {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~");
        if let Some(definition) = generator.definitions().get(&name) {
            *value = definition.clone();
        }
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|v| resolve(v, generator)),
        Value::Array(list) => list.iter_mut().for_each(|v| resolve(v, generator)),
        _ => {}
    }
}

/// Marks lists as maps, leaves out the descriptions (a definition with them is more than `kubectl apply` can annotate),
/// and makes quantities say that they may be numbers.
fn maps(field: &str, schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("description");
    if let Some(items) = object.get_mut("items") {
        maps("", items);
        if let Some((_, keys)) = MAPS.iter().find(|(name, _)| *name == field) {
            keep_keys(items, keys);
            object.insert("x-kubernetes-list-type".into(), json!("map"));
            object.insert("x-kubernetes-list-map-keys".into(), json!(keys));
        } else {
            object.insert("x-kubernetes-list-type".into(), json!("atomic"));
        }
    }
    if let Some(values) = object.get_mut("additionalProperties") {
        maps("", values);
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let name = if NOT_MAPS.contains(&(field, name.as_str())) { "" } else { name.as_str() };
            maps(name, property);
        }
    }
}

/// The keys of a list that is a map must be there, or have a default.
fn keep_keys(items: &mut Value, keys: &[&str]) {
    let mut required: Vec<Value> = items.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    for key in keys {
        match *key {
            "protocol" => items["properties"]["protocol"]["default"] = json!("TCP"),
            key if !required.iter().any(|r| r == key) => required.push(json!(key)),
            _ => {}
        }
    }
    items["required"] = json!(required);
}

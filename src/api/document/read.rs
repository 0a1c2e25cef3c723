//! From a file's text to objects: which kind a document is, the parts of Lists, and every check in turn.

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use serde_json::{Map, Value};

use super::super::decode::{Misfit, decode};
use super::super::ids::DEFAULT_NAMESPACE;
use super::super::problem::Problem;
use super::super::{fields, text, validate};
use super::{Document, IgnoredObject, Kind, Object, ObjectKey, Parsed};

/// How deep Lists may hold Lists.
const MAX_LISTS: usize = 4;

/// Kinds that are accepted, so that files written for a cluster load, and do nothing here; by API group.
const IGNORED: &[(&str, &str)] = &[
    ("", "Namespace"),
    ("", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("autoscaling", "HorizontalPodAutoscaler"),
];

/// Reads a manifest; `file` is what problems call it. One bad document does not hurt the others, unless the text itself
/// breaks off: then nothing is returned but the problem, since what comes before may be half of what was meant.
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    let mut reading = Reading { file, parsed: Parsed::default(), seen: HashMap::new() };
    match text::read(bytes) {
        Err(error) => reading.parsed.problems.push(Problem::file(file, error.to_string())),
        Ok(documents) => {
            for (index, document) in documents {
                match document {
                    Ok(value) => reading.value(index, value, 0),
                    Err(error) => reading.problem(index, None, "", error.to_string()),
                }
            }
        }
    }
    reading.parsed
}

struct Reading<'f> {
    file: &'f str,
    parsed: Parsed,
    /// Which document has which object.
    seen: HashMap<ObjectKey, usize>,
}

impl Reading<'_> {
    fn problem(&mut self, document: usize, object: Option<String>, path: &str, reason: impl Into<String>) {
        self.parsed.problems.push(Problem {
            file: self.file.to_owned(),
            document,
            object,
            path: path.to_owned(),
            reason: reason.into(),
        });
    }

    fn value(&mut self, index: usize, value: Value, lists: usize) {
        let Value::Object(mut map) = value else {
            return self.problem(index, None, "", "must be a map with apiVersion and kind");
        };
        let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        for (key, value) in [("apiVersion", &version), ("kind", &kind)] {
            if value.is_empty() {
                return self.problem(index, None, key, "must be given");
            }
        }
        if kind == "List" && version == "v1" {
            if lists >= MAX_LISTS {
                return self.problem(index, None, "items", format!("Lists nest deeper than {MAX_LISTS}"));
            }
            match map.remove("items") {
                Some(Value::Array(items)) => items.into_iter().for_each(|item| self.value(index, item, lists + 1)),
                None | Some(Value::Null) => {}
                Some(_) => self.problem(index, None, "items", "must be a list"),
            }
            return;
        }
        self.object(index, &version, &kind, map);
    }

    fn object(&mut self, index: usize, version: &str, kind: &str, mut map: Map<String, Value>) {
        let name = label(kind, &map);
        let (group, _) = version.split_once('/').unwrap_or(("", version));
        if IGNORED.contains(&(group, kind)) {
            let object = ignored(version, kind, &map);
            return self.accept(Document { index, object: Object::Ignored(object), ignored: Vec::new() }, name);
        }
        let (known, wanted) = match kind {
            "Pod" => (Kind::Pod, "v1"),
            "ConfigMap" => (Kind::ConfigMap, "v1"),
            "Secret" => (Kind::Secret, "v1"),
            "Deployment" => (Kind::Deployment, "apps/v1"),
            "DaemonSet" => (Kind::DaemonSet, "apps/v1"),
            "StatefulSet" => (Kind::StatefulSet, "apps/v1"),
            "Job" => (Kind::Job, "batch/v1"),
            "CronJob" => (Kind::CronJob, "batch/v1"),
            "Service" => (Kind::Service, "v1"),
            "PersistentVolumeClaim" => (Kind::PersistentVolumeClaim, "v1"),
            kind => {
                return self.problem(
                    index,
                    Some(name),
                    "",
                    format!("the kind {} {kind} is not supported", cut(version)),
                );
            }
        };
        if version != wanted {
            return self.problem(index, Some(name), "apiVersion", format!("must be {wanted} for a {kind}"));
        }
        map.remove("apiVersion");
        map.remove("kind");
        let mut misfits = Vec::new();
        if known == Kind::Secret {
            misfits.extend(string_data(&mut map));
        } else if known != Kind::ConfigMap {
            nul(&map, &mut misfits);
        }
        let document = Value::Object(map);
        let answers = fields::answers(known, &document);
        misfits.extend(answers.refused.into_iter().map(|(path, reason)| Misfit { path, reason }));
        let object = match known {
            Kind::Pod => decode::<Pod>(&document).map(|o| Object::Pod(Box::new(o))),
            Kind::ConfigMap => decode::<ConfigMap>(&document).map(|o| Object::ConfigMap(Box::new(o))),
            Kind::Secret => decode::<Secret>(&document).map(|o| Object::Secret(Box::new(o))),
            Kind::Deployment => decode::<Deployment>(&document).map(|o| Object::Deployment(Box::new(o))),
            Kind::DaemonSet => decode::<DaemonSet>(&document).map(|o| Object::DaemonSet(Box::new(o))),
            Kind::StatefulSet => decode::<StatefulSet>(&document).map(|o| Object::StatefulSet(Box::new(o))),
            Kind::CronJob => decode::<CronJob>(&document).map(|o| Object::CronJob(Box::new(o))),
            Kind::Service => decode::<Service>(&document).map(|o| Object::Service(Box::new(o))),
            Kind::PersistentVolumeClaim => {
                decode::<PersistentVolumeClaim>(&document).map(|o| Object::PersistentVolumeClaim(Box::new(o)))
            }
            _ => decode::<Job>(&document).map(|o| Object::Job(Box::new(o))),
        };
        match object {
            Ok(object) => {
                misfits.extend(validate::validate(&object));
                if misfits.is_empty() {
                    return self.accept(Document { index, object, ignored: answers.ignored }, name);
                }
            }
            Err(more) => misfits.extend(more),
        }
        let mut told: Vec<(String, String)> = Vec::new();
        for misfit in misfits {
            // A field that is refused as a whole may be found wanting for its content, too: once is enough.
            let below = |path: &str| misfit.path == *path || misfit.path.starts_with(&format!("{path}."));
            if !told.iter().any(|(path, _)| !path.is_empty() && below(path)) {
                told.push((misfit.path.clone(), misfit.reason.clone()));
                self.problem(index, Some(name.clone()), &misfit.path, misfit.reason);
            }
        }
    }

    fn accept(&mut self, document: Document, name: String) {
        let key = document.object.key();
        match self.seen.get(&key) {
            Some(first) if document.object.kind() != Kind::Ignored => {
                let reason =
                    format!("is in this file twice; document {first} counts, document {} does not", document.index);
                self.problem(document.index, Some(name), "", reason);
            }
            _ => {
                self.seen.insert(key, document.index);
                self.parsed.documents.push(document);
            }
        }
    }
}

/// Moves a Secret's `stringData` into `data`, where it wins, as the API server does.
fn string_data(map: &mut Map<String, Value>) -> Vec<Misfit> {
    use base64::Engine as _;
    let mut misfits = Vec::new();
    match map.remove("stringData") {
        None | Some(Value::Null) => {}
        Some(Value::Object(strings)) => {
            let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
            if data.is_null() {
                *data = Value::Object(Map::new());
            }
            for (key, value) in strings {
                match (value, data.as_object_mut()) {
                    (Value::String(text), Some(data)) => {
                        data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
                    }
                    (Value::String(_), None) => {}
                    _ => misfits
                        .push(Misfit { path: format!("stringData[{key:?}]"), reason: "must be a string".to_owned() }),
                }
            }
        }
        Some(_) => misfits.push(Misfit { path: "stringData".to_owned(), reason: "must be a map".to_owned() }),
    }
    misfits
}

/// No string of a pod may hold a NUL: each may end in a system call.
fn nul(map: &Map<String, Value>, misfits: &mut Vec<Misfit>) {
    fn look(value: &Value, path: &str, misfits: &mut Vec<Misfit>) {
        match value {
            Value::String(text) if text.contains('\0') => {
                misfits.push(Misfit { path: path.to_owned(), reason: "must not contain a NUL character".to_owned() });
            }
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| look(v, &format!("{path}[{i}]"), misfits)),
            Value::Object(map) => {
                for (key, value) in map {
                    look(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, misfits);
                }
            }
            _ => {}
        }
    }
    for (key, value) in map {
        look(value, key, misfits);
    }
}

fn ignored(version: &str, kind: &str, map: &Map<String, Value>) -> IgnoredObject {
    let (namespace, name) = names(map);
    IgnoredObject { api_version: version.to_owned(), kind: kind.to_owned(), namespace, name: name.unwrap_or_default() }
}

fn names(map: &Map<String, Value>) -> (Option<String>, Option<String>) {
    let text = |key| map.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).map(cut);
    (text("namespace"), text("name"))
}

/// What a problem calls an object, before anything of it has been checked: `Pod default/web`.
fn label(kind: &str, map: &Map<String, Value>) -> String {
    let (namespace, name) = names(map);
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    format!("{} {namespace}/{}", cut(kind), name.unwrap_or_else(|| "(no name)".to_owned()))
}

/// A text from outside, short enough and plain enough for a line of a log.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}

//! What each field of a manifest does here: honoured, rejected, not there yet, or ignored on purpose. Nothing is dropped
//! in silence: a test compares these tables with every field that the Kubernetes types have.
//!
//! A table entry covers what lies below it, unless an entry of its own says otherwise. Paths leave list indices out.

mod table;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::document::Kind;

/// What a field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What the Kubernetes documentation says.
    Honoured,
    /// The object is not taken: Lamina does not do this.
    Rejected,
    /// Nothing: it steers what is not here.
    Ignored,
}

impl Answer {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Rejected => "rejected",
            Self::Ignored => "ignored",
        }
    }
}

/// What one field does.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its path within its table.
    pub path: &'static str,
    /// What it does.
    pub answer: Answer,
    /// Why it is refused or ignored, in the words of an error; empty for most that are honoured.
    pub note: &'static str,
    /// Values (as JSON) that ask for nothing but what happens anyway, so that they may be written out.
    pub unless: &'static [&'static str],
}

/// A row of the whole table, for documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The kind of object.
    pub kind: Kind,
    /// The field's whole path.
    pub path: String,
    /// What it does.
    pub answer: Answer,
    /// Why, where it is not simply honoured.
    pub note: &'static str,
}

/// A table by path.
type Index = HashMap<&'static str, &'static Field>;

fn index(fields: &'static [Field]) -> Index {
    fields.iter().map(|f| (f.path, f)).collect()
}

static META: LazyLock<Index> = LazyLock::new(|| index(table::META));
static TEMPLATE_META: LazyLock<Index> =
    LazyLock::new(|| index(table::META).into_iter().chain(index(table::TEMPLATE_META)).collect());
static POD: LazyLock<Index> = LazyLock::new(|| index(table::POD));
static DEPLOYMENT: LazyLock<Index> = LazyLock::new(|| index(table::DEPLOYMENT));
static DAEMON_SET: LazyLock<Index> = LazyLock::new(|| index(table::DAEMON_SET));
static STATEFUL_SET: LazyLock<Index> = LazyLock::new(|| index(table::STATEFUL_SET));
static CRON_JOB: LazyLock<Index> = LazyLock::new(|| index(table::CRON_JOB));
static JOB: LazyLock<Index> = LazyLock::new(|| index(table::JOB));
static SERVICE: LazyLock<Index> = LazyLock::new(|| index(table::SERVICE));
static CLAIM: LazyLock<Index> = LazyLock::new(|| index(table::CLAIM));

/// Where in an object of a kind which table holds; one that lies deeper holds there alone.
fn tables(kind: Kind) -> Vec<(&'static str, &'static Index)> {
    let workload = |spec: &'static LazyLock<Index>| -> Vec<(&'static str, &'static Index)> {
        vec![
            ("metadata", &META),
            ("spec", spec),
            ("spec.template.metadata", &TEMPLATE_META),
            ("spec.template.spec", &POD),
        ]
    };
    match kind {
        Kind::Pod => vec![("metadata", &META), ("spec", &POD)],
        Kind::Deployment => workload(&DEPLOYMENT),
        Kind::DaemonSet => workload(&DAEMON_SET),
        Kind::StatefulSet => workload(&STATEFUL_SET),
        Kind::Job => workload(&JOB),
        Kind::CronJob => vec![
            ("metadata", &META),
            ("spec", &CRON_JOB),
            ("spec.jobTemplate.metadata", &META),
            ("spec.jobTemplate.spec", &JOB),
            ("spec.jobTemplate.spec.template.metadata", &TEMPLATE_META),
            ("spec.jobTemplate.spec.template.spec", &POD),
        ],
        Kind::Service => vec![("metadata", &META), ("spec", &SERVICE)],
        Kind::PersistentVolumeClaim => vec![("metadata", &META), ("spec", &CLAIM)],
        Kind::ConfigMap | Kind::Secret => vec![("metadata", &META)],
        Kind::Ignored | Kind::Node | Kind::Source | Kind::Image => Vec::new(),
    }
}

/// The fields of a document that are not simply honoured.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Path and reason of each that is refused.
    pub(super) refused: Vec<(String, String)>,
    /// Paths of those that do nothing, on purpose.
    pub(super) ignored: Vec<String>,
}

/// Looks every field of a document up.
pub(super) fn answers(kind: Kind, document: &Value) -> Answers {
    let mut answers = Answers::default();
    if document.get("status").is_some_and(|s| !is_nothing(s)) {
        answers.ignored.push("status".to_owned());
    }
    let tables = tables(kind);
    for (place, table) in &tables {
        let Some(value) = place.split('.').try_fold(document, |v, key| v.get(key)) else { continue };
        let walk = Walk { place, table, tables: &tables };
        walk.children(value, place, "", &mut answers);
    }
    answers
}

/// Whether a value says no more than that there is nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

struct Walk<'t> {
    place: &'t str,
    table: &'t Index,
    tables: &'t [(&'static str, &'static Index)],
}

impl Walk<'_> {
    /// Looks at what is below a value that is itself all right. `shown` is the path with indices, `path` the table's.
    fn children(&self, value: &Value, shown: &str, path: &str, answers: &mut Answers) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.field(value, &format!("{shown}.{key}"), &path, answers);
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    self.children(value, &format!("{shown}[{i}]"), path, answers);
                }
            }
            _ => {}
        }
    }

    /// What holds for a field of a container holds for that of an init container.
    fn as_container(&self, path: &str) -> Option<&&'static Field> {
        self.table.get(format!("containers.{}", path.strip_prefix("initContainers.")?).as_str())
    }

    fn field(&self, value: &Value, shown: &str, path: &str, answers: &mut Answers) {
        // A table of its own begins here.
        if self
            .tables
            .iter()
            .any(|(place, _)| place.strip_prefix(self.place).is_some_and(|p| p.strip_prefix('.') == Some(path)))
        {
            return;
        }
        let Some(field) = self.table.get(path).or_else(|| self.as_container(path)) else {
            return self.children(value, shown, path, answers);
        };
        match field.answer {
            Answer::Honoured => self.children(value, shown, path, answers),
            _ if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => {}
            _ if field.unless.iter().any(|u| serde_json::from_str::<Value>(u).is_ok_and(|u| u == *value)) => {}
            Answer::Ignored if is_nothing(value) => {}
            Answer::Ignored => answers.ignored.push(shown.to_owned()),
            Answer::Rejected => answers.refused.push((shown.to_owned(), refusal(field))),
        }
    }
}

fn refusal(field: &Field) -> String {
    let verdict = "not supported";
    if field.note.is_empty() {
        verdict.to_owned()
    } else if field.note.contains(verdict) {
        field.note.to_owned()
    } else {
        format!("{verdict}: {}", field.note)
    }
}

/// The whole table of a kind, for documentation.
pub fn rows(kind: Kind) -> Vec<Row> {
    let own: &[(&str, &[Field])] = match kind {
        Kind::Pod => &[("metadata", table::META), ("spec", table::POD)],
        Kind::Deployment => &[("spec", table::DEPLOYMENT)],
        Kind::DaemonSet => &[("spec", table::DAEMON_SET)],
        Kind::StatefulSet => &[("spec", table::STATEFUL_SET)],
        Kind::Job => &[("spec", table::JOB)],
        Kind::CronJob => &[("spec", table::CRON_JOB)],
        Kind::Service => &[("spec", table::SERVICE)],
        Kind::PersistentVolumeClaim => &[("spec", table::CLAIM)],
        _ => &[],
    };
    own.iter()
        .flat_map(|(place, fields)| {
            fields.iter().map(move |f| Row {
                kind,
                path: format!("{place}.{}", f.path),
                answer: f.answer,
                note: f.note,
            })
        })
        .collect()
}

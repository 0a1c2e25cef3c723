//! Every field of the Kubernetes types has an answer; what is refused is refused by name.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DeploymentSpec, StatefulSetSpec};
use k8s_openapi::api::batch::v1::{CronJobSpec, JobSpec};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use super::*;

/// A deserialiser that has every field of every struct, and notes their paths.
struct Shape<'s> {
    path: String,
    seen: &'s mut BTreeSet<String>,
}

#[derive(Debug)]
struct Never(String);

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Never {}

impl de::Error for Never {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl<'de> Deserializer<'de> for Shape<'_> {
    type Error = Never;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_bool(false)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        // The one kind of object within another.
        visitor.visit_str(match self.path.as_str() {
            "volumeClaimTemplates.apiVersion" => "v1",
            "volumeClaimTemplates.kind" => "PersistentVolumeClaim",
            _ => "",
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Never> {
        if name.contains("Time") {
            let text: StrDeserializer<'_, Never> = "1970-01-01T00:00:00Z".into_deserializer();
            return visitor.visit_newtype_struct(text);
        }
        if name == "FieldsV1" {
            let map = de::value::MapDeserializer::<_, Never>::new(std::iter::empty::<(&str, &str)>());
            return visitor.visit_newtype_struct(map);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_seq(Once { shape: Some(self) })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Never> {
        visitor.visit_map(Each { fields: &[], current: "", path: &self.path, seen: self.seen })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Never> {
        visitor.visit_map(Each { fields, current: "", path: &self.path, seen: self.seen })
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct Once<'s> {
    shape: Option<Shape<'s>>,
}

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Never;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Never> {
        self.shape.take().map(|s| seed.deserialize(s)).transpose()
    }
}

struct Each<'s> {
    fields: &'static [&'static str],
    current: &'static str,
    path: &'s str,
    seen: &'s mut BTreeSet<String>,
}

impl<'de> MapAccess<'de> for Each<'_> {
    type Error = Never;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Never> {
        let Some((first, rest)) = self.fields.split_first() else { return Ok(None) };
        (self.current, self.fields) = (first, rest);
        let key: StrDeserializer<'_, Never> = (*first).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Never> {
        let path =
            if self.path.is_empty() { self.current.to_owned() } else { format!("{}.{}", self.path, self.current) };
        self.seen.insert(path.clone());
        seed.deserialize(Shape { path, seen: self.seen })
    }
}

fn shape<T: for<'de> Deserialize<'de>>() -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    T::deserialize(Shape { path: String::new(), seen: &mut seen }).map(|_| ()).unwrap();
    seen
}

/// Structs whose fields are each answered for, not only as a whole.
const OPEN: &[&str] = &[
    "",
    "containers",
    "containers.env",
    "containers.env.valueFrom",
    "containers.ports",
    "containers.resizePolicy",
    "containers.resources",
    "containers.securityContext",
    "containers.volumeMounts",
    "securityContext",
    "volumes",
    "volumes.configMap",
    "volumes.configMap.items",
    "volumes.emptyDir",
    "volumes.hostPath",
    "volumes.image",
    "volumes.nfs",
    "volumes.persistentVolumeClaim",
    "volumes.secret",
    "volumes.secret.items",
];

fn check<T: for<'de> Deserialize<'de>>(table: &'static [Field]) {
    let shape = shape::<T>();
    let known: BTreeSet<_> = table.iter().map(|f| f.path.to_owned()).collect();
    assert_eq!(known.len(), table.len(), "a path is in the table twice");
    for path in &known {
        assert!(shape.contains(path), "{path} is not a field");
    }
    for path in &shape {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        assert!(!OPEN.contains(&parent) || known.contains(path), "{path} has no answer");
    }
}

#[test]
fn every_field_has_an_answer() {
    check::<PodSpec>(table::POD);
    check::<ObjectMeta>(table::META);
    check::<DeploymentSpec>(table::DEPLOYMENT);
    check::<DaemonSetSpec>(table::DAEMON_SET);
    check::<StatefulSetSpec>(table::STATEFUL_SET);
    check::<JobSpec>(table::JOB);
    check::<CronJobSpec>(table::CRON_JOB);
    check::<k8s_openapi::api::core::v1::ServiceSpec>(table::SERVICE);
    check::<k8s_openapi::api::core::v1::PersistentVolumeClaimSpec>(table::CLAIM);
}

fn refused(kind: Kind, document: &Value) -> Vec<String> {
    answers(kind, document).refused.into_iter().map(|(p, r)| format!("{p}: {r}")).collect()
}

#[test]
fn fields_that_are_not_there_are_refused_by_name() {
    let pod = json!({"metadata": {"generateName": "a-"}, "spec": {
        "containers": [{"volumeDevices": [{}]}],
        "volumes": [{"name": "a", "csi": {}}, {"name": "b", "glusterfs": {}}]
    }});
    assert_eq!(
        refused(Kind::Pod, &pod),
        [
            "metadata.generateName: not supported: an object needs a name of its own",
            "spec.containers[0].volumeDevices: raw block devices are not supported",
            "spec.volumes[0].csi: CSI drivers are not supported",
            "spec.volumes[1].glusterfs: this volume type is not supported",
        ]
    );
}

#[test]
fn a_refused_field_that_asks_for_nothing_is_fine() {
    let pod = json!({"metadata": {"creationTimestamp": null}, "spec": {
        "initContainers": [], "hostPID": false, "hostUsers": true, "dnsConfig": {}, "volumes": null,
        "containers": [{"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeDevices": [], "livenessProbe": null}],
        "affinity": {}
    }});
    let answers = answers(Kind::Pod, &pod);
    assert!(answers.refused.is_empty() && answers.ignored.is_empty(), "{answers:?}");
}

#[test]
fn what_is_ignored_on_purpose_is_listed() {
    let deployment = json!({"metadata": {"uid": "x"}, "status": {"replicas": 1}, "spec": {
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {"metadata": {"name": "x"}, "spec": {"nodeSelector": {"a": "b"}, "serviceAccountName": "x",
            "volumes": [{"name": "a", "csi": {}}]}}
    }});
    let answers = answers(Kind::Deployment, &deployment);
    assert_eq!(
        answers.ignored,
        [
            "status",
            "metadata.uid",
            "spec.template.metadata.name",
            "spec.template.spec.nodeSelector",
            "spec.template.spec.serviceAccountName"
        ]
    );
    assert_eq!(answers.refused.len(), 1);
    assert!(!rows(Kind::Deployment).is_empty() && rows(Kind::Pod).len() > 150);
}

//! Pods, and the containers and volumes in them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::PodView;
use crate::server::problem::{Problem, Reason};

/// The pods as they are published, with their kind, as Kubernetes shows objects.
pub(super) fn pods(pods: &[Arc<PodView>]) -> Result<Vec<Value>, Problem> {
    pods.iter()
        .map(|pod| {
            let mut value = serde_json::to_value(pod.as_ref()).map_err(|e| Problem::of(Reason::Failed, &e))?;
            if let Value::Object(map) = &mut value {
                let rest = std::mem::take(map);
                map.insert("apiVersion".into(), json!("v1"));
                map.insert("kind".into(), json!("Pod"));
                map.extend(rest);
            }
            Ok(value)
        })
        .collect()
}

/// One object a container.
pub(super) fn containers(pods: &[Arc<PodView>]) -> Vec<Value> {
    let mut out = Vec::new();
    for pod in pods {
        let key = pod.key();
        let spec = pod.pod.spec.as_ref();
        for container in spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())) {
            let extras = pod.lamina.containers.iter().find(|c| c.name == container.name);
            let status = pod.status_of(&container.name);
            let mut shown = match serde_json::to_value(status) {
                Ok(Value::Object(map)) => map,
                _ => Map::new(),
            };
            if let Some(Value::Object(more)) = extras.and_then(|e| serde_json::to_value(e).ok()) {
                shown.extend(more);
            }
            out.push(json!({
                "apiVersion": "lamina.dev/v1",
                "kind": "Container",
                "metadata": {
                    "namespace": key.namespace,
                    "name": format!("{}/{}", key.name, container.name),
                    "labels": pod.pod.metadata.labels,
                },
                "spec": {"pod": key.name, "container": container.name, "image": container.image},
                "status": shown,
            }));
        }
    }
    out
}

/// One object a volume of a pod.
pub(super) fn volumes(pods: &[Arc<PodView>]) -> Vec<Value> {
    let mut out = Vec::new();
    for pod in pods {
        let key = pod.key();
        let Some(spec) = &pod.pod.spec else { continue };
        for volume in spec.volumes.iter().flatten() {
            let mounts: Vec<String> = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .flat_map(|c| c.volume_mounts.iter().flatten().map(move |m| (c, m)))
                .filter(|(_, mount)| mount.name == volume.name)
                .map(|(container, mount)| format!("{}:{}", container.name, mount.mount_path))
                .collect();
            let (kind, from) = source(volume);
            out.push(json!({
                "apiVersion": "lamina.dev/v1",
                "kind": "Volume",
                "metadata": {
                    "namespace": key.namespace,
                    "name": format!("{}/{}", key.name, volume.name),
                    "labels": pod.pod.metadata.labels,
                },
                "spec": {"pod": key.name, "volume": volume.name, "type": kind, "from": from},
                "status": {"mounts": mounts},
            }));
        }
    }
    out
}

/// A volume's kind, and what it is made from.
fn source(volume: &k8s_openapi::api::core::v1::Volume) -> (&'static str, String) {
    if let Some(path) = &volume.host_path {
        ("hostPath", path.path.clone())
    } else if let Some(map) = &volume.config_map {
        ("configMap", map.name.clone())
    } else if let Some(secret) = &volume.secret {
        ("secret", secret.secret_name.clone().unwrap_or_default())
    } else if let Some(empty) = &volume.empty_dir {
        ("emptyDir", empty.medium.clone().unwrap_or_default())
    } else if let Some(claim) = &volume.persistent_volume_claim {
        ("persistentVolumeClaim", claim.claim_name.clone())
    } else if let Some(export) = &volume.nfs {
        ("nfs", format!("{}:{}", export.server, export.path))
    } else if let Some(image) = &volume.image {
        ("image", image.reference.clone().unwrap_or_default())
    } else if volume.downward_api.is_some() {
        ("downwardAPI", String::new())
    } else if volume.projected.is_some() {
        ("projected", String::new())
    } else {
        // What a manifest leaves out is an empty directory, as in Kubernetes.
        ("emptyDir", String::new())
    }
}

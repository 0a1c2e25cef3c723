//! What only Lamina has: images and layers with who shares them; events; the desired objects and where they are from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Event, Kind, PodView};
use crate::oci::Digest;
use crate::server::State;
use crate::server::report::{self, People, containers_by_layer};
use crate::server::telemetry::layer_state;
use crate::store::{ImageUsage, LayerKey, RefKind, Store};

/// How many containers run on each image, by the digest of its manifest or of its index.
fn containers_by_image(pods: &[Arc<PodView>]) -> HashMap<&str, usize> {
    let mut count = HashMap::new();
    for container in pods.iter().flat_map(|p| &p.lamina.containers).filter(|c| c.pid.is_some()) {
        if let Some(digest) = &container.image_digest {
            *count.entry(digest.as_str()).or_default() += 1;
        }
    }
    count
}

fn names(image: &ImageUsage) -> Vec<String> {
    image.tags.iter().map(ToString::to_string).collect()
}

/// Who holds each manifest, in the words of `why`.
fn holders(store: &Store, people: &People) -> BTreeMap<crate::oci::Digest, Vec<String>> {
    let mut held: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for root in store.refs() {
        let who = match root.kind {
            RefKind::Pod => format!("pod {}", people.name(&root.owner)),
            RefKind::Pull => "pull".to_owned(),
            RefKind::Pin => report::pin(&root.owner).to_owned(),
            RefKind::Build => "build".to_owned(),
            RefKind::Tag => "tag".to_owned(),
            RefKind::Workload => report::workload(&root.owner),
            RefKind::File => format!("file {}", root.owner),
        };
        for manifest in root.held.manifests {
            held.entry(manifest).or_default().push(who.clone());
        }
    }
    for tag in store.tags().into_iter().filter(|tag| tag.origin == crate::store::TagOrigin::Person) {
        held.entry(tag.image.manifest).or_default().push("tag".to_owned());
    }
    for who in held.values_mut() {
        who.sort_unstable();
        who.dedup();
    }
    held
}

/// Every image, with what it shares.
pub(super) fn images(state: &State) -> Vec<Value> {
    let (store, pods) = (state.store(), state.pods());
    let running = containers_by_image(&pods);
    let held = holders(store, &People::of(&pods));
    let records: HashMap<_, _> = store.images().into_iter().map(|record| (record.id.clone(), record)).collect();
    let usage = store.usage();
    let of = |image: &ImageUsage| {
        let names = names(image);
        let (top, manifest) = (image.image.top.to_string(), image.image.manifest.to_string());
        let containers = running.get(manifest.as_str()).or_else(|| running.get(top.as_str())).copied().unwrap_or(0);
        let record = records.get(&image.image);
        let layers: Vec<String> =
            record.map(|r| r.layers.iter().map(ToString::to_string).collect()).unwrap_or_default();
        let created = record.and_then(|r| jiff::Timestamp::try_from(r.stored_at).ok());
        json!({
            "apiVersion": "lamina.dev/v1",
            "kind": "Image",
            "metadata": {
                "name": names.first().cloned().unwrap_or_else(|| top.clone()),
                "creationTimestamp": created.map(|t| t.to_string()),
            },
            "status": {
                "digest": top,
                "manifest": manifest,
                "references": names,
                "layers": layers,
                "sizeBytes": image.total,
                "sharedBytes": image.shared,
                "uniqueBytes": image.unique,
                "containers": containers,
                "heldBy": held.get(&image.image.manifest).cloned().unwrap_or_default(),
            },
        })
    };
    usage.images.iter().map(of).collect()
}

/// Every layer, the largest first, with who shares it.
pub(super) fn layers(state: &State) -> Vec<Value> {
    let (store, pods) = (state.store(), state.pods());
    let running = containers_by_layer(&pods);
    let usage = store.usage();
    let called: HashMap<_, String> = usage
        .images
        .iter()
        .map(|i| (i.image.clone(), i.tags.first().map_or_else(|| i.image.top.short().to_owned(), ToString::to_string)))
        .collect();
    let mut shared: HashMap<LayerKey, Vec<String>> = HashMap::new();
    for record in store.images() {
        let name = called.get(&record.id).cloned().unwrap_or_default();
        for key in record.layers.iter() {
            let names = shared.entry(key.clone()).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
        }
    }
    let of = |layer: &crate::store::LayerUsage| {
        let key = layer.key.to_string();
        let mut names = shared.get(&layer.key).cloned().unwrap_or_default();
        names.sort_unstable();
        let info = store.layer(&layer.key).ok();
        let created = info.as_ref().and_then(|i| jiff::Timestamp::try_from(i.created).ok());
        json!({
            "apiVersion": "lamina.dev/v1",
            "kind": "Layer",
            "metadata": {"name": key, "creationTimestamp": created.map(|t| t.to_string())},
            "status": {
                "diffId": layer.diff_id.as_ref().map(|id| id.0.to_string()),
                "state": if layer.damaged { "damaged" } else { layer_state(layer) },
                "driver": info.as_ref().map(|i| i.driver.name()),
                "entries": info.as_ref().map(|i| i.entries),
                "sizeBytes": layer.bytes,
                "contentBytes": info.as_ref().map(|i| i.content_bytes),
                "images": layer.images,
                "references": layer.references,
                "containers": running.get(&key).copied().unwrap_or(0),
                "imageNames": names,
            },
        })
    };
    usage.layers.iter().map(of).collect()
}

/// What happened, the oldest first, in the shape of `core/v1` events.
pub(super) fn events(state: &State) -> Vec<Value> {
    let of = |event: &Event| {
        let text = format!("{:?} {} {} {:?}", event.object, event.reason, event.message, event.uid);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": event.object.namespace,
                "name": format!("{}.{}", event.object.name, Digest::sha256_of(text.as_bytes()).short()),
            },
            "involvedObject": {
                "kind": event.object.kind.to_string(),
                "namespace": event.object.namespace,
                "name": event.object.name,
                "uid": event.uid,
                "fieldPath": event.container.as_ref().map(|name| format!("spec.containers{{{name}}}")),
            },
            "type": event.kind,
            "reason": event.reason.as_str(),
            "message": event.message,
            "count": event.count,
            "firstTimestamp": event.first_timestamp.to_string(),
            "lastTimestamp": event.last_timestamp.to_string(),
            "source": {"component": "lamina"},
        })
    };
    state.node.events().recent().iter().map(of).collect()
}

/// The desired objects, where each is from, and what is wrong with manifests.
pub(super) fn manifests(state: &State) -> Vec<Value> {
    let set = state.node.desired().borrow().clone();
    let row = |namespace: &str, name: &str, spec: Value, phase: &str, message: &str| {
        json!({
            "apiVersion": "lamina.dev/v1",
            "kind": "Manifest",
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
            "status": {"phase": phase, "message": message},
        })
    };
    let accepted = set.objects.iter().map(|sourced| {
        let key = sourced.object.key();
        let spec = json!({
            "kind": key.kind.to_string(), "source": sourced.source.as_str(), "file": sourced.file,
            "document": sourced.document, "ignored": sourced.ignored,
        });
        let phase = if key.kind == Kind::Ignored { "Ignored" } else { "Accepted" };
        row(&key.namespace, &key.name, spec, phase, "")
    });
    let shadowed = set.shadowed.iter().map(|shadowed| {
        let spec = json!({"kind": shadowed.key.kind.to_string(), "file": shadowed.loser});
        let message = format!("{} has the same object, and comes first", shadowed.winner.display());
        row(&shadowed.key.namespace, &shadowed.key.name, spec, "Shadowed", &message)
    });
    // A file that cannot be read has no namespace: it is shown in every one.
    let refused = set.problems.iter().map(|problem| {
        let object = problem.object.as_deref().unwrap_or_default();
        let (kind, name) = object.split_once(' ').unwrap_or(("", object));
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let message = if problem.path.is_empty() {
            problem.reason.clone()
        } else {
            format!("{}: {}", problem.path, problem.reason)
        };
        let mut value = row(namespace, name, json!({"kind": kind, "file": problem.file}), "Refused", &message);
        if namespace.is_empty() {
            value["metadata"]["namespace"] = Value::Null;
        }
        value
    });
    accepted.chain(shadowed).chain(refused).collect()
}

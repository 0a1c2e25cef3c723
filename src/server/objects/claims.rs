//! PersistentVolumeClaims with their status, as Kubernetes shows them, and what only Lamina knows of them.

use serde_json::{Value, json};

use crate::api::Object;
use crate::api::claim::{self, DELETE, RETAIN};
use crate::server::State;
use crate::volume::claim::{ClaimView, Origin, Phase};

/// Every claim, and what is left of deleted ones.
pub(super) fn list(state: &State) -> Vec<Value> {
    let claims = &state.node.machine().claims;
    claims.measure();
    let sizes = claims.sizes().known();
    let views = claims.views();
    let known = views.values().map(|view| shown(view, sizes.get(&view.key).copied()));
    // One that could not be made; its events say why.
    let set = state.node.desired().borrow().clone();
    let pending = set.objects.iter().filter(|sourced| !views.contains_key(&sourced.object.key()));
    known.chain(pending.filter_map(|sourced| waiting(&sourced.object))).collect()
}

fn waiting(object: &Object) -> Option<Value> {
    let Object::PersistentVolumeClaim(claim) = object else { return None };
    let mut shown = serde_json::to_value(claim).unwrap_or_default();
    shown["metadata"]["namespace"] = json!(object.key().namespace);
    shown["status"] = json!({"phase": "Pending"});
    Some(shown)
}

fn shown(view: &ClaimView, used: Option<u64>) -> Value {
    let mut object = serde_json::to_value(view.claim.as_ref()).unwrap_or_default();
    object["metadata"]["namespace"] = json!(view.key.namespace);
    object["metadata"]["uid"] = json!(view.uid);
    object["metadata"]["creationTimestamp"] = json!(view.created);
    if view.phase == Phase::Terminating {
        // Who holds it up: as in Kubernetes.
        object["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    }
    let spec = view.claim.spec.as_ref();
    let capacity = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.clone());
    object["status"] = json!({
        "phase": view.phase.as_str(),
        "accessModes": spec.and_then(|s| s.access_modes.clone()),
        "capacity": capacity,
    });
    let (file, owner) = match &view.origin {
        Origin::Object { file } => (file, None),
        Origin::Template { file, set, .. } => (file, Some(format!("StatefulSet/{set}"))),
    };
    object["lamina"] = json!({
        "path": view.path,
        "reclaimPolicy": if claim::retains(&view.claim) { RETAIN } else { DELETE },
        "usedBytes": used,
        "capacityBytes": claim::capacity(&view.claim),
        "pods": view.users.values().collect::<Vec<_>>(),
        "file": file,
        "owner": owner,
    });
    object
}

//! StatefulSets: pods with names, hostnames and claims of their own, started in order, ended and updated in the reverse
//! order.
//!
//! A pod is updated in its place, so that its claims stay; the next one waits until it is available.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::change::{PodChange, change};
use super::super::document::Kind;
use super::rolling::{is_stale, renewed};
use super::{
    Expansion, Memory, Observed, Owner, Phase, Wanted, after, count, earlier, instantiate, is_available, part, seconds,
};

/// Labels that tell a set's pods apart, as Kubernetes sets them.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn expand(set: &StatefulSet, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    let mut out = Expansion { memory: memory.clone(), ..Expansion::default() };
    let spec = &set.spec;
    out.memory.note(&set.metadata, &spec.template, spec.revision_history_limit, now);
    let replicas = count(spec.replicas, 1);
    let Range { start: first, end } = ordinals(set);
    let min_ready = seconds(spec.min_ready_seconds.map(i64::from));
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let strategy = spec.update_strategy.as_ref();
    let on_delete = strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete");
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let partition = rolling.map_or(0, |r| count(r.partition, 0));
    let may_be_away = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(1, |v| part(v, replicas, true).max(1));

    let make = |template: &PodTemplateSpec, ordinal: u32| Arc::new(instance(set, template, ordinal));
    let owner = |ordinal| Owner {
        kind: Kind::StatefulSet,
        name: set.metadata.name.clone().unwrap_or_default(),
        ordinal,
        index: None,
    };
    let find = |ordinal: u32| observed.iter().find(|o| o.ordinal == ordinal);
    let available = |o: &Observed| is_available(o, min_ready, now);
    let is_old = |o: &Observed| {
        matches!(change(&o.pod, &make(&spec.template, o.ordinal)), PodChange::Containers(_) | PodChange::Replace(_))
    };
    let is_over = |o: &Observed| matches!(o.phase, Phase::Succeeded | Phase::Failed);

    let mut away = u32::try_from((first..end).filter(|n| !find(*n).is_some_and(available)).count()).unwrap_or(0);
    // Updated from the highest ordinal down.
    let mut renewing = BTreeSet::new();
    for o in (first..end).rev().filter_map(find) {
        let stale = is_stale(o, &out.memory);
        let update = is_old(o) && !on_delete && o.ordinal >= partition;
        if (stale || update) && (o.ready_since.is_none() || away < may_be_away) {
            away += u32::from(available(o));
            renewing.insert(o.ordinal);
        }
    }
    // Started from the lowest ordinal up; the next one waits for those before it.
    let mut all_before = true;
    for ordinal in first..end {
        let wanted = match find(ordinal) {
            Some(o) if is_over(o) => None,
            Some(o) if renewing.contains(&ordinal) => {
                renewed(owner(ordinal), o, make(&spec.template, ordinal), &out.memory)
            }
            Some(o) if is_old(o) || is_stale(o, &out.memory) => {
                Some(Wanted { owner: owner(ordinal), pod: o.pod.clone() })
            }
            Some(_) => Some(Wanted { owner: owner(ordinal), pod: make(&spec.template, ordinal) }),
            None if ordered && !all_before => None,
            None => {
                // One below the partition comes back as it was.
                let old = out.memory.settled_template().filter(|_| ordinal < partition);
                Some(Wanted { owner: owner(ordinal), pod: make(old.unwrap_or(&spec.template), ordinal) })
            }
        };
        out.pods.extend(wanted);
        all_before &= find(ordinal).is_some_and(available);
    }
    // Those that are too many go from the highest down, each when the one above it is gone.
    let mut excess: Vec<&Observed> = observed.iter().filter(|o| !(first..end).contains(&o.ordinal)).collect();
    excess.sort_by_key(|o| o.ordinal);
    excess.pop();
    if ordered {
        out.pods.extend(excess.iter().map(|o| Wanted { owner: owner(o.ordinal), pod: o.pod.clone() }));
    }

    let status = &mut out.status;
    status.desired = replicas;
    let mut images = BTreeSet::new();
    for o in observed.iter().filter(|o| !is_over(o)) {
        status.current += 1;
        if !is_old(o) {
            status.updated += 1;
            images.extend(o.images.iter().cloned());
        }
        if let Some(since) = o.ready_since.filter(|_| o.phase == Phase::Running) {
            status.ready += 1;
            if available(o) {
                status.available += 1;
            } else {
                out.wake = earlier(out.wake, Some(after(since, min_ready)));
            }
        }
    }
    let complete = status.updated == replicas && status.available == replicas && status.current == replicas;
    out.memory.note_images(images);
    if complete {
        out.memory.settled = out.memory.revision();
    }
    out.status.revision = out.memory.revision();
    out.holds = out.memory.holds();
    out
}

/// One pod of the set: with its labels, its hostname, and a claim of its own for each template of claims.
fn instance(set: &StatefulSet, template: &PodTemplateSpec, ordinal: u32) -> Pod {
    let mut pod = instantiate(&set.metadata, template, ordinal);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let spec = &set.spec;
    if let Some(of_pod) = &mut pod.spec {
        of_pod.hostname = Some(name.clone());
        of_pod.subdomain = spec.service_name.clone().filter(|s| !s.is_empty());
        for claim in spec.volume_claim_templates.iter().flatten() {
            let called = claim.metadata.name.clone().unwrap_or_default();
            let volumes = of_pod.volumes.get_or_insert_default();
            // As in Kubernetes, a template of claims wins over a volume of its name.
            volumes.retain(|v| v.name != called);
            volumes.push(Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim_name(&called, &name),
                    read_only: None,
                }),
                name: called,
                ..Volume::default()
            });
        }
    }
    pod
}

/// The ordinals of a set's pods.
pub fn ordinals(set: &StatefulSet) -> Range<u32> {
    let first = set.spec.ordinals.as_ref().map_or(0, |o| count(o.start, 0));
    first..first.saturating_add(count(set.spec.replicas, 1))
}

/// The claims of one of a set's pods, as its templates make them.
pub fn claims(set: &StatefulSet, ordinal: u32) -> Vec<PersistentVolumeClaim> {
    let pod = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default());
    let make = |template: &PersistentVolumeClaim| {
        let own = &template.metadata;
        let mut labels = own.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(own.name.as_deref().unwrap_or_default(), &pod)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: own.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    set.spec.volume_claim_templates.iter().flatten().map(make).collect()
}

/// The name of a pod's own claim.
fn claim_name(template: &str, pod: &str) -> String {
    format!("{template}-{pod}")
}

//! Deployments, DaemonSets and Jobs: counts, selectors, templates.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DeploymentSpec};
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pod::{Restart, pod};
use super::{Findings, meta};

/// The most pods that one workload may ask one node for; a kubelet runs 110 by default.
const MAX_PODS: i64 = 1000;
/// The longest that a number of seconds may be.
const MAX_SECONDS: i64 = i32::MAX as i64;

pub(super) fn deployment(spec: &DeploymentSpec, found: &mut Findings) {
    found.range("spec.replicas", spec.replicas, 0, MAX_PODS);
    found.range("spec.minReadySeconds", spec.min_ready_seconds, 0, MAX_SECONDS);
    let strategy = spec.strategy.as_ref();
    found.one_of("spec.strategy.type", strategy.and_then(|s| s.type_.as_deref()), &["RollingUpdate", "Recreate"]);
    selector(&spec.selector, &spec.template, found);
    template(&spec.template, Restart::Always, found);
}

pub(super) fn daemon_set(spec: &DaemonSetSpec, found: &mut Findings) {
    found.range("spec.minReadySeconds", spec.min_ready_seconds, 0, MAX_SECONDS);
    selector(&spec.selector, &spec.template, found);
    template(&spec.template, Restart::Always, found);
}

pub(super) fn job(spec: Option<&JobSpec>, found: &mut Findings) {
    let Some(spec) = spec else { return found.add("spec", "must be given") };
    found.range("spec.completions", spec.completions, 0, MAX_PODS);
    found.range("spec.parallelism", spec.parallelism, 0, MAX_PODS);
    found.range("spec.backoffLimit", spec.backoff_limit, 0, MAX_PODS);
    found.range("spec.activeDeadlineSeconds", spec.active_deadline_seconds, 1, MAX_SECONDS);
    found.range("spec.ttlSecondsAfterFinished", spec.ttl_seconds_after_finished, 0, MAX_SECONDS);
    template(&spec.template, Restart::Ending, found);
}

fn template(template: &PodTemplateSpec, restart: Restart, found: &mut Findings) {
    if let Some(meta) = &template.metadata {
        meta::labelled(meta, "spec.template.metadata", found);
    }
    pod(template.spec.as_ref(), "spec.template.spec", restart, found);
}

/// A workload must select the pods that it makes.
fn selector(selector: &LabelSelector, template: &PodTemplateSpec, found: &mut Findings) {
    let none = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&none);
    if selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none()
    {
        return found.add("spec.selector", "must not be empty");
    }
    let mut matches = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    for (i, want) in selector.match_expressions.iter().flatten().enumerate() {
        let has = labels.get(&want.key);
        let values = want.values.as_deref().unwrap_or_default();
        matches &= match want.operator.as_str() {
            "In" => has.is_some_and(|v| values.contains(v)),
            "NotIn" => has.is_none_or(|v| !values.contains(v)),
            "Exists" => has.is_some(),
            "DoesNotExist" => has.is_none(),
            _ => {
                found.add(
                    format_args!("spec.selector.matchExpressions[{i}].operator"),
                    "must be one of In, NotIn, Exists, DoesNotExist",
                );
                true
            }
        };
    }
    if !matches {
        found.add("spec.selector", "does not select the pods of spec.template.metadata.labels");
    }
}

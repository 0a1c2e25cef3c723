//! Workloads: counts, selectors, templates, schedules.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use k8s_openapi::api::apps::v1::{DaemonSetSpec, DeploymentSpec, StatefulSetSpec};
use k8s_openapi::api::batch::v1::{CronJobSpec, JobSpec, PodFailurePolicy};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::ids::check_label;
use super::super::workload::{indexes, schedule::Schedule};
use super::pod::{Restart, pod};
use super::{Findings, claim, meta, unique};

/// The most pods that one workload may ask one node for; a kubelet runs 110 by default.
const MAX_PODS: i64 = 1000;
/// The longest that a number of seconds may be.
const MAX_SECONDS: i64 = i32::MAX as i64;

pub(super) fn deployment(spec: &DeploymentSpec, found: &mut Findings) {
    found.range("spec.replicas", spec.replicas, 0, MAX_PODS);
    found.range("spec.minReadySeconds", spec.min_ready_seconds, 0, MAX_SECONDS);
    let strategy = spec.strategy.as_ref();
    found.one_of("spec.strategy.type", strategy.and_then(|s| s.type_.as_deref()), &["RollingUpdate", "Recreate"]);
    found.range("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, 1, MAX_SECONDS);
    found.range("spec.revisionHistoryLimit", spec.revision_history_limit, 0, MAX_PODS);
    if let Some(rolling) = strategy.and_then(|s| s.rolling_update.as_ref()) {
        let at = "spec.strategy.rollingUpdate";
        if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            found.add(at, "must not be given with the type Recreate");
        }
        let unavailable = share(&format!("{at}.maxUnavailable"), rolling.max_unavailable.as_ref(), found);
        let surge = share(&format!("{at}.maxSurge"), rolling.max_surge.as_ref(), found);
        if unavailable == Some(0) && surge.unwrap_or(0) == 0 {
            found.add(
                format_args!("{at}.maxUnavailable"),
                "must not be 0 when maxSurge is, or nothing could be replaced",
            );
        }
    }
    selector(&spec.selector, &spec.template, found);
    template(&spec.template, "spec.template", Restart::Always, found);
}

/// A number or a part, as in `25%`; gives the number.
fn share(at: &str, value: Option<&IntOrString>, found: &mut Findings) -> Option<u32> {
    let number = match value? {
        IntOrString::Int(n) => u32::try_from(*n).ok(),
        IntOrString::String(text) => text.strip_suffix('%').and_then(|n| n.parse().ok()).filter(|n| *n <= 100),
    };
    if number.is_none() {
        found.add(at, "must be a number that is not negative, or a part as in 25%");
    }
    number
}

pub(super) fn stateful_set(spec: &StatefulSetSpec, found: &mut Findings) {
    found.range("spec.replicas", spec.replicas, 0, MAX_PODS);
    found.range("spec.minReadySeconds", spec.min_ready_seconds, 0, MAX_SECONDS);
    found.range("spec.revisionHistoryLimit", spec.revision_history_limit, 0, MAX_PODS);
    found.range("spec.ordinals.start", spec.ordinals.as_ref().and_then(|o| o.start), 0, i64::from(i32::MAX) - MAX_PODS);
    found.one_of("spec.podManagementPolicy", spec.pod_management_policy.as_deref(), &["OrderedReady", "Parallel"]);
    if let Some(name) = spec.service_name.as_deref().filter(|n| !n.is_empty()) {
        found.check("spec.serviceName", check_label(name));
    }
    if let Some(strategy) = &spec.update_strategy {
        found.one_of("spec.updateStrategy.type", strategy.type_.as_deref(), &["RollingUpdate", "OnDelete"]);
        let rolling = strategy.rolling_update.as_ref();
        let at = "spec.updateStrategy.rollingUpdate";
        found.range(format_args!("{at}.partition"), rolling.and_then(|r| r.partition), 0, MAX_SECONDS);
        share(&format!("{at}.maxUnavailable"), rolling.and_then(|r| r.max_unavailable.as_ref()), found);
    }
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let at = "spec.persistentVolumeClaimRetentionPolicy";
        for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            found.one_of(format_args!("{at}.{field}"), value.as_deref(), &["Retain", "Delete"]);
        }
    }
    selector(&spec.selector, &spec.template, found);
    // Containers may mount what the claims' templates bring.
    let mut with_claims = spec.template.clone();
    claims(spec, &mut with_claims, found);
    template(&with_claims, "spec.template", Restart::Always, found);
}

/// Templates of claims; the pods have a volume of each one's name.
fn claims(spec: &StatefulSetSpec, template: &mut PodTemplateSpec, found: &mut Findings) {
    let templates = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let name = |claim: &PersistentVolumeClaim| claim.metadata.name.clone().unwrap_or_default();
    let names: Vec<String> = templates.iter().map(name).collect();
    unique(names.iter().map(String::as_str).enumerate(), found, |i| {
        format!("spec.volumeClaimTemplates[{i}].metadata.name")
    });
    for (i, claim) in templates.iter().enumerate() {
        let at = format!("spec.volumeClaimTemplates[{i}]");
        found.check(format_args!("{at}.metadata.name"), check_label(&name(claim)));
        meta::labelled(&claim.metadata, &format!("{at}.metadata"), found);
        claim::policy(&claim.metadata, &format!("{at}.metadata"), found);
        match &claim.spec {
            Some(spec) => claim::spec(spec, &format!("{at}.spec"), found),
            None => found.add(format_args!("{at}.spec"), "must be given"),
        }
    }
    let Some(pod) = &mut template.spec else { return };
    let volumes = pod.volumes.get_or_insert_default();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        if !volumes.iter().any(|v| v.name == name) {
            volumes.push(Volume { name, ..Volume::default() });
        }
    }
}

pub(super) fn cron_job(spec: &CronJobSpec, found: &mut Findings) {
    found.check("spec.schedule", spec.schedule.parse::<Schedule>().map(|_| ()));
    if let Some(zone) = &spec.time_zone {
        // Zones are files of this machine.
        let known = !zone.is_empty() && zone != "Local" && TimeZone::get(zone).is_ok();
        if !known {
            found.add("spec.timeZone", format!("{zone:?} is no time zone that this machine knows (package tzdata)"));
        }
    }
    found.one_of("spec.concurrencyPolicy", spec.concurrency_policy.as_deref(), &["Allow", "Forbid", "Replace"]);
    found.range("spec.startingDeadlineSeconds", spec.starting_deadline_seconds, 0, MAX_SECONDS);
    found.range("spec.successfulJobsHistoryLimit", spec.successful_jobs_history_limit, 0, MAX_PODS);
    found.range("spec.failedJobsHistoryLimit", spec.failed_jobs_history_limit, 0, MAX_PODS);
    if let Some(meta) = &spec.job_template.metadata {
        meta::labelled(meta, "spec.jobTemplate.metadata", found);
    }
    job(spec.job_template.spec.as_ref(), "spec.jobTemplate.spec", found);
}

pub(super) fn daemon_set(spec: &DaemonSetSpec, found: &mut Findings) {
    found.range("spec.minReadySeconds", spec.min_ready_seconds, 0, MAX_SECONDS);
    let strategy = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
    found.one_of("spec.updateStrategy.type", strategy, &["RollingUpdate", "OnDelete"]);
    found.range("spec.revisionHistoryLimit", spec.revision_history_limit, 0, MAX_PODS);
    selector(&spec.selector, &spec.template, found);
    template(&spec.template, "spec.template", Restart::Always, found);
}

pub(super) fn job(spec: Option<&JobSpec>, at: &str, found: &mut Findings) {
    let Some(spec) = spec else { return found.add(at, "must be given") };
    found.range(format_args!("{at}.completions"), spec.completions, 0, MAX_PODS);
    found.range(format_args!("{at}.parallelism"), spec.parallelism, 0, MAX_PODS);
    // What a cluster's files have for "no limit" is fine.
    found.range(format_args!("{at}.backoffLimit"), spec.backoff_limit, 0, MAX_SECONDS);
    found.range(format_args!("{at}.activeDeadlineSeconds"), spec.active_deadline_seconds, 1, MAX_SECONDS);
    found.range(format_args!("{at}.ttlSecondsAfterFinished"), spec.ttl_seconds_after_finished, 0, MAX_SECONDS);
    found.one_of(format_args!("{at}.completionMode"), spec.completion_mode.as_deref(), &["NonIndexed", "Indexed"]);
    found.one_of(
        format_args!("{at}.podReplacementPolicy"),
        spec.pod_replacement_policy.as_deref(),
        &["TerminatingOrFailed", "Failed"],
    );
    indexed(spec, at, found);
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy(policy, spec, at, found);
    }
    template(&spec.template, &format!("{at}.template"), Restart::Ending, found);
}

/// What only indexed jobs have.
fn indexed(spec: &JobSpec, at: &str, found: &mut Findings) {
    let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
    if is_indexed && spec.completions.is_none() {
        found.add(format_args!("{at}.completions"), "must be given for an indexed job");
    }
    let only = [
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.is_some()),
        ("maxFailedIndexes", spec.max_failed_indexes.is_some()),
        ("successPolicy", spec.success_policy.is_some()),
    ];
    for (field, _) in only.iter().filter(|(_, given)| *given && !is_indexed) {
        found.add(format_args!("{at}.{field}"), "needs completionMode: Indexed");
    }
    found.range(format_args!("{at}.backoffLimitPerIndex"), spec.backoff_limit_per_index, 0, MAX_SECONDS);
    found.range(format_args!("{at}.maxFailedIndexes"), spec.max_failed_indexes, 0, MAX_SECONDS);
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        found.add(format_args!("{at}.maxFailedIndexes"), "needs backoffLimitPerIndex");
    }
    let restart = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if spec.backoff_limit_per_index.is_some() && restart != Some("Never") {
        found.add(format_args!("{at}.template.spec.restartPolicy"), "must be Never with backoffLimitPerIndex");
    }
    for (i, rule) in spec.success_policy.iter().flat_map(|p| &p.rules).enumerate() {
        let at = format!("{at}.successPolicy.rules[{i}]");
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            found.add(&at, "must have succeededCount or succeededIndexes");
        }
        found.range(format_args!("{at}.succeededCount"), rule.succeeded_count, 1, MAX_PODS);
        if rule.succeeded_indexes.as_deref().is_some_and(|text| indexes(text).is_none()) {
            found.add(format_args!("{at}.succeededIndexes"), "must be numbers as in 0-2,5");
        }
    }
}

fn failure_policy(policy: &PodFailurePolicy, spec: &JobSpec, at: &str, found: &mut Findings) {
    let restart = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if restart != Some("Never") {
        found.add(format_args!("{at}.template.spec.restartPolicy"), "must be Never with podFailurePolicy");
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        let at = format!("{at}.podFailurePolicy.rules[{i}]");
        let action = Some(rule.action.as_str());
        found.one_of(format_args!("{at}.action"), action, &["FailJob", "FailIndex", "Ignore", "Count"]);
        if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
            found.add(format_args!("{at}.action"), "FailIndex needs backoffLimitPerIndex");
        }
        let conditions = rule.on_pod_conditions.iter().flatten().count() > 0;
        if rule.on_exit_codes.is_some() == conditions {
            found.add(&at, "must have either onExitCodes or onPodConditions");
        }
        if let Some(codes) = &rule.on_exit_codes {
            let at = format!("{at}.onExitCodes");
            found.one_of(format_args!("{at}.operator"), Some(codes.operator.as_str()), &["In", "NotIn"]);
            if codes.values.is_empty() || (codes.operator == "In" && codes.values.contains(&0)) {
                found.add(format_args!("{at}.values"), "must have values, and none of them 0 for In");
            }
        }
    }
}

fn template(template: &PodTemplateSpec, at: &str, restart: Restart, found: &mut Findings) {
    if let Some(meta) = &template.metadata {
        meta::labelled(meta, &format!("{at}.metadata"), found);
    }
    pod(template.spec.as_ref(), &format!("{at}.spec"), restart, found);
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

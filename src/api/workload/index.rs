//! Indexed jobs: one pod after another for each completion, which knows its number.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::job::{Verdict, failed, to_u32};
use super::{JobEnd, Observed, Phase, count, instantiate};

/// Label and annotation with the number, and the variable.
const LABEL: &str = "batch.kubernetes.io/job-completion-index";
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// How the completions stand.
pub(super) struct Indexes {
    pub(super) succeeded: BTreeSet<u32>,
    /// Those that will not be tried again.
    pub(super) failed: BTreeSet<u32>,
    completions: u32,
}

impl Indexes {
    pub(super) fn new(spec: &JobSpec, completions: u32, pods: &[&Observed], tries: &[(&Observed, Verdict)]) -> Self {
        let of = |pod: &Observed| pod.index.filter(|i| *i < completions);
        let succeeded: BTreeSet<u32> =
            pods.iter().filter(|o| o.phase == Phase::Succeeded).filter_map(|o| of(o)).collect();
        let mut failures: BTreeMap<u32, u32> = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for (pod, verdict) in tries {
            let Some(index) = of(pod) else { continue };
            match verdict {
                Verdict::Ignore => {}
                Verdict::FailIndex => {
                    lost.insert(index);
                }
                Verdict::Count | Verdict::FailJob => *failures.entry(index).or_default() += 1,
            }
        }
        if let Some(limit) = spec.backoff_limit_per_index {
            let limit = count(Some(limit), 0);
            lost.extend(failures.iter().filter(|(_, n)| **n > limit).map(|(index, _)| *index));
        }
        lost.retain(|index| !succeeded.contains(index));
        Self { succeeded, failed: lost, completions }
    }

    /// Completions for which a pod is needed and none is there, the lowest first.
    pub(super) fn open(&self, active: &[&Observed]) -> Vec<u32> {
        let busy: BTreeSet<u32> = active.iter().filter_map(|o| o.index).collect();
        let needed = |i: &u32| !self.succeeded.contains(i) && !self.failed.contains(i) && !busy.contains(i);
        (0..self.completions).filter(needed).collect()
    }

    pub(super) fn end(&self, spec: &JobSpec, completions: u32) -> Option<JobEnd> {
        if let Some(most) = spec.max_failed_indexes
            && to_u32(self.failed.len()) > count(Some(most), 0)
        {
            let message = format!("{} completions failed, and no more than {most} may", self.failed.len());
            return Some(failed("MaxFailedIndexesExceeded", message));
        }
        for rule in spec.success_policy.iter().flat_map(|p| &p.rules) {
            let among: BTreeSet<u32> = match &rule.succeeded_indexes {
                Some(text) => parse(text).unwrap_or_default(),
                None => (0..completions).collect(),
            };
            let have = to_u32(among.intersection(&self.succeeded).count());
            let need = rule.succeeded_count.map_or_else(|| to_u32(among.len()), |n| count(Some(n), 0));
            if have >= need {
                return Some(JobEnd::Complete);
            }
        }
        if to_u32(self.succeeded.len()) >= completions {
            return Some(JobEnd::Complete);
        }
        (to_u32(self.succeeded.len() + self.failed.len()) >= completions)
            .then(|| failed("FailedIndexes", format!("completions {} failed", ranges(&self.failed))))
    }
}

/// The pod of one try: named after job, number and try, and told its number.
pub(super) fn instance(job: &Job, spec: &JobSpec, index: u32, ordinal: u32) -> Pod {
    let mut pod = instantiate(&job.metadata, &spec.template, ordinal);
    let name = job.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.name = Some(format!("{name}-{index}-{ordinal}"));
    pod.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), index.to_string());
    pod.metadata.annotations.get_or_insert_default().insert(LABEL.to_owned(), index.to_string());
    if let Some(of_pod) = &mut pod.spec {
        of_pod.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        let tell = |container: &mut Container| {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == VARIABLE) {
                // Before the others, which may refer to it.
                let variable =
                    EnvVar { name: VARIABLE.to_owned(), value: Some(index.to_string()), ..EnvVar::default() };
                env.insert(0, variable);
            }
        };
        of_pod.containers.iter_mut().for_each(tell);
        of_pod.init_containers.iter_mut().flatten().for_each(tell);
    }
    pod
}

/// Numbers as in `0-2,5`.
pub(super) fn ranges(numbers: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let text = |(a, b): &(u32, u32)| match b - a {
        0 => a.to_string(),
        1 => format!("{a},{b}"),
        _ => format!("{a}-{b}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Reads numbers as in `0-2,5`; nothing if they are not written so.
pub fn parse(text: &str) -> Option<BTreeSet<u32>> {
    /// More than any job may have completions.
    const MOST: u32 = 100_000;
    let mut all = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

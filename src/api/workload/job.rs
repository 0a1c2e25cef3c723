//! Jobs: pods until enough of them have ended well, or too many badly.
//!
//! Each try is a pod with an ordinal of its own. Pods that have ended stay (their logs may be wanted) until the job goes.
//! How a job ended is remembered: what happens to its pods afterwards does not begin it anew; another template does.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::super::change::{PodChange, change};
use super::super::condition::Condition;
use super::super::document::Kind;
use super::index::Indexes;
use super::{
    Expansion, JobEnd, JobMemory, Memory, Observed, Owner, Phase, Wanted, after, count, earlier, index, instantiate,
    seconds,
};

/// How often a job tries again when it says nothing about it.
const BACKOFF_LIMIT: u32 = 6;
/// What the first try after a failure waits, in seconds; it doubles with each further one.
const FIRST_BACKOFF: i64 = 10;
/// What a try waits at most, in seconds.
const MAX_BACKOFF: i64 = 600;

/// How one pod's failure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As a failure.
    Count,
    /// As nothing.
    Ignore,
    /// The whole job fails.
    FailJob,
    /// Its completion fails.
    FailIndex,
}

pub(super) fn expand(job: &Job, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    let mut out = Expansion { memory: memory.clone(), ..Expansion::default() };
    let Some(spec) = &job.spec else { return out };
    let suspended = spec.suspend == Some(true);
    let mut state = match &memory.job {
        Some(known) if is_same(job, known) => known.clone(),
        // Another template: all that is left of the old job goes first.
        Some(_) if !observed.is_empty() => {
            out.memory.job.clone_from(&memory.job);
            return out;
        }
        _ => JobMemory {
            template: spec.template.clone(),
            started: None,
            end: None,
            finished: None,
            counts: (0, 0),
            expired: false,
        },
    };
    if suspended && state.end.is_none() {
        state.started = None;
    } else if state.started.is_none() {
        state.started = Some(observed.iter().map(|o| o.created).min().unwrap_or(now));
    }
    let mut run = Running::new(job, spec, observed);
    let deadline = spec.active_deadline_seconds.and_then(|s| Some(after(state.started?, seconds(Some(s)))));
    if state.end.is_none() {
        state.end = run.end(spec).or_else(|| {
            let late = deadline.is_some_and(|d| d <= now) && !suspended;
            late.then(|| failed("DeadlineExceeded", "it ran longer than activeDeadlineSeconds"))
        });
        state.counts = (run.succeeded, run.failed);
    }
    if state.end.is_some() && run.active.is_empty() && state.finished.is_none() {
        state.finished = Some(run.pods.iter().filter_map(|o| o.finished).max().unwrap_or(now));
    }

    let ending = state.end.is_some() || suspended;
    for o in run.pods.iter().filter(|o| is_over(o) || !ending) {
        out.pods.push(run.wanted(o.ordinal, o.index, o.pod.clone()));
    }
    if !ending {
        run.start(spec, &mut out, now);
        out.wake = earlier(out.wake, deadline);
    }
    if let (Some(finished), Some(ttl)) = (state.finished, spec.ttl_seconds_after_finished) {
        let gone = after(finished, seconds(Some(i64::from(ttl))));
        // A clock that was set back does not keep it for longer than it ever would.
        let gone = gone.min(after(now, seconds(Some(i64::from(ttl)))));
        if gone <= now || state.expired {
            state.expired = true;
        } else {
            out.wake = earlier(out.wake, Some(gone));
        }
    }
    if state.expired {
        out.expired = true;
        out.pods.clear();
    }
    run.tell(spec, &state, &mut out, now);
    out.memory.job = Some(state);
    out
}

fn is_same(job: &Job, known: &JobMemory) -> bool {
    let Some(spec) = &job.spec else { return true };
    let (old, new) = (instantiate(&job.metadata, &known.template, 0), instantiate(&job.metadata, &spec.template, 0));
    matches!(change(&old, &new), PodChange::Nothing | PodChange::InPlace)
}

fn is_over(pod: &Observed) -> bool {
    matches!(pod.phase, Phase::Succeeded | Phase::Failed)
}

pub(super) fn failed(reason: &str, message: impl Into<String>) -> JobEnd {
    JobEnd::Failed(reason.to_owned(), message.into())
}

/// A job that has not ended, as its pods show it.
struct Running<'o> {
    job: &'o Job,
    pods: Vec<&'o Observed>,
    active: Vec<&'o Observed>,
    parallelism: u32,
    completions: u32,
    /// Without `completions` a job with several workers is a queue: done once one ended well and the others are through.
    queue: bool,
    succeeded: u32,
    failed: u32,
    indexes: Option<Indexes>,
    /// A failure that ends it, by its `podFailurePolicy`.
    fatal: Option<String>,
}

impl<'o> Running<'o> {
    fn new(job: &'o Job, spec: &JobSpec, observed: &'o [Observed]) -> Self {
        let mut pods: Vec<&Observed> = observed.iter().collect();
        pods.sort_by_key(|o| o.ordinal);
        let active: Vec<&Observed> = pods.iter().filter(|o| !is_over(o)).copied().collect();
        let parallelism = count(spec.parallelism, 1);
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let queue = spec.completions.is_none() && parallelism > 1 && !indexed;
        let completions = if queue { 1 } else { count(spec.completions, 1) };
        let mut failed = 0_u32;
        let mut fatal = None;
        let mut tries: Vec<(&Observed, Verdict)> = Vec::new();
        for pod in pods.iter().filter(|o| o.phase == Phase::Failed) {
            let (verdict, rule) = verdict(spec, pod);
            failed += u32::from(verdict != Verdict::Ignore);
            if verdict == Verdict::FailJob && fatal.is_none() {
                let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
                fatal = Some(format!("pod {name} failed, and rule {rule} of podFailurePolicy ends the job for it"));
            }
            tries.push((pod, verdict));
        }
        // A restart within a pod (OnFailure) is a failure, too.
        failed = active.iter().fold(failed, |sum, o| sum.saturating_add(o.restarts));
        let indexes = indexed.then(|| Indexes::new(spec, completions, &pods, &tries));
        let succeeded = match &indexes {
            Some(indexes) => to_u32(indexes.succeeded.len()),
            None => to_u32(pods.iter().filter(|o| o.phase == Phase::Succeeded).count()),
        };
        Self { job, pods, active, parallelism, completions, queue, succeeded, failed, indexes, fatal }
    }

    /// Whether it has ended, and how.
    fn end(&self, spec: &JobSpec) -> Option<JobEnd> {
        if let Some(message) = &self.fatal {
            return Some(failed("PodFailurePolicy", message.clone()));
        }
        // With a limit for each completion, the job's own counts only where it is given.
        let per_index = spec.backoff_limit_per_index.is_some();
        let limit = count(spec.backoff_limit, if per_index { u32::MAX } else { BACKOFF_LIMIT });
        if self.failed > limit {
            let message = format!("{} tries failed, and no more than {limit} may", self.failed);
            return Some(failed("BackoffLimitExceeded", message));
        }
        if let Some(indexes) = &self.indexes {
            return indexes.end(spec, self.completions);
        }
        (self.succeeded >= self.completions && (!self.queue || self.active.is_empty())).then_some(JobEnd::Complete)
    }

    fn wanted(&self, ordinal: u32, index: Option<u32>, pod: impl Into<Arc<Pod>>) -> Wanted {
        let name = self.job.metadata.name.clone().unwrap_or_default();
        Wanted { owner: Owner { kind: Kind::Job, name, ordinal, index }, pod: pod.into() }
    }

    /// Adds the pods that may be started now.
    fn start(&mut self, spec: &JobSpec, out: &mut Expansion, now: Timestamp) {
        let running = to_u32(self.active.len());
        // A queue makes no new workers once one of them found it empty.
        let room = if self.queue && self.succeeded > 0 {
            0
        } else if self.queue {
            self.parallelism.saturating_sub(running)
        } else {
            self.parallelism.min(self.completions.saturating_sub(self.succeeded)).saturating_sub(running)
        };
        let room = usize::try_from(room).unwrap_or(0);
        // The first that are free, and not those behind the last: of two pods that were wanted before, the second may be
        // seen before the first, which must go on being wanted.
        let taken: BTreeSet<u32> = self.pods.iter().map(|o| o.ordinal).collect();
        let mut free = (0..).filter(|ordinal| !taken.contains(ordinal));
        // A clock that was set back must not make it wait for longer than it ever would.
        let latest = after(now, SignedDuration::from_secs(MAX_BACKOFF));
        let due = |pods: &[&Observed]| backoff(pods).filter(|at| *at > now).map(|at| at.min(latest));
        if let Some(indexes) = &self.indexes {
            let mut left = room;
            for index in indexes.open(&self.active) {
                if left == 0 {
                    break;
                }
                let tries: Vec<&Observed> = self.pods.iter().filter(|o| o.index == Some(index)).copied().collect();
                // Without limits of their own, all wait for the newest failure together.
                let waits = if spec.backoff_limit_per_index.is_some() { due(&tries) } else { due(&self.pods) };
                if let Some(at) = waits {
                    out.wake = earlier(out.wake, Some(at));
                    continue;
                }
                let Some(ordinal) = free.next() else { break };
                out.pods.push(self.wanted(ordinal, Some(index), index::instance(self.job, spec, index, ordinal)));
                left -= 1;
            }
            return;
        }
        match due(&self.pods) {
            Some(at) if room > 0 => out.wake = earlier(out.wake, Some(at)),
            _ => {
                for ordinal in free.take(room) {
                    let pod = instantiate(&self.job.metadata, &spec.template, ordinal);
                    out.pods.push(self.wanted(ordinal, None, pod));
                }
            }
        }
    }

    /// The status.
    fn tell(&self, spec: &JobSpec, state: &JobMemory, out: &mut Expansion, now: Timestamp) {
        let conditions = &mut out.memory.conditions;
        let mut set = |kind: &str, holds: bool, reason: &str, message: &str| {
            if holds || conditions.iter().any(|c| c.kind == kind) {
                let new = Condition {
                    kind: kind.to_owned(),
                    status: Some(holds),
                    reason: reason.to_owned(),
                    message: message.to_owned(),
                    last_transition_time: now,
                };
                Condition::set(conditions, new);
            }
        };
        let suspended = spec.suspend == Some(true) && state.end.is_none();
        let resumed = if suspended { "JobSuspended" } else { "JobResumed" };
        set("Suspended", suspended, resumed, if suspended { "it is suspended" } else { "it was resumed" });
        let done = state.finished.is_some();
        match &state.end {
            Some(JobEnd::Complete) => set("Complete", done, "CompletionsReached", "it has its completions"),
            Some(JobEnd::Failed(reason, message)) => set("Failed", done, reason, message),
            None => {
                set("Complete", false, "Restarted", "");
                set("Failed", false, "Restarted", "");
            }
        }
        let (succeeded, failed) = if state.end.is_some() { state.counts } else { (self.succeeded, self.failed) };
        let status = &mut out.status;
        status.desired = if self.queue { self.parallelism } else { self.completions };
        status.current = to_u32(self.active.len());
        status.ready = to_u32(self.active.iter().filter(|o| o.ready_since.is_some()).count());
        status.available = status.ready;
        status.updated = to_u32(self.pods.len());
        (status.succeeded, status.failed) = (succeeded, failed);
        status.end.clone_from(&state.end);
        (status.started, status.finished) = (state.started, state.finished);
        if let Some(indexes) = &self.indexes {
            status.completed_indexes = Some(index::ranges(&indexes.succeeded));
            status.failed_indexes = spec.backoff_limit_per_index.map(|_| index::ranges(&indexes.failed));
        }
        status.conditions.clone_from(&out.memory.conditions);
    }
}

/// What `podFailurePolicy` says of a pod that failed, and by which of its rules.
fn verdict(spec: &JobSpec, pod: &Observed) -> (Verdict, usize) {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules).enumerate();
    for (i, rule) in rules {
        if matches(rule, pod) {
            let verdict = match rule.action.as_str() {
                "FailJob" => Verdict::FailJob,
                "FailIndex" => Verdict::FailIndex,
                "Ignore" => Verdict::Ignore,
                _ => Verdict::Count,
            };
            return (verdict, i);
        }
    }
    (Verdict::Count, 0)
}

fn matches(rule: &PodFailurePolicyRule, pod: &Observed) -> bool {
    if let Some(codes) = &rule.on_exit_codes {
        let values: BTreeSet<i32> = codes.values.iter().copied().collect();
        let wanted = |name: &String| codes.container_name.as_ref().is_none_or(|c| c == name);
        // Those that ended well are never looked at.
        let mut ended = pod.exits.iter().filter(|(name, code)| wanted(name) && *code != 0);
        return ended.any(|(_, code)| values.contains(code) == (codes.operator == "In"));
    }
    rule.on_pod_conditions.iter().flatten().any(|c| {
        let status = c.status.as_deref().unwrap_or("True");
        pod.conditions.iter().any(|(kind, holds)| *kind == c.type_ && holds == status)
    })
}

/// When the next try may start: after the newest failure, twice as long for each one since the last success.
fn backoff(observed: &[&Observed]) -> Option<Timestamp> {
    let mut ended: Vec<&&Observed> = observed.iter().filter(|o| o.finished.is_some()).collect();
    ended.sort_by_key(|o| o.finished);
    let failures = ended.iter().rev().take_while(|o| o.phase == Phase::Failed).count();
    let newest = ended.last()?.finished?;
    if failures == 0 {
        return None;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
    let wait = (FIRST_BACKOFF << doublings).min(MAX_BACKOFF);
    Some(after(newest, SignedDuration::from_secs(wait)))
}

/// Counts are of pods on one node, far below the limit.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

//! Jobs: pods until enough of them have ended well, or too many badly.
//!
//! Each try is a pod with an ordinal of its own. Pods that have ended stay (their logs may be wanted) until the job goes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use super::super::document::Kind;
use super::{Expansion, JobEnd, Observed, Owner, Phase, Wanted, after, count, earlier, instantiate, seconds};

/// How often a job tries again when it says nothing about it.
const BACKOFF_LIMIT: u32 = 6;
/// What the first try after a failure waits, in seconds; it doubles with each further one.
const FIRST_BACKOFF: i64 = 10;
/// What a try waits at most, in seconds.
const MAX_BACKOFF: i64 = 600;

pub(super) fn expand(job: &Job, observed: &[Observed], now: Timestamp) -> Expansion {
    let mut out = Expansion::default();
    let Some(spec) = &job.spec else { return out };
    let mut observed: Vec<&Observed> = observed.iter().collect();
    observed.sort_by_key(|o| o.ordinal);

    let in_phase = |phase: Phase| observed.iter().filter(move |o| o.phase == phase);
    let succeeded = to_u32(in_phase(Phase::Succeeded).count());
    let active: Vec<&&Observed> =
        observed.iter().filter(|o| matches!(o.phase, Phase::Pending | Phase::Running)).collect();
    // A restart within a pod (OnFailure) is a failure, too.
    let restarts = active.iter().fold(0_u32, |sum, o| sum.saturating_add(o.restarts));
    let failed = to_u32(in_phase(Phase::Failed).count()).saturating_add(restarts);

    let parallelism = count(spec.parallelism, 1);
    // Without `completions` a job with several workers is a queue: done once one ended well and the others are through.
    let queue = spec.completions.is_none() && parallelism > 1;
    let completions = if queue { 1 } else { count(spec.completions, 1) };
    let limit = count(spec.backoff_limit, BACKOFF_LIMIT);
    let started = observed.iter().map(|o| o.created).min();
    let deadline = spec.active_deadline_seconds.and_then(|s| Some(after(started?, seconds(Some(s)))));

    let end = if failed > limit {
        Some(JobEnd::Failed(
            "BackoffLimitExceeded".to_owned(),
            format!("{failed} tries failed, and no more than {limit} may"),
        ))
    } else if succeeded >= completions && (!queue || active.is_empty()) {
        Some(JobEnd::Complete)
    } else if deadline.is_some_and(|d| d <= now) && spec.suspend != Some(true) {
        Some(JobEnd::Failed("DeadlineExceeded".to_owned(), "it ran longer than activeDeadlineSeconds".to_owned()))
    } else {
        None
    };

    let wanted = |ordinal: u32, pod| Wanted {
        owner: Owner { kind: Kind::Job, name: job.metadata.name.clone().unwrap_or_default(), ordinal },
        pod,
    };
    let suspended = spec.suspend == Some(true);
    for o in &observed {
        let over = matches!(o.phase, Phase::Succeeded | Phase::Failed);
        if over || (end.is_none() && !suspended) {
            out.pods.push(wanted(o.ordinal, o.pod.clone()));
        }
    }

    if end.is_none() && !suspended {
        let running = to_u32(active.len());
        // A queue makes no new workers once one of them found it empty.
        let room = if queue && succeeded > 0 {
            0
        } else if queue {
            parallelism.saturating_sub(running)
        } else {
            parallelism.min(completions - succeeded).saturating_sub(running)
        };
        // A clock that was set back must not make it wait for longer than it ever would.
        let latest = after(now, SignedDuration::from_secs(MAX_BACKOFF));
        let may_start = backoff(&observed).filter(|at| *at > now).map(|at| at.min(latest));
        match may_start {
            Some(at) if room > 0 => out.wake = earlier(out.wake, Some(at)),
            _ => {
                let first = observed.last().map_or(0, |o| o.ordinal.saturating_add(1));
                for ordinal in (first..).take(usize::try_from(room).unwrap_or(0)) {
                    out.pods.push(wanted(ordinal, instantiate(&job.metadata, &spec.template, ordinal)));
                }
            }
        }
        out.wake = earlier(out.wake, deadline);
    }
    if end.is_some()
        && active.is_empty()
        && let Some(ttl) = spec.ttl_seconds_after_finished
    {
        let finished = observed.iter().filter_map(|o| o.finished).max().or(started);
        let gone = finished.map_or(now, |f| after(f, seconds(Some(i64::from(ttl)))));
        out.expired = gone <= now;
        out.wake = if out.expired { None } else { Some(gone) };
    }
    out.status.desired = if queue { parallelism } else { completions };
    out.status.current = to_u32(active.len());
    out.status.ready = to_u32(active.iter().filter(|o| o.ready_since.is_some()).count());
    out.status.available = out.status.ready;
    out.status.updated = to_u32(observed.len());
    out.status.succeeded = succeeded;
    out.status.failed = failed;
    out.status.end = end;
    out
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
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

//! Cron jobs: a job for each time that the schedule names.
//!
//! A job is named after its cron job and the minute it is for, and the time of the newest is kept on disk before the job
//! begins: a restart of the agent neither misses a time nor does it twice. Of several times that were missed the newest
//! counts, as in Kubernetes.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schedule::Schedule;
use super::{CronMemory, JobEnd, JobMemory, Memory, Run, WorkloadStatus, after, count, earlier};

/// The annotation with the time that a job is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// How many jobs that ended well, and badly, are kept when nothing says otherwise.
const SUCCEEDED: u32 = 3;
const FAILED: u32 = 1;
/// A clock may be set, and a sleep does not notice: it is looked at this often.
const LOOK: SignedDuration = SignedDuration::from_secs(60);
/// A clock that goes back by more than this was set; by less, it was corrected, and what was done is not done again.
const SET_BACK: SignedDuration = SignedDuration::from_secs(300);

/// What a cron job comes to now.
#[derive(Debug, Clone, PartialEq)]
pub struct Runs {
    /// The jobs that there should be, the oldest first; others that it made go.
    pub jobs: Vec<Job>,
    /// What to remember of it.
    pub memory: Memory,
    /// Its status.
    pub status: WorkloadStatus,
    /// When to ask again.
    pub wake: Option<Timestamp>,
    /// A time that was missed for good, for an event.
    pub missed: Option<String>,
}

/// The jobs of a cron job. `of` gives what is remembered of a job of it, by its name.
pub fn runs<'m>(cron: &CronJob, memory: &Memory, of: impl Fn(&str) -> Option<&'m JobMemory>, now: Timestamp) -> Runs {
    let mut out =
        Runs { jobs: Vec::new(), memory: memory.clone(), status: WorkloadStatus::default(), wake: None, missed: None };
    let fresh =
        || CronMemory { seen: now, last_schedule: None, last_success: None, runs: Vec::new(), images: [].into() };
    let mut state = memory.cron.clone().unwrap_or_else(fresh);
    let spec = &cron.spec;
    prune(
        &mut state,
        &of,
        count(spec.successful_jobs_history_limit, SUCCEEDED),
        count(spec.failed_jobs_history_limit, FAILED),
    );

    if state.seen > after(now, SET_BACK) {
        state.seen = now;
    }
    let zone = match &spec.time_zone {
        Some(name) => TimeZone::get(name).ok(),
        None => Some(TimeZone::system()),
    };
    // Validation has seen both; a zone may be gone since.
    if let (Ok(schedule), Some(zone)) = (spec.schedule.parse::<Schedule>(), zone) {
        if spec.suspend != Some(true) {
            due(cron, &mut state, &of, (&schedule, &zone), now, &mut out.missed);
        }
        out.wake = earlier(schedule.next(now.max(state.seen), &zone), Some(after(now, LOOK)));
    }

    let status = &mut out.status;
    for run in &state.runs {
        let name = run.job.metadata.name.clone().unwrap_or_default();
        if of(&name).is_none_or(|j| j.finished.is_none()) {
            status.active.push(name);
        }
        out.jobs.push(run.job.clone());
    }
    status.current = u32::try_from(status.active.len()).unwrap_or(u32::MAX);
    status.last_schedule = state.last_schedule;
    status.last_success = state.last_success;
    out.memory.cron = Some(state);
    out
}

/// Forgets jobs that are beyond their limits.
fn prune<'m>(state: &mut CronMemory, of: &impl Fn(&str) -> Option<&'m JobMemory>, succeeded: u32, failed: u32) {
    let (mut good, mut bad) = (succeeded, failed);
    let mut keep = Vec::new();
    for run in state.runs.iter().rev() {
        let known = of(run.job.metadata.name.as_deref().unwrap_or_default());
        let kept = match known {
            Some(job) if job.expired => false,
            Some(JobMemory { finished: Some(at), end: Some(end), .. }) => {
                let left = if *end == JobEnd::Complete { &mut good } else { &mut bad };
                if *end == JobEnd::Complete {
                    state.last_success = state.last_success.max(Some(*at));
                }
                let kept = *left > 0;
                *left = left.saturating_sub(1);
                kept
            }
            _ => true,
        };
        keep.push(kept);
    }
    keep.reverse();
    let mut keep = keep.into_iter();
    state.runs.retain(|_| keep.next().unwrap_or(true));
}

/// Makes the job that is due, if one is and may be.
fn due<'m>(
    cron: &CronJob,
    state: &mut CronMemory,
    of: &impl Fn(&str) -> Option<&'m JobMemory>,
    (schedule, zone): (&Schedule, &TimeZone),
    now: Timestamp,
    missed: &mut Option<String>,
) {
    let spec = &cron.spec;
    let Some(time) = schedule.latest(state.seen, now, zone) else { return };
    if let Some(limit) = spec.starting_deadline_seconds
        && after(time, SignedDuration::from_secs(limit)) < now
    {
        *missed = Some(format!("the job for {time} did not start within {limit} s of its time"));
        state.seen = time;
        return;
    }
    let is_active =
        |run: &Run| of(run.job.metadata.name.as_deref().unwrap_or_default()).is_none_or(|j| j.finished.is_none());
    match spec.concurrency_policy.as_deref() {
        // It begins when the one before it has ended, unless the next time comes first.
        Some("Forbid") if state.runs.iter().any(is_active) => return,
        Some("Replace") => state.runs.retain(|run| !is_active(run)),
        _ => {}
    }
    let job = make(cron, time);
    state.seen = time;
    state.last_schedule = Some(time);
    if !state.runs.iter().any(|run| run.job.metadata.name == job.metadata.name) {
        state.runs.push(Run { scheduled: time, job });
    }
}

/// The job for a time.
fn make(cron: &CronJob, time: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let own = template.metadata.unwrap_or_default();
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    let mut annotations = own.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), time.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", time.as_second().div_euclid(60))),
            namespace: cron.metadata.namespace.clone(),
            labels: own.labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

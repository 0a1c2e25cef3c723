//! The conditions of a Deployment: is it available, does its rollout get on.

use jiff::{SignedDuration, Timestamp};

use super::super::condition::Condition;
use super::{Memory, Progress, WorkloadStatus, after, earlier};

/// How long a rollout may stand still when nothing says otherwise.
const PROGRESS: i64 = 600;

/// What a rollout may and must.
pub(super) struct Rules {
    /// How many must be available.
    pub(super) needed: u32,
    /// `progressDeadlineSeconds`.
    pub(super) deadline: Option<i32>,
    /// `paused`.
    pub(super) paused: bool,
}

fn condition(kind: &str, status: Option<bool>, reason: &str, message: impl Into<String>, now: Timestamp) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: now,
    }
}

/// Brings progress and conditions up to date, and says when to look again.
pub(super) fn judge(
    rules: &Rules,
    status: &WorkloadStatus,
    complete: bool,
    memory: &mut Memory,
    now: Timestamp,
) -> Option<Timestamp> {
    let revision = memory.revision();
    let grown = memory.progress.as_ref().is_none_or(|p| {
        p.revision != revision || status.updated > p.updated || status.available > p.available || p.since > now
    });
    let since = memory.progress.as_ref().map(|p| p.since).filter(|_| !grown).unwrap_or(now);
    // What shrank is noted too, without a new time: growing back is progress again.
    memory.progress = Some(Progress { revision, updated: status.updated, available: status.available, since });

    let enough = status.available >= rules.needed;
    let (reason, message) = if enough {
        ("MinimumReplicasAvailable", format!("{} of {} pods are available", status.available, status.desired))
    } else {
        ("MinimumReplicasUnavailable", format!("{} of {} pods are available", status.available, status.desired))
    };
    Condition::set(&mut memory.conditions, condition("Available", Some(enough), reason, message, now));

    let limit = SignedDuration::from_secs(rules.deadline.map_or(PROGRESS, i64::from));
    let due = after(since, limit);
    let (holds, reason, message, wake) = if rules.paused {
        (None, "DeploymentPaused", format!("revision {revision} waits: the workload is paused"), None)
    } else if complete {
        (Some(true), "NewReplicaSetAvailable", format!("revision {revision} is rolled out"), None)
    } else if due <= now {
        let message = format!("revision {revision} has made no progress for {} s", limit.as_secs());
        (Some(false), "ProgressDeadlineExceeded", message, None)
    } else {
        let message = format!("revision {revision}: {} of {} pods are updated", status.updated, status.desired);
        (Some(true), "ReplicaSetUpdated", message, Some(due))
    };
    Condition::set(&mut memory.conditions, condition("Progressing", holds, reason, message, now));
    earlier(None, wake)
}

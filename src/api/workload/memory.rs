//! What is remembered of a workload beside its pods: kept on disk, so that a rollout, a job's end and a schedule outlast
//! the agent and the pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::super::change::{PodChange, change};
use super::super::condition::Condition;
use super::{JobEnd, instantiate};

/// What says why a template was changed, in the words of the person who did.
const CAUSE: &str = "kubernetes.io/change-cause";
/// How many older templates are kept when nothing says otherwise.
const HISTORY: usize = 10;

/// What is remembered of one workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Since when it is known here.
    pub since: Option<Timestamp>,
    /// The templates that it had and has, the newest last.
    pub revisions: Vec<Revision>,
    /// The newest revision that was rolled out completely; 0: none yet.
    pub settled: u64,
    /// How far the rollout is.
    pub progress: Option<Progress>,
    /// Pods that were made before this are made anew, one after another (`lamina restart`).
    pub restarted: Option<Timestamp>,
    /// What holds of it.
    pub conditions: Vec<Condition>,
    /// Of a job.
    pub job: Option<JobMemory>,
    /// Of a cron job.
    pub cron: Option<CronMemory>,
}

/// A template that a workload had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Counts from 1; a template that comes back gets a new number.
    pub number: u64,
    /// The template.
    pub template: PodTemplateSpec,
    /// Why, in the words of whoever changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Since when it is the newest.
    pub since: Timestamp,
    /// The images that its pods ran: digests of their manifests.
    #[serde(default)]
    pub images: BTreeSet<String>,
}

/// How far a rollout is, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Of which revision.
    pub revision: u64,
    /// Pods of it.
    pub updated: u32,
    /// Of these and the others, how many are available.
    pub available: u32,
    /// When either last grew.
    pub since: Timestamp,
}

/// What is remembered of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobMemory {
    /// What its pods are made from; another template is another job.
    pub template: PodTemplateSpec,
    /// When it began, or was resumed.
    pub started: Option<Timestamp>,
    /// How it ended.
    #[serde(default)]
    pub end: Option<JobEnd>,
    /// When.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// How many pods ended well and badly, at its end.
    #[serde(default)]
    pub counts: (u32, u32),
    /// `ttlSecondsAfterFinished` has passed: nothing of it is left.
    #[serde(default)]
    pub expired: bool,
}

/// What is remembered of a cron job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronMemory {
    /// Up to when its schedule was looked at: the time of the newest run, or when it was first seen.
    pub seen: Timestamp,
    /// The time for which a job was made last.
    #[serde(default)]
    pub last_schedule: Option<Timestamp>,
    /// When a job of it ended well, last.
    #[serde(default)]
    pub last_success: Option<Timestamp>,
    /// Its jobs, the oldest first.
    #[serde(default)]
    pub runs: Vec<Run>,
    /// The images of the newest run: held between runs.
    #[serde(default)]
    pub images: BTreeSet<String>,
}

/// One job of a cron job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The time that the schedule names.
    pub scheduled: Timestamp,
    /// The job, as it was made.
    pub job: Job,
}

impl Memory {
    /// The number of the newest template.
    pub fn revision(&self) -> u64 {
        self.revisions.last().map_or(0, |r| r.number)
    }

    /// A revision by its number.
    pub fn revision_of(&self, number: u64) -> Option<&Revision> {
        self.revisions.iter().find(|r| r.number == number)
    }

    /// The template that was rolled out before the one that is being rolled out.
    pub(super) fn settled_template(&self) -> Option<&PodTemplateSpec> {
        self.revision_of(self.settled).map(|r| &r.template)
    }

    /// Takes note of the template that a workload has now. One that was there before comes back under a new number.
    pub(super) fn note(&mut self, meta: &ObjectMeta, template: &PodTemplateSpec, history: Option<i32>, now: Timestamp) {
        let new = instantiate(meta, template, 0);
        let same = |r: &Revision| change(&instantiate(meta, &r.template, 0), &new) == PodChange::Nothing;
        if self.revisions.last().is_some_and(same) {
            return;
        }
        let number = self.revision() + 1;
        let known = self.revisions.iter().position(same).map(|i| self.revisions.remove(i));
        let cause = meta.annotations.as_ref().and_then(|a| a.get(CAUSE)).cloned();
        let images = known.map(|r| r.images).unwrap_or_default();
        self.revisions.push(Revision { number, template: template.clone(), cause, since: now, images });
        let keep = history.map_or(HISTORY, |n| usize::try_from(n).unwrap_or(0)) + 1;
        let settled = self.settled;
        let mut excess = self.revisions.len().saturating_sub(keep);
        self.revisions.retain(|r| {
            // The one that runs until the rollout is through stays, whatever the limit says.
            let goes = excess > 0 && r.number != settled && r.number != number;
            excess -= usize::from(goes);
            !goes
        });
    }

    /// Takes note of the images that pods of the newest template run.
    pub(super) fn note_images(&mut self, images: BTreeSet<String>) {
        if let Some(newest) = self.revisions.last_mut()
            && !images.is_empty()
        {
            newest.images = images;
        }
    }

    /// The images of templates that a rollout under way may have to go back to.
    pub(super) fn holds(&self) -> BTreeSet<String> {
        let current = self.revision();
        if self.settled == current {
            return BTreeSet::new();
        }
        let before = self.revisions.iter().filter(|r| r.number >= self.settled && r.number < current);
        before.flat_map(|r| r.images.iter().cloned()).collect()
    }
}

//! Accept, Amend, Doom, Expire, Evict, Renew, Again, Erase: the pod's record, from its first line to its removal.

use std::sync::Arc;
use std::time::Duration;

use super::{Real, disk};
use crate::api::PodUid;
use crate::api::view::has_own_users;
use crate::pod::desired::{Desired, Eviction};
use crate::pod::engine::StepError;
use crate::pod::plan::everyone;
use crate::pod::state::{Doom, Ended, Generations, Observed, RECORD_VERSION, Record};

/// Runs blocking work of one pod.
pub(super) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, StepError>
where
    T: Send + 'static,
    E: Into<StepError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(StepError::backoff("Failed", &error)),
    }
}

impl Real {
    async fn write(&self, record: &Record) -> Result<(), StepError> {
        let (dir, record) = (self.dir(&record.uid), record.clone());
        blocking(move || disk::write_record(&dir, &record)).await
    }

    pub(super) async fn accept(&mut self, desired: &Desired, seen: &mut Observed) -> Result<(), StepError> {
        let ended = self.machine.policy.refuses(&desired.pod);
        let mapped = has_own_users(&desired.pod) && ended.is_none();
        let users = if mapped {
            let none = || StepError::on_change("FailedCreatePodSandBox", "no range of user ids is free on this node");
            Some(self.machine.users.take().ok_or_else(none)?)
        } else {
            None
        };
        let record = Record {
            version: RECORD_VERSION,
            uid: PodUid::random(),
            origin: desired.origin.clone(),
            pod: Arc::clone(&desired.pod),
            created: jiff::Timestamp::now(),
            containers: everyone(&desired.pod).map(|(_, c)| (c.name.clone(), Generations::default())).collect(),
            users,
            renewed: 0,
            ended,
            doomed: None,
        };
        if let Err(error) = self.write(&record).await {
            users.inspect(|first| self.machine.users.release(*first));
            return Err(error);
        }
        self.uid = Some(record.uid.clone());
        super::locked(&self.digests).clear();
        *seen = Observed { record: Some(record), started: Some(crate::pod::backoff::now()), ..Observed::default() };
        Ok(())
    }

    pub(super) async fn amend(
        &self,
        record: &Record,
        desired: &Desired,
        changed: &[String],
        resources: &[String],
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        let mut record = record.clone();
        record.amend(&desired.pod, &desired.origin, changed, resources);
        self.write(&record).await?;
        seen.record = Some(record);
        Ok(())
    }

    pub(super) async fn doom(&self, record: &Record, grace: Option<Duration>, seen: &mut Observed) {
        let mut record = record.clone();
        record.doomed = Some(Doom { grace, since: jiff::Timestamp::now() });
        if let Err(error) = self.write(&record).await {
            // A full disk must not keep a pod alive. If the agent dies now, the next one finds it unwanted again.
            tracing::warn!(pod = %self.key, error = %error.message, "cannot write down that the pod goes; it goes anyway");
        }
        seen.record = Some(record);
    }

    pub(super) async fn expire(&self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        let mut record = record.clone();
        let message = "the pod was active for longer than its activeDeadlineSeconds";
        record.ended = Some(Ended::new("DeadlineExceeded", message));
        self.write(&record).await?;
        seen.record = Some(record);
        Ok(())
    }

    pub(super) async fn evict(&self, record: &Record, eviction: &Eviction, seen: &mut Observed) {
        let mut record = record.clone();
        record.ended = Some(Ended {
            grace: Some(eviction.grace),
            disruption: eviction.disruption,
            ..Ended::new(Ended::EVICTED, eviction.message.clone())
        });
        if let Err(error) = self.write(&record).await {
            // It may be the disk that is short.
            tracing::warn!(pod = %self.key, error = %error.message, "cannot write down that the pod is evicted; it is anyway");
        }
        seen.record = Some(record);
    }

    pub(super) async fn renew(&self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        let mut record = record.clone();
        record.renewed = seen.next_round();
        self.write(&record).await?;
        seen.record = Some(record);
        Ok(())
    }

    pub(super) async fn again(&self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        let (live, epoch) = (self.machine.live_dir(&record.uid), record.renewed);
        blocking(move || disk::write_epoch(&live, epoch)).await?;
        seen.epoch = epoch;
        Ok(())
    }

    pub(super) async fn erase(&mut self, record: &Record, seen: &mut Observed) -> Result<(), StepError> {
        let machine = &self.machine;
        let (dir, live) = (machine.dir(&record.uid), machine.live_dir(&record.uid));
        let logs = machine.log_dir.join(machine.log_name(&self.key, &record.uid));
        blocking(move || {
            disk::remove_tree(&live)?;
            disk::remove_tree(&logs)?;
            // The record last: as long as it is there, a restarted agent goes on with this.
            disk::remove_but_record(&dir)?;
            disk::remove_tree(&dir)
        })
        .await?;
        record.users.inspect(|first| self.machine.users.release(*first));
        self.let_go(record).await?;
        // What its failed pulls have fetched was kept for the next try, which will not come.
        let (images, uid) = (machine.images.clone(), record.uid.clone());
        let others = move |owner: &str| super::uid_of_owner(owner).is_some_and(|other| other != uid);
        let stale = tokio::task::spawn_blocking(move || images.release_stale(others)).await;
        if let Ok(Err(error)) = stale {
            tracing::warn!(pod = %self.key, error = &error as &dyn std::error::Error, "cannot let go of what pulls held");
        }
        self.uid = None;
        super::locked(&self.digests).clear();
        *seen = Observed::default();
        Ok(())
    }
}

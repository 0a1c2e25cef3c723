//! Probe, PostStart, and the hook before a stop: tasks of a container, and what they say.
//!
//! A task tells the worker by a push and touches nothing itself; it ends when its container does, and with the engine.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Machine, Real, disk};
use crate::api::{Event, Kind as ObjectKind, ObjectKey, PodKey, Reason};
use crate::pod::engine::{Hook, Push, StepError};
use crate::pod::plan::{self, health};
use crate::pod::probe::runner::{self, Before, Ear, Finding, Kind, Probes};
use crate::pod::probe::{Action, Outcome, Place};
use crate::pod::state::{Observed, Record};

/// The tasks of one container.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    probes: Option<AbortOnDropHandle<()>>,
    hook: Option<AbortOnDropHandle<()>>,
}

/// How long a `postStart` hook may take; a kubelet sets no limit, and a task that never ends must not be.
const MAX_POST_START: Duration = Duration::from_hours(24);

impl Real {
    /// Where a container is, for its probes and hooks.
    fn place(&mut self, record: &Record, container: &str, attempt: u32) -> Result<Place, StepError> {
        let failed = |e: std::io::Error| StepError::backoff("FailedProbe", &e);
        let network = if let Some(network) = &self.network {
            Arc::clone(network)
        } else {
            let shim = self.client()?.hello().pid;
            let network: OwnedFd = std::fs::File::open(format!("/proc/{shim}/ns/net")).map_err(failed)?.into();
            Arc::clone(self.network.insert(Arc::new(network)))
        };
        // As a kubelet has it: the pod's address; what has no network of its own is asked on its loopback.
        let (addresses, _) = self.machine.addresses(&record.pod, &record.uid);
        let own = addresses.first().and_then(|a| a.parse().ok());
        let Some(shim) = &self.shim else { return Err(failed(std::io::ErrorKind::NotConnected.into())) };
        Ok(Place {
            sockets: self.machine.sockets.clone(),
            network,
            address: own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            client: shim.handle.client.clone(),
            told: shim.handle.told.clone(),
            container: container.to_owned(),
            attempt,
            spec: self.machine.spec_file(&record.uid, container, attempt),
        })
    }

    pub(super) fn probe(&mut self, record: &Record, name: &str, seen: &mut Observed) -> Result<(), StepError> {
        let Some(container) = plan::find(&record.pod, name) else { return Ok(()) };
        let Some(attempt) = seen.containers.get(name).and_then(|c| c.attempt.clone()) else { return Ok(()) };
        let probes = Probes::of(container);
        let place = self.place(record, name, attempt.number)?;
        let ear = Listener {
            machine: Arc::clone(&self.machine),
            key: self.key.clone(),
            uid: record.uid.to_string(),
            container: name.to_owned(),
            attempt: attempt.number,
            tell: self.fetched.0.clone(),
        };
        let before = Before {
            started: attempt.started,
            up: attempt.health.up || container.startup_probe.is_none(),
            ready: attempt.health.ready,
            adopted: attempt.started < self.born,
        };
        let tasks = self.tasks.entry(name.to_owned()).or_default();
        tasks.probes =
            probes.clone().map(|probes| AbortOnDropHandle::new(tokio::spawn(runner::run(probes, place, before, ear))));
        if let Some(c) = seen.containers.get_mut(name) {
            c.probing = probes.map(Box::new);
        }
        Ok(())
    }

    pub(super) fn post_start(&mut self, record: &Record, name: &str, seen: &mut Observed) -> Result<(), StepError> {
        let Some(container) = plan::find(&record.pod, name) else { return Ok(()) };
        let Some(hook) = health::post_start(container) else { return Ok(()) };
        let Some(attempt) = seen.containers.get(name).and_then(|c| c.attempt.as_ref()).map(|a| a.number) else {
            return Ok(());
        };
        let action = Action::of_hook(hook, container);
        self.hook(record, (name, attempt), Hook::PostStart, (action, MAX_POST_START))?;
        if let Some(c) = seen.containers.get_mut(name) {
            c.hooking = true;
        }
        Ok(())
    }

    /// Begins the hook before a container's end; whether there is one.
    pub(super) fn pre_stop(&mut self, record: &Record, (name, attempt): (&str, u32), grace: Duration) -> bool {
        let Some(container) = plan::find(&record.pod, name) else { return false };
        let Some(hook) = health::pre_stop(container).filter(|_| !grace.is_zero()) else { return false };
        let action = Action::of_hook(hook, container);
        self.hook(record, (name, attempt), Hook::PreStop, (action, grace)).is_ok()
    }

    fn hook(
        &mut self,
        record: &Record,
        (name, attempt): (&str, u32),
        hook: Hook,
        (action, limit): (Option<Action>, Duration),
    ) -> Result<(), StepError> {
        let place = self.place(record, name, attempt)?;
        let (tell, container) = (self.fetched.0.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let result = match action {
                Some(action) => match tokio::time::timeout(limit, action.act(&place, limit)).await {
                    Ok(Outcome::Success) => Ok(()),
                    Ok(Outcome::Failure(why) | Outcome::Unknown(why)) => Err(why),
                    Err(_) => Err(format!("not done within {} s", limit.as_secs())),
                },
                None => Err("its port has a name that no port of the container has".to_owned()),
            };
            // The engine is gone only if the agent ends.
            let _ = tell.send(Box::new(Push::Hooked { container, attempt, hook, result }));
        });
        self.tasks.entry(name.to_owned()).or_default().hook = Some(AbortOnDropHandle::new(task));
        Ok(())
    }

    /// A container that is to end is not probed any more.
    pub(super) fn unprobed(&mut self, name: &str) {
        self.tasks.remove(name);
    }

    /// Writes down what tasks have said, for the next agent. A disk that is full costs a probe after a restart.
    pub(super) fn note(&self, push: &Push) {
        let (container, attempt) = match push {
            Push::Probed { container, attempt, .. }
            | Push::Hooked { container, attempt, hook: Hook::PostStart, .. } => (container, *attempt),
            _ => return,
        };
        let Some(uid) = &self.uid else { return };
        let dir = disk::attempt_dir(&self.dir(uid), container, attempt);
        let Some(mut attempt) = disk::read_attempt(&dir) else { return };
        match push.clone() {
            Push::Probed { finding, .. } => attempt.health.found(finding),
            Push::Hooked { result, .. } => attempt.health.post_start(result),
            _ => return,
        }
        if let Err(error) = disk::write_attempt(&dir, &attempt) {
            tracing::warn!(pod = %self.key, container, error = &error as &dyn std::error::Error, "cannot write down a container's health");
        }
    }
}

/// Hears the probes of one container.
struct Listener {
    machine: Arc<Machine>,
    key: PodKey,
    uid: String,
    container: String,
    attempt: u32,
    tell: mpsc::UnboundedSender<Box<Push>>,
}

impl Ear for Listener {
    fn probed(&self, kind: Kind, outcome: &Outcome) {
        self.machine.metrics.probed(kind, outcome);
    }

    fn unhealthy(&self, message: String) {
        let object =
            ObjectKey { kind: ObjectKind::Pod, namespace: self.key.namespace.clone(), name: self.key.name.clone() };
        let mut event = Event::new(object, Reason::Unhealthy, message, jiff::Timestamp::now());
        event.uid = Some(self.uid.clone());
        event.container = Some(self.container.clone());
        tracing::debug!(pod = %self.key, container = self.container, "{}", event.message);
        // The ring is there as long as the node is.
        let _ = self.machine.events.send(event);
    }

    fn found(&self, finding: Finding) {
        let _ = self.tell.send(Box::new(Push::Probed {
            container: self.container.clone(),
            attempt: self.attempt,
            finding,
        }));
    }
}

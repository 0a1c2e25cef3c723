//! A simulated machine: a disk, a shim, processes, a clock; and an engine that works on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::api::ids::PodUid;
use crate::pod::backoff::Tick;
use crate::pod::desired::{Desired, Wanted};
use crate::pod::engine::{Hook, Push, StepError};
use crate::pod::plan::health::pre_stop;
use crate::pod::plan::{LEAST_GRACE, Step, Why, everyone, find, plan};
use crate::pod::probe::runner::{Finding, Probes};
use crate::pod::state::{
    Attempt, Doom, Ended, Exit, Generations, Health, Image, Observation, Observed, RECORD_VERSION, Record, Retry,
    Sandbox,
};

/// What outlasts the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) now: Tick,
    pub(super) record: Option<Record>,
    /// By container, oldest first; a running one has no exit.
    pub(super) attempts: BTreeMap<String, Vec<Attempt>>,
    pub(super) shim: bool,
    /// Whether the shim has all that containers need.
    pub(super) prepared: bool,
    /// The number of the last sandbox.
    pub(super) epoch: u32,
    /// Containers that end well as soon as anything else has happened.
    pub(super) brief: BTreeSet<String>,
    /// Processes: container, attempt and a pid that is never used twice.
    pub(super) running: BTreeMap<(String, u32), u64>,
    pub(super) refs: BTreeSet<(String, u32)>,
    pub(super) next_pid: u64,
    /// Containers that ignore a request to end.
    pub(super) stubborn: BTreeSet<String>,
    /// Images that cannot be had.
    pub(super) missing: BTreeSet<String>,
    pub(super) starts: Vec<(String, Tick)>,
    /// When a process ended last.
    pub(super) last_end: Tick,
    pub(super) stops: Vec<String>,
    pub(super) uids: u8,
    /// The step that fails for once, counted from now.
    pub(super) fails: Option<usize>,
    /// Hooks under way, and those that were run.
    pub(super) hooking: Vec<(String, Hook)>,
    pub(super) hooks: Vec<(String, Hook)>,
    /// Containers whose hooks fail.
    pub(super) bad_hooks: BTreeSet<String>,
    /// Containers that were begun to be probed.
    pub(super) probed: Vec<String>,
    /// Fetches that end when the driver gets to them.
    pub(super) fetching: Vec<(String, u32, u32)>,
    pub(super) fetching_volumes: Vec<String>,
    /// Volumes whose images are here and held.
    pub(super) volumes: BTreeSet<String>,
}

pub(super) fn exit(code: i32, now: Tick) -> Exit {
    Exit {
        code,
        signal: None,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        condemned: false,
        finished: now,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

impl World {
    /// A world in which these containers end well as soon as they run.
    pub(super) fn brief(containers: &[&str]) -> Self {
        Self { brief: containers.iter().map(|c| (*c).to_owned()).collect(), ..Self::default() }
    }

    /// A process ends by itself.
    pub(super) fn ends(&mut self, container: &str, code: i32) -> Option<Push> {
        let number = self.running.keys().find(|(c, _)| c == container)?.1;
        self.running.remove(&(container.to_owned(), number));
        self.last_end = self.now;
        let exit = exit(code, self.now);
        if let Some(a) = self.attempts.get_mut(container).and_then(|a| a.last_mut()) {
            a.exit = Some(exit.clone());
        }
        Some(Push::Exited { container: container.to_owned(), attempt: number, exit })
    }

    pub(super) fn look(&self) -> Observed {
        let mut seen = Observed {
            record: self.record.clone(),
            holds: !self.refs.is_empty() || !self.volumes.is_empty(),
            sandbox: match (self.shim, self.running.is_empty()) {
                (true, _) if self.prepared => Sandbox::Up,
                (true, _) => Sandbox::Begun,
                (false, true) => Sandbox::Down,
                (false, false) => Sandbox::Lost,
            },
            ..Observed::default()
        };
        let generation = |c: &str| self.record.as_ref().and_then(|r| r.containers.get(c)).map_or(0, |g| g.spec);
        for (name, attempts) in &self.attempts {
            seen.containers.insert(
                name.clone(),
                Box::new(Observation {
                    attempt: attempts.last().cloned(),
                    older: u32::try_from(attempts.len().saturating_sub(1)).unwrap(),
                    stale_refs: self.refs.iter().any(|(c, g)| c == name && *g != generation(name)),
                    ..Observation::default()
                }),
            );
        }
        if seen.sandbox == Sandbox::Down {
            seen.down();
        } else {
            seen.epoch = self.epoch;
        }
        seen
    }

    pub(super) fn apply(
        &mut self,
        step: &Step,
        desired: Option<&Desired>,
        seen: &mut Observed,
    ) -> Result<(), StepError> {
        match &mut self.fails {
            Some(0) => {
                self.fails = None;
                return Err(StepError { retry: Retry::Backoff, reason: "Failed", message: "no space left".into() });
            }
            Some(n) => *n -= 1,
            None => {}
        }
        match step {
            Step::Accept => {
                let desired = desired.unwrap();
                self.uids += 1;
                let names = everyone(&desired.pod).map(|(_, c)| c.name.clone());
                self.record = Some(Record {
                    version: RECORD_VERSION,
                    uid: PodUid::from_bytes([self.uids; 16]),
                    origin: desired.origin.clone(),
                    pod: Arc::clone(&desired.pod),
                    created: jiff::Timestamp::UNIX_EPOCH,
                    containers: names.map(|n| (n, Generations::default())).collect(),
                    users: None,
                    renewed: 0,
                    ended: None,
                    doomed: None,
                });
            }
            Step::Amend { containers, resources } => {
                let record = self.record.as_mut().unwrap();
                record.amend(&desired.unwrap().pod, &desired.unwrap().origin, containers, resources);
            }
            Step::Doom { grace, .. } => {
                let doom = Doom { grace: *grace, since: jiff::Timestamp::UNIX_EPOCH };
                self.record.as_mut().unwrap().doomed = Some(doom);
            }
            Step::Expire => {
                let ended = Ended::new("DeadlineExceeded", "");
                self.record.as_mut().unwrap().ended = Some(ended);
            }
            Step::Evict(eviction) => {
                let ended = Ended { grace: Some(eviction.grace), ..Ended::new(Ended::EVICTED, "") };
                self.record.as_mut().unwrap().ended = Some(ended);
            }
            Step::Renew { .. } => self.record.as_mut().unwrap().renewed = seen.next_round(),
            Step::Again => self.epoch = self.record.as_ref().unwrap().renewed,
            Step::Bury => {
                self.running.clear();
                for a in self.attempts.values_mut().flatten().filter(|a| a.exit.is_none()) {
                    a.exit = Some(exit(137, self.now));
                }
                self.shim = false;
            }
            Step::Fetch { container, generation, attempt } => {
                seen.containers.entry(container.clone()).or_default().image = Image::Fetching;
                self.fetching.push((container.clone(), *generation, *attempt));
                return Ok(());
            }
            Step::FetchVolume { volume } => {
                seen.volumes.insert(volume.clone(), Image::Fetching);
                self.fetching_volumes.push(volume.clone());
                return Ok(());
            }
            Step::Prepare => {
                let spec = self.record.as_ref().unwrap().pod.spec.as_ref().unwrap();
                let images = spec.volumes.iter().flatten().filter(|v| v.image.is_some());
                assert!(
                    images.map(|v| &v.name).all(|v| self.volumes.contains(v)),
                    "prepared without the image of a volume"
                );
                (self.shim, self.prepared, self.epoch) = (true, true, seen.epoch);
            }
            Step::Refresh => {
                seen.config = desired.map(Desired::stamp);
                return Ok(());
            }
            Step::Start { container, attempt, level } => {
                assert!(self.shim && self.prepared, "started without a sandbox");
                assert!(!self.running.keys().any(|(c, _)| c == container), "{container} runs twice");
                let generations = self.record.as_ref().unwrap().containers[container];
                assert!(self.refs.contains(&(container.clone(), generations.spec)), "started on an image not held");
                let attempts = self.attempts.entry(container.clone()).or_default();
                assert!(attempts.last().is_none_or(|a| a.number < *attempt), "an attempt's number used twice");
                let named = find(&self.record.as_ref().unwrap().pod, container).unwrap().image.clone();
                attempts.push(Attempt {
                    number: *attempt,
                    generations,
                    level: *level,
                    epoch: seen.epoch,
                    health: Health::default(),
                    started: self.now,
                    started_at: jiff::Timestamp::UNIX_EPOCH,
                    image_name: named.unwrap_or_default(),
                    image: String::new(),
                    layers: Vec::new(),
                    failure: None,
                    log: None,
                    pid: None,
                    exit: None,
                });
                self.next_pid += 1;
                self.running.insert((container.clone(), *attempt), self.next_pid);
                self.starts.push((container.clone(), self.now));
            }
            Step::Resize { container } => {
                let generations = self.record.as_ref().unwrap().containers[container];
                let attempt = self.attempts.get_mut(container).unwrap().last_mut().unwrap();
                attempt.generations.resources = generations.resources;
            }
            Step::Signal { container } => {
                seen.containers.get_mut(container).unwrap().asked(LEAST_GRACE, self.now);
                self.asked(container);
                if self.stubborn.contains(container) {
                    return Ok(());
                }
            }
            Step::PostStart { container } => {
                seen.containers.get_mut(container).unwrap().hooking = true;
                self.hooking.push((container.clone(), Hook::PostStart));
                return Ok(());
            }
            Step::Probe { container } => {
                self.probed.push(container.clone());
                let record = self.record.as_ref().unwrap();
                let probes = Probes::of(find(&record.pod, container).unwrap());
                seen.containers.get_mut(container).unwrap().probing = probes.map(Box::new);
                return Ok(());
            }
            Step::Stop { container, grace, why, turn } => {
                if *why == Why::End {
                    seen.ending.get_or_insert(self.now);
                }
                let record = self.record.as_ref().unwrap();
                let hook = find(&record.pod, container).is_some_and(|c| pre_stop(c).is_some()) && !grace.is_zero();
                if hook {
                    self.hooking.push((container.clone(), Hook::PreStop));
                }
                let asked = *turn && !hook;
                seen.containers.get_mut(container).unwrap().stopping(*grace, self.now, (hook, asked));
                if !asked {
                    return Ok(());
                }
                if grace.is_zero() || !self.stubborn.contains(container) {
                    self.asked(container);
                } else {
                    self.stops.push(container.clone());
                    return Ok(());
                }
            }
            Step::Kill { container } => {
                self.ends(container, 137);
            }
            Step::Tidy { container } => {
                let generation = self.record.as_ref().unwrap().containers.get(container).map(|g| g.spec);
                if let Some(attempts) = self.attempts.get_mut(container) {
                    attempts.drain(..attempts.len().saturating_sub(2));
                }
                self.refs.retain(|(c, g)| c != container || Some(*g) == generation);
            }
            Step::Teardown => {
                assert!(self.running.is_empty(), "torn down with processes running");
                self.shim = false;
            }
            Step::Release => {
                self.refs.clear();
                self.volumes.clear();
            }
            Step::Erase => {
                assert!(!self.shim && self.running.is_empty() && self.refs.is_empty() && self.volumes.is_empty());
                self.attempts.clear();
                self.record = None;
            }
        }
        seen.renew(self.look());
        Ok(())
    }

    /// A container gets its signal.
    fn asked(&mut self, container: &str) {
        self.stops.push(container.to_owned());
        if !self.stubborn.contains(container) {
            self.ends(container, 143);
        }
    }

    /// Something is found out about a container, and written down.
    pub(super) fn finds(&mut self, container: &str, finding: Finding) -> Push {
        let attempt = self.attempts.get_mut(container).unwrap().last_mut().unwrap();
        attempt.health.found(finding.clone());
        Push::Probed { container: container.to_owned(), attempt: attempt.number, finding }
    }

    /// Hooks come to their end.
    fn hooked(&mut self) -> Vec<Push> {
        let mut pushes = Vec::new();
        for (container, hook) in std::mem::take(&mut self.hooking) {
            self.hooks.push((container.clone(), hook));
            let result = if self.bad_hooks.contains(&container) { Err("exit status 1".to_owned()) } else { Ok(()) };
            let Some(attempt) = self.attempts.get_mut(&container).and_then(|a| a.last_mut()) else { continue };
            if hook == Hook::PostStart {
                attempt.health.post_start(result.clone());
            }
            pushes.push(Push::Hooked { attempt: attempt.number, container, hook, result });
        }
        pushes
    }

    fn fetched(&mut self) -> Vec<Push> {
        let mut volumes = Vec::new();
        for volume in std::mem::take(&mut self.fetching_volumes) {
            let result = if self.missing.contains(&volume) {
                Err(StepError { retry: Retry::Backoff, reason: "ErrImagePull", message: "no such image".into() })
            } else {
                self.volumes.insert(volume.clone());
                Ok(())
            };
            volumes.push(Push::VolumeFetched { volume, result });
        }
        let containers = std::mem::take(&mut self.fetching);
        let containers = containers.into_iter().map(|(container, generation, attempt)| {
            let result = if self.missing.contains(&container) {
                Err(StepError { retry: Retry::Backoff, reason: "ErrImagePull", message: "no such image".into() })
            } else {
                self.refs.insert((container.clone(), generation));
                Ok(())
            };
            Push::Fetched { container, generation, attempt, result }
        });
        volumes.extend(containers);
        volumes
    }

    /// The agent dies before or, where that makes a difference, in the middle of a step: whatever only it knew is gone.
    fn agent_dies(&mut self, step: &Step) {
        self.fetching.clear();
        self.fetching_volumes.clear();
        self.hooking.clear();
        if *step == Step::Prepare && !self.shim {
            (self.shim, self.prepared, self.epoch) = (true, false, self.look().epoch);
        }
    }
}

/// Lets the worker's loop run in the world until nothing moves but time, or until `crash` more steps were done.
/// Says whether it settled.
pub(super) fn settle(world: &mut World, wanted: &Wanted, seen: &mut Observed, crash: &mut Option<usize>) -> bool {
    for _ in 0..1000 {
        let next = plan(wanted, seen, world.now);
        if next.steps.is_empty() {
            let mut pushes = world.fetched();
            pushes.extend(world.hooked());
            let brief = world.running.keys().map(|k| k.0.clone()).filter(|c| world.brief.contains(c));
            pushes.extend(brief.collect::<Vec<_>>().iter().filter_map(|c| world.ends(c, 0)));
            if pushes.is_empty() {
                return true;
            }
            for push in pushes {
                seen.push(push, world.now);
            }
            continue;
        }
        for step in &next.steps {
            if let Some(left) = crash {
                if *left == 0 {
                    *crash = None;
                    world.agent_dies(step);
                    return false;
                }
                *left -= 1;
            }
            match world.apply(step, wanted.desired.as_ref(), seen) {
                Ok(()) => seen.done(step),
                Err(error) => {
                    seen.failed(step, error, world.now);
                    seen.renew(world.look());
                    break;
                }
            }
        }
    }
    panic!("does not settle: {:?}", plan(wanted, seen, world.now));
}

/// As [`settle`], and time passes too, up to `limit` from now.
pub(super) fn live(world: &mut World, wanted: &Wanted, seen: &mut Observed, limit: Duration) {
    let end = world.now + limit;
    loop {
        assert!(settle(world, wanted, seen, &mut None));
        match plan(wanted, seen, world.now).wake {
            Some(wake) if wake <= end => {
                assert!(wake > world.now, "a wait that is over is waited for");
                world.now = wake;
            }
            _ => {
                world.now = end;
                return;
            }
        }
    }
}

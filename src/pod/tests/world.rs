//! A simulated machine: a disk, a shim, processes, a clock; and an engine that works on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::ids::PodUid;
use crate::pod::backoff::Tick;
use crate::pod::desired::{Desired, Wanted};
use crate::pod::engine::{Push, StepError};
use crate::pod::plan::{Step, plan};
use crate::pod::state::{
    Attempt, Doom, Ended, Exit, Generations, Image, Observation, Observed, RECORD_VERSION, Record, Retry, Sandbox, Stop,
};

/// What outlasts the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) now: Tick,
    pub(super) record: Option<Record>,
    /// By container, oldest first; a running one has no exit.
    pub(super) attempts: BTreeMap<String, Vec<Attempt>>,
    pub(super) shim: bool,
    /// Processes: container, attempt and a pid that is never used twice.
    pub(super) running: BTreeMap<(String, u32), u64>,
    pub(super) refs: BTreeSet<(String, u32)>,
    pub(super) next_pid: u64,
    /// Containers that ignore a request to end.
    pub(super) stubborn: BTreeSet<String>,
    /// Images that cannot be had.
    pub(super) missing: BTreeSet<String>,
    pub(super) starts: Vec<(String, Tick)>,
    pub(super) stops: Vec<String>,
    pub(super) uids: u8,
    /// The step that fails for once, counted from now.
    pub(super) fails: Option<usize>,
    /// Fetches that end when the driver gets to them.
    pub(super) fetching: Vec<(String, u32, u32)>,
}

pub(super) fn exit(code: i32, now: Tick) -> Exit {
    Exit {
        code,
        signal: None,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        finished: now,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

impl World {
    /// A process ends by itself.
    pub(super) fn ends(&mut self, container: &str, code: i32) -> Option<Push> {
        let number = self.running.keys().find(|(c, _)| c == container)?.1;
        self.running.remove(&(container.to_owned(), number));
        let exit = exit(code, self.now);
        if let Some(a) = self.attempts.get_mut(container).and_then(|a| a.last_mut()) {
            a.exit = Some(exit.clone());
        }
        Some(Push::Exited { container: container.to_owned(), attempt: number, exit })
    }

    pub(super) fn look(&self) -> Observed {
        let mut seen = Observed {
            record: self.record.clone(),
            holds: !self.refs.is_empty(),
            sandbox: match (self.shim, self.running.is_empty()) {
                (true, _) => Sandbox::Up,
                (false, true) => Sandbox::Down,
                (false, false) => Sandbox::Lost,
            },
            ..Observed::default()
        };
        let generation = |c: &str| self.record.as_ref().and_then(|r| r.containers.get(c)).map_or(0, |g| g.spec);
        for (name, attempts) in &self.attempts {
            seen.containers.insert(
                name.clone(),
                Observation {
                    attempt: attempts.last().cloned(),
                    older: u32::try_from(attempts.len().saturating_sub(1)).unwrap(),
                    stale_refs: self.refs.iter().any(|(c, g)| c == name && *g != generation(name)),
                    ..Observation::default()
                },
            );
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
                let names = desired.pod.spec.iter().flat_map(|s| s.containers.iter()).map(|c| c.name.clone());
                self.record = Some(Record {
                    version: RECORD_VERSION,
                    uid: PodUid::from_bytes([self.uids; 16]),
                    origin: desired.origin.clone(),
                    pod: (*desired.pod).clone(),
                    created: jiff::Timestamp::UNIX_EPOCH,
                    containers: names.map(|n| (n, Generations::default())).collect(),
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
                let ended = Ended { reason: "DeadlineExceeded".into(), message: String::new() };
                self.record.as_mut().unwrap().ended = Some(ended);
            }
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
            Step::Prepare => self.shim = true,
            Step::Refresh => {
                seen.config = desired.map(|d| d.config.stamp());
                return Ok(());
            }
            Step::Start { container, attempt, level } => {
                assert!(self.shim, "started without a sandbox");
                assert!(!self.running.keys().any(|(c, _)| c == container), "{container} runs twice");
                let generations = self.record.as_ref().unwrap().containers[container];
                assert!(self.refs.contains(&(container.clone(), generations.spec)), "started on an image not held");
                let attempts = self.attempts.entry(container.clone()).or_default();
                assert!(attempts.last().is_none_or(|a| a.number < *attempt), "an attempt's number used twice");
                attempts.push(Attempt {
                    number: *attempt,
                    generations,
                    level: *level,
                    started: self.now,
                    started_at: jiff::Timestamp::UNIX_EPOCH,
                    image: String::new(),
                    layers: Vec::new(),
                    failure: None,
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
            Step::Stop { container, grace } => {
                self.stops.push(container.clone());
                if grace.is_zero() || !self.stubborn.contains(container) {
                    self.ends(container, 143);
                } else {
                    seen.containers.get_mut(container).unwrap().stop =
                        Some(Stop { deadline: self.now + *grace, killed: None });
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
            Step::Release => self.refs.clear(),
            Step::Erase => {
                assert!(!self.shim && self.running.is_empty() && self.refs.is_empty());
                self.attempts.clear();
                self.record = None;
            }
        }
        seen.renew(self.look());
        Ok(())
    }

    fn fetched(&mut self) -> Vec<Push> {
        std::mem::take(&mut self.fetching)
            .into_iter()
            .map(|(container, generation, attempt)| {
                let result = if self.missing.contains(&container) {
                    Err(StepError { retry: Retry::Backoff, reason: "ErrImagePull", message: "no such image".into() })
                } else {
                    self.refs.insert((container.clone(), generation));
                    Ok(())
                };
                Push::Fetched { container, generation, attempt, result }
            })
            .collect()
    }

    /// The agent dies: whatever only it knew is gone.
    pub(super) fn agent_dies(&mut self) {
        self.fetching.clear();
    }
}

/// Lets the worker's loop run in the world until nothing moves but time, or until `crash` more steps were done.
/// Says whether it settled.
pub(super) fn settle(world: &mut World, wanted: &Wanted, seen: &mut Observed, crash: &mut Option<usize>) -> bool {
    for _ in 0..1000 {
        let next = plan(wanted, seen, world.now);
        if next.steps.is_empty() {
            let pushes = world.fetched();
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
                    world.agent_dies();
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

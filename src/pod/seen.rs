//! How what is seen changes by what happens: pure transitions of [`Observed`].

use super::backoff::Tick;
use super::engine::{Hook, Push, StepError};
use super::plan::Step;
use super::state::{Attempt, Failure, Image, Observed, Retry, Sandbox};

impl Observed {
    /// Takes in what happened. Says whether a full look is needed.
    pub fn push(&mut self, push: Push, now: Tick) -> bool {
        match push {
            Push::Exited { container, attempt, exit } => {
                if let Some(c) = self.containers.get_mut(&container)
                    && let Some(a) = c.attempt.as_mut()
                    && a.number == attempt
                    && a.exit.is_none()
                {
                    a.exit = Some(exit);
                    c.stop = None;
                    c.hooking = false;
                    c.probing = None;
                }
                false
            }
            Push::Fetched { container, generation, attempt, result } => {
                let wanted = self.record.as_ref().and_then(|r| r.containers.get(&container));
                let late = wanted.is_none_or(|g| g.spec != generation);
                self.holds |= result.is_ok();
                let c = self.containers.entry(container).or_default();
                match result {
                    _ if late => {
                        // Begun before the pod was changed: whatever it holds is of use to nobody.
                        c.image = Image::Unknown;
                        c.stale_refs = true;
                    }
                    Ok(()) => {
                        c.image = Image::Here { generation, attempt };
                        c.failure = None;
                    }
                    Err(error) => {
                        c.image = Image::Unknown;
                        c.failure = Some(Failure::after(c.failure.take(), error, now));
                    }
                }
                false
            }
            Push::VolumeFetched { volume, result } => {
                self.holds |= result.is_ok();
                match result {
                    Ok(()) => {
                        self.volumes.insert(volume, Image::Here { generation: 0, attempt: 0 });
                    }
                    Err(error) => {
                        self.volumes.remove(&volume);
                        self.failure = Some(Failure::after(self.failure.take(), error, now));
                    }
                }
                false
            }
            Push::Probed { container, attempt, finding } => {
                if let Some(a) = self.current(&container, attempt) {
                    a.health.found(finding);
                }
                false
            }
            Push::Hooked { container, attempt, hook, result } => {
                if let Some(a) = self.current(&container, attempt) {
                    if hook == Hook::PostStart {
                        a.health.post_start(result);
                    }
                    if let Some(c) = self.containers.get_mut(&container) {
                        match (hook, &mut c.stop) {
                            (Hook::PreStop, Some(stop)) => stop.hook = false,
                            (Hook::PreStop, None) => {}
                            (Hook::PostStart, _) => c.hooking = false,
                        }
                    }
                }
                false
            }
            Push::ShimLost => {
                self.sandbox = Sandbox::Lost;
                true
            }
            Push::Look => true,
        }
    }

    /// The newest attempt of a container, if it is that one and runs.
    fn current(&mut self, container: &str, attempt: u32) -> Option<&mut Attempt> {
        self.containers.get_mut(container)?.attempt.as_mut().filter(|a| a.number == attempt && a.exit.is_none())
    }

    /// Takes in a fresh full look; what only memory knows (waits, fetches, stops under way) stays.
    pub fn renew(&mut self, mut fresh: Self) {
        fresh.failure = self.failure.take();
        let uid = |seen: &Self| seen.record.as_ref().map(|r| r.uid.clone());
        if uid(&fresh) != uid(self) {
            // Another pod under the same name: nothing that is remembered is about it.
            *self = fresh;
            return;
        }
        fresh.ending = self.ending;
        fresh.volumes = std::mem::take(&mut self.volumes);
        if fresh.sandbox == self.sandbox {
            fresh.config = self.config;
        }
        for (name, c) in &mut fresh.containers {
            if let Some(old) = self.containers.remove(name) {
                c.image = old.image;
                c.failure = old.failure;
                let same = |a: &Option<super::state::Attempt>| a.as_ref().map(|a| a.number);
                if c.running() && same(&c.attempt) == same(&old.attempt) {
                    c.stop = old.stop;
                    c.hooking = old.hooking;
                    c.probing = old.probing;
                }
            }
        }
        // A container of which nothing is on disk yet: its fetch may be under way.
        for (name, old) in std::mem::take(&mut self.containers) {
            if old.attempt.is_none() && (old.image != Image::Unknown || old.failure.is_some()) {
                fresh.containers.entry(name).or_insert(old);
            }
        }
        *self = fresh;
    }

    /// Takes in that a step failed.
    pub fn failed(&mut self, step: &Step, error: StepError, now: Tick) {
        match step {
            Step::Fetch { container, .. } | Step::Start { container, .. } | Step::Resize { container } => {
                let c = self.containers.entry(container.clone()).or_default();
                c.failure = Some(Failure::after(c.failure.take(), error, now));
            }
            Step::Stop { .. } | Step::Kill { .. } | Step::Tidy { .. } => {
                // Stops and kills pace themselves by their deadlines; tidying comes again with the next change.
            }
            _ => self.failure = Some(Failure::after(self.failure.take(), error, now)),
        }
    }

    /// Takes in that a step was done, as far as failures go.
    pub fn done(&mut self, step: &Step) {
        match step {
            Step::Start { container, .. } | Step::Resize { container } => {
                if let Some(c) = self.containers.get_mut(container) {
                    c.failure = None;
                }
            }
            Step::Fetch { .. }
            | Step::FetchVolume { .. }
            | Step::Again
            | Step::Stop { .. }
            | Step::Signal { .. }
            | Step::Kill { .. }
            | Step::PostStart { .. }
            | Step::Probe { .. } => {}
            Step::Tidy { container } => {
                if let Some(c) = self.containers.get_mut(container) {
                    c.stale_refs = false;
                }
            }
            Step::Release => {
                self.failure = None;
                self.holds = false;
                self.volumes.clear();
                for c in self.containers.values_mut() {
                    c.image = Image::Unknown;
                }
            }
            Step::Amend { containers, .. } => {
                self.failure = None;
                for container in containers {
                    // The image ref of the generation that was current is one of an older now; it may be there though
                    // nothing else is yet of the container.
                    self.containers.entry(container.clone()).or_default().stale_refs = true;
                }
            }
            _ => self.failure = None,
        }
    }

    /// Something that steps depend on has changed. `all`: the pod itself has, and every failure is of the past.
    pub fn forgive(&mut self, all: bool) {
        let past = |f: &Option<Failure>| f.as_ref().is_some_and(|f| all || f.retry == Retry::OnChange);
        if past(&self.failure) {
            self.failure = None;
        }
        for c in self.containers.values_mut() {
            if past(&c.failure) {
                c.failure = None;
            }
        }
    }
}

impl Failure {
    fn after(previous: Option<Self>, error: StepError, now: Tick) -> Self {
        let count = previous.map_or(0, |f| f.count).saturating_add(1);
        Self { count, at: now, retry: error.retry, reason: error.reason, message: error.message }
    }
}

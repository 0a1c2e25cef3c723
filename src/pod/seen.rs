//! How what is seen changes by what happens: pure transitions of [`Observed`].

use super::backoff::Tick;
use super::engine::{Push, StepError};
use super::plan::Step;
use super::state::{Failure, Image, Observed, Retry, Sandbox};

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
                }
                false
            }
            Push::Fetched { container, generation, attempt, result } => {
                let c = self.containers.entry(container).or_default();
                match result {
                    Ok(()) => {
                        c.image = Image::Here { generation, attempt };
                        c.failure = None;
                        self.holds = true;
                    }
                    Err(error) => {
                        c.image = Image::Unknown;
                        c.failure = Some(Failure::after(c.failure.take(), error, now));
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

    /// Takes in a fresh full look; what only memory knows (waits, fetches, stops under way) stays.
    pub fn renew(&mut self, mut fresh: Self) {
        fresh.failure = self.failure.take();
        let uid = |seen: &Self| seen.record.as_ref().map(|r| r.uid.clone());
        if uid(&fresh) != uid(self) {
            // Another pod under the same name: nothing that is remembered is about it.
            *self = fresh;
            return;
        }
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
            Step::Fetch { .. } | Step::Stop { .. } | Step::Kill { .. } | Step::Tidy { .. } => {}
            Step::Release => {
                self.failure = None;
                self.holds = false;
                for c in self.containers.values_mut() {
                    c.image = Image::Unknown;
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

//! When a container is probed, how often, and what that comes to.
//!
//! One task a container: the startup probe until it succeeds, then liveness and readiness side by side. Only what changes
//! something is pushed to the pod's worker; a steady container wakes nobody.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::{Action, Outcome, Place};
use crate::pod::backoff::{self, Tick};

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has it come up?
    Startup,
    /// Is it still well?
    Liveness,
    /// May it be used?
    Readiness,
}

impl Kind {
    /// As metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What a container's probes have found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It has come up.
    Started,
    /// Whether it may be used.
    Ready(bool),
    /// It must be started anew.
    Unhealthy {
        /// How long it has to end, instead of what the pod says.
        grace: Option<Duration>,
        /// For a person.
        message: String,
    },
}

/// Who hears of probes.
pub trait Ear: Send + Sync {
    /// One was made.
    fn probed(&self, kind: Kind, outcome: &Outcome);
    /// A person should know.
    fn unhealthy(&self, message: String);
    /// Something has changed.
    fn found(&self, finding: Finding);
}

/// A container's probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    startup: Option<Probe>,
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    /// With its ports, which probes may name.
    ports: Option<Vec<k8s_openapi::api::core::v1::ContainerPort>>,
}

impl Probes {
    /// A container's probes, if it has any.
    pub fn of(container: &Container) -> Option<Self> {
        let Container { startup_probe, liveness_probe, readiness_probe, ports, .. } = container;
        if startup_probe.is_none() && liveness_probe.is_none() && readiness_probe.is_none() {
            return None;
        }
        Some(Self {
            startup: startup_probe.clone(),
            liveness: liveness_probe.clone(),
            readiness: readiness_probe.clone(),
            ports: ports.clone(),
        })
    }
}

/// What was known before this task began.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// When the container was started.
    pub started: Tick,
    /// Whether its startup probe has succeeded.
    pub up: bool,
    /// Whether it was ready.
    pub ready: bool,
    /// Whether another agent probed it: then many are taken over at once, and must not be probed in step.
    pub adopted: bool,
}

/// Probes a container until it is unhealthy, or the task is dropped.
pub async fn run(probes: Probes, place: Place, before: Before, ear: impl Ear) {
    let container = Container { ports: probes.ports.clone(), ..Container::default() };
    let watch = |kind, probe: &Option<Probe>, last| {
        let probe = probe.as_ref()?;
        Some(Watch { kind, action: Action::of_probe(probe, &container)?, probe: probe.clone(), last, run: 0 })
    };
    if !before.up
        && let Some(mut startup) = watch(Kind::Startup, &probes.startup, None)
    {
        if !startup.until(&place, before, &ear, true).await {
            return;
        }
        ear.found(Finding::Started);
    }
    let liveness = watch(Kind::Liveness, &probes.liveness, Some(true));
    let readiness = watch(Kind::Readiness, &probes.readiness, Some(before.ready));
    let live = async {
        match liveness {
            Some(mut liveness) => liveness.until(&place, before, &ear, false).await,
            None => std::future::pending().await,
        }
    };
    let usable = async {
        let Some(mut readiness) = readiness else { return std::future::pending().await };
        readiness.forever(&place, before, &ear).await;
    };
    tokio::select! {
        _ = live => {}
        () = usable => {}
    }
}

/// One probe of one container.
struct Watch {
    kind: Kind,
    action: Action,
    probe: Probe,
    /// What it came to last.
    last: Option<bool>,
    /// How often in a row the same came out.
    run: i32,
}

impl Watch {
    /// Whether the wanted result came: `good` for a startup probe, `!good` for a liveness probe.
    async fn until(&mut self, place: &Place, before: Before, ear: &impl Ear, good: bool) -> bool {
        let mut same = None;
        self.begin(before).await;
        loop {
            let begin = tokio::time::Instant::now();
            if let Some((result, why)) = self.once(place, ear, &mut same).await {
                if !result {
                    let grace = self.probe.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
                    let message =
                        format!("container {} failed its {} probe: {why}", place.container, self.kind.as_str());
                    ear.found(Finding::Unhealthy { grace: grace.map(Duration::from_secs), message });
                    return !good;
                }
                if good {
                    return true;
                }
            }
            tokio::time::sleep_until(begin + self.period()).await;
        }
    }

    async fn forever(&mut self, place: &Place, before: Before, ear: &impl Ear) {
        let mut same = None;
        self.begin(before).await;
        loop {
            let begin = tokio::time::Instant::now();
            if let Some((result, _)) = self.once(place, ear, &mut same).await
                && self.last != Some(result)
            {
                self.last = Some(result);
                ear.found(Finding::Ready(result));
            }
            tokio::time::sleep_until(begin + self.period()).await;
        }
    }

    /// Waits for the first time.
    async fn begin(&self, before: Before) {
        let delay =
            Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or_default());
        let left = (before.started + delay).saturating_sub(backoff::now());
        let spread = if before.adopted { self.period().mul_f64(rand::random::<f64>()) } else { Duration::ZERO };
        tokio::time::sleep(left.max(spread)).await;
    }

    fn period(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
    }

    /// Probes once; a result, and why, once there are enough in a row.
    async fn once(&mut self, place: &Place, ear: &impl Ear, same: &mut Option<bool>) -> Option<(bool, String)> {
        let timeout = u64::try_from(self.probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
        let outcome = self.action.act(place, Duration::from_secs(timeout)).await;
        ear.probed(self.kind, &outcome);
        let (good, why) = match outcome {
            Outcome::Success => (true, String::new()),
            Outcome::Failure(why) => {
                ear.unhealthy(format!("{} probe failed: {why}", self.kind.title()));
                (false, why)
            }
            Outcome::Unknown(why) => {
                ear.unhealthy(format!("{} probe errored: {why}", self.kind.title()));
                return None;
            }
        };
        self.count(good, same).then_some((good, why))
    }

    /// Counts a result; whether it came often enough in a row.
    fn count(&mut self, good: bool, same: &mut Option<bool>) -> bool {
        self.run = if *same == Some(good) { self.run.saturating_add(1) } else { 1 };
        *same = Some(good);
        let enough =
            if good { self.probe.success_threshold.unwrap_or(1) } else { self.probe.failure_threshold.unwrap_or(3) };
        self.run >= enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_once_it_came_often_enough_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut watch =
            Watch { kind: Kind::Readiness, action: Action::Sleep(Duration::ZERO), probe, last: None, run: 0 };
        let mut same = None;
        let results = [true, true, true, false, false, true, false, false, false, false, true, true];
        let counts: Vec<bool> = results.into_iter().map(|good| watch.count(good, &mut same)).collect();
        assert_eq!(counts, [false, true, true, false, false, false, false, false, true, true, false, true]);
    }
}

//! What carries out steps for one pod: the real machine, or a simulated one in tests.

use std::future::Future;

use super::desired::Desired;
use super::plan::Step;
use super::probe::runner::Finding;
use super::state::{Exit, Observed, Retry};

/// The hands of one pod's worker. One at a time per pod; every method may be cut off by a crash at any point.
pub trait Engine: Send {
    /// The full look: disk, shim, cgroups.
    ///
    /// # Errors
    /// If it cannot be told what is there.
    fn look(&mut self) -> impl Future<Output = Result<Observed, StepError>> + Send;

    /// Does one step and enters into `seen` what came of it. Doing a step again that was done already is fine.
    ///
    /// # Errors
    /// If it could not be done; `seen` is then as far as it got.
    fn apply(
        &mut self,
        step: &Step,
        desired: Option<&Desired>,
        seen: &mut Observed,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Waits for the next thing that happens by itself. Cancel-safe: nothing is lost when the future is dropped.
    fn pushed(&mut self) -> impl Future<Output = Push> + Send;
}

/// A hook of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Right after it was started.
    PostStart,
    /// Before it is asked to end.
    PreStop,
}

/// Something that happened by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Push {
    /// A container ended.
    Exited {
        /// Which container.
        container: String,
        /// Which attempt of it.
        attempt: u32,
        /// How.
        exit: Exit,
    },
    /// A fetch came to its end.
    Fetched {
        /// For which container.
        container: String,
        /// For which generation of it.
        generation: u32,
        /// For which attempt.
        attempt: u32,
        /// Whether the image is here.
        result: Result<(), StepError>,
    },
    /// A fetch of a volume's image came to its end.
    VolumeFetched {
        /// Which volume.
        volume: String,
        /// Whether the image is here.
        result: Result<(), StepError>,
    },
    /// A container's probes have found something out.
    Probed {
        /// Which container.
        container: String,
        /// Which attempt of it.
        attempt: u32,
        /// What.
        finding: Finding,
    },
    /// A container's hook is done.
    Hooked {
        /// Which container.
        container: String,
        /// Which attempt of it.
        attempt: u32,
        /// Which of its hooks.
        hook: Hook,
        /// Or why it failed.
        result: Result<(), String>,
    },
    /// The shim is gone or does not answer.
    ShimLost,
    /// Nothing in particular: take the full look.
    Look,
}

/// Why a step could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// Whether and when to try again.
    pub retry: Retry,
    /// A word, as Kubernetes has them.
    pub reason: &'static str,
    /// For a person, with the chain of causes.
    pub message: String,
}

impl StepError {
    /// A step that may work later, with the chain of causes of `error`.
    pub fn backoff(reason: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { retry: Retry::Backoff, reason, message: crate::api::problem::chain(error) }
    }

    /// A step that works once what it depends on has changed.
    pub fn on_change(reason: &'static str, message: impl Into<String>) -> Self {
        Self { retry: Retry::OnChange, reason, message: message.into() }
    }
}

//! The loop of one pod.
//!
//! ```text
//!   loop { plan ▸ apply … until there is nothing to do; publish; select! { wanted changed · something pushed · wake } }
//! ```
//!
//! One task a pod. It ends when nothing is wanted and nothing is left, or when its [`Wanted`] channel closes (the agent
//! ends; the pod runs on). Nothing polls: between passes the task sleeps until something is pushed or a wait is over.

use std::time::Duration;

use tokio::sync::watch;

use super::backoff::{self, Tick};
use super::desired::Wanted;
use super::engine::{Engine, Push, StepError};
use super::metrics::Metrics;
use super::plan::{Step, plan};
use super::state::Observed;

/// The full look is taken this often even if nothing happens: what was missed is found then.
const SLOW: Duration = Duration::from_mins(10);
/// More rounds than any real change needs; reaching it means that steps and looks disagree, and the worker takes a rest.
const MAX_ROUNDS: u32 = 200;
/// That rest.
const REST: Duration = Duration::from_secs(10);

/// Who hears what a worker does.
pub trait Audience: Send {
    /// What is wanted and seen now; called after each pass.
    fn publish(&mut self, wanted: &Wanted, seen: &Observed);
    /// A step is about to be done.
    fn before(&mut self, _step: &Step, _seen: &Observed) {}
    /// A step was done, or not.
    fn after(&mut self, step: &Step, seen: &Observed, result: &Result<(), StepError>);
    /// Something happened by itself.
    fn pushed(&mut self, push: &Push, seen: &Observed);
}

/// Runs one pod until it is gone or the agent ends.
pub async fn run<E: Engine, A: Audience>(
    mut engine: E,
    mut audience: A,
    mut wanted: watch::Receiver<Wanted>,
    metrics: Metrics,
) {
    let mut seen = Observed::default();
    look(&mut engine, &mut seen).await;
    let mut looked = backoff::now();
    let mut current = wanted.borrow_and_update().clone();
    // What an earlier agent left running is known from here on, whatever the first pass has to do.
    audience.publish(&current, &seen);
    loop {
        let timer = metrics.pass();
        // Boxed, as are looks: a worker that sleeps should be small, and there are many.
        let pass = Box::pin(pass(&mut engine, &mut audience, &current, &mut seen)).await;
        timer.done(pass.changed, pass.failed);
        audience.publish(&current, &seen);
        if current.desired.is_none() && seen.record.is_none() && seen.failure.is_none() {
            // Whoever wants something under this name again finds the channel closed and starts a new worker.
            return;
        }
        let now = backoff::now();
        let slow = looked + SLOW;
        let wake = pass.wake.map_or(slow, |w| w.min(slow));
        let asleep = tokio::time::sleep(wake.saturating_sub(now));
        tokio::select! {
            // Cancel-safe: a change that is not taken now is seen by the next wait.
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let next = wanted.borrow_and_update().clone();
                let pod = |w: &Wanted| w.desired.as_ref().map(|d| d.pod.clone());
                let forgive = pod(&next) != pod(&current) || next.desired.is_none() || next.images != current.images;
                seen.forgive(forgive);
                current = next;
            }
            // Cancel-safe by the trait's contract.
            push = engine.pushed() => {
                audience.pushed(&push, &seen);
                if seen.push(push, backoff::now()) {
                    look(&mut engine, &mut seen).await;
                }
                // Whoever waits for an end hears of it before anything is done about it.
                audience.publish(&current, &seen);
            }
            // Cancel-safe: the moment is computed anew for each wait.
            () = asleep => {
                if backoff::now() >= slow {
                    look(&mut engine, &mut seen).await;
                    looked = backoff::now();
                }
            }
        }
    }
}

/// What one pass came to.
struct Pass {
    changed: bool,
    failed: bool,
    wake: Option<Tick>,
}

async fn pass<E: Engine, A: Audience>(engine: &mut E, audience: &mut A, wanted: &Wanted, seen: &mut Observed) -> Pass {
    let mut result = Pass { changed: false, failed: false, wake: None };
    for _ in 0..MAX_ROUNDS {
        let plan = plan(wanted, seen, backoff::now());
        result.wake = plan.wake;
        if plan.steps.is_empty() {
            return result;
        }
        result.changed = true;
        for step in &plan.steps {
            audience.before(step, seen);
            let outcome = engine.apply(step, wanted.desired.as_ref(), seen).await;
            audience.after(step, seen, &outcome);
            match outcome {
                Ok(()) => seen.done(step),
                Err(error) => {
                    result.failed = true;
                    seen.failed(step, error, backoff::now());
                    look(engine, seen).await;
                    if let Step::Stop { .. } | Step::Kill { .. } | Step::Tidy { .. } = step {
                        // Nothing else gates these.
                        result.wake = Some(backoff::now() + REST);
                        audience.publish(wanted, seen);
                        return result;
                    }
                    break;
                }
            }
        }
        // What is known already is shown while the rest of the pass goes on.
        audience.publish(wanted, seen);
    }
    tracing::warn!(rounds = MAX_ROUNDS, "the pod does not settle; resting");
    result.wake = Some(backoff::now() + REST);
    result
}

async fn look<E: Engine>(engine: &mut E, seen: &mut Observed) {
    match Box::pin(engine.look()).await {
        Ok(fresh) => seen.renew(fresh),
        Err(error) => {
            tracing::warn!(error = %error.message, "cannot see what is there");
            let step = Step::Prepare;
            seen.failed(&step, error, backoff::now());
        }
    }
}

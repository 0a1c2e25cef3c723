//! `lamina wait`: until an object is ready, has succeeded or is gone. The agent tells of each change; nothing polls.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use lamina::api::duration;
use serde::Deserialize;

use crate::cli::Context;
use crate::client::Route;
use crate::failure::{Failure, Status};
use crate::output;

/// Waits for an object.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The objects: `KIND/NAME`; a name alone is a pod
    #[arg(required = true, value_name = "KIND/NAME")]
    objects: Vec<String>,
    /// Their namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// For what
    #[arg(long = "for", value_enum, default_value = "ready", value_name = "WHAT")]
    goal: Goal,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    timeout: Duration,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// All its pods are ready
    Ready,
    /// All its pods have ended well
    Succeeded,
    /// Neither it nor its pods are there
    Deleted,
}

impl Goal {
    /// As the API and `--for` write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Succeeded => "succeeded",
            Self::Deleted => "deleted",
        }
    }
}

/// Shorter waits are told in milliseconds.
const WHOLE: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
struct Answer {
    reached: bool,
    /// It never will be.
    #[serde(default)]
    over: bool,
    /// How it is, when the wait ended otherwise.
    #[serde(default)]
    state: String,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + a.timeout;
    for object in &a.objects {
        let (kind, name) = super::object_name(object);
        until(context, kind, &a.namespace, name, a.goal, (a.timeout, deadline)).await?;
        output::line(format!("{kind}/{name} {}", a.goal.name()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the object is as wanted, at most until a moment: so long had been asked for.
pub(crate) async fn until(
    context: &Context,
    kind: &str,
    namespace: &str,
    name: &str,
    goal: Goal,
    (asked, deadline): (Duration, Instant),
) -> anyhow::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let route = Route::new("/v1/wait")
        .segment(kind)
        .segment(namespace)
        .segment(name)
        .with("for", goal.name())
        .with("timeoutMillis", left.as_millis().to_string());
    let answer: Answer = context.agent.get(&route).await?;
    if answer.reached {
        return Ok(());
    }
    let hint = format!("lamina describe {kind}/{name} -n {namespace}");
    if answer.over {
        let goal = if goal == Goal::Ready { "be ready" } else { "succeed" };
        return Err(Failure::new(Status::Failed, format!("{kind}/{name} will not {goal}: {}", answer.state))
            .hint(hint)
            .into());
    }
    let waited = if asked < WHOLE { format!("{}ms", asked.as_millis()) } else { duration::short(asked) };
    Err(Failure::new(
        Status::TimedOut,
        format!("{kind}/{name} is not {} after {waited}: {}", goal.name(), answer.state),
    )
    .hint(hint)
    .into())
}

//! `lamina rollout`: how a change of a workload's template gets on, what templates it had, and the way back.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::apply::Report;
use crate::cli::Context;
use crate::client::Route;
use crate::failure::{Failure, Status};
use crate::output;
use crate::output::size;
use crate::output::table::Table;

/// Rollouts.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Follow a rollout until it is through
    Status {
        #[command(flatten)]
        of: Of,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::duration)]
        timeout: Duration,
    },
    /// Go back to the template before; its image is still here while a rollout is under way
    Undo {
        #[command(flatten)]
        of: Of,
        /// To the template of this revision
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
    },
    /// The templates that a workload had and has
    History {
        #[command(flatten)]
        of: Of,
        /// The whole template of one
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
}

#[derive(Debug, Args)]
struct Of {
    /// The workload
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Of {
    fn route(&self, verb: &str) -> Route {
        let (kind, name) = super::object_name(&self.object);
        Route::new("/v1/rollout").segment(verb).segment(kind).segment(&self.namespace).segment(name)
    }
}

#[derive(Debug, Default, Deserialize)]
struct Stand {
    done: bool,
    failed: bool,
    message: String,
}

#[derive(Debug, Deserialize)]
struct History {
    revisions: Vec<Revision>,
}

#[derive(Debug, Deserialize)]
struct Revision {
    #[serde(rename = "revision")]
    number: u64,
    since: String,
    cause: Option<String>,
    images: Vec<String>,
    current: bool,
    template: Value,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    match a.verb {
        Verb::Status { of, timeout } => status(&of, timeout, context).await,
        Verb::Undo { of, to_revision } => {
            let route = of.route("undo").with_some("revision", to_revision.map(|n| n.to_string()));
            let report: Report = context.agent.post(&route, &()).await?;
            report.print()?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::History { of, revision } => history(&of, revision, context).await,
    }
}

async fn status(of: &Of, timeout: Duration, context: &Context) -> anyhow::Result<ExitCode> {
    let mut last = Stand::default();
    let follow = async {
        let mut lines = context.agent.download(&of.route("status")).await?;
        while let Some(stand) = lines.line::<Stand>().await? {
            output::line(&stand.message)?;
            output::flush()?;
            last = stand;
        }
        Ok::<_, anyhow::Error>(())
    };
    let hint = format!("lamina describe {} -n {}", of.object, of.namespace);
    if let Ok(followed) = tokio::time::timeout(timeout, follow).await {
        followed?;
        return match last {
            Stand { done: true, .. } => Ok(ExitCode::SUCCESS),
            Stand { failed: true, message, .. } => Err(Failure::new(Status::Failed, message)
                .hint(format!("lamina rollout undo {} -n {} goes back", of.object, of.namespace))
                .into()),
            Stand { .. } => Err(Failure::new(Status::Failed, "the agent stopped, or the workload is gone").into()),
        };
    }
    Err(Failure::new(Status::TimedOut, format!("the rollout of {} is not through", of.object)).hint(hint).into())
}

async fn history(of: &Of, revision: Option<u64>, context: &Context) -> anyhow::Result<ExitCode> {
    let history: History = context.agent.get(&of.route("history")).await?;
    if let Some(number) = revision {
        let found = history.revisions.iter().find(|r| r.number == number);
        let found = found.ok_or_else(|| {
            Failure::new(Status::NotFound, format!("{} has no revision {number}", of.object))
                .hint(format!("lamina rollout history {}", of.object))
        })?;
        output::yaml(&found.template)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["REVISION", "AGE", "IMAGES", "CAUSE"]);
    for r in history.revisions {
        let number = if r.current { format!("{} (current)", r.number) } else { r.number.to_string() };
        let age = size::age(&r.since, Timestamp::now());
        table.row(vec![number, age, r.images.join(","), r.cause.unwrap_or_default()]);
    }
    output::raw(table.take().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

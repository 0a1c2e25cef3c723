//! `lamina drain`: stops all pods with their grace periods and keeps them stopped until `--undo`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::cli::Context;
use crate::client::Route;
use crate::failure::{Failure, Status};
use crate::output;

/// Stops all pods, or lets them start again.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Start again what is desired
    #[arg(long, conflicts_with_all = ["force", "grace", "no_wait"])]
    undo: bool,
    /// Stop pods of `lamina run`, too: nothing would bring them back
    #[arg(long)]
    force: bool,
    /// Instead of each pod's own grace period
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    grace: Option<Duration>,
    /// Answer at once, and not when the pods are gone
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::duration)]
    timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Left {
    left: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Undone {
    undone: bool,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let route = Route::new("/v1/drain");
    if a.undo {
        let Undone { undone } = context.agent.delete(&route).await?;
        output::line(if undone { "the node starts pods again" } else { "the node was not drained" })?;
        return Ok(ExitCode::SUCCESS);
    }
    let route = route
        .flag("force", a.force)
        .flag("noWait", a.no_wait)
        .with_some("graceSeconds", a.grace.map(|grace| grace.as_secs().to_string()));
    let mut left = BTreeSet::new();
    let follow = async {
        let mut lines = context.agent.follow(http::Method::POST, &route).await?;
        while let Some(now) = lines.line::<Left>().await? {
            for gone in left.difference(&now.left) {
                output::note(format!("{gone} is stopped, {} to go", now.left.len()));
            }
            if left.is_empty() && !now.left.is_empty() {
                output::note(format!("stopping {} pods", now.left.len()));
            }
            left = now.left;
        }
        Ok::<_, anyhow::Error>(())
    };
    let in_time = tokio::time::timeout(a.timeout, follow).await;
    if let Ok(followed) = in_time {
        followed?;
    }
    if a.no_wait || left.is_empty() {
        output::line("the node is drained: no pod runs until `lamina drain --undo`")?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = left.into_iter().collect::<Vec<_>>().join(", ");
    Err(Failure::new(Status::TimedOut, format!("the node is drained, and these pods still end: {names}"))
        .hint("lamina drain --grace 0s ends them at once")
        .into())
}

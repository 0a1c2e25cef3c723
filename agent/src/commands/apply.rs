//! `lamina apply`: adds or changes desired objects.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use lamina::server::wire;
use serde::Deserialize;

use super::{manifests, wait};
use crate::cli::Context;
use crate::client::Route;
use crate::output;

/// Adds or changes desired objects.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A file, a directory, or `-` for standard input; may be given more than once
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove what an earlier apply wrote and these files do not name
    #[arg(long)]
    prune: bool,
    /// Wait until all that was applied is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = super::duration)]
    timeout: Duration,
}

/// What was done to one object.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) action: String,
}

/// The agent's answer to apply and delete.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) objects: Vec<Done>,
}

impl Report {
    /// One line an object, as kubectl writes it.
    pub(crate) fn print(&self, dry_run: bool) -> anyhow::Result<()> {
        let tail = if dry_run { " (dry run)" } else { "" };
        for Done { kind, namespace, name, action } in &self.objects {
            let place = if namespace == "default" { String::new() } else { format!(" in {namespace}") };
            output::line(format!("{}/{name}{place} {action}{tail}", kind.to_lowercase()))?;
        }
        Ok(())
    }
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let set: Vec<_> = a.filename.iter().map(|path| path.display().to_string()).collect();
    let files = manifests::read(&a.filename)?;
    let body = wire::Manifests { files, set: set.join(","), dry_run: a.dry_run, prune: a.prune };
    let report: Report = context.agent.post(&Route::new("/v1/apply"), &body).await?;
    report.print(a.dry_run)?;
    output::flush()?;
    if a.wait && !a.dry_run {
        for done in &report.objects {
            let goal = match (done.action.as_str(), done.kind.as_str()) {
                ("ignored", _) | (_, "ConfigMap" | "Secret") => continue,
                ("deleted", _) => wait::Goal::Deleted,
                (_, "Job") => wait::Goal::Succeeded,
                _ => wait::Goal::Ready,
            };
            let left = a.timeout.saturating_sub(began.elapsed());
            wait::until(context, &done.kind.to_lowercase(), &done.namespace, &done.name, goal, left).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `lamina apply`: adds or changes desired objects.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use lamina::node::ApplyPlan;
use lamina::server::wire;
use serde::{Deserialize, Serialize};

use super::{manifests, plan, wait};
use crate::cli::Context;
use crate::client::Route;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Adds or changes desired objects.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A file, a directory, or `-` for standard input; may be given more than once
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Print what would be done, and do nothing: what is fetched, started, replaced, stopped and freed
    #[arg(long)]
    dry_run: bool,
    /// Remove what an earlier apply of this set wrote and these files do not name
    #[arg(long)]
    prune: bool,
    /// The name of the set of objects that --prune is about [default: the files as they are named here]
    #[arg(long, value_name = "NAME")]
    applyset: Option<String>,
    /// With --dry-run, the plan as `json` or `yaml`; else the objects
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Wait until all that was applied is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = super::duration)]
    timeout: Duration,
}

/// What was done to one object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) action: String,
}

/// The agent's answer to apply and delete.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) objects: Vec<Done>,
}

impl Report {
    /// One line an object, as kubectl writes it.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        for Done { kind, namespace, name, action } in &self.objects {
            let place = if namespace == "default" { String::new() } else { format!(" in {namespace}") };
            output::line(format!("{}/{name}{place} {action}", kind.to_lowercase()))?;
        }
        Ok(())
    }

    fn show(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => output::json(self),
            Format::Yaml => output::yaml(self),
            Format::Name => self
                .objects
                .iter()
                .try_for_each(|done| output::line(format!("{}/{}", done.kind.to_lowercase(), done.name))),
            Format::Table | Format::Wide => self.print(),
        }
    }
}

fn nothing(files: &[PathBuf]) -> Failure {
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let names = names.join(", ");
    Failure::usage(format!("no object in {}", if names == "-" { "standard input" } else { &names }))
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let set = match &a.applyset {
        Some(name) => name.clone(),
        None => a.filename.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(","),
    };
    if a.prune && a.applyset.is_none() && a.filename.iter().any(|path| path.as_os_str() == "-") {
        return Err(Failure::usage("standard input has no name that a later --prune could go by")
            .hint("name the set: --applyset NAME, with each apply of it")
            .into());
    }
    let files = manifests::read(&a.filename)?;
    let body = wire::Manifests { files, set, dry_run: a.dry_run, prune: a.prune };
    let route = Route::new("/v1/apply");
    // A template that came out empty is a mistake that nobody would notice. Pruning may have nothing left to keep.
    let something = |any: bool| if any || a.prune { Ok(()) } else { Err(nothing(&a.filename)) };
    if a.dry_run {
        let plan: ApplyPlan = context.agent.post(&route, &body).await?;
        something(!plan.objects.is_empty())?;
        plan::print(&plan, a.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report: Report = context.agent.post(&route, &body).await?;
    something(!report.objects.is_empty())?;
    report.show(a.output)?;
    output::flush()?;
    if a.wait {
        for done in &report.objects {
            let goal = match (done.action.as_str(), done.kind.as_str()) {
                ("ignored", _) | (_, "ConfigMap" | "Secret") => continue,
                ("deleted", _) => wait::Goal::Deleted,
                (_, "Job") => wait::Goal::Succeeded,
                _ => wait::Goal::Ready,
            };
            let limit = (a.timeout, began + a.timeout);
            wait::until(context, &done.kind.to_lowercase(), &done.namespace, &done.name, goal, limit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `lamina gc`: frees what nothing refers to. A dry run works without an agent, too.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lamina::server::report::{self, Collected};
use lamina::server::wire;

use crate::cli::Context;
use crate::client::Route;
use crate::failure::Failure;
use crate::output::{self, Format, size};

/// Frees what nothing refers to.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep what lost its last reference within this time; instead of the agent's --gc-grace
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    grace: Option<Duration>,
    /// The store to read for a dry run when no agent runs
    #[arg(long, env = "LAMINA_ROOT", default_value = "/var/lib/lamina", value_name = "DIR")]
    root: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let grace_millis = a.grace.map(|g| u64::try_from(g.as_millis()).unwrap_or(u64::MAX));
    let body = wire::Gc { dry_run: a.dry_run, grace_millis };
    let collected: Collected = match context.agent.post(&Route::new("/v1/gc"), &body).await {
        Ok(collected) => collected,
        Err(error) if a.dry_run => {
            let store = super::stopped_store(error, &a.root)?;
            report::dry_run(&store, a.grace.unwrap_or_default()).map_err(Failure::from_problem)?
        }
        Err(error) => return Err(error),
    };
    match a.output {
        Format::Json => output::json(&collected)?,
        Format::Yaml => output::yaml(&collected)?,
        Format::Name => collected.layers.iter().try_for_each(|key| output::line(format!("layer/{key}")))?,
        Format::Table | Format::Wide => {
            let done = if a.dry_run { "would free" } else { "freed" };
            for image in &collected.images {
                output::line(format!("{done} image {image}"))?;
            }
            for key in &collected.layers {
                output::line(format!("{done} layer {key}"))?;
            }
            output::line(format!(
                "{done} {} in {} layers",
                size::bytes(collected.freed_bytes),
                collected.layers.len()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `lamina check`: is the store sound. Works on a stopped store, too; repair needs an agent, which fetches again.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lamina::server::report::{self, Soundness};
use lamina::server::wire;

use crate::cli::Context;
use crate::client::Route;
use crate::failure::{Failure, Status};
use crate::output::{self, Format};

/// Checks the store.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rebuild every layer's tar and compare it with what the registry promised
    #[arg(long)]
    full: bool,
    /// Fetch again what is damaged
    #[arg(long)]
    repair: bool,
    /// The store to read when no agent runs
    #[arg(long, env = "LAMINA_ROOT", default_value = "/var/lib/lamina", value_name = "DIR")]
    root: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let body = wire::Check { full: a.full, repair: a.repair };
    let found: Soundness = match context.agent.post(&Route::new("/v1/check"), &body).await {
        Ok(found) => found,
        Err(error) if !a.repair => {
            let store = super::stopped_store(error, &a.root)?;
            report::check(&store, a.full).map_err(Failure::from_problem)?
        }
        Err(error) => return Err(error),
    };
    match a.output {
        Format::Json => output::json(&found)?,
        Format::Yaml => output::yaml(&found)?,
        Format::Table | Format::Wide | Format::Name => {
            for damage in &found.damage {
                let end = if damage.repaired { " (fetched again)" } else { "" };
                output::line(format!("{}: {}{end}", damage.what, damage.reason))?;
            }
            let how = if found.full { "in full" } else { "by their seals" };
            output::line(format!("{} layers and {} images checked {how}", found.layers, found.images))?;
        }
    }
    let left = found.damage.iter().filter(|d| !d.repaired).count();
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let failure = Failure::new(Status::Failed, format!("{left} things in the store are damaged"));
    Err(if a.repair { failure } else { failure.hint("lamina check --repair fetches them again") }.into())
}

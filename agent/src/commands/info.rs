//! `lamina info`: version, node, kernel features found and missing, drivers, limits, paths.

use std::process::ExitCode;

use clap::Args;
use lamina::server::report::Info;

use crate::cli::Context;
use crate::client::Route;
use crate::output::table::Table;
use crate::output::{self, Format};

/// Shows the agent.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let info: Info = context.agent.get(&Route::new("/v1/info")).await?;
    match a.output {
        Format::Json => output::json(&info)?,
        Format::Yaml => output::yaml(&info)?,
        Format::Table | Format::Wide | Format::Name => {
            for (title, rows) in &info.sections {
                output::line(context.terminal.bold(title))?;
                let mut table = Table::default();
                for (name, value) in rows {
                    table.row(vec![format!("  {name}"), value.clone()]);
                }
                output::raw(table.take().as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `lamina why`: the chain that keeps a layer or an image, or that nothing does. Works without an agent, too.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lamina::server::report::{self, People, Why};

use crate::cli::Context;
use crate::client::Route;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Says what keeps a layer or an image.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The first digits of a layer, or an image's name or digest
    #[arg(value_name = "LAYER|IMAGE")]
    what: String,
    /// The store to read when no agent runs
    #[arg(long, env = "LAMINA_ROOT", default_value = "/var/lib/lamina", value_name = "DIR")]
    root: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let why: Why = match context.agent.get(&Route::new("/v1/why").with("what", &a.what)).await {
        Ok(why) => why,
        Err(error) => {
            let store = super::stopped_store(error, &a.root)?;
            report::why(&store, &a.what, &People::on_disk(&a.root)).map_err(Failure::from_problem)?
        }
    };
    match a.output {
        Format::Json => output::json(&why)?,
        Format::Yaml => output::yaml(&why)?,
        Format::Table | Format::Wide | Format::Name => {
            for chain in &why.chains {
                output::line(chain.join(" ← "))?;
            }
            if why.chains.is_empty() {
                output::line("nothing: freed at the next pass")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

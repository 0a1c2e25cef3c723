//! `lamina completion`: the completion script of a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Prints a completion script.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Whose script: `lamina completion bash > /etc/bash_completion.d/lamina`
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "lamina", &mut script);
    output::raw(&script)?;
    output::flush()?;
    Ok(ExitCode::SUCCESS)
}

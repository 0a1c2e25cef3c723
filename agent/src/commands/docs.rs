//! `lamina docs` (hidden): tables of the README, made from the code, so that neither goes stale.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};

use crate::cli::Cli;
use crate::commands::explain;
use crate::output;

/// Prints a table.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which
    #[arg(value_enum)]
    table: Which,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// What each field of a manifest does
    Fields,
    /// The agent's own metrics
    Metrics,
    /// The agent's settings
    Settings,
    /// The verbs
    Verbs,
}

pub(crate) fn run(a: &Arguments) -> anyhow::Result<ExitCode> {
    let text = match a.table {
        Which::Fields => explain::summary(),
        Which::Metrics => metrics()?,
        Which::Settings => settings(),
        Which::Verbs => verbs(),
    };
    output::raw(text.as_bytes())?;
    output::flush()?;
    Ok(ExitCode::SUCCESS)
}

fn settings() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut text = String::from("| flag | environment | default | |\n|---|---|---|---|\n");
    let Some(agent) = cli.find_subcommand("agent") else { return text };
    for argument in agent.get_arguments().filter(|a| !a.is_hide_set()) {
        let (Some(long), Some(variable)) = (argument.get_long(), argument.get_env()) else { continue };
        let value = match argument.get_value_names() {
            Some(names) if argument.get_action().takes_values() => {
                format!(" {}", names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            _ => String::new(),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let (help, default) = match help.split_once(" [default: ") {
            Some((help, default)) => (help.to_owned(), format!("`{}`", default.trim_end_matches(']'))),
            None => (help, String::new()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `--{long}{value}` | `{}` | {default} | {help} |", variable.display());
    }
    text
}

/// The families that no other program has.
fn metrics() -> anyhow::Result<String> {
    let mut text = String::from("| name | type | labels | |\n|---|---|---|---|\n");
    for family in lamina::server::catalogue()?.iter().filter(|family| family.name.starts_with("lamina_")) {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (&family.name, family.kind.as_str(), labels.join(", "));
        let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {} |", family.help);
    }
    Ok(text)
}

fn verbs() -> String {
    let mut text = String::from("| verb | |\n|---|---|\n");
    for verb in Cli::command().get_subcommands().filter(|v| !v.is_hide_set()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `lamina {}` | {about} |", verb.get_name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_variable_named_after_its_flag() {
        let text = settings();
        for row in text.lines().skip(2) {
            let mut cells = row.split('|').map(str::trim);
            let flag = cells.nth(1).unwrap().trim_matches('`').trim_start_matches("--").split(' ').next().unwrap();
            let variable = cells.next().unwrap().trim_matches('`');
            assert_eq!(variable, format!("LAMINA_{}", flag.to_uppercase().replace('-', "_")));
        }
        assert!(text.contains("| `--gc-grace DURATION` | `LAMINA_GC_GRACE` | `0s` |"), "{text}");
    }
}

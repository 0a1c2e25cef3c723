//! `lamina crd`: the CustomResourceDefinitions.

use std::process::ExitCode;

use clap::Args;
use lamina::api::cluster;

use crate::failure::Failure;
use crate::output;

/// Prints the CustomResourceDefinitions of NodeWorkload and NodeReport as YAML.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only the definition of this plural name: `nodeworkloads` or `nodereports`
    plural: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let wanted = |plural: &str| arguments.plural.as_ref().is_none_or(|wanted| wanted == plural);
    let all = cluster::DEFINITIONS;
    if !all.iter().any(|(plural, _)| wanted(plural)) {
        let known: Vec<_> = all.iter().map(|(plural, _)| *plural).collect();
        return Err(Failure::usage("there is no such kind")
            .hint(format!("the kinds are {}", known.join(" and ")))
            .into());
    }
    for (_, text) in all.iter().filter(|(plural, _)| wanted(plural)) {
        output::raw(text.as_bytes())?;
    }
    output::flush()?;
    Ok(ExitCode::SUCCESS)
}

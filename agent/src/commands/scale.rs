//! `lamina scale`: changes how many pods an applied workload has.

use std::process::ExitCode;

use clap::Args;

use super::apply::Report;
use crate::cli::Context;
use crate::client::Route;

/// Scales workloads.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The workloads: `KIND/NAME`; one from a manifests directory is refused, and its file named
    #[arg(required = true, value_name = "KIND/NAME")]
    objects: Vec<String>,
    /// How many pods each is to have
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Their namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    for object in &a.objects {
        let (kind, name) = super::object_name(object);
        let route = Route::new("/v1/scale").segment(kind).segment(&a.namespace).segment(name);
        let route = route.with("replicas", a.replicas.to_string());
        let report: Report = context.agent.post(&route, &()).await?;
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `lamina restart`: ends a pod, or the pods of a workload one after another, and makes them anew.

use std::process::ExitCode;

use clap::Args;

use super::apply::Report;
use crate::cli::Context;
use crate::client::Route;

/// Restarts pods.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The objects: `KIND/NAME` of deployments, statefulsets, daemonsets; a name alone is a pod
    #[arg(required = true, value_name = "KIND/NAME")]
    objects: Vec<String>,
    /// Their namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    for object in &a.objects {
        let (kind, name) = super::object_name(object);
        let route = Route::new("/v1/restart").segment(kind).segment(&a.namespace).segment(name);
        let report: Report = context.agent.post(&route, &()).await?;
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

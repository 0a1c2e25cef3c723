//! `lamina delete`: removes desired objects; one from a manifests directory is refused, and its file named.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lamina::server::wire;

use super::apply::Report;
use super::manifests;
use crate::cli::Context;
use crate::client::Route;

/// Removes desired objects.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The objects: `KIND/NAME`; a name alone is a pod
    #[arg(required_unless_present = "filename", conflicts_with = "filename", value_name = "KIND/NAME")]
    objects: Vec<String>,
    /// The objects of these manifests
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Their namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Instead of each pod's own grace period
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    grace: Option<Duration>,
    /// Answer at once, and not when the pods are gone
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let options = |route: Route| {
        route.with_some("graceSeconds", a.grace.map(|g| g.as_secs().to_string())).flag("wait", !a.no_wait)
    };
    if !a.filename.is_empty() {
        let body = wire::Manifests { files: manifests::read(&a.filename)?, ..wire::Manifests::default() };
        let report: Report = context.agent.post(&options(Route::new("/v1/delete")), &body).await?;
        report.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    for object in &a.objects {
        let (kind, name) = super::object_name(object);
        let route = Route::new("/v1/objects").segment(kind).segment(&a.namespace).segment(name);
        let report: Report = context.agent.delete(&options(route)).await?;
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

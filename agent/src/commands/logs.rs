//! `lamina logs`: what a container wrote.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::cli::Context;
use crate::client::Route;
use crate::output;

/// Prints a container's output.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pod: `NAME` or `NAMESPACE/NAME`
    pod: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container, where the pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Then go on with what comes, over restarts, until the pod is gone
    #[arg(short, long)]
    follow: bool,
    /// Only what is younger: a duration as `10m`, or a time as `2026-01-31T12:00:00Z`
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// The run before the last restart
    #[arg(short, long)]
    previous: bool,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
}

impl Arguments {
    /// Namespace and name of the pod that is meant.
    pub(crate) fn pod(&self) -> (&str, &str) {
        super::pod_name(&self.pod, &self.namespace)
    }
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let (namespace, pod) = super::pod_name(&a.pod, &a.namespace);
    let route = Route::new("/v1/logs")
        .with("namespace", namespace)
        .with("pod", pod)
        .with_some("container", a.container.as_ref())
        .with_some("since", a.since.as_ref())
        .with_some("tail", a.tail.map(|n| n.to_string()))
        .flag("follow", a.follow)
        .flag("previous", a.previous)
        .flag("timestamps", a.timestamps);
    if a.follow {
        let stream = context.agent.stream(&route, &Value::Null).await?;
        return super::stdio::data(stream).await;
    }
    let mut body = context.agent.download(&route).await?;
    while let Some(chunk) = body.chunk().await? {
        output::raw(&chunk)?;
    }
    Ok(ExitCode::SUCCESS)
}

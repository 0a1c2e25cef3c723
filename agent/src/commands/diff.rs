//! `lamina diff`: what a container or image added, changed and deleted against an image, as `docker diff` writes it.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use crate::cli::Context;
use crate::client::Route;
use crate::output;
use crate::output::table::clean;

/// Compares two trees.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `POD[/CONTAINER]`, or an image's name; `pod/…` and `image/…` say which where both exist
    #[arg(value_name = "CONTAINER|IMAGE")]
    what: String,
    /// The image to compare with [default: the container's own]
    #[arg(value_name = "IMAGE")]
    base: Option<String>,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct Line {
    change: String,
    path: String,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let route =
        Route::new("/v1/diff").with("what", &a.what).with("namespace", &a.namespace).with_some("base", a.base.as_ref());
    let mut lines = context.agent.download(&route).await?;
    while let Some(Line { change, path }) = lines.line().await? {
        output::line(format!("{change} {}", clean(&path)))?;
    }
    Ok(ExitCode::SUCCESS)
}

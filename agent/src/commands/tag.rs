//! `lamina tag`: gives an image another name, which holds it until `rmi`.

use std::process::ExitCode;

use clap::Args;
use lamina::server::wire;
use serde_json::Value;

use crate::cli::Context;
use crate::client::Route;

/// Gives an image another name.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: a name or a digest
    image: String,
    /// Its new name
    new: String,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let body = wire::Name { image: a.image, target: Some(a.new) };
    let _: Value = context.agent.post(&Route::new("/v1/images/tag"), &body).await?;
    Ok(ExitCode::SUCCESS)
}

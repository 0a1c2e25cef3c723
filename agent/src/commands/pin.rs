//! `lamina pin` and `unpin`: keeps an image whatever else happens, or no longer.

use std::process::ExitCode;

use clap::Args;
use lamina::server::wire;
use serde_json::Value;

use crate::cli::Context;
use crate::client::Route;

/// Which images.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Names or digests of images that are here
    #[arg(required = true)]
    image: Vec<String>,
}

pub(crate) async fn run(a: Arguments, pin: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let route = Route::new(if pin { "/v1/images/pin" } else { "/v1/images/unpin" });
    for image in a.image {
        let _: Value = context.agent.post(&route, &wire::Name { image, target: None }).await?;
    }
    Ok(ExitCode::SUCCESS)
}
